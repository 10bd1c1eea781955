use std::sync::Arc;

use axum::{extract::State, http::StatusCode, response::IntoResponse};

use super::{
    client_request::{ClientRequest, ClientRequestError},
    respond::no_store,
};
use crate::proxy::authorization_server::AuthorizationServer;

/// `POST /revoke` (RFC 7009).
pub async fn revoke(
    State(server): State<Arc<AuthorizationServer>>,
    request: ClientRequest,
) -> Result<impl IntoResponse, ClientRequestError> {
    let (client, parameters) =
        request.authenticate(&server).inspect_err(|error| server.revocation_rejected(&error.cause, request.ip))?;
    let token = parameters.get("token").map(str::to_owned);
    let revoked = server.run(|server| async move { server.revoke(client, token).await }).await;
    revoked.map_err(|error| request.error(error))?;
    Ok((StatusCode::OK, no_store()))
}

#[cfg(test)]
mod tests {
    use crate::testing::authorization_server::{Bed, REFRESHES, error};

    #[tokio::test]
    async fn revoking_either_token_ends_the_session() {
        for token in ["access_token", "refresh_token"] {
            let bed = Bed::new(&REFRESHES).await;
            let (_, tokens) = bed.redeem().await;
            let response = bed.post("/revoke", &[("token", tokens[token].as_str().unwrap())]).await;
            assert_eq!(response.0, 200);
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
        let response = bed.post("/revoke", &[("token", token), ("client_id", &other)]).await;
        assert_eq!(error(&response), (400, "invalid_grant"));
        assert_eq!(error(&bed.post("/revoke", &[("token", token), ("client_id", "x")]).await), (401, "invalid_client"));
        assert!(bed.stored().await.is_some());
    }
}
