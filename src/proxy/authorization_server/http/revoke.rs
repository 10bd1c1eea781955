use std::sync::Arc;

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};

use super::{
    client_request::{ClientRequest, Rejected},
    respond::no_store,
    stored::{end, read},
};
use crate::reasons::SessionEnd;
use crate::{
    crypto::now_seconds,
    oauth::{OAuthError, client_id_hash, refresh::RefreshToken},
    proxy::{
        authorization_server::AuthorizationServer,
        observability::{audit, metrics::Answer},
        secrets::Secrets,
    },
    session::SessionId,
};

/// `POST /revoke` (RFC 7009): a client logs out. Either of its tokens ends the session, and so the other one too.
pub async fn revoke(
    State(proxy): State<Arc<AuthorizationServer>>,
    request: Result<ClientRequest, Rejected>,
) -> Response {
    let request = match request {
        Ok(request) => request,
        Err(rejected) => {
            proxy.metrics.revocations.count(Answer(Some(rejected.error.code)));
            audit::revocation_refused(None, &rejected.error, rejected.from);
            return rejected.into_response();
        }
    };
    let ended = end_session(&proxy, &request.secrets, &request).await;
    proxy.metrics.revocations.count(Answer::of(&ended));
    match ended {
        Ok(()) => (StatusCode::OK, no_store()).into_response(),
        Err(error) => {
            audit::revocation_refused(Some(&client_id_hash(&request.client_id)), &error, request.from);
            request.refuse(&error)
        }
    }
}

/// A token that is not, or no longer, one of ours is as good as revoked (RFC 7009 §2.2).
async fn end_session(
    proxy: &Arc<AuthorizationServer>,
    secrets: &Secrets,
    request: &ClientRequest,
) -> Result<(), OAuthError> {
    let Some(id) = session_of(proxy, secrets, request.required("token")?) else { return Ok(()) };
    let Some(stored) = read(proxy, id).await? else { return Ok(()) };
    if stored.session.client.id_hash != client_id_hash(&request.client_id) {
        return Err(OAuthError::invalid_grant("the token was issued to another client"));
    }
    end(proxy, &stored, SessionEnd::LoggedOut, "its client has logged out", request.from).await
}

/// The session of a refresh token, whatever its generation, or of an access token that is still good. The hint of RFC 7009
/// is not needed: neither can be taken for the other.
fn session_of(proxy: &AuthorizationServer, secrets: &Secrets, token: &str) -> Option<SessionId> {
    if let Some((id, _)) = RefreshToken::open(token, &secrets.keyring) {
        return Some(id);
    }
    let (issuer, now, mut room) = (proxy.public_url.as_str(), now_seconds(proxy.now()), Vec::new());
    let claims = secrets.signing.verify(token, issuer, now, &mut room).ok()?;
    claims.sid.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Bed, REFRESHES, error};

    #[tokio::test]
    async fn either_token_ends_the_session() {
        for token in ["access_token", "refresh_token"] {
            let bed = Bed::new(&REFRESHES).await;
            let (_, tokens) = bed.redeem().await;
            let answer = bed.post("/revoke", &[("token", tokens[token].as_str().unwrap())]).await;
            assert_eq!(answer.0, 200);
            assert!(bed.stored().await.is_none());
            assert_eq!(error(&bed.refresh(&tokens["refresh_token"]).await), (400, "invalid_grant"));
        }
    }

    #[tokio::test]
    async fn a_token_that_is_none_is_revoked_already_and_one_of_another_client_is_not() {
        let bed = Bed::new(&REFRESHES).await;
        let (_, tokens) = bed.redeem().await;
        assert_eq!(bed.post("/revoke", &[("token", "nothing")]).await.0, 200);
        assert_eq!(error(&bed.post("/revoke", &[]).await), (400, "invalid_request"));
        let other = bed.register_another();
        let token = tokens["refresh_token"].as_str().unwrap();
        let answer = bed.post("/revoke", &[("token", token), ("client_id", &other)]).await;
        assert_eq!(error(&answer), (400, "invalid_grant"));
        assert_eq!(error(&bed.post("/revoke", &[("token", token), ("client_id", "x")]).await), (401, "invalid_client"));
        assert!(bed.stored().await.is_some());
    }
}
