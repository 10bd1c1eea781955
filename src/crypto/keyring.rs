use std::fmt;

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    constant_time::verify_slices_are_equal,
    hkdf::{HKDF_SHA256, KeyType, Salt},
    hmac, rand,
};
use base64::{
    Engine,
    engine::general_purpose::STANDARD,
    prelude::{BASE64_URL_SAFE, BASE64_URL_SAFE_NO_PAD},
};
use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;

/// What a sealed or authenticated value is for. Each purpose has a key of its own, so that a value made for one is
/// nothing at another.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Purpose {
    /// A registration inside its `client_id`.
    ClientId,
    /// The `client_secret` that belongs to a `client_id`.
    ClientSecret,
    /// The authorization request inside the consent form.
    ConsentForm,
    /// Binds a consent form to the browser it was shown in.
    ConsentBinding,
    /// An approved authorization on its way through the issuer, in a cookie.
    Login,
    /// The name of the session that a login makes.
    SessionName,
    /// An authorization code.
    Code,
    /// A refresh token.
    RefreshToken,
    /// A session's record at rest.
    SessionRecord,
    /// The upstream's `Mcp-Session-Id` with its user.
    McpSessionId,
    /// The issuer's refresh token in a session's record.
    UpstreamToken,
}

const PURPOSES: [(Purpose, &str); 11] = [
    (Purpose::ClientId, "client-id"),
    (Purpose::ClientSecret, "client-secret"),
    (Purpose::ConsentForm, "consent-form"),
    (Purpose::ConsentBinding, "consent-binding"),
    (Purpose::Login, "login"),
    (Purpose::SessionName, "session-name"),
    (Purpose::Code, "code"),
    (Purpose::RefreshToken, "refresh-token"),
    (Purpose::SessionRecord, "session-record"),
    (Purpose::McpSessionId, "mcp-session-id"),
    (Purpose::UpstreamToken, "upstream-token"),
];

/// Bytes of a key id: enough to tell apart the few keys of one proxy.
const KEY_ID_LEN: usize = 4;

/// Bytes of the MAC of a signed value: 128 bits.
const SHORT_MAC_LEN: usize = 16;

/// The encryption key is not 32 bytes in base64.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[error("the encryption key must be 32 random bytes in base64; make one with: openssl rand -base64 32")]
pub struct InvalidEncryptionKey;

/// The keys derived from an ENCRYPTION_KEY, and from the one before it if there is one, for one issuer: a value of another
/// proxy is nothing here. One of the two makes new values, either opens what it made.
pub struct Keyring {
    active: KeySet,
    other: Option<KeySet>,
}

/// What is derived from one ENCRYPTION_KEY.
struct KeySet {
    key_id: [u8; KEY_ID_LEN],
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

/// The length of derived keys, as the HKDF interface wants it.
struct KeyLength(usize);

impl KeyType for KeyLength {
    fn len(&self) -> usize {
        self.0
    }
}

impl KeySet {
    fn derive(encryption_key: &str, issuer: &str) -> Result<Self, InvalidEncryptionKey> {
        let text = encryption_key.trim();
        let master = STANDARD
            .decode(text)
            .or_else(|_| BASE64_URL_SAFE.decode(text))
            .or_else(|_| BASE64_URL_SAFE_NO_PAD.decode(text))
            .map_err(|_| InvalidEncryptionKey)?;
        if master.len() != 32 {
            return Err(InvalidEncryptionKey);
        }
        let derive = |use_: &str, purpose: &str| -> Result<[u8; 32], InvalidEncryptionKey> {
            let mut key = [0; 32];
            Salt::new(HKDF_SHA256, b"mcp-oauth-operator v1")
                .extract(&master)
                .expand(&[use_.as_bytes(), b"\0", purpose.as_bytes(), b"\0", issuer.as_bytes()], KeyLength(32))
                .and_then(|okm| okm.fill(&mut key))
                .map_err(|_| InvalidEncryptionKey)?;
            Ok(key)
        };
        let keys = PURPOSES
            .iter()
            .map(|(_, label)| {
                Ok(PurposeKeys {
                    seal: RandomizedNonceKey::new(&AES_256_GCM, &derive("seal", label)?)
                        .map_err(|_| InvalidEncryptionKey)?,
                    mac: hmac::Key::new(hmac::HMAC_SHA256, &derive("mac", label)?),
                })
            })
            .collect::<Result<_, _>>()?;
        let mut key_id = [0; KEY_ID_LEN];
        key_id.copy_from_slice(&derive("id", "")?[..KEY_ID_LEN]);
        Ok(Self { key_id, keys })
    }

