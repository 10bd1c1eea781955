//! What the mounted Secrets hold, read from their files.

use std::{io::ErrorKind, path::PathBuf, sync::Arc};

use secrecy::SecretString;
use thiserror::Error;

use crate::{
    config::{CredentialFiles, ProxyConfig},
    crypto::{InvalidEncryptionKey, Keyring, SigningRing},
    crypto::{SigningKeys, SigningKeysError},
    oauth::known_clients::ListedClients,
};

/// What the mounted Secrets hold.
pub struct Secrets {
    /// The client id that the issuer gave us.
    pub client_id: String,
    /// The client secret that the issuer gave us.
    pub client_secret: SecretString,
    /// The keys derived from the encryption key.
    pub keyring: Arc<Keyring>,
    /// The keys that access tokens are signed with.
    pub signing: SigningRing,
    /// The clients of `clients.static`, with their secrets.
    pub listed: ListedClients,
    /// The certificates of `identityProvider.caRef`. They are public, and changed as secrets are.
    pub ca: Option<String>,
    /// What the files held, to see whether they have changed: all of them, and those of the encryption keys.
    fingerprint: [u8; 32],
    keys_fingerprint: [u8; 32],
}

/// Which encryption key makes new values, while there are two.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum EncryptionKey {
    /// The present one.
    Current,
    /// The one before: other replicas may not have read the present one yet.
    Previous,
}

/// Why the secrets cannot be used. No message holds any of a secret.
#[derive(Debug, Error)]
pub enum SecretsError {
    /// A file is missing or unreadable.
    #[error("cannot read {}: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A file is empty.
    #[error("{} is empty", .0.display())]
    Empty(PathBuf),
    /// The encryption key is not 32 bytes.
    #[error("{}: {source}", .path.display())]
    EncryptionKey {
        /// The file.
        path: PathBuf,
        /// What it must be.
        source: InvalidEncryptionKey,
    },
    /// The signing keys are not right.
    #[error("{}: {source}", .path.display())]
    SigningKeys {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: SigningKeysError,
    },
}

impl Secrets {
    /// Reads the files that a configuration names. If there is an encryption key before the present one, `using` says which
    /// of the two makes new values.
    ///
    /// # Errors
    /// Which file is missing or not right.
    pub fn load(config: &ProxyConfig, using: EncryptionKey) -> Result<Self, SecretsError> {
        let CredentialFiles { directory, keys } = &config.credentials;
        let read = |path: PathBuf| match std::fs::read_to_string(&path) {
            Ok(text) if text.trim().is_empty() => Err(SecretsError::Empty(path)),
            Ok(text) => Ok((path, text.trim().to_owned())),
            Err(source) => Err(SecretsError::Read { path, source }),
        };
        let (_, client_id) = read(directory.join(keys.client_id.as_str()))?;
        let (_, client_secret) = read(directory.join(keys.client_secret.as_str()))?;
        let (key_path, encryption_key) = read(directory.join(keys.encryption_key.as_str()))?;
        let previous = match read(directory.join(keys.previous_encryption_key.as_str())) {
            Ok(previous) => Some(previous),
            Err(SecretsError::Empty(_)) => None,
            Err(SecretsError::Read { source, .. }) if source.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let (signing_path, signing_keys) = read(config.signing_keys.clone())?;
        let previous_key = previous.as_ref().map(|(_, key)| key.clone()).unwrap_or_default();
        let mut contents = vec![
            client_id.clone(),
            client_secret.clone(),
            encryption_key.clone(),
            previous_key.clone(),
            signing_keys.clone(),
        ];
        let listed = ListedClients::new(&config.clients.listed, |listed| {
            let Some(path) = listed.secret_ref.as_ref().and_then(|reference| config.secret_file(reference)) else {
                return Ok(None);
            };
            let (_, secret) = read(path)?;
            contents.push(secret.clone());
            Ok::<_, SecretsError>(Some(secret.into()))
        })?;
        let ca = match config.ca_file() {
            Some(path) => Some(read(path)?.1),
            None => None,
        };
        contents.extend(ca.clone());
        let fingerprint = fingerprint(&contents.iter().map(String::as_str).collect::<Vec<_>>());
        let keys_fingerprint = self::fingerprint(&[&encryption_key, &previous_key]);
        let issuer = config.public_url.as_str();
        let wrong = |path: PathBuf| move |source| SecretsError::EncryptionKey { path, source };
        let current = Keyring::new(&encryption_key, issuer).map_err(wrong(key_path.clone()))?;
        let keyring = match previous {
            None => current,
            Some((path, previous)) if using == EncryptionKey::Current => {
                current.beside(&previous, issuer).map_err(wrong(path))?
            }
            Some((path, previous)) => {
                let keyring = Keyring::new(&previous, issuer).map_err(wrong(path))?;
                keyring.beside(&encryption_key, issuer).map_err(wrong(key_path))?
            }
        };
        let signing = SigningKeys::parse(signing_keys.as_bytes())
            .and_then(|keys| SigningRing::new(&keys))
            .map_err(|source| SecretsError::SigningKeys { path: signing_path, source })?;
        Ok(Self {
            client_id,
            client_secret: client_secret.into(),
            keyring: Arc::new(keyring),
            signing,
            listed,
            ca,
            fingerprint,
            keys_fingerprint,
        })
    }

    /// Whether the files of the encryption keys held the same when `other` was read.
    pub fn same_keys_as(&self, other: &Self) -> bool {
        self.keys_fingerprint == other.keys_fingerprint
    }

    /// Whether the files held the same when `other` was read.
    pub fn same_as(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }
}

/// SHA-256 over the parts, each with its length before it.
fn fingerprint(parts: &[&str]) -> [u8; 32] {
    let mut digest = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    for part in parts {
        digest.update(&(part.len() as u64).to_be_bytes());
        digest.update(part.as_bytes());
    }
    let mut fingerprint = [0; 32];
    fingerprint.copy_from_slice(digest.finish().as_ref());
    fingerprint
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        path::{Path, PathBuf},
    };

    /// The source files of a folder, whatever its depth.
    fn sources(folder: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
    }

    /// A `SecretString` has no `==`, so a comparison that ends at the first difference begins with `expose_secret`.
    #[test]
    fn c16_secrets_are_compared_in_constant_time() {
        let ends_early = ["==", "!=", ".eq(", ".ne(", ".cmp(", "starts_with", "ends_with", ".contains("];
        let mut exposed = 0;
        // `login` runs on the person's own machine and compares nothing for strangers.
        let is_server = |path: &PathBuf| !path.iter().any(|part| part == "login");
        for path in sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).into_iter().filter(is_server) {
            let text = fs::read_to_string(&path).unwrap();
            // Tests may look at what they made.
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            for statement in code.split([';', '{', '}']).filter(|statement| statement.contains("expose_secret")) {
                exposed += 1;
                let compared = ends_early.iter().any(|operator| statement.contains(operator));
                assert!(
                    !compared || statement.contains("verify_slices_are_equal"),
                    "{}: compare with aws_lc_rs::constant_time instead: {statement}",
                    path.display()
                );
            }
        }
        assert!(exposed > 3, "the search finds nothing");
    }
}
