use kube::core::Status;
use thiserror::Error;

use crate::crypto::SigningKeysError;

/// Why a pass over a resource, or the whole controller, cannot go on.
#[derive(Debug, Error)]
pub enum Error {
    /// The API server said no, or could not be asked.
    #[error("cannot {action}: {}", brief(.source))]
    Kube {
        /// What we were about to do.
        action: String,
        /// What came back.
        #[source]
        source: Box<kube::Error>,
    },
    /// New signing keys could not be made.
    #[error("cannot make signing keys: {0}")]
    SigningKeys(#[from] SigningKeysError),
    /// An object could not be written as YAML or JSON.
    #[error("cannot write an object: {0}")]
    Serialize(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// There is no way to reach a cluster.
    #[error("cannot find out how to reach the cluster: {0}")]
    Config(#[source] Box<kube::Error>),
    /// The health port cannot be opened.
    #[error("cannot listen for health checks at {address}: {source}")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// A pass did not end: the API server was asked and never answered.
    #[error("the API server does not answer")]
    Timeout,
}

impl Error {
    /// Wraps what came back from the API server; for `map_err`.
    pub(super) fn kube(action: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        move |source| Self::Kube { action: action.into(), source: Box::new(source) }
    }

    fn answer(&self) -> Option<&Status> {
        match self {
            Self::Kube { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => Some(status),
                _ => None,
            },
            _ => None,
        }
    }

    /// The API server has understood an object and will never take it: trying again changes nothing.
    pub(super) fn refusal(&self) -> Option<String> {
        self.answer().filter(|status| matches!(status.code, 400 | 422)).map(|status| status.message.clone())
    }

    /// We lack a permission, or the namespace is being deleted.
    pub(super) fn forbidden(&self) -> Option<String> {
        self.answer().filter(|status| status.code == 403).map(|status| status.message.clone())
    }

    /// A label for metrics; few and fixed.
    pub(super) fn category(&self) -> &'static str {
        match self {
            Self::Kube { .. } => match self.answer().map(|status| status.code) {
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

/// kube prints the whole answer, twice; its message says all.
fn brief(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}
