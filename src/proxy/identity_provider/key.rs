//! An issuer's public keys.

use std::fmt;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{DecodingKey, jwk::Jwk};
use openidconnect::{
    JsonWebKey, JsonWebKeyAlgorithm, JsonWebKeyId, JwsSigningAlgorithm, SignatureVerificationError,
    core::{CoreJsonWebKey, CoreJsonWebKeyUse, CoreJwsSigningAlgorithm},
};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

/// A key of `openidconnect` that verifies signatures with aws-lc-rs: the library's own verification takes a fifth of the time of
/// a login (bench/HISTORY.md).
#[derive(Clone, Deserialize)]
#[serde(try_from = "Value")]
pub(super) struct IssuerKey {
    key: CoreJsonWebKey,
    verifying: DecodingKey,
}

impl TryFrom<Value> for IssuerKey {
    type Error = serde_json::Error;

    fn try_from(value: Value) -> Result<Self, Self::Error> {
        let verifying = DecodingKey::from_jwk(&Jwk::deserialize(&value)?).map_err(serde::de::Error::custom)?;
        Ok(Self { key: serde_json::from_value(value)?, verifying })
    }
}

impl Serialize for IssuerKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.key.serialize(serializer)
    }
}

impl fmt::Debug for IssuerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("IssuerKey").field(&self.key.key_id()).finish()
    }
}

impl JsonWebKey for IssuerKey {
    type KeyUse = CoreJsonWebKeyUse;
    type SigningAlgorithm = CoreJwsSigningAlgorithm;

    fn key_id(&self) -> Option<&JsonWebKeyId> {
        self.key.key_id()
    }

    fn key_type(&self) -> &<CoreJwsSigningAlgorithm as JwsSigningAlgorithm>::KeyType {
        self.key.key_type()
    }

    fn key_use(&self) -> Option<&CoreJsonWebKeyUse> {
        self.key.key_use()
    }

    fn signing_alg(&self) -> JsonWebKeyAlgorithm<&CoreJwsSigningAlgorithm> {
        self.key.signing_alg()
    }

    fn new_symmetric(key: Vec<u8>) -> Self {
        let verifying = DecodingKey::from_secret(&key);
        Self { key: CoreJsonWebKey::new_symmetric(key), verifying }
    }

    fn verify_signature(
        &self,
        algorithm: &CoreJwsSigningAlgorithm,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), SignatureVerificationError> {
        let unsupported = |_| SignatureVerificationError::UnsupportedAlg(format!("{algorithm:?}"));
        // Both libraries serialize an algorithm as its name in JWA (RFC 7518 §3.1).
        let name = serde_json::to_value(algorithm).map_err(unsupported)?;
        let algorithm = serde_json::from_value(name).map_err(unsupported)?;
        let signature = BASE64_URL_SAFE_NO_PAD.encode(signature);
        match jsonwebtoken::crypto::verify(&signature, message, &self.verifying, algorithm) {
            Ok(true) => Ok(()),
            Ok(false) => Err(SignatureVerificationError::CryptoError("the signature is not the key's".to_owned())),
            Err(error) => Err(SignatureVerificationError::InvalidKey(error.to_string())),
        }
    }

    fn hash_bytes(&self, bytes: &[u8], algorithm: &CoreJwsSigningAlgorithm) -> Result<Vec<u8>, String> {
        self.key.hash_bytes(bytes, algorithm)
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::{
        encoding::{AsDer, Pkcs8V1Der},
        rsa::{KeyPair, KeySize},
        signature::{ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair},
    };
    use jsonwebtoken::{Algorithm, EncodingKey};

    use super::*;

    /// The issuer's side, and what it publishes.
    fn published(signing: EncodingKey, algorithm: Algorithm) -> (EncodingKey, IssuerKey) {
        let jwk = serde_json::to_value(Jwk::from_encoding_key(&signing, algorithm).unwrap()).unwrap();
        (signing, jwk.try_into().unwrap())
    }

    #[test]
    fn a17_signature_verifies_only_with_the_key_type_of_its_algorithm() {
        let rsa = KeyPair::generate(KeySize::Rsa2048).unwrap();
        let rsa = AsDer::<Pkcs8V1Der<'_>>::as_der(&rsa).unwrap();
        // What jsonwebtoken takes is inside of that (RFC 5958 §2), behind 26 bytes.
        let rsa = published(EncodingKey::from_rsa_der(&rsa.as_ref()[26..]), Algorithm::RS256);
        let p256 = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let p384 = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
        let ed25519 = Ed25519KeyPair::generate().unwrap();
        let secret = IssuerKey::new_symmetric(vec![7; 32]);
        let kinds = [
            (vec![CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha256, CoreJwsSigningAlgorithm::RsaSsaPssSha384], rsa),
            (
                vec![CoreJwsSigningAlgorithm::EcdsaP256Sha256],
                published(EncodingKey::from_ec_der(p256.to_pkcs8v1().unwrap().as_ref()), Algorithm::ES256),
            ),
            (
                vec![CoreJwsSigningAlgorithm::EcdsaP384Sha384],
                published(EncodingKey::from_ec_der(p384.to_pkcs8v1().unwrap().as_ref()), Algorithm::ES384),
            ),
            (
                vec![CoreJwsSigningAlgorithm::EdDsa],
                published(EncodingKey::from_ed_der(ed25519.to_pkcs8v1().unwrap().as_ref()), Algorithm::EdDSA),
            ),
            (vec![CoreJwsSigningAlgorithm::HmacSha256], (EncodingKey::from_secret(&[7; 32]), secret)),
        ];
        let all: Vec<_> = kinds.iter().flat_map(|(algorithms, _)| algorithms).collect();
        for (algorithms, (signing, key)) in &kinds {
            for algorithm in algorithms {
                let name = serde_json::from_value(serde_json::to_value(algorithm).unwrap()).unwrap();
                let signature = jsonwebtoken::crypto::sign(b"message", signing, name).unwrap();
                let signature = BASE64_URL_SAFE_NO_PAD.decode(signature).unwrap();
                for other in &all {
                    let verified = key.verify_signature(other, b"message", &signature);
                    assert_eq!(verified.is_ok(), *other == algorithm, "{algorithm:?} as {other:?}");
                }
                assert!(key.verify_signature(algorithm, b"another message", &signature).is_err());
            }
        }
    }

    #[test]
    fn invalid_key_is_rejected_and_debug_output_hides_secrets() {
        for key in [
            serde_json::json!({"kty": "EC", "crv": "P-256", "x": "AA"}),
            serde_json::json!({"kty": "RSA", "n": "!", "e": "AQAB"}),
            serde_json::json!({"kty": "unheard-of"}),
        ] {
            assert!(serde_json::from_value::<IssuerKey>(key.clone()).is_err(), "{key}");
        }
        assert_eq!(format!("{:?}", IssuerKey::new_symmetric(b"secret".to_vec())), "IssuerKey(None)");
    }
}
