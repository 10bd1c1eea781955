//! Sessions: the record of a login, the store that remembers it, and the live set that answers on the request path.
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
pub use store::{Ending, IsOver, SessionEvent, SessionStore, StoreError, Stored};
