//! The store of sessions as endpoints use it: on the control runtime, its errors as theirs.

use super::super::{
    oauth::OAuthError,
    session::{Ending, Session, SessionId, StoreError, Stored},
    state::Proxy,
};

fn unavailable(error: &StoreError) -> OAuthError {
    tracing::error!(%error, "the sessions cannot be reached");
    OAuthError::temporarily_unavailable("the sessions cannot be reached: try again")
}

fn shutting_down() -> OAuthError {
    OAuthError::temporarily_unavailable("this server is shutting down")
}

/// A session as the store has it now.
pub async fn read(proxy: &Proxy, id: SessionId) -> Result<Option<Stored>, OAuthError> {
    let store = proxy.store.clone();
    let read = proxy.on_control(async move { store.get(id).await }).await;
    read.ok_or_else(shutting_down)?.map_err(|error| unavailable(&error))
}

/// Whether it was written; `false` if somebody else was quicker.
pub async fn replace(proxy: &Proxy, old: &Stored, new: &Session) -> Result<bool, OAuthError> {
    let (store, old, new) = (proxy.store.clone(), old.clone(), new.clone());
    match proxy.on_control(async move { store.replace(&old, &new).await }).await.ok_or_else(shutting_down)? {
        Ok(()) => Ok(true),
        Err(StoreError::Conflict) => Ok(false),
        Err(error) => Err(unavailable(&error)),
    }
}

/// Ends a session; with a reason if somebody should look into it.
pub async fn end(proxy: &Proxy, stored: &Stored, reason: Option<&str>) -> Result<(), OAuthError> {
    let (store, stored, reason) = (proxy.store.clone(), stored.clone(), reason.map(str::to_owned));
    let ended = proxy
        .on_control(async move {
            let why = reason.as_deref().map_or(Ending::Quietly, Ending::Because);
            store.end(&stored, why).await
        })
        .await;
    ended.ok_or_else(shutting_down)?.map_err(|error| unavailable(&error))
}
