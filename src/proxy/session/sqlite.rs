use std::{path::Path, time::Duration};

use async_trait::async_trait;
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use sqlx::{
    Row, SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow, SqliteSynchronous},
};
use tokio::sync::broadcast;

use super::{RecordKeys, Session, SessionEvent, SessionId, SessionStore, StoreError, Stored};

/// How often the file is looked at for changes by other programs (`sqlite3 sessions.db 'DELETE ...'`).
const FOREIGN_CHANGES: Duration = Duration::from_millis(200);

/// Events that a slow watcher may be behind before it has to read everything again.
const BACKLOG: usize = 4096;

const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS sessions (
    id TEXT PRIMARY KEY,
    version INTEGER NOT NULL,
    user TEXT NOT NULL,
    expires_at TEXT NOT NULL,
    record TEXT NOT NULL
) STRICT, WITHOUT ROWID";

/// Sessions as rows of an SQLite database: for one process, outside a cluster.
#[derive(Clone, Debug)]
pub struct SqliteStore {
    // One connection: then `PRAGMA data_version` changes only when another program has written.
    pool: SqlitePool,
    keys: RecordKeys,
    events: broadcast::Sender<SessionEvent>,
}

impl SqliteStore {
    /// Opens the database, making it (not its folder) if it is not there.
    ///
    /// # Errors
    /// When the file cannot be opened or is something else.
    pub async fn open(path: &Path, keys: RecordKeys) -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // A code that was redeemed must stay so, also after a power cut.
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(5));
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_with(options)
            .await
            .map_err(StoreError::unavailable)?;
        sqlx::query(SCHEMA).execute(&pool).await.map_err(StoreError::unavailable)?;
        Ok(Self { pool, keys, events: broadcast::channel(BACKLOG).0 })
    }

    fn announce(&self, event: SessionEvent) {
        // Nobody may be watching yet.
        let _ = self.events.send(event);
    }

    fn decode(&self, row: &SqliteRow) -> Option<Stored> {
        let id: SessionId = row.try_get::<String, _>("id").ok()?.parse().ok()?;
        let record = serde_json::from_str(&row.try_get::<String, _>("record").ok()?).ok()?;
        let version = row.try_get::<i64, _>("version").ok()?.to_string();
        Some(Stored { session: self.keys.session(id, &record)?, version, uid: String::new() })
    }

    async fn all(&self) -> Result<Vec<Session>, StoreError> {
        let rows = sqlx::query("SELECT id, version, record FROM sessions")
            .fetch_all(&self.pool)
            .await
            .map_err(StoreError::unavailable)?;
        Ok(rows.iter().filter_map(|row| self.decode(row)).map(|stored| stored.session).collect())
    }

    async fn foreign_version(&self) -> Result<i64, StoreError> {
        sqlx::query_scalar("PRAGMA data_version").fetch_one(&self.pool).await.map_err(StoreError::unavailable)
    }

    fn json(&self, session: &Session) -> Result<String, StoreError> {
        serde_json::to_string(&self.keys.record(session)).map_err(StoreError::unavailable)
    }
}

/// Where a watch stands.
struct Watch {
    store: SqliteStore,
    events: broadcast::Receiver<SessionEvent>,
    foreign_version: Option<i64>,
}

impl Watch {
    async fn next(&mut self) -> SessionEvent {
        loop {
            if self.foreign_version.is_none() {
                match self.begin().await {
                    Ok(all) => return all,
                    Err(error) => {
                        tracing::warn!(%error, "sessions cannot be listed");
                        tokio::time::sleep(FOREIGN_CHANGES).await;
                        continue;
                    }
                }
            }
            match tokio::time::timeout(FOREIGN_CHANGES, self.events.recv()).await {
                Ok(Ok(event)) => return event,
                // Fell behind: begin anew.
                Ok(Err(_)) => self.foreign_version = None,
                Err(_) => {
                    if self.store.foreign_version().await.ok() != self.foreign_version {
                        self.foreign_version = None;
                    }
                }
            }
        }
    }

