//! Secrets that change while a proxy runs.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::RunError;
use crate::{
    http_client::HttpClient,
    proxy::{
        runtime::proxy::Proxy,
        secrets::{EncryptionKey, Secrets},
    },
};

/// How often the mounted Secrets are looked at. The kubelet swaps them by symbolic link, which no file watch sees well.
const SECRETS_POLL: Duration = Duration::from_secs(5);

/// How long a changed encryption key is accepted before it is used: until then other replicas may not have read it. The
/// kubelet brings a changed Secret within about a minute and a half.
const ACCEPTED_BEFORE_USED: Duration = Duration::from_secs(5 * 60);

/// Takes over changed credentials and keys, until what cannot be taken over has changed: an encryption key without the one
/// before it makes every session and client id void.
pub async fn reload_secrets(proxy: Arc<Proxy>) -> RunError {
    let mut reload = Reload::new(Instant::now());
    loop {
        tokio::time::sleep(SECRETS_POLL).await;
        if let Err(error) = reload.look(&proxy, Instant::now()) {
            return error;
        }
    }
}

/// What the reloading of secrets remembers from one look to the next.
struct Reload {
    /// Since when the secrets have been as they are.
    since: Instant,
    /// Which encryption key makes new values.
    using: EncryptionKey,
    /// The last complaint, which is not repeated every five seconds.
    said: String,
}

impl Reload {
    fn new(now: Instant) -> Self {
        Self { since: now, using: EncryptionKey::Previous, said: String::new() }
    }

    /// Looks at the files.
    fn look(&mut self, proxy: &Proxy, now: Instant) -> Result<(), RunError> {
        let current = proxy.secrets.load_full();
        let (changed, keys_changed) = match Secrets::load(&proxy.config, self.using) {
            Ok(new) => (!new.same_as(&current), !new.same_keys_as(&current)),
            Err(error) => {
                // Kept working with what was read before.
                if self.said != error.to_string() {
                    tracing::error!(%error, "changed secrets cannot be used; the former ones stay in use");
                    self.said = error.to_string();
                }
                return Ok(());
            }
        };
        self.said.clear();
        let old_enough = now.duration_since(self.since) >= ACCEPTED_BEFORE_USED;
        let using = match self.using {
            _ if keys_changed => EncryptionKey::Previous,
            EncryptionKey::Previous if old_enough => EncryptionKey::Current,
            using => using,
        };
        if !changed && using == self.using {
            return Ok(());
        }
        // If they have changed once more in this moment, the next look sees it.
        let Ok(new) = Secrets::load(&proxy.config, using) else { return Ok(()) };
        if !new.keyring.succeeds(&current.keyring) {
            return Err(RunError::EncryptionKeyChanged);
        }
        if new.ca != current.ca {
            match HttpClient::new(proxy.config.identity_provider.issuer_url.is_https(), new.ca.as_deref()) {
                Ok(http) => proxy.issuer.use_client(http),
                Err(error) => {
                    tracing::error!(%error, "the changed certificates of identityProvider.caRef cannot be used");
                }
            }
        }
        if keys_changed {
            self.since = now;
        }
        if changed {
            tracing::info!("changed credentials or keys are now used");
        }
        if using == EncryptionKey::Current && self.using != using && new.keyring.has_other() {
            tracing::info!("the new encryption key now seals new values");
        }
        self.using = using;
        proxy.record_keys.use_keyring(new.keyring.clone());
        proxy.secrets.store(Arc::new(new));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        crypto::{Keyring, Purpose},
        proxy::{clock::wall_clock, runtime::proxy::testing::proxy, sessions::LiveSet},
        session::tests::session,
    };

    #[tokio::test]
    async fn changed_encryption_key_is_accepted_at_once_and_used_later() {
        let (folder, proxy) = proxy("http://upstream", LiveSet::default(), wall_clock()).await;
        let begun = Instant::now();
        let mut reload = Reload::new(begun);
        reload.look(&proxy, begun + ACCEPTED_BEFORE_USED).unwrap();
        let before = proxy.secrets.load().keyring.clone();
        let sealed = before.seal(Purpose::RefreshToken, &1).unwrap();
        let session = session("a");
        proxy.store.create(&session).await.unwrap();

        let key = |name: &str, key: &str| std::fs::write(folder.path().join(name), key).unwrap();
        let other = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";
        key("PREVIOUS_ENCRYPTION_KEY", &std::fs::read_to_string(folder.path().join("ENCRYPTION_KEY")).unwrap());
        key("ENCRYPTION_KEY", other);
        let changed = begun + ACCEPTED_BEFORE_USED * 2;
        reload.look(&proxy, changed).unwrap();
        let keyring = proxy.secrets.load().keyring.clone();
        let newest = Keyring::new(other, proxy.public_url.as_str()).unwrap();
        assert_eq!(keyring.open::<u8>(Purpose::Code, &newest.seal(Purpose::Code, &2).unwrap()), Some(2));
        // Whoever has not read the change yet opens what we make.
        assert_eq!(before.open::<u8>(Purpose::Code, &keyring.seal(Purpose::Code, &3).unwrap()), Some(3));

        reload.look(&proxy, changed + ACCEPTED_BEFORE_USED).unwrap();
        let keyring = proxy.secrets.load().keyring.clone();
        assert_eq!(newest.open::<u8>(Purpose::Code, &keyring.seal(Purpose::Code, &4).unwrap()), Some(4));
        assert_eq!(keyring.open::<u8>(Purpose::RefreshToken, &sealed), Some(1));
        assert_eq!(proxy.store.get(session.id).await.unwrap().unwrap().session, session);

        // Without the one before, the change cannot be taken over.
        std::fs::remove_file(folder.path().join("PREVIOUS_ENCRYPTION_KEY")).unwrap();
        key("ENCRYPTION_KEY", "CAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAg=");
        assert!(matches!(reload.look(&proxy, changed), Err(RunError::EncryptionKeyChanged)));
    }
}
