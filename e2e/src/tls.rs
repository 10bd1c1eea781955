//! The TLS library's process-wide setting.

/// Selects aws-lc-rs, which TLS clients and servers of this process need.
pub fn install_crypto_provider() {
    // An error means that a provider is installed already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}
