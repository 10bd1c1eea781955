//! The metadata documents of the authorization server (RFC 8414) and of the MCP endpoints (RFC 9728).

use serde::Serialize;

use super::{OFFLINE_ACCESS, SCOPE};
use crate::api::{
    PublicUrl,
    proxy::{Clients, DynamicRegistration, MetadataDocuments},
};

/// Always listed: the default of an absent list is `client_secret_basic` alone.
const AUTH_METHODS: [&str; 3] = ["none", "client_secret_post", "client_secret_basic"];

pub(super) const GRANT_TYPES: [&str; 2] = ["authorization_code", "refresh_token"];

/// RFC 8414 §2. All endpoints are at the root: clients of MCP 2025-03-26 and some that ignore this document expect them there.
#[derive(Debug, Serialize)]
pub struct AuthorizationServerMetadata {
    authorization_endpoint: String,
    /// RFC 9207.
    authorization_response_iss_parameter_supported: bool,
    client_id_metadata_document_supported: bool,
    code_challenge_methods_supported: [&'static str; 1],
    grant_types_supported: [&'static str; 2],
    /// Required by OpenID Connect Discovery §3, like `subject_types_supported`.
    id_token_signing_alg_values_supported: [&'static str; 1],
    issuer: String,
    jwks_uri: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    registration_endpoint: Option<String>,
    response_modes_supported: [&'static str; 1],
    response_types_supported: [&'static str; 1],
    revocation_endpoint: String,
    revocation_endpoint_auth_methods_supported: [&'static str; 3],
    scopes_supported: [&'static str; 2],
    subject_types_supported: [&'static str; 1],
    token_endpoint: String,
    token_endpoint_auth_methods_supported: [&'static str; 3],
}

impl AuthorizationServerMetadata {
    pub fn new(public_url: &PublicUrl, clients: &Clients) -> Self {
        let registration = clients.dynamic_registration == DynamicRegistration::Enabled;
        Self {
            authorization_endpoint: public_url.join("/authorize"),
            authorization_response_iss_parameter_supported: true,
            client_id_metadata_document_supported: clients.metadata_documents != MetadataDocuments::Disabled,
            code_challenge_methods_supported: ["S256"],
            grant_types_supported: GRANT_TYPES,
            id_token_signing_alg_values_supported: ["ES256"],
            issuer: public_url.as_str().to_owned(),
            jwks_uri: public_url.join("/jwks"),
            registration_endpoint: registration.then(|| public_url.join("/register")),
            response_modes_supported: ["query"],
            response_types_supported: ["code"],
            revocation_endpoint: public_url.join("/revoke"),
            revocation_endpoint_auth_methods_supported: AUTH_METHODS,
            // An MCP endpoint must not list offline_access (MCP 2026-07-28, refresh tokens).
            scopes_supported: [SCOPE, OFFLINE_ACCESS],
            subject_types_supported: ["public"],
            token_endpoint: public_url.join("/token"),
            token_endpoint_auth_methods_supported: AUTH_METHODS,
        }
    }
}

/// RFC 9728 §2.
#[derive(Debug, Serialize)]
pub struct ProtectedResourceMetadata {
    authorization_servers: [String; 1],
    bearer_methods_supported: [&'static str; 1],
    resource: String,
    scopes_supported: [&'static str; 1],
}

impl ProtectedResourceMetadata {
    /// `resource` is the URL as the client wrote it (RFC 9728 §3.3).
    pub fn new(public_url: &PublicUrl, resource: String) -> Self {
        Self {
            authorization_servers: [public_url.as_str().to_owned()],
            bearer_methods_supported: ["header"],
            resource,
            scopes_supported: [SCOPE],
        }
    }
}

/// The URL of the metadata of the MCP endpoint at `path` (RFC 9728 §3.1).
pub fn protected_resource_url(public_url: &PublicUrl, path: &str) -> String {
    public_url.join(&format!("/.well-known/oauth-protected-resource{path}"))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// mcp-remote once passed a URL of this document to a shell (CVE-2025-6514).
    #[test]
    fn c18_metadata_urls_are_below_public_url_and_contain_only_safe_characters() {
        let public_url: PublicUrl = "https://mcp.example.com".parse().unwrap();
        let clients = Clients::default();
        let documents = [
            serde_json::to_value(AuthorizationServerMetadata::new(&public_url, &clients)).unwrap(),
            serde_json::to_value(ProtectedResourceMetadata::new(&public_url, public_url.join("/servers/a1/mcp")))
                .unwrap(),
        ];
        let mut addresses = Vec::new();
        for document in &documents {
            for value in document.as_object().unwrap().values() {
                let texts = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
                addresses.extend(texts.iter().filter_map(Value::as_str).filter(|text| text.contains(':')));
            }
        }
        assert_eq!(addresses.len(), 8, "{addresses:?}");
        for address in addresses {
            let path = address.strip_prefix("https://mcp.example.com").unwrap_or_else(|| panic!("{address}"));
            assert!(path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-_.".contains(&byte)), "{address}");
        }
    }
}
