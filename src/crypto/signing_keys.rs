use std::fmt;

use aws_lc_rs::{
    digest::{SHA256, digest},
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use base64::{Engine, engine::general_purpose::STANDARD, prelude::BASE64_URL_SAFE_NO_PAD};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The content of the key Secret (`keys.json`): the keys that sign access tokens.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SigningKeys {
    /// Oldest first.
    pub keys: Vec<SigningKey>,
}

/// An ES256 key pair.
#[derive(Clone, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SigningKey {
    /// The start of the SHA-256 of the public point.
    pub kid: String,
    /// PKCS#8 in DER, base64.
    pub private_key: String,
    /// The key signs from this time; it is published before.
    pub use_from: Timestamp,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("kid", &self.kid).field("use_from", &self.use_from).finish_non_exhaustive()
    }
}

#[derive(Debug, Error)]
pub enum SigningKeysError {
    #[error("no key could be generated")]
    Generate,
    /// Without serde's message, which may quote a key.
    #[error("the signing keys are not readable at line {line}, column {column}")]
    Parse { line: usize, column: usize },
    #[error("the signing keys cannot be written")]
    Write,
    #[error("signing key {kid} is not a P-256 private key in PKCS#8")]
    NotP256 { kid: String },
    #[error("there is no signing key whose useFrom is in the past")]
    NoneUsable,
}

/// Lifetime of a key before its successor signs.
pub const SIGNS_FOR: SignedDuration = SignedDuration::from_hours(30 * 24);

/// Time from publication to first use. Every replica must have read the key by then; the kubelet updates a mounted Secret
/// within about 90 seconds.
pub const PUBLISHED_BEFORE: SignedDuration = SignedDuration::from_mins(10);

/// Time that a key still verifies after its successor signs: one hour more than the longest lifetime of an access token.
pub const VERIFIES_AFTER: SignedDuration = SignedDuration::from_hours(25);

impl SigningKeys {
    /// The keys to use at `now`, with a successor if one is due and without retired keys; `None` if nothing changes.
    pub fn rotated(&self, now: Timestamp) -> Result<Option<Self>, SigningKeysError> {
        let mut keys = self.keys.clone();
        keys.sort_by_key(|key| key.use_from);
        // Subtract from `now`: adding to a time of the file could overflow.
        if keys.last().is_none_or(|newest| newest.use_from <= now - SIGNS_FOR) {
            keys.extend(Self::generate(now + PUBLISHED_BEFORE)?.keys);
        }
        // A key is retired by its successor, the next one.
        let retired = keys.windows(2).take_while(|pair| pair[1].use_from <= now - VERIFIES_AFTER).count();
        keys.drain(..retired);
        let same = keys.len() == self.keys.len() && keys.iter().all(|key| self.keys.iter().any(|k| k.kid == key.kid));
        Ok((!same).then_some(Self { keys }))
    }

    /// A new key that signs from `now`, truncated to whole seconds like all other times.
    pub fn generate(now: Timestamp) -> Result<Self, SigningKeysError> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(|_| SigningKeysError::Generate)?;
        let pkcs8 = pair.to_pkcs8v1().map_err(|_| SigningKeysError::Generate)?;
        let fingerprint = digest(&SHA256, pair.public_key().as_ref());
        Ok(Self {
            keys: vec![SigningKey {
                kid: BASE64_URL_SAFE_NO_PAD.encode(&fingerprint.as_ref()[..12]),
                private_key: STANDARD.encode(pkcs8.as_ref()),
                use_from: Timestamp::from_second(now.as_second()).unwrap_or(now),
            }],
        })
    }

    pub fn parse(json: &[u8]) -> Result<Self, SigningKeysError> {
        serde_json::from_slice(json)
            .map_err(|error| SigningKeysError::Parse { line: error.line(), column: error.column() })
    }

    pub fn to_json(&self) -> Result<String, SigningKeysError> {
        serde_json::to_string(self).map_err(|_| SigningKeysError::Write)
    }
}

