pub use super::bearer::verify;
pub use crate::http1::testing::Wakes;
