use std::fmt;

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    constant_time::verify_slices_are_equal,
    error::Unspecified,
    hkdf::{HKDF_SHA256, Salt},
    hmac, rand,
};
use base64::{
    Engine,
    engine::general_purpose::STANDARD,
    prelude::{BASE64_URL_SAFE, BASE64_URL_SAFE_NO_PAD},
};
use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;

use crate::text_enums::text_enums;

text_enums! {
    /// What a sealed or authenticated value is for. Each purpose has its own key, derived with its text, so that a value made for
    /// one purpose is invalid for every other.
    enum Purpose {
        /// A registration inside its `client_id`.
        ClientId = "client-id",
        /// The `client_secret` that belongs to a `client_id`.
        ClientSecret = "client-secret",
        /// The authorization request inside the consent form.
        ConsentForm = "consent-form",
        /// Binds a consent form to the browser that it was shown in.
        ConsentBinding = "consent-binding",
        /// The cookie with an approved authorization request during the login at the issuer.
        Login = "login",
        /// The session id, derived from the login's nonce.
        SessionName = "session-name",
        Code = "code",
        RefreshToken = "refresh-token",
        /// A session's record at rest.
        SessionRecord = "session-record",
        /// The upstream's `Mcp-Session-Id`, bound to its user.
        McpSessionId = "mcp-session-id",
        /// The issuer's refresh token in a session's record.
        IssuerRefreshToken = "upstream-token",
    }
}

/// Bytes of a key id: enough to tell apart the few keys of one proxy.
const KEY_ID_LEN: usize = 4;

/// Bytes of the MAC of a signed value: 128 bits.
const SHORT_MAC_LEN: usize = 16;

#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[error("the encryption key must be 32 random bytes in base64; make one with: openssl rand -base64 32")]
pub struct InvalidEncryptionKey;

/// The keys derived from an encryption key for one issuer: values of another proxy do not verify. During a key rotation
/// there is a second encryption key, which only opens and verifies existing values.
pub struct Keyring {
    active: KeySet,
    second: Option<KeySet>,
}

struct KeySet {
    key_id: [u8; KEY_ID_LEN],
    /// Indexed by [`Purpose`].
    keys: Vec<PurposeKeys>,
}

struct PurposeKeys {
    seal: RandomizedNonceKey,
    mac: hmac::Key,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring").finish_non_exhaustive()
    }
}

impl KeySet {
    fn new(encryption_key: &str, issuer: &str) -> Result<Self, InvalidEncryptionKey> {
        let text = encryption_key.trim();
        let master = STANDARD
            .decode(text)
            .or_else(|_| BASE64_URL_SAFE.decode(text))
            .or_else(|_| BASE64_URL_SAFE_NO_PAD.decode(text))
            .map_err(|_| InvalidEncryptionKey)?;
        if master.len() != 32 {
            return Err(InvalidEncryptionKey);
        }
        Self::derive(&master, issuer).map_err(|_| InvalidEncryptionKey)
    }

    fn derive(master: &[u8], issuer: &str) -> Result<Self, Unspecified> {
        let derive = |usage: &str, purpose: &str| -> Result<[u8; 32], Unspecified> {
            let mut key = [0; 32];
            Salt::new(HKDF_SHA256, b"mcp-oauth-operator v1")
                .extract(master)
                .expand(&[usage.as_bytes(), b"\0", purpose.as_bytes(), b"\0", issuer.as_bytes()], HKDF_SHA256)?
                .fill(&mut key)?;
            Ok(key)
        };
        let keys = Purpose::ALL.iter().map(|purpose| {
            let seal = RandomizedNonceKey::new(&AES_256_GCM, &derive("seal", purpose.as_str())?)?;
            Ok(PurposeKeys { seal, mac: hmac::Key::new(hmac::HMAC_SHA256, &derive("mac", purpose.as_str())?) })
        });
        let keys = keys.collect::<Result<_, Unspecified>>()?;
        let mut key_id = [0; KEY_ID_LEN];
        key_id.copy_from_slice(&derive("id", "")?[..KEY_ID_LEN]);
        Ok(Self { key_id, keys })
    }

