use kube::core::Status;
use thiserror::Error;

use crate::crypto::SigningKeysError;

/// Why a reconcile or the controller failed.
#[derive(Debug, Error)]
pub enum Error {
    /// A request to the API server failed.
    #[error("cannot {action}: {}", short_message(.source))]
    Kube {
        /// The failed operation, as a verb phrase.
        action: String,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("cannot create signing keys: {0}")]
    SigningKeys(#[from] SigningKeysError),
    #[error("cannot serialize an object: {0}")]
    Serialize(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("no usable cluster configuration: {0}")]
    Config(#[source] Box<kube::Error>),
    #[error("cannot listen for health checks at {address}: {source}")]
    Listen { address: std::net::SocketAddr, source: std::io::Error },
    /// The reconcile exceeded its deadline, because a request to the API server got no response.
    #[error("the API server does not respond")]
    Timeout,
}

impl Error {
    /// Wraps a kube error; for `map_err`.
    pub(super) fn kube(action: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        move |source| Self::Kube { action: action.into(), source: Box::new(source) }
    }

    fn api_status(&self) -> Option<&Status> {
        match self {
            Self::Kube { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => Some(status),
                _ => None,
            },
            _ => None,
        }
    }

    /// The message if the API server rejected an object as invalid. A retry cannot succeed.
    pub(super) fn rejection(&self) -> Option<String> {
        self.api_status().filter(|status| matches!(status.code, 400 | 422)).map(|status| status.message.clone())
    }

    /// The message if the operator lacks a permission or the namespace is being deleted.
    pub(super) fn forbidden(&self) -> Option<String> {
        self.api_status().filter(|status| status.code == 403).map(|status| status.message.clone())
    }

    /// The value of the metric label `category`.
    pub(super) fn category(&self) -> &'static str {
        match self {
            Self::Kube { .. } => match self.api_status().map(|status| status.code) {
                Some(400 | 422) => "refused",
                Some(403) => "forbidden",
                Some(409) => "conflict",
                Some(429) => "throttled",
                Some(_) => "api",
                None => "connection",
            },
            Self::SigningKeys(_) => "signing_keys",
            Self::Serialize(_) => "serialize",
            Self::Timeout => "timeout",
            Self::Config(_) | Self::Listen { .. } => "start",
        }
    }
}

/// Only the message of an API error: kube prints the whole response twice.
fn short_message(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}
