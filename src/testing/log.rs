use std::{
    io::{self, Write},
    sync::{Arc, LazyLock, Mutex},
};

use serde_json::Value;
use tracing::{
    Dispatch,
    dispatcher::{self, DefaultGuard},
    level_filters::LevelFilter,
};

use crate::telemetry::{LogFormat, dispatch, targets};

/// Dispatchers that enable every callsite. With a single dispatcher, tracing caches whether a callsite is enabled when the
/// first thread reaches it, which disables it for another test's thread (tracing-core, `callsite::Dispatchers`).
static INTERESTED: LazyLock<[Dispatch; 2]> =
    LazyLock::new(|| [(); 2].map(|()| tracing_subscriber::fmt().with_max_level(LevelFilter::TRACE).finish().into()));

/// Captured log lines.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Captures the logs of this thread as JSON until the guard is dropped; `filter` as on the command line.
    pub fn listen(filter: &str) -> (Self, DefaultGuard) {
        Self::listen_as(LogFormat::Json, filter)
    }

    pub(crate) fn listen_as(format: LogFormat, filter: &str) -> (Self, DefaultGuard) {
        LazyLock::force(&INTERESTED);
        let log = Self::default();
        let writer = log.clone();
        let dispatch = dispatch(targets(filter).unwrap(), format, false, move || writer.clone());
        (log, dispatcher::set_default(&dispatch))
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    pub fn lines(&self) -> Vec<Value> {
        self.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
