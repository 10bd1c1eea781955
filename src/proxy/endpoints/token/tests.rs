use std::sync::atomic::{AtomicI64, Ordering};

use axum::{body::Body, http::Request};
use http_body_util::BodyExt;
use jiff::SignedDuration;
use serde_json::json;
use tower::ServiceExt;

use super::*;
use crate::{
    api::{SessionPhase, proxy::Redirects},
    proxy::{
        endpoints::router,
        oauth::authorize,
        session::{LiveSet, testing::session},
        state::testing::proxy,
    },
};

const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
const REDIRECT_URI: &str = "http://localhost:1234/callback";

/// A proxy, a registered client, a session that waits for its code, and a clock to turn.
struct Bed {
    _directory: tempfile::TempDir,
    proxy: Arc<Proxy>,
    clock: Arc<AtomicI64>,
    client_id: String,
    session: Session,
    code: String,
}

impl Bed {
    async fn new(grant_types: &[&str]) -> Self {
        let begin = session("a").created_at;
        let clock = Arc::new(AtomicI64::new(begin.as_second()));
        let reading = clock.clone();
        let now = move || Timestamp::from_second(reading.load(Ordering::SeqCst)).unwrap();
        let (directory, proxy) = proxy("http://upstream", LiveSet::default(), Arc::new(now)).await;
        let keyring = proxy.secrets.load().keyring.clone();
        let registration = json!({
            "redirect_uris": ["http://localhost/callback"],
            "token_endpoint_auth_method": "none",
            "grant_types": grant_types,
        });
        let client = Client::register(registration.to_string().as_bytes(), &Redirects::default(), begin).unwrap();
        let client_id = client.id(&keyring).unwrap();
        let query = [
            ("response_type", "code"),
            ("client_id", client_id.as_str()),
            ("redirect_uri", REDIRECT_URI),
            ("code_challenge", CHALLENGE),
            ("code_challenge_method", "S256"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let request = authorize::check(&query, &keyring, &Redirects::default(), &proxy.resources).unwrap();
        let session = Session { client: request.session_client(), ..session("a") };
        proxy.store.create(&session).await.unwrap();
        let code = Code::new(session.id, &request, begin).seal(&keyring).unwrap();
        Self { _directory: directory, proxy: Arc::new(proxy), clock, client_id, session, code }
    }

    fn wait(&self, time: SignedDuration) {
        self.clock.fetch_add(time.as_secs(), Ordering::SeqCst);
    }

    /// Status and body of a request with these parameters, and the client's id unless it is among them.
    async fn ask(&self, parameters: &[(&str, &str)]) -> (u16, Value) {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.extend_pairs(parameters);
        if !parameters.iter().any(|(name, _)| *name == "client_id") {
            form.append_pair("client_id", &self.client_id);
        }
        let request = Request::post("/token")
            .header("content-type", "application/x-www-form-urlencoded")
            .body(Body::from(form.finish()))
            .unwrap();
        let answer = router(self.proxy.clone()).oneshot(request).await.unwrap();
        assert_eq!(answer.headers()["cache-control"], "no-store");
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap())
    }

    async fn redeem(&self) -> (u16, Value) {
        self.ask(&[("grant_type", "authorization_code"), ("code", &self.code), ("code_verifier", VERIFIER)]).await
    }

    async fn refresh(&self, token: &Value) -> (u16, Value) {
        self.ask(&[("grant_type", "refresh_token"), ("refresh_token", token.as_str().unwrap())]).await
    }

    async fn stored(&self) -> Option<Session> {
        self.proxy.store.get(self.session.id).await.unwrap().map(|stored| stored.session)
    }
}

fn error((status, body): &(u16, Value)) -> (u16, &str) {
    (*status, body["error"].as_str().unwrap())
}

const REFRESHES: [&str; 2] = ["authorization_code", "refresh_token"];

#[tokio::test]
async fn a_code_gives_tokens_and_a_refresh_gives_the_next_ones() {
    let bed = Bed::new(&REFRESHES).await;
    let (status, first) = bed.redeem().await;
    assert_eq!((status, &first["token_type"], &first["expires_in"]), (200, &"Bearer".into(), &3600.into()));
    let active = bed.stored().await.unwrap();
    assert_eq!((active.phase, active.rotation), (SessionPhase::Active, 1));

    bed.wait(SignedDuration::from_hours(1));
    let (status, second) = bed.refresh(&first["refresh_token"]).await;
    assert_eq!(status, 200);
    assert_ne!(second["access_token"], first["access_token"]);
    assert_eq!(bed.stored().await.unwrap().rotation, 2);

    // The answer was lost: the same again is answered with the same generation, and that one goes on.
    let (status, again) = bed.refresh(&first["refresh_token"]).await;
    assert_eq!((status, bed.stored().await.unwrap().rotation), (200, 2));
    assert_eq!(bed.refresh(&again["refresh_token"]).await.0, 200);
    assert_eq!(bed.stored().await.unwrap().rotation, 3);

    // Long after its successor was used, the first one can only be stolen.
    bed.wait(SignedDuration::from_mins(2));
    assert_eq!(error(&bed.refresh(&first["refresh_token"]).await), (400, "invalid_grant"));
    assert!(bed.stored().await.is_none());
    assert_eq!(error(&bed.refresh(&second["refresh_token"]).await), (400, "invalid_grant"));
}

#[tokio::test]
async fn a11_of_fifty_redemptions_at_once_one_succeeds_and_is_not_harmed() {
    let bed = Bed::new(&REFRESHES).await;
    let answers = futures::future::join_all((0..50).map(|_| bed.redeem())).await;
    let (won, lost): (Vec<_>, Vec<_>) = answers.iter().partition(|(status, _)| *status == 200);
    assert_eq!(won.len(), 1);
    assert!(lost.iter().all(|answer| error(answer) == (400, "invalid_grant")));
    assert_eq!(bed.refresh(&won[0].1["refresh_token"]).await.0, 200);
}

#[tokio::test]
async fn a11_a_code_that_comes_again_much_later_ends_its_session_but_only_with_the_verifier() {
    let bed = Bed::new(&REFRESHES).await;
    assert_eq!(bed.redeem().await.0, 200);
    bed.wait(SignedDuration::from_secs(11));
    let without = bed.ask(&[("grant_type", "authorization_code"), ("code", &bed.code)]).await;
    assert_eq!(error(&without), (400, "invalid_grant"));
    assert!(bed.stored().await.is_some());
    assert_eq!(error(&bed.redeem().await), (400, "invalid_grant"));
    assert!(bed.stored().await.is_none());
}

#[tokio::test]
async fn twenty_refreshes_at_once_all_get_the_same_generation() {
    let bed = Bed::new(&REFRESHES).await;
    let (_, first) = bed.redeem().await;
    let answers = futures::future::join_all((0..20).map(|_| bed.refresh(&first["refresh_token"]))).await;
    assert!(answers.iter().all(|(status, _)| *status == 200), "{answers:?}");
    assert_eq!(bed.stored().await.unwrap().rotation, 2);
}

#[tokio::test]
async fn a_session_of_a_client_that_does_not_refresh_ends_with_its_access_token() {
    let bed = Bed::new(&["authorization_code"]).await;
    let (status, tokens) = bed.redeem().await;
    assert_eq!((status, tokens.get("refresh_token")), (200, None));
    assert_eq!(bed.stored().await.unwrap().expires_at, bed.session.created_at + SignedDuration::from_hours(1));
}

#[tokio::test]
async fn a_refresh_token_of_another_client_is_nothing_here() {
    let bed = Bed::new(&REFRESHES).await;
    let (_, tokens) = bed.redeem().await;
    let refresh_token = tokens["refresh_token"].as_str().unwrap();
    let keyring = bed.proxy.secrets.load().keyring.clone();
    let other = json!({"redirect_uris": ["http://localhost/x"], "token_endpoint_auth_method": "none"});
    let other = Client::register(other.to_string().as_bytes(), &Redirects::default(), bed.session.created_at).unwrap();
    let id = other.id(&keyring).unwrap();
    let asked = bed.ask(&[("grant_type", "refresh_token"), ("refresh_token", refresh_token), ("client_id", &id)]).await;
    assert_eq!(error(&asked), (400, "invalid_grant"));
    assert_eq!(bed.refresh(&tokens["refresh_token"]).await.0, 200);
}

#[tokio::test]
async fn what_is_asked_wrongly_gets_the_code_of_the_rfc_as_json() {
    let bed = Bed::new(&REFRESHES).await;
    for (parameters, expected) in [
        (vec![("grant_type", "password")], (400, "unsupported_grant_type")),
        (vec![], (400, "invalid_request")),
        (vec![("grant_type", "authorization_code")], (400, "invalid_request")),
        (vec![("grant_type", "refresh_token"), ("refresh_token", "forged")], (400, "invalid_grant")),
        (vec![("client_id", "unknown"), ("grant_type", "refresh_token")], (401, "invalid_client")),
        (vec![("grant_type", "refresh_token"), ("resource", "https://evil.example")], (400, "invalid_target")),
    ] {
        assert_eq!(error(&bed.ask(&parameters).await), expected, "{parameters:?}");
    }
    let too_large = "x".repeat(70_000);
    assert_eq!(error(&bed.ask(&[("grant_type", &too_large)]).await), (413, "invalid_request"));
    let request = Request::get("/token").body(Body::empty()).unwrap();
    let answer = router(bed.proxy.clone()).oneshot(request).await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["content-type"]),
        (405, &"application/json".parse().unwrap())
    );
    let request = Request::post("/token")
        .header("content-type", "application/x-www-form-urlencoded")
        .header("authorization", "Basic dW5rbm93bjp4")
        .body(Body::from("grant_type=refresh_token"))
        .unwrap();
    let answer = router(bed.proxy.clone()).oneshot(request).await.unwrap();
    assert!(answer.headers()["www-authenticate"].to_str().unwrap().starts_with("Basic"));
}

#[tokio::test]
async fn an_account_that_may_no_longer_come_in_loses_its_session_at_the_next_refresh() {
    let mut bed = Bed::new(&REFRESHES).await;
    let (_, tokens) = bed.redeem().await;
    Arc::get_mut(&mut bed.proxy).unwrap().config.access.domains = vec!["another.example".to_owned()];
    assert_eq!(error(&bed.refresh(&tokens["refresh_token"]).await), (400, "invalid_grant"));
    assert!(bed.stored().await.is_none());
}
