//! Reloads secrets that change while a proxy runs.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::RunError;
use crate::proxy::{
    identity_provider::http_client,
    runtime::proxy::Proxy,
    secrets::{EncryptionKey, Secrets},
};

/// Poll interval of the mounted Secrets. The kubelet replaces them by symbolic link, which file watches miss.
const SECRETS_POLL: Duration = Duration::from_secs(5);

/// Time from reading a new encryption key to sealing with it. Every replica must have read it by then; the kubelet updates a
/// mounted Secret within about 90 seconds.
const ACCEPTED_BEFORE_USED: Duration = Duration::from_secs(5 * 60);

/// Reloads changed credentials and keys. Returns an error when the encryption key changes without its predecessor, which makes
/// all sessions and client ids invalid.
pub async fn reload_secrets(proxy: Arc<Proxy>) -> RunError {
    let mut reload = Reload::new(Instant::now());
    loop {
        tokio::time::sleep(SECRETS_POLL).await;
        if let Err(error) = reload.poll(&proxy, Instant::now()) {
            return error;
        }
    }
}

struct Reload {
    /// Time of the last change of the encryption keys.
    since: Instant,
    using: EncryptionKey,
    /// The last logged error, so that it is not repeated every five seconds.
    last_error: String,
}

impl Reload {
    fn new(now: Instant) -> Self {
        Self { since: now, using: EncryptionKey::Previous, last_error: String::new() }
    }

    fn poll(&mut self, proxy: &Proxy, now: Instant) -> Result<(), RunError> {
        let server = &proxy.authorization_server;
        let current = server.secrets.load_full();
        let new = match Secrets::load(&server.config, self.using) {
            Ok(new) => new,
            Err(error) => {
                if self.last_error != error.to_string() {
                    tracing::error!(%error, "cannot load the changed secrets, keeping the previous ones");
                    self.last_error = error.to_string();
                }
                return Ok(());
            }
        };
        self.last_error.clear();
        let changed = new.fingerprint != current.fingerprint;
        let keys_changed = new.keys_fingerprint != current.keys_fingerprint;
        let using = match self.using {
            _ if keys_changed => EncryptionKey::Previous,
            EncryptionKey::Previous if now.duration_since(self.since) >= ACCEPTED_BEFORE_USED => EncryptionKey::Current,
            using => using,
        };
        if !changed && using == self.using {
            return Ok(());
        }
        // The next poll retries if the files have changed in between.
        let Ok(new) = Secrets::load(&server.config, using) else { return Ok(()) };
        if !new.keyring.succeeds(&current.keyring) {
            return Err(RunError::EncryptionKeyChanged);
        }
        if new.ca != current.ca {
            match http_client(&server.config.identity_provider, new.ca.as_deref()) {
                Ok(http) => server.issuer.set_http_client(http),
                Err(error) => {
                    tracing::error!(%error, "the changed certificates of identityProvider.caRef cannot be used");
                }
            }
        }
        if keys_changed {
            self.since = now;
        }
        if changed {
            tracing::info!("reloaded credentials and keys");
        }
        if using == EncryptionKey::Current && self.using != using && new.keyring.has_second_key() {
            tracing::info!("the new encryption key is used for sealing");
        }
        self.using = using;
        proxy.record_keys.use_keyring(new.keyring.clone());
        server.secrets.store(Arc::new(new));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        crypto::{Keyring, Purpose},
        proxy::clock::wall_clock,
        testing::{session, temporary_proxy},
    };

    #[tokio::test]
    async fn changed_encryption_key_is_accepted_at_once_and_used_later() {
        let (folder, proxy) = temporary_proxy(wall_clock()).await;
        let start = Instant::now();
        let mut reload = Reload::new(start);
        reload.poll(&proxy, start + ACCEPTED_BEFORE_USED).unwrap();
        let before = proxy.authorization_server.secrets.load().keyring.clone();
        let sealed = before.seal(Purpose::RefreshToken, &1).unwrap();
        let session = session("a");
        proxy.authorization_server.store.create(&session).await.unwrap();

        let key = |name: &str, key: &str| std::fs::write(folder.path().join(name), key).unwrap();
        let other = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";
        key("PREVIOUS_ENCRYPTION_KEY", &std::fs::read_to_string(folder.path().join("ENCRYPTION_KEY")).unwrap());
        key("ENCRYPTION_KEY", other);
        let changed = start + ACCEPTED_BEFORE_USED * 2;
        reload.poll(&proxy, changed).unwrap();
        let keyring = proxy.authorization_server.secrets.load().keyring.clone();
        let newest = Keyring::new(other, proxy.authorization_server.public_url.as_str()).unwrap();
        assert_eq!(keyring.open::<u8>(Purpose::Code, &newest.seal(Purpose::Code, &2).unwrap()), Some(2));
        // A replica that has not read the change yet opens new values.
        assert_eq!(before.open::<u8>(Purpose::Code, &keyring.seal(Purpose::Code, &3).unwrap()), Some(3));

        reload.poll(&proxy, changed + ACCEPTED_BEFORE_USED).unwrap();
        let keyring = proxy.authorization_server.secrets.load().keyring.clone();
        assert_eq!(newest.open::<u8>(Purpose::Code, &keyring.seal(Purpose::Code, &4).unwrap()), Some(4));
        assert_eq!(keyring.open::<u8>(Purpose::RefreshToken, &sealed), Some(1));
        assert_eq!(proxy.authorization_server.store.get(session.id).await.unwrap().unwrap().session, session);

        // Without the previous key, the change is an error.
        std::fs::remove_file(folder.path().join("PREVIOUS_ENCRYPTION_KEY")).unwrap();
        key("ENCRYPTION_KEY", "CAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAg=");
        assert!(matches!(reload.poll(&proxy, changed), Err(RunError::EncryptionKeyChanged)));
    }
}
