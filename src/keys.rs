//! The `keys` command: generates and rotates the encryption key and the signing keys of a standalone proxy.

use std::{
    fs,
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use thiserror::Error;

use crate::crypto::{SigningKeys, SigningKeysError, random_bytes};
use crate::private_file::{write_if_absent, write_new};

pub const ENCRYPTION_KEY: &str = "ENCRYPTION_KEY";

pub const SIGNING_KEYS: &str = "signing-keys.json";

#[derive(Debug, Error)]
pub enum KeysError {
    #[error("the system's random number generator failed")]
    NoRandomness,
    #[error(transparent)]
    SigningKeys(#[from] SigningKeysError),
    #[error("cannot read {}: {source}; `mcp-oauth-operator keys` without --rotate creates it", .path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("cannot write {}: {source}", .path.display())]
    Write { path: PathBuf, source: std::io::Error },
}

/// Writes an encryption key and a signing key into `directory`, readable by their owner only. Existing files are kept:
/// a new key would log everyone out. Returns the files it created.
pub fn make(directory: &Path) -> Result<Vec<PathBuf>, KeysError> {
    fs::create_dir_all(directory).map_err(|source| KeysError::Write { path: directory.to_owned(), source })?;
    let encryption_key = STANDARD.encode(random_bytes::<32>().ok_or(KeysError::NoRandomness)?);
    let signing_keys = SigningKeys::generate(Timestamp::now())?.to_json()?;
    let mut new = Vec::new();
    for (name, content) in [(ENCRYPTION_KEY, encryption_key), (SIGNING_KEYS, signing_keys)] {
        let path = directory.join(name);
        match write_if_absent(&path, content.as_bytes()) {
            Ok(true) => new.push(path),
            Ok(false) => (),
            Err(source) => return Err(KeysError::Write { path, source }),
        }
    }
    Ok(new)
}

/// Rotates the signing keys in `directory` if rotation is due; run it once a day. Returns whether the keys changed.
/// A running proxy reloads them.
pub fn rotate(directory: &Path, now: Timestamp) -> Result<bool, KeysError> {
    let path = directory.join(SIGNING_KEYS);
    let text = fs::read(&path).map_err(|source| KeysError::Read { path: path.clone(), source })?;
    let Some(rotated) = SigningKeys::parse(&text)?.rotated(now)? else { return Ok(false) };
    // Write to a second file, then rename: a proxy that reads concurrently sees either the old or the new file.
    let new = path.with_extension("new");
    let write = || {
        let _ = fs::remove_file(&new);
        write_new(&new, rotated.to_json().map_err(std::io::Error::other)?.as_bytes())?;
        fs::rename(&new, &path)
    };
    write().map_err(|source| KeysError::Write { path: path.clone(), source })?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::crypto::SIGNS_FOR;

    #[test]
    fn keys_are_owner_readable_and_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let made = make(folder.path()).unwrap();
        assert_eq!(made.len(), 2);
        let before: Vec<_> = made.iter().map(|path| fs::read(path).unwrap()).collect();
        assert!(made.iter().all(|path| fs::metadata(path).unwrap().permissions().mode() & 0o777 == 0o600));
        assert_eq!(make(folder.path()).unwrap(), Vec::<PathBuf>::new());
        assert_eq!(made.iter().map(|path| fs::read(path).unwrap()).collect::<Vec<_>>(), before);
    }

    #[test]
    fn rotation_adds_key_when_due_and_keeps_file_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(SIGNING_KEYS);
        assert!(rotate(folder.path(), Timestamp::now()).unwrap_err().to_string().contains("without --rotate"));
        make(folder.path()).unwrap();
        // Taken after `make`, so that `now + SIGNS_FOR` is past the key's signing period.
        let now = Timestamp::now();
        assert!(!rotate(folder.path(), now).unwrap());
        assert!(rotate(folder.path(), now + SIGNS_FOR).unwrap());
        assert_eq!(SigningKeys::parse(&fs::read(&path).unwrap()).unwrap().keys.len(), 2);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
