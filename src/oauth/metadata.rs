//! The documents from which clients learn where everything is.

use serde_json::{Value, json};

use super::{OFFLINE_ACCESS, SCOPE};
use crate::api::{
    PublicUrl,
    proxy::{Clients, DynamicRegistration, MetadataDocuments},
};

/// The ways in which clients may prove themselves. Named, because left out it would mean `client_secret_basic` alone.
const AUTH_METHODS: [&str; 3] = ["none", "client_secret_post", "client_secret_basic"];

/// The authorization server's metadata (RFC 8414 §2). Everything is at the root: clients of 2025-03-26 look nowhere else,
/// and some ignore what is advertised.
pub fn authorization_server(public_url: &PublicUrl, clients: &Clients) -> Value {
    let mut metadata = json!({
        "issuer": public_url.as_str(),
        "authorization_endpoint": public_url.join("/authorize"),
        "token_endpoint": public_url.join("/token"),
        "revocation_endpoint": public_url.join("/revoke"),
        "jwks_uri": public_url.join("/jwks"),
        // Here only, and not where an MCP endpoint describes itself: what it stands for is between client and us (MCP
        // 2026-07-28, refresh tokens).
        "scopes_supported": [SCOPE, OFFLINE_ACCESS],
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "grant_types_supported": ["authorization_code", "refresh_token"],
        "token_endpoint_auth_methods_supported": AUTH_METHODS,
        "revocation_endpoint_auth_methods_supported": AUTH_METHODS,
        "code_challenge_methods_supported": ["S256"],
        // OpenID Connect Discovery §3 wants these of the document that it names.
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
        "authorization_response_iss_parameter_supported": true,
        "client_id_metadata_document_supported": clients.metadata_documents != MetadataDocuments::Disabled,
    });
    if clients.dynamic_registration == DynamicRegistration::Enabled {
        metadata["registration_endpoint"] = public_url.join("/register").into();
    }
    metadata
}

/// The metadata of an MCP endpoint (RFC 9728 §2); `resource` as the client spells it.
pub fn protected_resource(public_url: &PublicUrl, resource: &str) -> Value {
    json!({
        "resource": resource,
        "authorization_servers": [public_url.as_str()],
        "scopes_supported": [SCOPE],
        "bearer_methods_supported": ["header"],
    })
}

/// Where the metadata of the endpoint at `path` is (RFC 9728 §3.1).
pub fn protected_resource_url(public_url: &PublicUrl, path: &str) -> String {
    public_url.join(&format!("/.well-known/oauth-protected-resource{path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// mcp-remote once gave what it read here to a shell (CVE-2025-6514).
    #[test]
    fn c18_metadata_urls_are_below_public_url_and_contain_only_safe_characters() {
        let public_url: PublicUrl = "https://mcp.example.com".parse().unwrap();
        let clients = Clients::default();
        let documents = [
            authorization_server(&public_url, &clients),
            protected_resource(&public_url, &public_url.join("/servers/a1/mcp")),
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
