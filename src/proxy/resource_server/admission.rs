use std::{mem, net::IpAddr, sync::Arc};

use http::{Method, Response, Uri, request::Parts};

use super::{
    Arriving, Body, Worker, answers,
    bearer::{self, Caller},
    limits::{Kind, Permit},
    mcp_session,
    redirect::Spelling,
    request_body::RequestBody,
};
use crate::http1::RequestHead;
use crate::{
    crypto::Keyring,
    proxy::{
        client_ip::{Peer, resolve_client},
        observability::{audit, metrics::Outcome, traces::Span},
    },
};

/// A request that may go to the upstream. Nothing of its head is kept but what is sent: the upstream may take long.
pub struct Admitted<'a> {
    pub caller: Caller,
    /// Secrets may change while the upstream thinks, but both ways of one request use the same.
    pub keyring: Arc<Keyring>,
    /// Where the request comes from.
    pub client: IpAddr,
    pub permit: Permit,
    /// The client's ear for what the server has to say by itself, rather than a message.
    pub listens: bool,
    /// How the upstream spells the path.
    pub spelling: &'a Spelling,
    /// What it is asked for, as `head` has it.
    pub target: Uri,
    pub head: RequestHead,
    pub body: RequestBody<Arriving>,
    /// The same, as far as it is about how far it is.
    pub upload: Arriving,
}

/// What is said in place of the upstream's answer, and as what it is counted.
pub type Answered = (Outcome, Response<Body>);

/// Checks a request and makes of it what the upstream gets. Takes its headers.
///
/// # Errors
/// What the client gets instead.
pub async fn admit<'a>(
    request: &mut Parts,
    body: Arriving,
    peer: &Peer,
    worker: &'a Worker,
    span: &Span,
) -> Result<Admitted<'a>, Box<Answered>> {
    let forwarder = &*worker.forwarder;
    let server = &forwarder.server;
    let mut headers = mem::take(&mut request.headers);
    if !forwarder.origins.admit(&headers) {
        return refuse(Outcome::Refused, answers::foreign_origin());
    }
    match request.method {
        Method::OPTIONS => return refuse(Outcome::Preflight, answers::preflight()),
        Method::GET | Method::POST | Method::DELETE | Method::HEAD => (),
        _ => return refuse(Outcome::Refused, answers::method_not_allowed()),
    }
    let path = request.uri.path();
    let (index, resource) = server.resources.find(path).unwrap_or_default();
    let caller = match bearer::token(&headers) {
        Ok(token) => bearer::verify(server, &worker.verified, &worker.metrics, token, resource).await,
        Err(refusal) => Err(refusal),
    };
    let caller = caller.or_else(|refusal| refuse(refusal.outcome(), refusal.response(server, path)))?;
    let client = resolve_client(peer.address.ip(), &headers, &server.trusted_proxies);
    let keyring = server.secrets.load().keyring.clone();
    if mcp_session::unbind(&keyring, &caller.session.user, &mut headers).is_err() {
        audit::mcp_session_refused(caller.session.caller(), client);
        return refuse(Outcome::Refused, answers::foreign_mcp_session());
    }
    let spelling = forwarder.spellings.get(index);
    let target = spelling.and_then(|spelling| Some((spelling, forwarder.target(&request.uri, spelling)?)));
    let Some((spelling, target)) = target else {
        return refuse(Outcome::Refused, answers::uri_too_long());
    };
    let listens = request.method == Method::GET;
    let kind = if listens { Kind::Stream } else { Kind::Request };
    let permit = forwarder.limits.admit(&caller.session, kind);
    let permit = permit.or_else(|shed| refuse(Outcome::Shed, answers::shed(shed)))?;
    let (upload, pace) = (body.clone(), &forwarder.pace);
    let body = RequestBody::new(body, pace.largest, pace.request_body, worker.deadlines.clone());
    let body = body.or_else(|error| refuse(Outcome::Refused, answers::refuse_body(&error)))?;
    let mut head = RequestHead::new(request.method.clone(), &target);
    forwarder.rules.to_upstream(
        &mut head,
        &headers,
        &peer.forwarded_for(client),
        &caller.session.email,
        &span.headers(),
    );
    Ok(Admitted { caller, keyring, client, permit, listens, spelling, target, head, body, upload })
}

fn refuse<T>(outcome: Outcome, response: Response<Body>) -> Result<T, Box<Answered>> {
    Err(Box::new((outcome, response)))
}
