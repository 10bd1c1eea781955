//! The functions that the fuzz targets in `fuzz/` call (feature `fuzzing`). Each parses input of a client before its login, or of
//! an upstream, and asserts an invariant.

#![expect(clippy::expect_used, reason = "a fuzz target panics when an invariant is violated")]

use std::sync::LazyLock;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use jiff::Timestamp;
use url::Url;

use super::differential::compare_with_hyper;
use crate::api::{
    PublicUrl, is_loopback,
    proxy::{Clients, MetadataDocuments, RedirectPolicy, Redirects},
};
use crate::proxy::{
    authorization_server::http::{Cookies, basic_credentials, parameters},
    client_ip::resolve_client,
    resource_server::unbind,
    runtime::server::request_head::{CheckedHead, check_head},
};
use crate::{
    crypto::{Keyring, Purpose, SigningKeys, SigningRing},
    http1::{ResponseHead, WireError, read_head},
    oauth::{
        authorize::{self, AuthorizationError},
        client::Client,
        client_document::DocumentUrl,
        client_registry::{ClientRegistry, ResolvedClient, StaticClients},
        parameters::Parameters,
        redirect_uri,
        resource::Resources,
    },
};

static PUBLIC_URL: LazyLock<PublicUrl> = LazyLock::new(|| "https://mcp.example.com".parse().expect("an origin"));

static KEYRING: LazyLock<Keyring> = LazyLock::new(|| {
    Keyring::new("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", PUBLIC_URL.as_str()).expect("32 bytes")
});

static RESOURCES: LazyLock<Resources> = LazyLock::new(|| {
    let paths = ["/mcp", "/servers/*/mcp"].map(|path| path.parse().expect("a path"));
    Resources::new(PUBLIC_URL.clone(), paths.to_vec())
});

static CLIENT: LazyLock<Client> = LazyLock::new(|| {
    let registration =
        br#"{"redirect_uris": ["http://localhost/callback", "https://claude.ai/api/mcp/auth_callback"]}"#;
    Client::register(registration, &Redirects::default(), Timestamp::UNIX_EPOCH).expect("a registration")
});

/// `POST /register`: an accepted registration equals the one in its client ID, and its redirect URIs obey the rules.
pub fn registration(body: &[u8]) {
    let rules = Redirects::default();
    let Ok(client) = Client::register(body, &rules, Timestamp::UNIX_EPOCH) else { return };
    assert!(client.redirect_uris.iter().all(|uri| redirect_uri::check(uri, &rules).is_ok()));
    assert!(!client.name.is_empty() && !client.name.chars().any(char::is_control));
    if let Ok(id) = client.id(&KEYRING) {
        assert_eq!(Client::from_id(&id, &KEYRING).as_ref(), Some(&client));
        assert_eq!(client.registration_response(&KEYRING).map(|response| response.client_id), Ok(id));
    }
}

/// A browser interprets an accepted redirect URI as the check does. It differs from the registered one only in the port of a
/// loopback address.
pub fn redirect(text: &str) {
    let (registered, requested) = text.split_once('\n').unwrap_or((text, text));
    if redirect_uri::check(requested, &Redirects::default()).is_ok() {
        let url = Url::parse(requested).expect("a URI");
        let host = url.host_str().unwrap_or_default();
        let known = redirect_uri::is_known_host(host, &Redirects::default());
        let native = url.scheme() == "cursor";
        assert!(known || native || is_loopback(&url), "{requested}");
        assert!(url.username().is_empty() && url.password().is_none() && url.fragment().is_none());
    }
    if registered != requested && redirect_uri::matches(registered, requested) {
        let (Ok(one), Ok(other)) = (Url::parse(registered), Url::parse(requested)) else { return };
        assert_eq!(
            (one.scheme(), one.host(), one.path(), one.query()),
            ("http", other.host(), other.path(), other.query())
        );
        assert!(is_loopback(&other));
    }
}

/// `GET /authorize`: errors are redirected only to a registered URI.
pub fn authorization(query: &[u8]) {
    // Without a client ID, nearly every input fails the first check.
    let query = Parameters::parse(&[query, b"&client_id=any"].concat());
    let client = ResolvedClient::Registered(CLIENT.clone());
    let redirect_uri = match authorize::check(&query, &client, &Redirects::default(), &RESOURCES) {
        Ok(request) => request.redirect_uri,
        Err(AuthorizationError::Redirect { redirect_uri, .. }) => redirect_uri,
        Err(AuthorizationError::Page(_)) => return,
    };
    assert!(CLIENT.allows(&redirect_uri));
}

