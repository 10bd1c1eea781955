use std::{mem, net::IpAddr, sync::Arc};

use http::{Method, Response, StatusCode, Uri, request::Parts};

use super::{
    Body, IncomingBody, Worker,
    bearer::{self, Caller},
    limits::{Kind, Permit},
    mcp_session,
    pool::ClientBody,
    request_body::RequestBody,
    responses::{self, CountedResponse},
};
use crate::http1::RequestHead;
use crate::{
    crypto::Keyring,
    proxy::{
        client_ip::{Peer, resolve_client},
        observability::{audit, metrics::Outcome, traces::Span},
    },
};

/// A request that may be forwarded. It keeps nothing else of the client's head, since the upstream may take long.
pub struct Admitted {
    pub caller: Caller,
    /// Used for request and response, even if the Secrets change in between.
    pub keyring: Arc<Keyring>,
    pub client: IpAddr,
    pub permit: Permit,
    /// Whether this is the standalone GET event stream.
    pub is_standalone: bool,
    /// The upstream's path and query, as in `head`.
    pub target: Uri,
    pub head: RequestHead,
    pub body: ClientBody,
    /// Shares `body`, to observe its progress.
    pub upload: IncomingBody,
}

/// Checks a request and builds the upstream's. Takes its headers. Fails with the response to the client.
pub async fn admit(
    request: &mut Parts,
    body: IncomingBody,
    peer: &Peer,
    worker: &Worker,
    span: &Span,
) -> Result<Admitted, Box<CountedResponse>> {
    let forwarder = &*worker.forwarder;
    let server = &forwarder.server;
    let mut headers = mem::take(&mut request.headers);
    if !forwarder.origins.allow(&headers) {
        return refuse(Outcome::Refused, responses::foreign_origin());
    }
    match request.method {
        Method::OPTIONS => return refuse(Outcome::Preflight, responses::preflight()),
        Method::GET | Method::POST | Method::DELETE | Method::HEAD => (),
        _ => return refuse(Outcome::Refused, responses::method_not_allowed()),
    }
    let path = request.uri.path();
    let resource = server.resources.path(path).unwrap_or_default();
    let caller = match bearer::token(&headers) {
        Ok(token) => bearer::verify(server, &worker.verified, &worker.metrics, token, resource).await,
        Err(error) => Err(error),
    };
    let caller = caller.map_err(|error| error.response(server, path))?;
    let client = resolve_client(peer.address.ip(), &headers, &server.trusted_proxies);
    let keyring = server.secrets.load().keyring.clone();
    if mcp_session::unbind(&keyring, &caller.session.user, &mut headers).is_err() {
        audit::mcp_session_refused(caller.session.caller(), client);
        return refuse(Outcome::Refused, responses::foreign_mcp_session());
    }
    let Some(target) = forwarder.target(&request.uri, worker.slashes.contains(resource)) else {
        let response =
            responses::invalid_request(StatusCode::URI_TOO_LONG, "the request's path and query are too long");
        return refuse(Outcome::Refused, response);
    };
    let is_standalone = request.method == Method::GET;
    let kind = if is_standalone { Kind::Stream } else { Kind::Request };
    let permit = forwarder.limits.admit(&caller.session, kind);
    let permit = permit.map_err(|reached| (Outcome::Shed, responses::unavailable(&reached.to_string(), 1)))?;
    let (upload, timeout) = (body.clone(), forwarder.timeouts.request_body.get());
    let body = RequestBody::new(body, forwarder.max_request_body, timeout, worker.deadlines.clone());
    let body = body.map_err(|error| (Outcome::Refused, responses::refuse_body(&error)))?;
    let mut head = RequestHead::new(request.method.clone(), &target);
    let forwarded_for = peer.forwarded_for(client);
    forwarder.rules.to_upstream(&mut head, &headers, &forwarded_for, &caller.session.email, &span.headers());
    Ok(Admitted { caller, keyring, client, permit, is_standalone, target, head, body, upload })
}

fn refuse<T>(outcome: Outcome, response: Response<Body>) -> Result<T, Box<CountedResponse>> {
    Err(Box::new((outcome, response)))
}