impl SigningKey {
    /// The private key in PKCS#8 and the public key as an uncompressed point (65 bytes).
    pub fn decode(&self) -> Result<(Vec<u8>, Vec<u8>), SigningKeysError> {
        let not_p256 = || SigningKeysError::NotP256 { kid: self.kid.clone() };
        let pkcs8 = STANDARD.decode(&self.private_key).map_err(|_| not_p256())?;
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &pkcs8).map_err(|_| not_p256())?;
        let point = pair.public_key().as_ref().to_vec();
        Ok((pkcs8, point))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_key_round_trips_through_its_file() {
        let keys = SigningKeys::generate(Timestamp::UNIX_EPOCH).unwrap();
        let read = SigningKeys::parse(keys.to_json().unwrap().as_bytes()).unwrap();
        assert_eq!(read.keys[0].decode().unwrap(), keys.keys[0].decode().unwrap());
        assert_eq!(read.keys[0].use_from, Timestamp::UNIX_EPOCH);
    }

    #[test]
    fn first_key_signs_in_the_second_of_its_creation() {
        let now: Timestamp = "2026-11-24T12:00:00.9Z".parse().unwrap();
        let second: Timestamp = "2026-11-24T12:00:00Z".parse().unwrap();
        assert_eq!(SigningKeys::generate(now).unwrap().keys[0].use_from, second);
    }

    #[test]
    fn successor_key_is_published_before_signing_and_predecessor_retires_after_last_token() {
        let begin = Timestamp::UNIX_EPOCH;
        let first = SigningKeys::generate(begin).unwrap();
        let due = begin + SIGNS_FOR;
        assert!(first.rotated(due - SignedDuration::from_secs(1)).unwrap().is_none());
        let two = first.rotated(due).unwrap().unwrap();
        assert_eq!(two.keys.iter().map(|key| key.use_from).collect::<Vec<_>>(), [begin, due + PUBLISHED_BEFORE]);
        assert_eq!(two.keys[0].kid, first.keys[0].kid);
        let retired = due + PUBLISHED_BEFORE + VERIFIES_AFTER;
        assert!(two.rotated(retired - SignedDuration::from_secs(1)).unwrap().is_none());
        let one = two.rotated(retired).unwrap().unwrap();
        assert_eq!(one.keys.iter().map(|key| &key.kid).collect::<Vec<_>>(), [&two.keys[1].kid]);
    }

    #[test]
    fn old_key_signs_after_long_downtime_until_new_key_is_published() {
        let first = SigningKeys::generate(Timestamp::UNIX_EPOCH).unwrap();
        let late = Timestamp::UNIX_EPOCH + SIGNS_FOR * 10;
        let two = first.rotated(late).unwrap().unwrap();
        assert_eq!((two.keys.len(), two.keys[1].use_from), (2, late + PUBLISHED_BEFORE));
        assert!(SigningKeys { keys: Vec::new() }.rotated(late).unwrap().is_some());
        for odd in [Timestamp::MIN, Timestamp::MAX] {
            let mut keys = first.clone();
            keys.keys[0].use_from = odd;
            assert_eq!(keys.rotated(late).unwrap().is_some(), odd < late);
        }
    }

    #[test]
    fn invalid_key_file_content_is_not_in_error() {
        for file in [r#"{"keys": ["MARKER"]}"#, r#"{"keys": [{"kid": "MARKER", "privateKey": 1}]}"#, r#"{"MARKER": 1}"#]
        {
            let error = SigningKeys::parse(file.as_bytes()).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("MARKER"), "{error:?}");
            assert!(error.to_string().contains("line 1"));
        }
    }

    #[test]
    fn private_key_is_absent_from_debug_output() {
        let keys = SigningKeys::generate(Timestamp::UNIX_EPOCH).unwrap();
        assert!(!format!("{keys:?}").contains(&keys.keys[0].private_key));
    }
}
