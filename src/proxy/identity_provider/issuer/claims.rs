//! What issuers say of a person beyond the standard claims, and the library's types with it.

use std::collections::HashMap;

use openidconnect::{
    Client, EmptyAdditionalProviderMetadata, EmptyExtraTokenFields, EndpointMaybeSet, EndpointNotSet, EndpointSet,
    IdToken, IdTokenClaims, IdTokenFields, ProviderMetadata, StandardErrorResponse, StandardTokenResponse,
    UserInfoClaims,
    core::{
        CoreAuthDisplay, CoreAuthPrompt, CoreClaimName, CoreClaimType, CoreClientAuthMethod, CoreErrorResponseType,
        CoreGenderClaim, CoreGrantType, CoreJweContentEncryptionAlgorithm, CoreJweKeyManagementAlgorithm,
        CoreJwsSigningAlgorithm, CoreResponseMode, CoreResponseType, CoreRevocableToken, CoreRevocationErrorResponse,
        CoreSubjectIdentifierType, CoreTokenIntrospectionResponse, CoreTokenType,
    },
};
use serde::{Deserialize, Serialize};

use super::key::IssuerKey;

/// Claims beyond the standard ones.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct ExtraClaims {
    /// Google's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) hd: Option<String>,
    /// Any other; the groups are among them.
    #[serde(flatten)]
    others: HashMap<String, serde_json::Value>,
}

impl ExtraClaims {
    /// Those of the groups `asked` for that a claim names: a list, or one alone. `None` if the claim is not there. A person may
    /// have hundreds of others, and a session is a small object.
    pub(super) fn groups(&self, claim: &str, asked: &[String]) -> Option<Vec<String>> {
        let named = match self.others.get(claim)? {
            serde_json::Value::Array(values) => values.iter().filter_map(serde_json::Value::as_str).collect(),
            serde_json::Value::String(one) => vec![one.as_str()],
            _ => Vec::new(),
        };
        Some(asked.iter().filter(|group| named.contains(&group.as_str())).cloned().collect())
    }
}

impl openidconnect::AdditionalClaims for ExtraClaims {}

type TokenFields = IdTokenFields<
    ExtraClaims,
    EmptyExtraTokenFields,
    CoreGenderClaim,
    CoreJweContentEncryptionAlgorithm,
    CoreJwsSigningAlgorithm,
>;

pub(super) type OidcTokens = StandardTokenResponse<TokenFields, CoreTokenType>;

pub(super) type OidcIdToken =
    IdToken<ExtraClaims, CoreGenderClaim, CoreJweContentEncryptionAlgorithm, CoreJwsSigningAlgorithm>;

pub(super) type OidcClaims = IdTokenClaims<ExtraClaims, CoreGenderClaim>;

pub(super) type OidcUserInfo = UserInfoClaims<ExtraClaims, CoreGenderClaim>;

pub(super) type OidcProviderMetadata = ProviderMetadata<
    EmptyAdditionalProviderMetadata,
    CoreAuthDisplay,
    CoreClientAuthMethod,
    CoreClaimName,
    CoreClaimType,
    CoreGrantType,
    CoreJweContentEncryptionAlgorithm,
    CoreJweKeyManagementAlgorithm,
    IssuerKey,
    CoreResponseMode,
    CoreResponseType,
    CoreSubjectIdentifierType,
>;

pub(super) type OidcClient = Client<
    ExtraClaims,
    CoreAuthDisplay,
    CoreGenderClaim,
    CoreJweContentEncryptionAlgorithm,
    IssuerKey,
    CoreAuthPrompt,
    StandardErrorResponse<CoreErrorResponseType>,
    OidcTokens,
    CoreTokenIntrospectionResponse,
    CoreRevocableToken,
    CoreRevocationErrorResponse,
    EndpointSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointMaybeSet,
    EndpointMaybeSet,
>;

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn only_groups_in_the_access_rules_are_kept() {
        let asked = ["a".to_owned(), "c".to_owned()];
        let groups = |claims: Value| {
            serde_json::from_value::<ExtraClaims>(claims).unwrap().groups("https://example.com/groups", &asked)
        };
        assert_eq!(groups(json!({"hd": "x"})), None);
        assert_eq!(groups(json!({"https://example.com/groups": ["b", 1, "a"]})), Some(vec!["a".into()]));
        assert_eq!(groups(json!({"https://example.com/groups": "c"})), Some(vec!["c".into()]));
        assert_eq!(groups(json!({"https://example.com/groups": null})), Some(vec![]));
        let mut many: Vec<String> = (0..1000).map(|number| number.to_string()).collect();
        many.push("c".to_owned());
        assert_eq!(groups(json!({"https://example.com/groups": many})), Some(vec!["c".into()]));
    }
}