    fn keys(&self, purpose: Purpose) -> &PurposeKeys {
        // PURPOSES lists the variants in their order; a test holds it to that.
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
    /// Derives the keys from `encryption_key` (32 bytes in base64, either alphabet, white space around it ignored) for
    /// `issuer`.
    ///
    /// # Errors
    /// When the key is anything else.
    pub fn new(encryption_key: &str, issuer: &str) -> Result<Self, InvalidEncryptionKey> {
        Ok(Self { active: KeySet::derive(encryption_key, issuer)?, other: None })
    }

    /// With a second key, which makes nothing new but opens what it has made. With both of one value there is but one.
    ///
    /// # Errors
    /// When it is no key.
    pub fn beside(mut self, other: &str, issuer: &str) -> Result<Self, InvalidEncryptionKey> {
        let other = KeySet::derive(other, issuer)?;
        self.other = (other.key_id != self.active.key_id).then_some(other);
        Ok(self)
    }

    /// Whether there is a second key.
    pub fn has_other(&self) -> bool {
        self.other.is_some()
    }

    /// Whether nothing is lost by going on with it after `former` that a fresh start would keep: it opens what `former`
    /// makes, or makes what `former` opens.
    pub fn succeeds(&self, former: &Self) -> bool {
        self.sets().any(|set| set.key_id == former.active.key_id)
            || former.sets().any(|set| set.key_id == self.active.key_id)
    }

    /// The active keys, then the others.
    fn sets(&self) -> impl Iterator<Item = &KeySet> {
        std::iter::once(&self.active).chain(&self.other)
    }

    /// Encrypts and authenticates a value: base64url of key id, nonce, ciphertext and tag. `None` only if the system
    /// gives no randomness.
    pub fn seal<T: Serialize>(&self, purpose: Purpose, value: &T) -> Option<String> {
        let mut sealed = serde_json::to_vec(value).ok()?;
        let KeySet { key_id, .. } = self.active;
        let nonce = self.active.keys(purpose).seal.seal_in_place_append_tag(Aad::from(key_id), &mut sealed).ok()?;
        Some(BASE64_URL_SAFE_NO_PAD.encode([&key_id[..], nonce.as_ref(), &sealed].concat()))
    }

    /// The length of what [`Self::seal`] makes of a value, which costs no nonce.
    pub fn sealed_len<T: Serialize>(value: &T) -> Option<usize> {
        let sealed = KEY_ID_LEN + NONCE_LEN + serde_json::to_vec(value).ok()?.len() + AES_256_GCM.tag_len();
        base64::encoded_len(sealed, false)
    }

    /// Opens what [`Self::seal`] made for the same purpose; `None` for anything else.
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

    /// Authenticates a value that may be read by anybody: base64url of key id, MAC and the value as JSON.
    pub fn sign<T: Serialize>(&self, purpose: Purpose, value: &T) -> Option<String> {
        let json = serde_json::to_vec(value).ok()?;
        let mac = self.mac(purpose, &[&json]);
        Some(BASE64_URL_SAFE_NO_PAD.encode([&self.active.key_id[..], &mac[..SHORT_MAC_LEN], &json].concat()))
    }

    /// Reads what [`Self::sign`] made for the same purpose; `None` for anything else.
    pub fn read<T: DeserializeOwned>(&self, purpose: Purpose, signed: &str) -> Option<T> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(signed).ok()?;
        let (key_id, rest) = bytes.split_at_checked(KEY_ID_LEN)?;
        let (mac, json) = rest.split_at_checked(SHORT_MAC_LEN)?;
        let set = self.sets().find(|set| set.key_id == key_id)?;
        equal(mac, &set.mac(purpose, &[json])[..SHORT_MAC_LEN]).then(|| serde_json::from_slice(json).ok())?
    }

    /// HMAC-SHA256 by the active key over the parts, each with its length before it so that no two lists of parts look alike.
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

    /// [`Self::verify_mac_text`] for a text that has only the first `length` characters.
    pub fn verify_mac_start(&self, purpose: Purpose, parts: &[&[u8]], text: &[u8], length: usize) -> bool {
        self.sets().any(|set| set.mac_text(purpose, parts).as_bytes().get(..length).is_some_and(|mac| equal(text, mac)))
    }
}

fn equal(a: &[u8], b: &[u8]) -> bool {
    verify_slices_are_equal(a, b).is_ok()
}

/// Random bytes from the system; `None` if it has none to give.
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
pub mod tests {
    use proptest::prelude::*;

    use super::*;

    pub const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    pub fn keyring() -> Keyring {
        Keyring::new(KEY, "https://mcp.example.com").unwrap()
    }

    #[test]
    fn purposes_are_listed_in_declaration_order() {
        for (position, (purpose, _)) in PURPOSES.iter().enumerate() {
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
        let now = Keyring::new(&other_key, ISSUER).unwrap().beside(KEY, ISSUER).unwrap();
        assert!(now.succeeds(&before) && Keyring::new(&other_key, ISSUER).unwrap().succeeds(&now));
        assert!(!Keyring::new(&other_key, ISSUER).unwrap().succeeds(&before));
        let (sealed, signed) = (before.seal(Purpose::Code, &1).unwrap(), before.sign(Purpose::ClientId, &2).unwrap());
        assert_eq!(now.open::<u8>(Purpose::Code, &sealed), Some(1));
        assert_eq!(now.read::<u8>(Purpose::ClientId, &signed), Some(2));
        let mac = before.mac_text(Purpose::SessionRecord, &parts);
        assert!(now.verify_mac_text(Purpose::SessionRecord, &parts, &mac));
        assert!(now.verify_mac_start(Purpose::SessionRecord, &parts, &mac.as_bytes()[..22], 22));
        assert!(!now.verify_mac_start(Purpose::SessionRecord, &parts, b"", 22));
        // What is made now is nothing to who knows only the key before.
        assert_eq!(before.open::<u8>(Purpose::Code, &now.seal(Purpose::Code, &1).unwrap()), None);
        assert_ne!(now.mac_text(Purpose::SessionRecord, &parts), mac);
        // Without the key before, what it made is nothing.
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
