use std::sync::Arc;

use jiff::Timestamp;

/// A source of the current time, in whole seconds as tokens and records have it.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// The system clock.
pub fn wall_clock() -> Clock {
    Arc::new(|| Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default())
}
