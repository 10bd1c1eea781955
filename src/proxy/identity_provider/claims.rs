//! The non-standard claims of issuers, and the library's types with them.

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

#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct ExtraClaims {
    /// Google's Workspace domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) hd: Option<String>,
    /// Includes the groups.
    #[serde(flatten)]
    others: HashMap<String, serde_json::Value>,
}

impl ExtraClaims {
    /// Returns the groups of `wanted` that are in a claim, a list or a single string; `None` without the claim. The others are
    /// dropped: a user may have hundreds of groups, and a session is a small object.
    pub(super) fn groups(&self, claim: &str, wanted: &[String]) -> Option<Vec<String>> {
        let present: Vec<&str> = match self.others.get(claim)? {
            serde_json::Value::Array(values) => values.iter().filter_map(serde_json::Value::as_str).collect(),
            serde_json::Value::String(one) => vec![one.as_str()],
            _ => Vec::new(),
        };
        Some(wanted.iter().filter(|group| present.contains(&group.as_str())).cloned().collect())
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
        let wanted = ["a".to_owned(), "c".to_owned()];
        let groups = |claims: Value| {
            serde_json::from_value::<ExtraClaims>(claims).unwrap().groups("https://example.com/groups", &wanted)
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