    fn keys(&self, purpose: Purpose) -> &PurposeKeys {
        &self.keys[purpose as usize]
    }

    fn mac(&self, purpose: Purpose, parts: &[&[u8]]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.keys(purpose).mac);
        for part in parts {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut mac = [0; 32];
        mac.copy_from_slice(context.sign().as_ref());
        mac
    }

    fn mac_text(&self, purpose: Purpose, parts: &[&[u8]]) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(self.mac(purpose, parts))
    }
}

impl Keyring {
    /// `encryption_key` is 32 bytes in either base64 alphabet; surrounding white space is ignored.
    pub fn new(encryption_key: &str, issuer: &str) -> Result<Self, InvalidEncryptionKey> {
        Ok(Self { active: KeySet::new(encryption_key, issuer)?, second: None })
    }

    /// Adds the second key, unless it equals the active one.
    pub fn with_second_key(mut self, encryption_key: &str, issuer: &str) -> Result<Self, InvalidEncryptionKey> {
        let second = KeySet::new(encryption_key, issuer)?;
        self.second = (second.key_id != self.active.key_id).then_some(second);
        Ok(self)
    }

    pub fn has_second_key(&self) -> bool {
        self.second.is_some()
    }

    /// Whether this keyring opens the new values of `former`, or `former` opens the new values of this one.
    pub fn succeeds(&self, former: &Self) -> bool {
        self.sets().any(|set| set.key_id == former.active.key_id)
            || former.sets().any(|set| set.key_id == self.active.key_id)
    }

    fn sets(&self) -> impl Iterator<Item = &KeySet> {
        std::iter::once(&self.active).chain(&self.second)
    }

    /// Encrypts and authenticates a value: base64url of key id, nonce, ciphertext and tag. `None` if the system's random
    /// number generator fails.
    pub fn seal<T: Serialize>(&self, purpose: Purpose, value: &T) -> Option<String> {
        let mut sealed = serde_json::to_vec(value).ok()?;
        let KeySet { key_id, .. } = self.active;
        let nonce = self.active.keys(purpose).seal.seal_in_place_append_tag(Aad::from(key_id), &mut sealed).ok()?;
        Some(BASE64_URL_SAFE_NO_PAD.encode([&key_id[..], nonce.as_ref(), &sealed].concat()))
    }

    /// The length of [`Self::seal`]'s result, computed without using a nonce.
    pub fn sealed_len<T: Serialize>(value: &T) -> Option<usize> {
        let sealed = KEY_ID_LEN + NONCE_LEN + serde_json::to_vec(value).ok()?.len() + AES_256_GCM.tag_len();
        base64::encoded_len(sealed, false)
    }

