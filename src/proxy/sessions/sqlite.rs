use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use jiff::{SignedDuration, Timestamp};
use sqlx::{
    Row, SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow, SqliteSynchronous},
};
use thiserror::Error;
use tokio::{
    sync::{Mutex, broadcast},
    time::{Interval, MissedTickBehavior, interval},
};

use super::{Deletion, SessionEvent, SessionFilter, SessionStore, StoreError, Stored};
use crate::session::{RecordKeys, Session, SessionId};

/// For changes that other programs make (`sqlite3 sessions.db 'DELETE ...'`).
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Events that a slow watcher may lag behind before it lists all sessions again. Their buffer is allocated at start.
const BACKLOG: usize = 256;

const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS sessions (
    id TEXT PRIMARY KEY,
    version INTEGER NOT NULL,
    user TEXT NOT NULL,
    expires_at TEXT NOT NULL,
    record TEXT NOT NULL
) STRICT, WITHOUT ROWID";

#[derive(Debug, Error)]
#[error("cannot open the database {}: {source}; its folder must exist and be writable", .path.display())]
pub struct OpenError {
    path: PathBuf,
    source: sqlx::Error,
}

/// Stores sessions as rows of an SQLite database, for one process outside a cluster.
#[derive(Clone, Debug)]
pub struct SqliteStore {
    // One connection: then `PRAGMA data_version` changes only when another program has written.
    pool: SqlitePool,
    keys: RecordKeys,
    // `Arc`, because an event takes 350 bytes and most slots of the buffer are empty.
    events: broadcast::Sender<Arc<SessionEvent>>,
    contact: Arc<AtomicI64>,
    /// Held from a write to its event, so that events have the order of the writes.
    writing: Arc<Mutex<()>>,
}

impl SqliteStore {
    /// Creates the file, but not its folder, if it does not exist.
    pub async fn open(path: &Path, keys: RecordKeys) -> Result<Self, OpenError> {
        let open_error = |source| OpenError { path: path.to_owned(), source };
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // A redeemed code must stay redeemed after a power failure.
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(5));
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_with(options)
            .await
            .map_err(open_error)?;
        sqlx::query(SCHEMA).execute(&pool).await.map_err(open_error)?;
        Ok(Self { pool, keys, events: broadcast::channel(BACKLOG).0, contact: Arc::default(), writing: Arc::default() })
    }

    fn announce(&self, event: SessionEvent) {
        // There may be no watcher yet.
        let _ = self.events.send(Arc::new(event));
    }

    fn decode(&self, row: &SqliteRow) -> Option<Stored> {
        let id: SessionId = row.try_get::<String, _>("id").ok()?.parse().ok()?;
        let record = serde_json::from_str(&row.try_get::<String, _>("record").ok()?).ok()?;
        let version = row.try_get::<i64, _>("version").ok()?.to_string();
        Some(Stored { session: self.keys.session(id, &record)?, version, uid: String::new() })
    }

    async fn all(&self) -> Result<Vec<Session>, StoreError> {
        let rows = sqlx::query("SELECT id, version, record FROM sessions").fetch_all(&self.pool).await?;
        Ok(rows.iter().filter_map(|row| self.decode(row)).map(|stored| stored.session).collect())
    }

    async fn foreign_version(&self) -> Result<i64, StoreError> {
        let version = sqlx::query_scalar("PRAGMA data_version").fetch_one(&self.pool).await?;
        self.contact.store(Timestamp::now().as_second(), Ordering::Relaxed);
        Ok(version)
    }

    fn json(&self, session: &Session) -> Result<String, StoreError> {
        serde_json::to_string(&self.keys.record(session)).map_err(StoreError::unavailable)
    }
}

struct Watch {
    store: SqliteStore,
    events: broadcast::Receiver<Arc<SessionEvent>>,
    foreign_version: Option<i64>,
    // Ticks even while this process's own events keep arriving.
    poll: Interval,
}

impl Watch {
    async fn next(&mut self) -> SessionEvent {
        loop {
            while self.foreign_version.is_none() {
                match self.list().await {
                    Ok(all) => return all,
                    Err(error) => tracing::warn!(%error, "listing sessions failed, retrying"),
                }
                tokio::time::sleep(POLL_INTERVAL).await;
            }
            tokio::select! {
                event = self.events.recv() => match event {
                    Ok(event) => return Arc::unwrap_or_clone(event),
                    // Lagged behind: list all sessions again.
                    Err(_) => self.foreign_version = None,
                },
                _ = self.poll.tick() => {
                    if self.store.foreign_version().await.ok() != self.foreign_version {
                        self.foreign_version = None;
                    }
                }
            }
        }
    }

