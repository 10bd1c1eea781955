//! The store of sessions as endpoints use it: on the control runtime, its errors as theirs.

use std::net::IpAddr;

use crate::reasons::SessionEnd;
use crate::{
    oauth::OAuthError,
    proxy::{
        authorization_server::AuthorizationServer,
        observability::audit,
        sessions::{Ending, StoreError, Stored},
    },
    session::{Session, SessionId},
};

fn unavailable(error: &StoreError) -> OAuthError {
    tracing::error!(%error, "the sessions cannot be reached");
    OAuthError::temporarily_unavailable("the sessions cannot be reached: try again")
}

fn shutting_down() -> OAuthError {
    OAuthError::temporarily_unavailable("this server is shutting down")
}

/// A session as the store has it now.
pub async fn read(proxy: &AuthorizationServer, id: SessionId) -> Result<Option<Stored>, OAuthError> {
    let store = proxy.store.clone();
    let read = proxy.on_control(async move { store.get(id).await }).await;
    read.ok_or_else(shutting_down)?.map_err(|error| unavailable(&error))
}

/// Whether it was written; `false` if somebody else was quicker.
pub async fn replace(proxy: &AuthorizationServer, old: &Stored, new: &Session) -> Result<bool, OAuthError> {
    let (store, old, new) = (proxy.store.clone(), old.clone(), new.clone());
    match proxy.on_control(async move { store.replace(&old, &new).await }).await.ok_or_else(shutting_down)? {
        Ok(()) => Ok(true),
        Err(StoreError::Conflict) => Ok(false),
        Err(error) => Err(unavailable(&error)),
    }
}

/// Ends a session, for a reason that `detail` puts into words. Of one that was misused somebody is told (an event).
pub async fn end(
    proxy: &AuthorizationServer,
    stored: &Stored,
    why: SessionEnd,
    detail: &str,
    from: Option<IpAddr>,
) -> Result<(), OAuthError> {
    let (store, doomed, reason) = (proxy.store.clone(), stored.clone(), detail.to_owned());
    let ended = proxy
        .on_control(async move {
            let why = if why == SessionEnd::Replay { Ending::Because(&reason) } else { Ending::Quietly };
            store.end(&doomed, why).await
        })
        .await;
    if ended.ok_or_else(shutting_down)?.map_err(|error| unavailable(&error))? {
        proxy.metrics.ended_sessions.count(why);
        audit::session_end(&stored.session, why, detail, from);
    }
    Ok(())
}
