//! The run's certificate authority, and the certificate of its edges.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine, engine::general_purpose::STANDARD};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType,
};

use super::component_state;
use crate::run::Run;

#[derive(Clone, Debug)]
pub struct Certificates {
    directory: PathBuf,
}

impl Certificates {
    /// Creates the CA and the edges' certificate, or finds them.
    pub fn for_run(run: &Run) -> Result<Self> {
        let certificates = Self { directory: run.directory().join("tls") };
        let _lock = component_state::lock_folder(&certificates.directory)?;
        // The last file that is written.
        if !certificates.directory.join("spki").exists() {
            certificates.create().context("cannot create the certificates of the edges")?;
        }
        Ok(certificates)
    }

    /// The CA file, for `NODE_EXTRA_CA_CERTS`, `SSL_CERT_FILE` and the like.
    pub fn authority(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }

    pub fn certificate(&self) -> PathBuf {
        self.directory.join("edge.pem")
    }

    pub fn key(&self) -> PathBuf {
        self.directory.join("edge.key")
    }

    /// Base64 of the SHA-256 of the edges' public key, in Chromium's format.
    pub fn public_key_hash(&self) -> Result<String> {
        Ok(fs::read_to_string(self.directory.join("spki"))?)
    }

    fn create(&self) -> Result<()> {
        let authority_key = KeyPair::generate()?;
        let mut authority = CertificateParams::default();
        authority.distinguished_name = named("mcp-oauth-operator test bed");
        authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = authority.self_signed(&authority_key)?;

        let key = KeyPair::generate()?;
        // claude.ai and www.cursor.com are hosts of client metadata documents.
        let names = ["localhost", "claude.ai", "www.cursor.com"].map(str::to_owned);
        let mut edge = CertificateParams::new(names.to_vec())?;
        edge.distinguished_name = named("localhost");
        edge.subject_alt_names.push(SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        edge.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        edge.use_authority_key_identifier_extension = true;
        let signed = edge.signed_by(&key, &Issuer::new(authority, authority_key))?;

        fs::write(self.authority(), certificate.pem())?;
        fs::write(self.certificate(), signed.pem())?;
        write_private(&self.key(), &key.serialize_pem())?;
        let hash = STANDARD.encode(digest(&SHA256, &key.subject_public_key_info()));
        Ok(fs::write(self.directory.join("spki"), hash)?)
    }
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn write_private(file: &Path, text: &str) -> Result<()> {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    let mut open = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(file)?;
    Ok(open.write_all(text.as_bytes())?)
}