/// No input is a sealed value or a signed token.
pub fn sealed(text: &str) {
    assert_eq!(Client::from_id(text, &KEYRING), None);
    for purpose in [Purpose::ConsentForm, Purpose::Login, Purpose::Code, Purpose::RefreshToken] {
        assert_eq!(KEYRING.open::<serde_json::Value>(purpose, text), None);
    }
    static RING: LazyLock<SigningRing> = LazyLock::new(|| {
        let keys = SigningKeys::generate(Timestamp::UNIX_EPOCH).expect("randomness");
        SigningRing::new(&keys).expect("keys")
    });
    assert!(RING.verify(text, PUBLIC_URL.as_str(), 0, &mut Vec::new()).is_err());
}

/// A client metadata document: the first line is its URL, the rest its text.
pub fn document(text: &str) {
    let (address, body) = text.split_once('\n').unwrap_or((text, ""));
    let any = Clients {
        metadata_documents: MetadataDocuments::Any,
        redirects: Redirects { policy: RedirectPolicy::Any, hosts: Vec::new() },
        ..Clients::default()
    };
    let Ok(document) = DocumentUrl::parse(address, &any) else { return };
    let url = Url::parse(address).expect("a URL");
    assert_eq!((url.scheme(), url.port(), url.as_str()), ("https", None, address));
    assert!(url.domain().is_some() && url.path().len() > 1);
    if let Ok(client) = document.parse_document(body.as_bytes(), &any.redirects) {
        assert!(client.redirect_uris.iter().all(|uri| redirect_uri::check(uri, &any.redirects).is_ok()));
    }
}

/// `POST /token` and `/revoke`: the first line is the value of `Authorization`, the rest the body. Without a
/// client ID of this proxy, no client is authenticated.
pub fn token_request(data: &[u8]) {
    let split = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (authorization, body) = (&data[..split], data.get(split + 1..).unwrap_or_default());
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
    if let (false, Ok(value)) = (authorization.is_empty(), HeaderValue::from_bytes(authorization)) {
        headers.insert(header::AUTHORIZATION, value);
    }
    let (Ok(parameters), Ok(basic)) = (parameters(&headers, body), basic_credentials(&headers)) else { return };
    let (static_clients, rules) = (StaticClients::default(), Clients::default());
    let registry = ClientRegistry { keyring: &KEYRING, static_clients: &static_clients, rules: &rules };
    let (id, secret) = (parameters.get("client_id"), parameters.get("client_secret"));
    if let Ok(id) = registry.authenticate(basic, id, secret) {
        assert!(DocumentUrl::parse(&id, &rules).is_ok(), "{id}");
    }
}

/// A request's path, `Cookie`, `X-Forwarded-For` and `Mcp-Session-Id`, one per line.
pub fn request(text: &str) {
    let mut lines = text.split('\n');
    let mut next = || lines.next().unwrap_or_default();
    if let Some(path) = RESOURCES.path(next()) {
        assert!(path == "/mcp" || (path.starts_with("/servers/") && path.ends_with("/mcp")), "{path}");
        assert!(!path.split('/').skip(1).any(|segment| matches!(segment, "" | "." | "..")), "{path}");
        assert!(!path.contains(['%', '\\', '#', '?', ';']), "{path}");
    }
    let mut headers = HeaderMap::new();
    let names = [header::COOKIE, HeaderName::from_static("x-forwarded-for"), HeaderName::from_static("mcp-session-id")];
    for name in names {
        if let Ok(value) = HeaderValue::from_str(next()) {
            headers.insert(name, value);
        }
    }
    let cookies = Cookies::read(&headers, &PUBLIC_URL);
    assert!(cookies.browser().is_none_or(|name| name.len() == 43));
    let _ = (cookies.login("state"), cookies.logins().count());
    let trusted = ["10.0.0.0/8".parse().expect("a range")];
    let peer = [10, 0, 0, 1].into();
    let _ = resolve_client(peer, &headers, &trusted);
    assert_eq!(resolve_client([192, 0, 2, 1].into(), &headers, &trusted).to_string(), "192.0.2.1");
    if headers.get("mcp-session-id").is_some_and(|value| !value.is_empty()) {
        assert!(unbind(&KEYRING, "somebody", &mut headers).is_err());
    }
}

