use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ParsedPublicKey};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jiff::Timestamp;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;
use serde_json::{Value, json};

use super::access_token::{ACCESS_TOKEN_TYPE, AccessClaims, InvalidAccessToken};
use crate::crypto::{SigningKeys, SigningKeysError};

/// The loaded signing keys. All of them verify and are published; the newest with `use_from` in the past signs.
pub struct SigningRing {
    keys: Vec<LoadedKey>,
}

struct LoadedKey {
    kid: String,
    /// The encoded header of the access tokens that the key signs.
    header: String,
    use_from: Timestamp,
    signing: EncodingKey,
    /// Parsed once; jsonwebtoken would parse it for each token.
    verifying: ParsedPublicKey,
    jwk: Value,
}

impl SigningRing {
    pub fn new(keys: &SigningKeys) -> Result<Self, SigningKeysError> {
        let mut loaded = keys
            .keys
            .iter()
            .map(|key| {
                let (pkcs8, point) = key.decode()?;
                let verifying = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &point)
                    .map_err(|_| SigningKeysError::NotP256 { kid: key.kid.clone() })?;
                // An uncompressed point is 0x04, x, y (SEC 1 §2.3.3).
                let (x, y) = point[1..].split_at(32);
                let (x, y) = (BASE64_URL_SAFE_NO_PAD.encode(x), BASE64_URL_SAFE_NO_PAD.encode(y));
                let jwk = json!({
                    "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": key.kid, "x": x, "y": y,
                });
                let signing = EncodingKey::from_ec_der(&pkcs8);
                let token = encode(&key.kid, &json!({}), &signing)?;
                let header = token.split('.').next().unwrap_or_default().to_owned();
                Ok(LoadedKey { kid: key.kid.clone(), header, use_from: key.use_from, signing, verifying, jwk })
            })
            .collect::<Result<Vec<_>, SigningKeysError>>()?;
        if loaded.is_empty() {
            return Err(SigningKeysError::NoneUsable);
        }
        loaded.sort_by_key(|key| key.use_from);
        Ok(Self { keys: loaded })
    }

    /// The public keys (RFC 7517 §5).
    pub fn jwks(&self) -> Value {
        json!({"keys": self.keys.iter().map(|key| &key.jwk).collect::<Vec<_>>()})
    }

    pub fn sign(&self, claims: &AccessClaims<'_>, now: Timestamp) -> Result<String, SigningKeysError> {
        let key = self.keys.iter().rev().find(|key| key.use_from <= now).ok_or(SigningKeysError::NoneUsable)?;
        encode(&key.kid, claims, &key.signing)
    }

    /// Verifies an access token's signature, issuer and times. The caller checks audience and session. The claims borrow from
    /// `buffer`.
    pub fn verify<'a>(
        &self,
        token: &str,
        issuer: &str,
        now: u64,
        buffer: &'a mut Vec<u8>,
    ) -> Result<AccessClaims<'a>, InvalidAccessToken> {
        // The header must equal ours byte for byte, so no algorithm, type or extension of the token is interpreted
        // (RFC 8725 §3.1, RFC 9068 §4, RFC 7515 §4.1.11).
        let (header, rest) = token.split_once('.').ok_or(InvalidAccessToken::Malformed)?;
        let key = self.keys.iter().find(|key| key.header == header).ok_or(InvalidAccessToken::Signature)?;
        let (payload, signature) = rest.split_once('.').ok_or(InvalidAccessToken::Malformed)?;
        let message = token.get(..header.len() + 1 + payload.len()).ok_or(InvalidAccessToken::Malformed)?;
        // 64 bytes, r and s (RFC 7518 §3.4), rounded up to whole base64 groups.
        let mut bytes = [0; 66];
        let length = BASE64_URL_SAFE_NO_PAD.decode_slice(signature, &mut bytes);
        let length = length.map_err(|_| InvalidAccessToken::Signature)?;
        let verified = key.verifying.verify_sig(message.as_bytes(), bytes.get(..length).unwrap_or_default());
        verified.map_err(|_| InvalidAccessToken::Signature)?;
        buffer.clear();
        BASE64_URL_SAFE_NO_PAD.decode_vec(payload, buffer).map_err(|_| InvalidAccessToken::Malformed)?;
        let claims: AccessClaims<'_> = serde_json::from_slice(buffer).map_err(|_| InvalidAccessToken::Signature)?;
        if claims.iss != issuer {
            return Err(InvalidAccessToken::Signature);
        }
        claims.check_times(now)?;
        Ok(claims)
    }
}

fn encode(kid: &str, claims: &impl Serialize, key: &EncodingKey) -> Result<String, SigningKeysError> {
    let mut header = Header::new(Algorithm::ES256);
    header.typ = Some(ACCESS_TOKEN_TYPE.to_owned());
    header.kid = Some(kid.to_owned());
    jsonwebtoken::encode(&header, claims, key).map_err(|_| SigningKeysError::NotP256 { kid: kid.to_owned() })
}

#[cfg(test)]
mod tests {
    mod forged;

    use super::*;
    use crate::testing::ring;

    const ISSUER: &str = "https://mcp.example.com";

    fn check(ring: &SigningRing, token: &str, now: u64) -> Result<(), InvalidAccessToken> {
        ring.verify(token, ISSUER, now, &mut Vec::new()).map(drop)
    }