    async fn list(&mut self) -> Result<SessionEvent, StoreError> {
        // Subscribe first: a write during the list is reported twice rather than never.
        self.events = self.store.events.subscribe();
        let version = self.store.foreign_version().await?;
        let all = self.store.all().await?;
        self.foreign_version = Some(version);
        Ok(SessionEvent::All(all))
    }
}

#[async_trait]
impl SessionStore for SqliteStore {
    async fn create(&self, session: &Session) -> Result<(), StoreError> {
        let _writing = self.writing.lock().await;
        let created = sqlx::query(
            "INSERT INTO sessions (id, version, user, expires_at, record) VALUES (?, 1, ?, ?, ?) ON CONFLICT DO NOTHING",
        )
        .bind(session.id.to_string())
        .bind(&session.user.email)
        .bind(session.expires_at.to_string())
        .bind(self.json(session)?)
        .execute(&self.pool)
        .await?;
        if created.rows_affected() == 0 {
            return Err(StoreError::Exists);
        }
        self.announce(SessionEvent::Is(session.clone()));
        Ok(())
    }

    async fn get(&self, id: SessionId) -> Result<Option<Stored>, StoreError> {
        let row = sqlx::query("SELECT id, version, record FROM sessions WHERE id = ?")
            .bind(id.to_string())
            .fetch_optional(&self.pool)
            .await?;
        Ok(row.and_then(|row| self.decode(&row)))
    }

    async fn replace(&self, old: &Stored, new: &Session) -> Result<(), StoreError> {
        let _writing = self.writing.lock().await;
        let replaced = sqlx::query(
            "UPDATE sessions SET version = version + 1, expires_at = ?, record = ? WHERE id = ? AND version = ?",
        )
        .bind(new.expires_at.to_string())
        .bind(self.json(new)?)
        .bind(new.id.to_string())
        .bind(old.version.parse::<i64>().map_err(StoreError::unavailable)?)
        .execute(&self.pool)
        .await?;
        if replaced.rows_affected() == 0 {
            return Err(StoreError::Conflict);
        }
        self.announce(SessionEvent::Is(new.clone()));
        Ok(())
    }

    async fn end(&self, stored: &Stored, deletion: Deletion<'_>) -> Result<bool, StoreError> {
        let _writing = self.writing.lock().await;
        let id = stored.session.id;
        let delete = match deletion {
            Deletion::IfUnchanged => sqlx::query("DELETE FROM sessions WHERE id = ? AND version = ?")
                .bind(id.to_string())
                .bind(stored.version.parse::<i64>().map_err(StoreError::unavailable)?),
            Deletion::Unconditional | Deletion::WithEvent(_) => {
                sqlx::query("DELETE FROM sessions WHERE id = ?").bind(id.to_string())
            }
        };
        let deleted = delete.execute(&self.pool).await?;
        if deleted.rows_affected() == 0 {
            return Ok(false);
        }
        self.announce(SessionEvent::Ended(id));
        Ok(true)
    }

    async fn purge(
        &self,
        now: Timestamp,
        max_ttl: SignedDuration,
        must_end: SessionFilter<'_>,
    ) -> Result<(), StoreError> {
        for row in sqlx::query("SELECT id, version, record FROM sessions").fetch_all(&self.pool).await? {
            let ends = self.decode(&row).is_some_and(|stored| must_end(&stored.session));
            let record = row.try_get::<String, _>("record").ok().and_then(|text| serde_json::from_str(&text).ok());
            if ends || record.is_none_or(|record| RecordKeys::is_expired(&record, now, max_ttl)) {
                let id: String = row.try_get("id")?;
                sqlx::query("DELETE FROM sessions WHERE id = ?").bind(id).execute(&self.pool).await?;
            }
        }
        Ok(())
    }

    fn last_contact(&self) -> i64 {
        self.contact.load(Ordering::Relaxed)
    }

    fn watch(&self) -> BoxStream<'static, SessionEvent> {
        let mut poll = interval(POLL_INTERVAL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let watch = Watch { store: self.clone(), events: self.events.subscribe(), foreign_version: None, poll };
        stream::unfold(watch, |mut watch| async move {
            let event = watch.next().await;
            Some((event, watch))
        })
        .boxed()
    }
}

#[cfg(test)]
mod tests;
