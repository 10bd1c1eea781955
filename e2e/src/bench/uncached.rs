//! P2: every request has a token that the proxy has not seen, so that it must verify the signature.

use std::{fs, io::Write, path::Path};

use anyhow::{Context, Result};
use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, ParsedPublicKey},
};
use base64::{Engine, engine::general_purpose::STANDARD, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::Value;

use super::measure::thread_cpu;

/// More than all rounds use, and many times the size of the proxy's token cache.
const TOKENS: usize = 400_000;

/// The number of tokens for measuring the verification alone.
const VERIFICATIONS: u32 = 5_000;

/// Measures a signature verification alone.
pub struct Verification {
    /// Parsed once, as in the proxy.
    public: ParsedPublicKey,
    /// Signed data and signatures. All differ as in the proxy: with identical ones, the branch predictor would adapt.
    tokens: Vec<(String, Vec<u8>)>,
}

impl Verification {
    /// The CPU time of one verification in microseconds.
    pub fn micros(&self) -> Result<f64> {
        let before = thread_cpu();
        for (signed, signature) in &self.tokens {
            self.public
                .verify_sig(signed.as_bytes(), signature)
                .map_err(|_| anyhow::anyhow!("the signature is invalid"))?;
        }
        Ok((thread_cpu() - before).as_secs_f64() * 1e6 / f64::from(VERIFICATIONS))
    }
}

/// Writes tokens that differ from a valid one in their `jti`, one per line, signed with the proxy's key. Returns other
/// tokens for measuring the verification alone.
pub fn write_tokens(keys: &Path, token: &str, file: &Path) -> Result<Verification> {
    let keys: Value = serde_json::from_slice(&fs::read(keys)?)?;
    let key = STANDARD.decode(keys["keys"][0]["privateKey"].as_str().context("no key")?)?;
    let key_pair =
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key).map_err(|_| anyhow::anyhow!("no key"))?;
    let random = SystemRandom::new();
    let (head, rest) = token.split_once('.').context("the token is not a JWT")?;
    let claims = BASE64_URL_SAFE_NO_PAD.decode(rest.split('.').next().context("no claims")?)?;
    let mut claims: Value = serde_json::from_slice(&claims)?;
    let mut sign = |number: usize| -> Result<(String, Vec<u8>)> {
        claims["jti"] = format!("uncached-{number}").into();
        let signed = format!("{head}.{}", BASE64_URL_SAFE_NO_PAD.encode(claims.to_string()));
        let signature = key_pair.sign(&random, signed.as_bytes()).map_err(|_| anyhow::anyhow!("no signature"))?;
        Ok((signed, signature.as_ref().to_vec()))
    };
    let mut out = std::io::BufWriter::new(fs::File::create(file)?);
    for number in 0..TOKENS {
        let (signed, signature) = sign(number)?;
        writeln!(out, "{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))?;
    }
    out.flush()?;
    let tokens = (TOKENS..).take(VERIFICATIONS as usize).map(sign).collect::<Result<_>>()?;
    let public = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key_pair.public_key().as_ref())?;
    Ok(Verification { public, tokens })
}