    /// Opens a result of [`Self::seal`] for the same purpose; `None` for anything else.
    pub fn open<T: DeserializeOwned>(&self, purpose: Purpose, sealed: &str) -> Option<T> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(sealed).ok()?;
        let (key_id, rest) = bytes.split_at_checked(KEY_ID_LEN)?;
        let (nonce, ciphertext) = rest.split_at_checked(NONCE_LEN)?;
        let set = self.sets().find(|set| set.key_id == key_id)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut ciphertext = ciphertext.to_vec();
        let plain = set.keys(purpose).seal.open_in_place(nonce, Aad::from(set.key_id), &mut ciphertext).ok()?;
        serde_json::from_slice(plain).ok()
    }

    /// Authenticates a value without encrypting it: base64url of key id, MAC and the value as JSON.
    pub fn sign<T: Serialize>(&self, purpose: Purpose, value: &T) -> Option<String> {
        let json = serde_json::to_vec(value).ok()?;
        let mac = self.mac(purpose, &[&json]);
        Some(BASE64_URL_SAFE_NO_PAD.encode([&self.active.key_id[..], &mac[..SHORT_MAC_LEN], &json].concat()))
    }

    /// Reads a result of [`Self::sign`] for the same purpose; `None` for anything else.
    pub fn read<T: DeserializeOwned>(&self, purpose: Purpose, signed: &str) -> Option<T> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(signed).ok()?;
        let (key_id, rest) = bytes.split_at_checked(KEY_ID_LEN)?;
        let (mac, json) = rest.split_at_checked(SHORT_MAC_LEN)?;
        let set = self.sets().find(|set| set.key_id == key_id)?;
        equal(mac, &set.mac(purpose, &[json])[..SHORT_MAC_LEN]).then(|| serde_json::from_slice(json).ok())?
    }

    /// HMAC-SHA256 by the active key over the parts. Each part is preceded by its length, so that different lists differ.
    pub fn mac(&self, purpose: Purpose, parts: &[&[u8]]) -> [u8; 32] {
        self.active.mac(purpose, parts)
    }

    /// [`Self::mac`] in base64url.
    pub fn mac_text(&self, purpose: Purpose, parts: &[&[u8]]) -> String {
        self.active.mac_text(purpose, parts)
    }

    /// Whether `text` is the [`Self::mac_text`] of the parts by either key, compared in constant time.
    pub fn verify_mac_text(&self, purpose: Purpose, parts: &[&[u8]], text: &str) -> bool {
        self.sets().any(|set| equal(text.as_bytes(), set.mac_text(purpose, parts).as_bytes()))
    }

    /// [`Self::verify_mac_text`] for the first `length` characters.
    pub fn verify_mac_start(&self, purpose: Purpose, parts: &[&[u8]], text: &[u8], length: usize) -> bool {
        self.sets().any(|set| set.mac_text(purpose, parts).as_bytes().get(..length).is_some_and(|mac| equal(text, mac)))
    }
}

fn equal(a: &[u8], b: &[u8]) -> bool {
    verify_slices_are_equal(a, b).is_ok()
}

/// `None` if the system's random number generator fails.
pub fn random_bytes<const N: usize>() -> Option<[u8; N]> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).ok()?;
    Some(bytes)
}

