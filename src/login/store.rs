//! Stored logins: one file per MCP endpoint, readable by its owner only.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, ErrorKind},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    time::Duration,
};

use aws_lc_rs::digest::{SHA256, digest};
use thiserror::Error;
use tokio::time::sleep;
use url::Url;

use super::tokens::Login;
use crate::private_file::{create_dir, write_new};

/// The lock is polled, because a blocking wait could not be cancelled.
const LOCK_POLL_INTERVAL: Duration = Duration::from_millis(50);

#[derive(Debug, Error)]
pub enum StoreError {
    #[error("HOME is not set: use --store to specify the directory of stored logins")]
    NoHome,
    #[error("cannot {action} {}: {source}; use --store to specify another directory", .path.display())]
    File { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{} is not a valid login file: remove it and log in again", .0.display())]
    Content(PathBuf),
}

/// The stored login of one endpoint.
#[derive(Clone, Debug)]
pub struct Store {
    directory: PathBuf,
    name: String,
}

/// Exclusive among processes. The system releases it when the process exits.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Store {
    pub fn new(directory: PathBuf, url: &Url) -> Self {
        let hash = digest(&SHA256, url.as_str().as_bytes());
        let hash: String = hash.as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        // The host makes the name recognizable. The colons and brackets of IPv6 are removed.
        let mut host = url.host_str().unwrap_or_default().to_owned();
        host.retain(|character| character.is_alphanumeric() || ".-".contains(character));
        Self { directory, name: format!("{host}-{hash}") }
    }

    pub fn read(&self) -> Result<Option<Login>, StoreError> {
        let path = self.file("json");
        match fs::read(&path) {
            // serde's message may quote a token.
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|_| StoreError::Content(path)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(source) => Err(StoreError::File { action: "read", path, source }),
        }
    }

    /// Atomic: readers see either the old or the new login.
    pub fn write(&self, _lock: &Lock, login: &Login) -> Result<(), StoreError> {
        let (path, new) = (self.file("json"), self.file("new"));
        let write = || {
            // Left over from a process that was killed.
            let _ = fs::remove_file(&new);
            write_new(&new, &serde_json::to_vec_pretty(login)?)?;
            fs::rename(&new, &path)
        };
        write().map_err(|source| StoreError::File { action: "write", path: path.clone(), source })
    }

    pub async fn lock(&self) -> Result<Lock, StoreError> {
        let failed = |action, path| move |source| StoreError::File { action, path, source };
        create_dir(&self.directory).map_err(failed("create", self.directory.clone()))?;
        let path = self.file("lock");
        // Never removed: two processes could otherwise lock different files of this name.
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = file.map_err(failed("lock", path.clone()))?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Lock { _file: file }),
                Err(TryLockError::WouldBlock) => sleep(LOCK_POLL_INTERVAL).await,
                Err(TryLockError::Error(source)) => return Err(failed("lock", path)(source)),
            }
        }
    }

    fn file(&self, extension: &str) -> PathBuf {
        self.directory.join(format!("{}.{extension}", self.name))
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt, path::Path};

    use super::{super::tokens::tests::tokens, *};

    fn url(text: &str) -> Url {
        text.parse().unwrap()
    }

    fn login(access: &str) -> Login {
        Login {
            url: url("https://mcp.example.com/mcp"),
            issuer: "https://mcp.example.com".to_owned(),
            token_endpoint: url("https://mcp.example.com/token"),
            resource: "https://mcp.example.com/mcp".to_owned(),
            client_id: "client".to_owned(),
            tokens: Some(tokens(access, 1_800_000_000)),
        }
    }

    #[tokio::test]
    async fn stored_login_is_private_and_round_trips() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path().join("deep/er"), &url("https://mcp.example.com/mcp"));
        assert!(store.read().unwrap().is_none());
        // Left over from a process that was killed while it wrote.
        let lock = store.lock().await.unwrap();
        fs::write(store.file("new"), "half").unwrap();
        store.write(&lock, &login("first")).unwrap();
        store.write(&lock, &login("second")).unwrap();
        let read = store.read().unwrap().unwrap().tokens.unwrap();
        assert_eq!(read.access_token.secret(), "second");
        assert_eq!(read.refresh_token.unwrap().secret(), "refresh-secret");
        assert_eq!(read.expires_at.unwrap().as_second(), 1_800_000_000);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(
            (mode(&store.directory), mode(&store.file("json")), mode(&store.file("lock"))),
            (0o700, 0o600, 0o600)
        );
        assert!(!store.file("new").exists());
    }

    #[tokio::test]
    async fn lock_is_exclusive() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path().to_owned(), &url("https://mcp.example.com/mcp"));
        let lock = store.lock().await.unwrap();
        let mut second = Box::pin(store.lock());
        assert!(tokio::time::timeout(LOCK_POLL_INTERVAL * 3, &mut second).await.is_err());
        drop(lock);
        second.await.unwrap();
    }

    #[test]
    fn each_endpoint_has_its_own_file_with_a_plain_name() {
        let name = |text: &str| Store::new(PathBuf::new(), &url(text)).name;
        assert_ne!(name("https://mcp.example.com/mcp"), name("https://mcp.example.com/servers/a/mcp"));
        assert_ne!(name("https://mcp.example.com/mcp"), name("https://mcp.example.com:8443/mcp"));
        assert!(name("https://mcp.example.com/mcp").starts_with("mcp.example.com-"));
        assert!(name("http://[::1]:8080/../x").starts_with("1-"));
    }

    #[test]
    fn invalid_login_file_is_named_without_its_content() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path().to_owned(), &url("https://mcp.example.com/mcp"));
        fs::write(store.file("json"), r#"{"url":"secret"}"#).unwrap();
        let error = store.read().unwrap_err().to_string();
        assert!(error.contains("remove it") && error.contains(".json") && !error.contains("secret"), "{error}");
    }
}
