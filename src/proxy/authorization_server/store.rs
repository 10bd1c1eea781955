//! Session store access of the service: maps store errors to OAuth errors, counts and audits ended sessions.

use std::net::IpAddr;

use super::AuthorizationServer;
use crate::{
    end_reasons::SessionEndReason,
    oauth::OAuthError,
    proxy::{
        observability::audit,
        sessions::{Deletion, StoreError, Stored},
    },
    session::{Session, SessionId},
};

fn unavailable(error: &StoreError) -> OAuthError {
    tracing::error!(%error, "the session store cannot be reached");
    OAuthError::temporarily_unavailable("the session store cannot be reached: try again")
}

impl AuthorizationServer {
    pub(super) async fn read(&self, id: SessionId) -> Result<Option<Stored>, OAuthError> {
        self.store.get(id).await.map_err(|error| unavailable(&error))
    }

    /// Compare-and-swap. `false` if another writer was first.
    pub(super) async fn replace(&self, old: &Stored, new: &Session) -> Result<bool, OAuthError> {
        match self.store.replace(old, new).await {
            Ok(()) => Ok(true),
            Err(StoreError::Conflict) => Ok(false),
            Err(error) => Err(unavailable(&error)),
        }
    }

    /// Ends a session, for a replay with a Kubernetes event. `detail` is the human-readable explanation.
    pub(super) async fn end(
        &self,
        stored: &Stored,
        why: SessionEndReason,
        detail: &str,
        client_ip: Option<IpAddr>,
    ) -> Result<(), OAuthError> {
        let deletion =
            if why == SessionEndReason::Replay { Deletion::WithEvent(detail) } else { Deletion::Unconditional };
        if self.store.end(stored, deletion).await.map_err(|error| unavailable(&error))? {
            self.metrics.ended_sessions.count(why);
            audit::session_end(&stored.session, why, detail, client_ip);
        }
        Ok(())
    }
}
