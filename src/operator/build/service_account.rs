use k8s_openapi::api::core::v1::ServiceAccount;

use super::metadata;
use crate::operator::validate::ValidatedProxy;

/// The pods' identity at the API server. Only the Deployment's pods mount its token.
pub(super) fn build(proxy: &ValidatedProxy) -> ServiceAccount {
    ServiceAccount {
        metadata: metadata(proxy, &proxy.name),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}