/// A random value of 256 bits in base64url (43 characters).
pub fn random_token() -> Option<String> {
    Some(BASE64_URL_SAFE_NO_PAD.encode(random_bytes::<32>()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::keyring;

    const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    #[test]
    fn purposes_are_listed_in_declaration_order() {
        for (position, purpose) in Purpose::ALL.iter().enumerate() {
            assert_eq!(*purpose as usize, position);
        }
    }

    #[test]
    fn sealed_value_opens_for_its_purpose_and_issuer_only() {
        let keyring = keyring();
        let sealed = keyring.seal(Purpose::Code, &"value").unwrap();
        assert_eq!(keyring.open::<String>(Purpose::Code, &sealed).as_deref(), Some("value"));
        assert_eq!(keyring.open::<String>(Purpose::RefreshToken, &sealed), None);
        let other = Keyring::new(KEY, "https://other.example.com").unwrap();
        assert_eq!(other.open::<String>(Purpose::Code, &sealed), None);
    }

    #[test]
    fn sealed_value_with_changed_byte_does_not_open() {
        let keyring = keyring();
        for text in [keyring.seal(Purpose::Code, &"value").unwrap(), keyring.sign(Purpose::Code, &"value").unwrap()] {
            let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).unwrap();
            for position in 0..bytes.len() {
                let mut changed = bytes.clone();
                changed[position] ^= 1;
                let changed = BASE64_URL_SAFE_NO_PAD.encode(changed);
                assert_eq!(keyring.open::<String>(Purpose::Code, &changed), None);
                assert_eq!(keyring.read::<String>(Purpose::Code, &changed), None);
            }
        }
        for short in ["", "AAAA", "not base64!"] {
            assert_eq!(keyring.open::<String>(Purpose::Code, short), None);
            assert_eq!(keyring.read::<String>(Purpose::Code, short), None);
        }
    }

    #[test]
    fn previous_key_opens_existing_values_and_seals_nothing() {
        const ISSUER: &str = "https://mcp.example.com";
        let other_key = STANDARD.encode([7; 32]);
        let (before, parts) = (keyring(), [&b"part"[..]]);
        let now = Keyring::new(&other_key, ISSUER).unwrap().with_second_key(KEY, ISSUER).unwrap();
        assert!(now.succeeds(&before) && Keyring::new(&other_key, ISSUER).unwrap().succeeds(&now));
        assert!(!Keyring::new(&other_key, ISSUER).unwrap().succeeds(&before));
        let (sealed, signed) = (before.seal(Purpose::Code, &1).unwrap(), before.sign(Purpose::ClientId, &2).unwrap());
        assert_eq!(now.open::<u8>(Purpose::Code, &sealed), Some(1));
        assert_eq!(now.read::<u8>(Purpose::ClientId, &signed), Some(2));
        let mac = before.mac_text(Purpose::SessionRecord, &parts);
        assert!(now.verify_mac_text(Purpose::SessionRecord, &parts, &mac));
        assert!(now.verify_mac_start(Purpose::SessionRecord, &parts, &mac.as_bytes()[..22], 22));
        assert!(!now.verify_mac_start(Purpose::SessionRecord, &parts, b"", 22));
        // A replica that has only the previous key opens no new value.
        assert_eq!(before.open::<u8>(Purpose::Code, &now.seal(Purpose::Code, &1).unwrap()), None);
        assert_ne!(now.mac_text(Purpose::SessionRecord, &parts), mac);
        // Without the previous key, its values do not open.
        assert_eq!(Keyring::new(&other_key, ISSUER).unwrap().open::<u8>(Purpose::Code, &sealed), None);
    }

    #[test]
    fn mac_parts_are_delimited() {
        let keyring = keyring();
        assert_ne!(keyring.mac(Purpose::Code, &[b"ab", b"c"]), keyring.mac(Purpose::Code, &[b"a", b"bc"]));
    }

    #[test]
    fn encryption_key_of_wrong_length_is_refused_with_generating_command() {
        for bad in ["", "short", "AAAA", "not base64 at all, but forty-four characters"] {
            let error = Keyring::new(bad, "https://mcp.example.com").unwrap_err();
            assert!(error.to_string().contains("openssl rand -base64 32"));
        }
        assert!(Keyring::new(&format!(" {KEY}\n"), "https://mcp.example.com").is_ok());
    }

    proptest! {
        #[test]
        fn sealed_text_with_any_changed_character_does_not_open(
            value in ".{0,60}",
            at in any::<prop::sample::Index>(),
            to in "[A-Za-z0-9_-]",
        ) {
            let keyring = keyring();
            let sealed = keyring.seal(Purpose::Code, &value).unwrap();
            prop_assert_eq!(keyring.open::<String>(Purpose::Code, &sealed), Some(value.clone()));
            prop_assert_eq!(keyring.open::<String>(Purpose::RefreshToken, &sealed), None);
            let signed = keyring.sign(Purpose::ClientId, &value).unwrap();
            prop_assert_eq!(keyring.read::<String>(Purpose::ClientId, &signed), Some(value));
            for text in [&sealed, &signed] {
                let at = at.index(text.len());
                let changed = format!("{}{to}{}", &text[..at], &text[at + 1..]);
                if changed != *text {
                    prop_assert_eq!(keyring.open::<String>(Purpose::Code, &changed), None);
                    prop_assert_eq!(keyring.read::<String>(Purpose::ClientId, &changed), None);
                }
            }
        }
    }
}
