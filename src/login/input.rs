use std::{
    io::{BufRead, BufReader, stdin},
    thread,
};

use tokio::sync::mpsc;

const CAPACITY: usize = 64;

/// The non-empty lines of standard input. A separate thread reads them, because reading from a terminal cannot be cancelled.
pub fn lines() -> mpsc::Receiver<String> {
    lines_of(BufReader::new(stdin()))
}

fn lines_of(mut input: impl BufRead + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel(CAPACITY);
    thread::spawn(move || {
        let mut line = Vec::new();
        while input.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            let text = String::from_utf8_lossy(&line).trim_matches(['\r', '\n', ' ']).to_owned();
            line.clear();
            if !text.is_empty() && sender.blocking_send(text).is_err() {
                return;
            }
        }
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn input_lines_are_read_without_line_endings() {
        let mut lines = lines_of(&b"one\r\n\n two \nthree"[..]);
        for expected in ["one", "two", "three"] {
            assert_eq!(lines.recv().await.as_deref(), Some(expected));
        }
        assert_eq!(lines.recv().await, None);
    }
}