    async fn begin(&mut self) -> Result<SessionEvent, StoreError> {
        // Subscribed before the list is read: what is written in between comes twice rather than never.
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
        let created = sqlx::query(
            "INSERT INTO sessions (id, version, user, expires_at, record) VALUES (?, 1, ?, ?, ?) ON CONFLICT DO NOTHING",
        )
        .bind(session.id.to_string())
        .bind(&session.user.email)
        .bind(session.expires_at.to_string())
        .bind(self.json(session)?)
        .execute(&self.pool)
        .await
        .map_err(StoreError::unavailable)?;
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
            .await
            .map_err(StoreError::unavailable)?;
        Ok(row.and_then(|row| self.decode(&row)))
    }

    async fn replace(&self, old: &Stored, new: &Session) -> Result<(), StoreError> {
        let replaced = sqlx::query(
            "UPDATE sessions SET version = version + 1, expires_at = ?, record = ? WHERE id = ? AND version = ?",
        )
        .bind(new.expires_at.to_string())
        .bind(self.json(new)?)
        .bind(new.id.to_string())
        .bind(old.version.parse::<i64>().map_err(StoreError::unavailable)?)
        .execute(&self.pool)
        .await
        .map_err(StoreError::unavailable)?;
        if replaced.rows_affected() == 0 {
            return Err(StoreError::Conflict);
        }
        self.announce(SessionEvent::Is(new.clone()));
        Ok(())
    }

    async fn end(&self, stored: &Stored, reason: Option<&str>) -> Result<(), StoreError> {
        let id = stored.session.id;
        sqlx::query("DELETE FROM sessions WHERE id = ?")
            .bind(id.to_string())
            .execute(&self.pool)
            .await
            .map_err(StoreError::unavailable)?;
        if let Some(reason) = reason {
            tracing::warn!(session = %id, user = stored.session.user.email, reason, "session ended");
        }
        self.announce(SessionEvent::Ended(id));
        Ok(())
    }

    fn watch(&self) -> BoxStream<'static, SessionEvent> {
        let watch = Watch { store: self.clone(), events: self.events.subscribe(), foreign_version: None };
        stream::unfold(watch, |mut watch| async move {
            let event = watch.next().await;
            Some((event, watch))
        })
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::proxy::session::{
        record::tests::{keys, session},
        store::contract,
    };

    #[tokio::test]
    async fn it_keeps_the_contract() {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&folder.path().join("sessions.db"), keys()).await.unwrap();
        contract::run(Arc::new(store)).await;
    }

    #[tokio::test]
    async fn sessions_outlive_the_process() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sessions.db");
        let session = session("a");
        SqliteStore::open(&path, keys()).await.unwrap().create(&session).await.unwrap();
        let again = SqliteStore::open(&path, keys()).await.unwrap();
        assert_eq!(again.get(session.id).await.unwrap().unwrap().session, session);
    }

    #[tokio::test]
    async fn a_row_deleted_or_edited_by_another_program_ends_the_session() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sessions.db");
        let store = SqliteStore::open(&path, keys()).await.unwrap();
        let (deleted, edited) = (session("deleted"), session("edited"));
        store.create(&deleted).await.unwrap();
        store.create(&edited).await.unwrap();
        let mut events = store.watch();
        assert!(matches!(events.next().await, Some(SessionEvent::All(all)) if all.len() == 2));
        let other = SqlitePool::connect_with(SqliteConnectOptions::new().filename(&path)).await.unwrap();
        sqlx::query("DELETE FROM sessions WHERE id = ?").bind(deleted.id.to_string()).execute(&other).await.unwrap();
        sqlx::query("UPDATE sessions SET record = replace(record, 'ada@', 'eve@')").execute(&other).await.unwrap();
        loop {
            if let Some(SessionEvent::All(all)) = events.next().await
                && all.is_empty()
            {
                break;
            }
        }
        assert!(store.get(edited.id).await.unwrap().is_none());
    }
}
