use std::{
    io::{self, Write},
    thread,
    time::Duration,
};

use tokio::sync::{mpsc, oneshot};

/// Lines that wait to be written.
const WAITING: usize = 64;

/// How long the reader may take for the last lines.
const LAST_LINES: Duration = Duration::from_secs(2);

/// Standard output, written by a thread of its own: a reader that is slow holds up nothing but the lines after.
pub struct Output {
    done: oneshot::Receiver<()>,
}

impl Output {
    /// Where lines go in, and the output. What goes in is closed when nobody reads what comes out.
    pub fn start() -> (mpsc::Sender<String>, Self) {
        let (sender, mut lines) = mpsc::channel::<String>(WAITING);
        let (finish, done) = oneshot::channel();
        thread::spawn(move || {
            while let Some(line) = lines.blocking_recv() {
                let mut output = io::stdout().lock();
                if writeln!(output, "{line}").and_then(|()| output.flush()).is_err() {
                    break;
                }
            }
            drop(finish);
        });
        (sender, Self { done })
    }

    /// Waits until all is written, once nothing more goes in.
    pub async fn finish(self) {
        let _ = tokio::time::timeout(LAST_LINES, self.done).await;
    }
}