    fn claims() -> AccessClaims<'static> {
        AccessClaims {
            iss: ISSUER.into(),
            sub: "subject".into(),
            aud: "https://mcp.example.com/mcp".into(),
            exp: 2_000,
            iat: 1_000,
            jti: "jti".into(),
            client_id: "client".into(),
            sid: "0".repeat(32).into(),
            scope: "mcp".into(),
        }
    }

    fn signed_with_header(ring: &SigningRing, change: impl FnOnce(&mut Header)) -> String {
        let mut header = Header::new(Algorithm::ES256);
        header.typ = Some(ACCESS_TOKEN_TYPE.to_owned());
        header.kid = Some(ring.keys[0].kid.clone());
        change(&mut header);
        jsonwebtoken::encode(&header, &claims(), &ring.keys[0].signing).unwrap()
    }

    #[test]
    fn signed_token_verifies_until_expiry() {
        let ring = ring();
        let token = ring.sign(&claims(), Timestamp::UNIX_EPOCH).unwrap();
        // The previous content is discarded.
        let mut buffer = b"{}".to_vec();
        assert_eq!(ring.verify(&token, ISSUER, 1_999, &mut buffer), Ok(claims()));
        assert_eq!(ring.verify(&token, ISSUER, 2_000, &mut buffer), Err(InvalidAccessToken::Expired));
        assert_eq!(ring.verify(&token, "https://other", 1_999, &mut buffer), Err(InvalidAccessToken::Signature));
    }

    #[test]
    fn token_of_other_ring_type_or_algorithm_is_refused() {
        let ring = ring();
        let other = crate::testing::ring().sign(&claims(), Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(check(&ring, &other, 1_500), Err(InvalidAccessToken::Signature));
        let id_token = signed_with_header(&ring, |header| header.typ = Some("JWT".to_owned()));
        assert_eq!(check(&ring, &id_token, 1_500), Err(InvalidAccessToken::Signature));
        let no_kid = signed_with_header(&ring, |header| header.kid = None);
        assert_eq!(check(&ring, &no_kid, 1_500), Err(InvalidAccessToken::Signature));
        let good = signed_with_header(&ring, |_| ());
        assert!(check(&ring, &good, 1_500).is_ok());
        let (_, rest) = good.split_once('.').unwrap();
        for header in [r#"{"alg":"none","typ":"at+jwt"}"#, r#"{"alg":"HS256","typ":"at+jwt","kid":"x"}"#] {
            let forged = format!("{}.{rest}", BASE64_URL_SAFE_NO_PAD.encode(header));
            assert!(check(&ring, &forged, 1_500).is_err(), "{header}");
        }
    }

    #[test]
    fn key_signs_from_its_start_time_but_verifies_earlier() {
        let now = Timestamp::UNIX_EPOCH;
        let later = now + jiff::SignedDuration::from_mins(5);
        let mut keys = SigningKeys::generate(now).unwrap();
        keys.keys.extend(SigningKeys::generate(later).unwrap().keys);
        let ring = SigningRing::new(&keys).unwrap();
        let kid = |at| jsonwebtoken::decode_header(ring.sign(&claims(), at).unwrap()).unwrap().kid.unwrap();
        assert_eq!(kid(now), keys.keys[0].kid);
        assert_eq!(kid(later), keys.keys[1].kid);
        assert_eq!(ring.jwks()["keys"].as_array().unwrap().len(), 2);
        assert!(!ring.jwks().to_string().contains("\"d\""));
    }

    #[test]
    fn tokens_verify_while_replicas_load_rotated_keys_at_different_times() {
        let (step, late) = (jiff::SignedDuration::from_mins(3), jiff::SignedDuration::from_mins(9));
        let begin = Timestamp::UNIX_EPOCH;
        let mut secret = SigningKeys::generate(begin).unwrap();
        let ring = |keys: &SigningKeys| SigningRing::new(keys).unwrap();
        // The keys that each replica has loaded, and the time at which the second one loads the new ones.
        let (mut early, mut second, mut pending) = (ring(&secret), ring(&secret), None);
        let mut tokens: std::collections::VecDeque<(Timestamp, String)> = std::collections::VecDeque::new();
        let mut signed_with = std::collections::HashSet::new();
        let mut now = begin;
        while now < begin + jiff::SignedDuration::from_hours(70 * 24) {
            if let Some(rotated) = secret.rotated(now).unwrap() {
                secret = rotated;
                early = ring(&secret);
                pending = Some(now + late);
            }
            if pending.is_some_and(|at| at <= now) {
                second = ring(&secret);
                pending = None;
            }
            // Every third hour is enough, and every step while the replicas differ or soon after.
            let seconds = now.as_second();
            if pending.is_some() || seconds % (3 * 3600) == 0 {
                for ring in [&early, &second] {
                    let exp = u64::try_from(seconds).unwrap() + 24 * 3600;
                    let claims = AccessClaims { exp, iat: exp - 24 * 3600, ..claims() };
                    let token = ring.sign(&claims, now).unwrap();
                    signed_with.insert(jsonwebtoken::decode_header(&token).unwrap().kid);
                    tokens.push_back((now + jiff::SignedDuration::from_hours(24), token));
                }
                tokens.retain(|(end, _)| now < *end);
                let at = u64::try_from(seconds).unwrap();
                for (_, token) in &tokens {
                    assert!(check(&early, token, at).is_ok() && check(&second, token, at).is_ok(), "{now}");
                }
            }
            now += step;
        }
        assert_eq!(signed_with.len(), 3, "each key has signed");
        assert!(early.keys.len() <= 2);
    }
}