/// An upstream's response. The first bit says whether the request was HEAD, the other seven where to split the response into two
/// reads. The result does not depend on the split and contains no hop-by-hop header.
pub fn response(data: &[u8]) {
    let Some((first, response)) = data.split_first() else { return };
    let (is_head_request, split) = (first & 1 == 1, usize::from(first >> 1).min(response.len()));
    let whole = read_response(&[response], is_head_request);
    let parts = read_response(&[&response[..split], &response[split..]], is_head_request);
    let (Ok(whole), Ok(parts)) = (&whole, &parts) else {
        assert_eq!(whole.is_err(), parts.is_err());
        return;
    };
    assert_eq!(whole, parts);
    let Some((_, headers, content)) = whole else { return };
    assert!(content.len() <= response.len());
    for name in
        ["connection", "transfer-encoding", "keep-alive", "trailer", "upgrade", "set-cookie", "www-authenticate"]
    {
        assert!(!headers.contains_key(name), "{name}");
    }
}

/// An upstream's response, compared with hyper's client. The first bit says whether the request was HEAD.
pub fn differential(data: &[u8]) {
    let Some((first, response)) = data.split_first() else { return };
    compare_with_hyper(if first & 1 == 1 { &Method::HEAD } else { &Method::GET }, response);
}

/// A client's request, which the first byte splits into two reads. The result does not depend on the split, and the framing is
/// unambiguous.
pub fn head(data: &[u8]) {
    let Some((cut, request)) = data.split_first() else { return };
    let cut = usize::from(*cut).min(request.len());
    let whole = checked(&[request]);
    let parts = checked(&[&request[..cut], &request[cut..]]);
    let (Ok(whole), Ok(parts)) = (&whole, &parts) else {
        assert_eq!(whole.is_err(), parts.is_err());
        return;
    };
    assert_eq!(whole, parts);
    let Some((length, content)) = whole else { return };
    assert!(length + content.len() <= request.len());
    // As hyper parses it.
    let mut headers = [httparse::EMPTY_HEADER; 100];
    let mut parsed = httparse::Request::new(&mut headers);
    assert!(parsed.parse(&request[..*length]).is_ok_and(|status| status.is_complete()));
    let values = |name: &str| -> Vec<&[u8]> {
        parsed
            .headers
            .iter()
            .filter(|header| header.name.eq_ignore_ascii_case(name))
            .map(|header| header.value)
            .collect()
    };
    let (lengths, encodings) = (values("content-length"), values("transfer-encoding"));
    assert!(encodings.len() <= 1 && (encodings.is_empty() || lengths.is_empty()));
    assert!(encodings.iter().all(|encoding| encoding.eq_ignore_ascii_case(b"chunked")));
    // Neither the target nor a value contains a line end.
    assert!(parsed.path.is_none_or(|target| !target.contains(['\r', '\n', ' '])));
    assert!(parsed.headers.iter().all(|header| !header.value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0))));
}

/// Reads a request that arrives in these parts: the length of its head, and the content so far.
fn checked(parts: &[&[u8]]) -> Result<Option<(usize, Vec<u8>)>, String> {
    let (mut read, mut head, mut content) = (Bytes::new(), None::<CheckedHead>, Vec::new());
    for part in parts {
        read = [&read[..], part].concat().into();
        if head.is_none() {
            head = check_head(&read).map_err(|error| error.to_string())?;
            if let Some(head) = &head {
                read = read.slice(head.length..);
            }
        }
        let Some(CheckedHead { framing, .. }) = &mut head else { continue };
        while let Some(data) = framing.next(&mut read).map_err(|error| error.to_string())? {
            content.extend_from_slice(&data);
        }
    }
    Ok(head.map(|head| (head.length, content)))
}

/// Status, headers and the content so far; `None` while the head is incomplete.
type PartialResponse = Option<(http::StatusCode, HeaderMap, Vec<u8>)>;

fn read_response(parts: &[&[u8]], is_head_request: bool) -> Result<PartialResponse, WireError> {
    let (mut read, mut head, mut content) = (Bytes::new(), None::<ResponseHead>, Vec::new());
    for part in parts {
        read = [&read[..], part].concat().into();
        if head.is_none() {
            head = read_head(&mut read, is_head_request, |_| true)?;
        }
        let Some(ResponseHead { framing, .. }) = &mut head else { continue };
        while let Some(data) = framing.next(&mut read)? {
            content.extend_from_slice(&data);
        }
    }
    let response = head.map(|head| head.response);
    Ok(response.map(|response| (response.status(), response.headers().clone(), content)))
}
