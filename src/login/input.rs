use std::{io::BufRead, thread};

use tokio::sync::mpsc;

/// Lines of standard input that wait to be taken.
const WAITING: usize = 64;

/// The lines of standard input. They are read by a thread of their own, which nobody waits for at the end: a read from a
/// terminal cannot be interrupted.
pub fn lines() -> mpsc::Receiver<String> {
    of(std::io::BufReader::new(std::io::stdin()))
}

fn of(mut input: impl BufRead + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel(WAITING);
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
        let mut lines = of(&b"one\r\n\n two \nthree"[..]);
        for expected in ["one", "two", "three"] {
            assert_eq!(lines.recv().await.as_deref(), Some(expected));
        }
        assert_eq!(lines.recv().await, None);
    }
}
