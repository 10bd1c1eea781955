use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ParsedPublicKey};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jiff::Timestamp;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;
use serde_json::json;

use super::access_token::{ACCESS_TOKEN_TYPE, AccessClaims, InvalidAccessToken};
use crate::crypto::{SigningKeys, SigningKeysError};

/// The loaded signing keys. All of them verify and are published; the newest with `use_from` in the past signs.
pub struct SigningRing {
    keys: Vec<LoadedKey>,
}

struct LoadedKey {
    jwk: Jwk,
    /// The encoded header of the access tokens that the key signs.
    header: String,
    use_from: Timestamp,
    signing: EncodingKey,
    /// Parsed once; jsonwebtoken would parse it for each token.
    verifying: ParsedPublicKey,
}

/// A public ES256 key (RFC 7517 §4, RFC 7518 §6.2.1).
#[derive(Serialize)]
pub struct Jwk {
    kty: &'static str,
    crv: &'static str,
    #[serde(rename = "use")]
    usage: &'static str,
    alg: &'static str,
    kid: String,
    x: String,
    y: String,
}

impl Jwk {
    /// Splits an uncompressed point: 0x04, x, y (SEC 1 §2.3.3).
    fn es256(kid: String, point: &[u8]) -> Self {
        let (x, y) = point[1..].split_at(32);
        let (x, y) = (BASE64_URL_SAFE_NO_PAD.encode(x), BASE64_URL_SAFE_NO_PAD.encode(y));
        Self { kty: "EC", crv: "P-256", usage: "sig", alg: "ES256", kid, x, y }
    }
}

/// A JWK set (RFC 7517 §5).
#[derive(Serialize)]
pub struct JwkSet<'a> {
    keys: Vec<&'a Jwk>,
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
                let jwk = Jwk::es256(key.kid.clone(), &point);
                let signing = EncodingKey::from_ec_der(&pkcs8);
                let token = encode(&key.kid, &json!({}), &signing)?;
                let header = token.split('.').next().unwrap_or_default().to_owned();
                Ok(LoadedKey { jwk, header, use_from: key.use_from, signing, verifying })
            })
            .collect::<Result<Vec<_>, SigningKeysError>>()?;
        if loaded.is_empty() {
            return Err(SigningKeysError::NoneUsable);
        }
        loaded.sort_by_key(|key| key.use_from);
        Ok(Self { keys: loaded })
    }

    /// The public keys.
    pub fn jwks(&self) -> JwkSet<'_> {
        JwkSet { keys: self.keys.iter().map(|key| &key.jwk).collect() }
    }

    pub fn sign(&self, claims: &AccessClaims<'_>, now: Timestamp) -> Result<String, SigningKeysError> {
        let key = self.keys.iter().rev().find(|key| key.use_from <= now).ok_or(SigningKeysError::NoneUsable)?;
        encode(&key.jwk.kid, claims, &key.signing)
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
mod tests;
