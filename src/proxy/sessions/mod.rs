//! Session stores, the live set that serves the request path, and look-ups of sessions that the watch has not shown yet.
//!
//! The protocol core changes records; only a store writes them, and only a store's watch changes the live set.

mod kubernetes;
mod live;
mod lookup;
mod sqlite;
mod store;

pub use kubernetes::KubernetesStore;
pub use live::{LiveSession, LiveSet};
pub use lookup::{Admission, Sessions};
pub use sqlite::{OpenError, SqliteStore};
pub use store::{Deletion, SessionEvent, SessionFilter, SessionStore, StoreError, Stored};
