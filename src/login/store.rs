//! Where logins are kept: a file for each MCP endpoint, readable by its owner alone.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, ErrorKind},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use url::Url;

use super::tokens::Tokens;
use crate::private_file::write_new;

/// How long to wait before a lock is asked for again. Not a blocking wait: Ctrl-C must end it.
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// A login, or what is left of one that has ended: the registration.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Login {
    /// The MCP endpoint.
    pub url: Url,
    /// The authorization server that gave it.
    pub issuer: String,
    /// Where its tokens are renewed.
    pub token_endpoint: Url,
    /// What the endpoint calls itself.
    pub resource: String,
    /// Who we are there.
    pub client_id: String,
    /// What it gave, until that is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<Tokens>,
}

/// Why a login cannot be kept or read.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The home folder is unknown.
    #[error("HOME is not set: say with --store where to keep logins")]
    NoHome,
    /// The file system says no.
    #[error("cannot {action} {}: {source}; say with --store where logins may be kept", .path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file is not one of ours.
    #[error("{} does not hold a login: remove it, and log in again", .0.display())]
    Content(PathBuf),
}

/// The place of one endpoint's login.
#[derive(Clone, Debug)]
pub struct Store {
    folder: PathBuf,
    name: String,
}

/// Nobody else changes the login while this is held; the system lets go of it when the process ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Store {
    /// The place in `folder`, which is made when something is kept there.
    pub fn new(folder: PathBuf, url: &Url) -> Self {
        let hash = digest(&SHA256, url.as_str().as_bytes());
        let hash: String = hash.as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        // The host is for people who look; colons and brackets of IPv6 are not for file names.
        let host: String =
            url.host_str().unwrap_or_default().chars().filter(|c| c.is_alphanumeric() || ".-".contains(*c)).collect();
        Self { folder, name: format!("{host}-{hash}") }
    }

    /// `mcp-oauth-operator/login` in the user's folder for state (XDG Base Directory Specification).
    ///
    /// # Errors
    /// When there is no home.
    pub fn default_folder() -> Result<PathBuf, StoreError> {
        let set = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|folder| folder.is_absolute());
        let base = match set {
            Some(folder) => folder,
            None => PathBuf::from(std::env::var_os("HOME").ok_or(StoreError::NoHome)?).join(".local/state"),
        };
        Ok(base.join("mcp-oauth-operator/login"))
    }

    /// The login, if there is one.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(&self) -> Result<Option<Login>, StoreError> {
        let path = self.file("json");
        match fs::read(&path) {
            // Not serde's own words, which may repeat a token.
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|_| StoreError::Content(path)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(source) => Err(StoreError::File { action: "read", path, source }),
        }
    }

    /// Keeps a login. Others read either what was there or this, never a part.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, _lock: &Lock, login: &Login) -> Result<(), StoreError> {
        let (path, new) = (self.file("json"), self.file("new"));
        let text = serde_json::to_vec_pretty(login).map_err(|error| StoreError::File {
            action: "write",
            path: path.clone(),
            source: error.into(),
        })?;
        // Who holds the lock is alone with this name; what a killed process has left goes, with whatever mode it has.
        let written = remove(&new).and_then(|()| write_new(&new, &text));
        written.map_err(|source| StoreError::File { action: "write", path: new.clone(), source })?;
        fs::rename(&new, &path).map_err(|source| StoreError::File { action: "write", path, source })
    }

    /// Waits until no other process changes this login.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub async fn lock(&self) -> Result<Lock, StoreError> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder).map_err(|source| StoreError::File {
            action: "make",
            path: self.folder.clone(),
            source,
        })?;
        let path = self.file("lock");
        let error = |source| StoreError::File { action: "lock", path: path.clone(), source };
        // Never removed: a process that waits for a file that is gone would not be alone.
        let file =
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(error)?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Lock { _file: file }),
                Err(TryLockError::WouldBlock) => tokio::time::sleep(LOCK_PAUSE).await,
                Err(TryLockError::Error(source)) => return Err(error(source)),
            }
        }
    }

    fn file(&self, ending: &str) -> PathBuf {
        self.folder.join(format!("{}.{ending}", self.name))
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use secrecy::ExposeSecret;

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
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().join("deep/er"), &url("https://mcp.example.com/mcp"));
        assert!(store.read().unwrap().is_none());
        // A process that was killed while it wrote.
        let lock = store.lock().await.unwrap();
        fs::write(store.file("new"), "half").unwrap();
        store.write(&lock, &login("first")).unwrap();
        store.write(&lock, &login("second")).unwrap();
        let read = store.read().unwrap().unwrap().tokens.unwrap();
        assert_eq!(read.access_token.expose_secret(), "second");
        assert_eq!(read.refresh_token.unwrap().expose_secret(), "refresh-secret");
        assert_eq!(read.expires_at.unwrap().as_second(), 1_800_000_000);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&store.folder), mode(&store.file("json")), mode(&store.file("lock"))), (0o700, 0o600, 0o600));
        assert!(!store.file("new").exists());
    }

    #[tokio::test]
    async fn lock_is_exclusive() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().to_owned(), &url("https://mcp.example.com/mcp"));
        let lock = store.lock().await.unwrap();
        let mut second = Box::pin(store.lock());
        assert!(tokio::time::timeout(LOCK_PAUSE * 3, &mut second).await.is_err());
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
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().to_owned(), &url("https://mcp.example.com/mcp"));
        fs::write(store.file("json"), r#"{"url":"secret"}"#).unwrap();
        let error = store.read().unwrap_err().to_string();
        assert!(error.contains("remove it") && error.contains(".json") && !error.contains("secret"), "{error}");
    }
}
