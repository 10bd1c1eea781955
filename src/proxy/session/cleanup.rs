use std::{sync::Arc, time::Duration};

use jiff::Timestamp;

use super::{LiveSet, SessionStore};
use crate::proxy::crypto::random_bytes;

/// Deletes sessions whose time is over, until the task is dropped. Every replica does it at moments of its own; who comes
/// second finds nothing to delete.
pub async fn delete_expired(live: Arc<LiveSet>, store: Arc<dyn SessionStore>) {
    loop {
        tokio::time::sleep(pause()).await;
        for id in live.expired(Timestamp::now()) {
            // Read again: it may have been refreshed at another replica.
            match store.get(id).await {
                Ok(Some(stored)) if stored.session.expires_at <= Timestamp::now() => {
                    if let Err(error) = store.end(&stored, None).await {
                        tracing::warn!(session = %id, %error, "an expired session could not be deleted");
                    }
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%error, "expired sessions cannot be deleted now");
                    break;
                }
            }
        }
    }
}

/// 30 to 90 seconds.
fn pause() -> Duration {
    let jitter = random_bytes::<1>().map_or(0, |[byte]| u64::from(byte));
    Duration::from_millis(30_000 + jitter * 60_000 / 255)
}
