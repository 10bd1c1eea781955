use std::sync::Arc;

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};

use super::{
    client_request::{ClientRequest, Rejected},
    respond::no_store,
    run,
};
use crate::proxy::authorization_server::{AuthorizationServer, RevocationRequest};

/// `POST /revoke` (RFC 7009).
pub async fn revoke(
    State(server): State<Arc<AuthorizationServer>>,
    request: Result<ClientRequest, Rejected>,
) -> Response {
    let request = match request {
        Ok(request) => request,
        Err(rejected) => {
            server.revocation_rejected(&rejected.error, rejected.from);
            return rejected.into_response();
        }
    };
    let parsed = RevocationRequest {
        client_id: request.client_id.clone(),
        token: request.get("token").map(str::to_owned),
        secrets: request.secrets.clone(),
        client_ip: request.from,
    };
    match run(&server, |server| async move { server.revoke(parsed).await }).await {
        Ok(()) => (StatusCode::OK, no_store()).into_response(),
        Err(error) => request.refuse(&error),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Bed, REFRESHES, error};

    #[tokio::test]
    async fn revoking_either_token_ends_the_session() {
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
    async fn invalid_token_counts_as_revoked_and_foreign_token_is_refused() {
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
