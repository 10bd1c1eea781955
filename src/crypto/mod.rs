//! Sealed values, message authentication codes, the signing-key ring and access tokens. No HTTP and no files here.

mod access_token;
mod keyring;
mod signing;
mod signing_keys;

pub use access_token::{AccessClaims, now_seconds};
pub use keyring::{InvalidEncryptionKey, Keyring, Purpose, random_bytes, random_token};
pub use signing::SigningRing;
pub use signing_keys::{SIGNS_FOR, SigningKeys, SigningKeysError};
