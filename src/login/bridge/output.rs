use std::{
    io::{self, Write},
    thread,
};

use tokio::sync::{mpsc, oneshot};

const CAPACITY: usize = 64;

/// Writes lines to standard output in a separate thread, so that a slow reader blocks no request. The sender closes when
/// the output is closed; the receiver completes when all lines are written.
pub fn start() -> (mpsc::Sender<String>, oneshot::Receiver<()>) {
    let (sender, mut lines) = mpsc::channel::<String>(CAPACITY);
    let (done, finished) = oneshot::channel();
    thread::spawn(move || {
        while let Some(line) = lines.blocking_recv() {
            let mut output = io::stdout().lock();
            if writeln!(output, "{line}").and_then(|()| output.flush()).is_err() {
                break;
            }
        }
        drop(done);
    });
    (sender, finished)
}
