//! The content of the mounted Secrets.

use std::{io::ErrorKind, path::PathBuf, sync::Arc};

use secrecy::SecretString;
use thiserror::Error;

use crate::{
    config::{CredentialFiles, ProxyConfig},
    crypto::{InvalidEncryptionKey, Keyring, SigningKeys, SigningKeysError, SigningRing},
    oauth::client_registry::StaticClients,
};

pub struct Secrets {
    /// The client that the issuer registered for this proxy.
    pub client_id: String,
    pub client_secret: SecretString,
    pub keyring: Arc<Keyring>,
    pub signing: SigningRing,
    /// The clients of `clients.static`, with their secrets.
    pub static_clients: StaticClients,
    /// The certificates of `identityProvider.caRef`. They are public, but change like secrets.
    pub ca: Option<String>,
    /// Changes with the content of any file.
    pub fingerprint: [u8; 32],
    /// Changes with the encryption keys.
    pub keys_fingerprint: [u8; 32],
}

/// The encryption key that seals new values during a rotation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum EncryptionKey {
    Current,
    /// Other replicas may not have read the current key yet.
    Previous,
}

/// No message contains a secret.
#[derive(Debug, Error)]
pub enum SecretsError {
    #[error("cannot read {}: {source}", .path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{} is empty", .0.display())]
    Empty(PathBuf),
    #[error("{}: {source}", .path.display())]
    EncryptionKey { path: PathBuf, source: InvalidEncryptionKey },
    #[error("{}: {source}", .path.display())]
    SigningKeys { path: PathBuf, source: SigningKeysError },
}

impl Secrets {
    /// Reads the files of a configuration. `using` matters only while there is a previous encryption key.
    pub fn load(config: &ProxyConfig, using: EncryptionKey) -> Result<Self, SecretsError> {
        let CredentialFiles { directory, keys } = &config.credentials;
        let (_, client_id) = read(directory.join(keys.client_id.as_str()))?;
        let (_, client_secret) = read(directory.join(keys.client_secret.as_str()))?;
        let current = read(directory.join(keys.encryption_key.as_str()))?;
        let previous = match read(directory.join(keys.previous_encryption_key.as_str())) {
            Ok(previous) => Some(previous),
            Err(SecretsError::Empty(_)) => None,
            Err(SecretsError::Read { source, .. }) if source.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let (signing_path, signing_keys) = read(config.signing_keys.clone())?;
        let encryption_keys = [current.1.clone(), previous.as_ref().map(|(_, key)| key.clone()).unwrap_or_default()];
        let mut contents = vec![client_id.clone(), client_secret.clone()];
        contents.extend(encryption_keys.iter().chain([&signing_keys]).cloned());
        let static_clients = StaticClients::new(&config.clients.static_clients, |client| {
            let Some(path) = client.secret_ref.as_ref().and_then(|reference| config.secret_file(reference)) else {
                return Ok(None);
            };
            let (_, secret) = read(path)?;
            contents.push(secret.clone());
            Ok::<_, SecretsError>(Some(secret.into()))
        })?;
        let ca = config.ca_file().map(read).transpose()?.map(|(_, ca)| ca);
        contents.extend(ca.clone());
        let (active, second) = match previous {
            Some(previous) if using == EncryptionKey::Previous => (previous, Some(current)),
            previous => (current, previous),
        };
        let issuer = config.public_url.as_str();
        let invalid = |path: PathBuf| move |source| SecretsError::EncryptionKey { path, source };
        let mut keyring = Keyring::new(&active.1, issuer).map_err(invalid(active.0))?;
        if let Some((path, key)) = second {
            keyring = keyring.with_second_key(&key, issuer).map_err(invalid(path))?;
        }
        let signing = SigningKeys::parse(signing_keys.as_bytes())
            .and_then(|keys| SigningRing::new(&keys))
            .map_err(|source| SecretsError::SigningKeys { path: signing_path, source })?;
        Ok(Self {
            client_id,
            client_secret: client_secret.into(),
            keyring: Arc::new(keyring),
            signing,
            static_clients,
            ca,
            fingerprint: fingerprint(&contents),
            keys_fingerprint: fingerprint(&encryption_keys),
        })
    }
}

fn read(path: PathBuf) -> Result<(PathBuf, String), SecretsError> {
    match std::fs::read_to_string(&path) {
        Ok(text) if text.trim().is_empty() => Err(SecretsError::Empty(path)),
        Ok(text) => Ok((path, text.trim().to_owned())),
        Err(source) => Err(SecretsError::Read { path, source }),
    }
}

/// SHA-256 over the parts, each preceded by its length.
fn fingerprint(parts: &[String]) -> [u8; 32] {
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

    /// The source files of a folder, recursively.
    fn sources(folder: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
    }

    /// A `SecretString` has no `==`, so a comparison that ends at the first difference begins with `expose_secret`.
    #[test]
    fn c16_secrets_are_compared_in_constant_time() {
        let ends_early = ["==", "!=", ".eq(", ".ne(", ".cmp(", "starts_with", "ends_with", ".contains("];
        let mut exposed = 0;
        // `login` runs on the user's own machine and compares no remote input.
        let is_server = |path: &PathBuf| !path.iter().any(|part| part == "login");
        for path in sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).into_iter().filter(is_server) {
            let text = fs::read_to_string(&path).unwrap();
            // Tests may compare their own secrets.
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
