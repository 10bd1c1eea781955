//! The cluster's certificates: one CA, and a key pair for each component that authenticates with a certificate.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

use super::network::API_SERVICE_ADDRESS;
use crate::run::NODE_ADDRESS;

/// The API server's names for pods, for programs in the namespace, and for the host.
const API_SERVER_NAMES: &[&str] = &[
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
    "localhost",
    "127.0.0.1",
    NODE_ADDRESS,
    API_SERVICE_ADDRESS,
];

/// The identity in a client certificate. Kubernetes uses the common name as the user and the organization as a group.
struct Identity<'a> {
    file: &'a str,
    user: &'a str,
    group: Option<&'a str>,
    /// Names and addresses of a server certificate.
    serves: &'a [&'a str],
}

/// The folder of certificates (`NAME.pem`) and keys (`NAME.key`).
#[derive(Clone, Debug)]
pub struct Pki {
    directory: PathBuf,
}

impl Pki {
    pub fn at(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// Creates all certificates and keys.
    pub fn make(&self, node: &str) -> Result<()> {
        fs::create_dir_all(&self.directory)?;
        let authority = self.make_authority().context("cannot create the cluster's certificate authority")?;
        let node_user = format!("system:node:{node}");
        let masters = Some("system:masters");
        for identity in [
            Identity { file: "kube-apiserver", user: "kube-apiserver", group: None, serves: API_SERVER_NAMES },
            Identity { file: "kubelet", user: &node_user, group: Some("system:nodes"), serves: &[NODE_ADDRESS, node] },
            Identity { file: "admin", user: "admin", group: masters, serves: &[] },
            Identity { file: "kubelet-client", user: "kube-apiserver-kubelet-client", group: masters, serves: &[] },
            Identity {
                file: "kube-controller-manager",
                user: "system:kube-controller-manager",
                group: None,
                serves: &[],
            },
            Identity { file: "kube-scheduler", user: "system:kube-scheduler", group: None, serves: &[] },
            Identity { file: "kube-proxy", user: "system:kube-proxy", group: None, serves: &[] },
        ] {
            self.issue(&authority, &identity)
                .with_context(|| format!("cannot create the certificate of {}", identity.file))?;
        }
        // The key that signs service account tokens. Its public half needs no certificate.
        let tokens = KeyPair::generate()?;
        fs::write(self.certificate("service-accounts"), tokens.public_key_pem())?;
        write_private(&self.key("service-accounts"), &tokens.serialize_pem())
    }

    pub fn certificate(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.pem"))
    }

    pub fn key(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.key"))
    }

    fn make_authority(&self) -> Result<Issuer<'static, KeyPair>> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "mcp-oauth-operator test bed");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate()?;
        fs::write(self.certificate("ca"), params.self_signed(&key)?.pem())?;
        write_private(&self.key("ca"), &key.serialize_pem())?;
        Ok(Issuer::new(params, key))
    }

    fn issue(&self, authority: &Issuer<'_, KeyPair>, identity: &Identity<'_>) -> Result<()> {
        let names: Vec<String> = identity.serves.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name.push(DnType::CommonName, identity.user);
        if let Some(group) = identity.group {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if !identity.serves.is_empty() {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        let key = KeyPair::generate()?;
        fs::write(self.certificate(identity.file), params.signed_by(&key, authority)?.pem())?;
        write_private(&self.key(identity.file), &key.serialize_pem())
    }
}

fn write_private(path: &Path, text: &str) -> Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    Ok(())
}
