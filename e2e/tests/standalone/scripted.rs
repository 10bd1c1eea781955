//! A scripted MCP client, for clients that cannot run here.

use std::{collections::HashMap, net::IpAddr};

use e2e::peers::{browser::Browser, context_forge::TOOL, json_lines::User};
use reqwest::{
    Client, Method, Response, StatusCode,
    header::{ACCEPT, LOCATION, USER_AGENT, WWW_AUTHENTICATE},
    redirect,
};
use serde_json::{Value, json};
use url::Url;

use crate::{ALICE, bed::Bed};

// RFC 7636, appendix B.
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

/// Like VS Code's state, which is itself a URL: it must be returned without being decoded twice.
const STATE: &str = "vscode://dynamicauthprovider/localhost%3A1/authorize?nonce=a%2Bb&windowId=1";

/// A client before its registration.
pub struct ScriptedClient<'a> {
    bed: &'a Bed,
    agent: &'static str,
}

/// A registered client.
pub struct Registered<'a> {
    client: &'a ScriptedClient<'a>,
    /// The registration response.
    pub response: Value,
}

/// A token response.
#[derive(Clone, Debug)]
pub struct Tokens {
    pub access: String,
    pub refresh: String,
}

impl<'a> ScriptedClient<'a> {
    /// A client with this `User-Agent`.
    pub fn new(bed: &'a Bed, agent: &'static str) -> Self {
        Self { bed, agent }
    }

    /// The MCP endpoint's URL, as a user types it.
    pub fn resource(&self) -> String {
        self.bed.url("/mcp")
    }

    /// Sends a request without a token, and returns the metadata URL in the challenge of the 401 response.
    pub async fn challenge(&self, method: Method) -> String {
        let response = self.bed.client().request(method, self.resource()).header(USER_AGENT, self.agent);
        let response = response.body("{}").send().await.unwrap();
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        let challenge = response.headers()[WWW_AUTHENTICATE].to_str().unwrap().to_owned();
        let (_, rest) = challenge.split_once("resource_metadata=\"").unwrap();
        rest.split_once('"').unwrap().0.to_owned()
    }

    /// Fetches a public document, which must not redirect.
    pub async fn document(&self, url: &str) -> Value {
        let response = self.bed.client().get(url).header(USER_AGENT, self.agent).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{url}");
        response.json().await.unwrap()
    }

    /// Reads the metadata of the endpoint at `url`, then that of its authorization server.
    pub async fn discover(&self, url: &str) -> Value {
        let resource = self.document(url).await;
        // VS Code and claude.ai compare this byte for byte.
        assert_eq!(resource["resource"], json!(self.resource()), "{url}");
        let issuer = resource["authorization_servers"][0].as_str().unwrap();
        let server = self.document(&format!("{issuer}/.well-known/oauth-authorization-server")).await;
        assert_eq!(server["issuer"], json!(issuer));
        let has = |member: &str, value: &str| server[member].as_array().unwrap().contains(&json!(value));
        assert!(has("code_challenge_methods_supported", "S256"), "{server}");
        assert!(has("token_endpoint_auth_methods_supported", "none"), "{server}");
        assert!(has("grant_types_supported", "refresh_token"), "{server}");
        server
    }

    /// Registers; the proxy must accept all redirect URIs.
    pub async fn register(&self, registration: &Value) -> Registered<'_> {
        let request = self.bed.client().post(self.bed.url("/register")).header(USER_AGENT, self.agent);
        let response = request.json(registration).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::CREATED, "{response:?}");
        let response: Value = response.json().await.unwrap();
        for member in ["redirect_uris", "token_endpoint_auth_method", "client_name"] {
            assert_eq!(response[member], registration[member], "{member}");
        }
        let is_public = registration["token_endpoint_auth_method"] == json!("none");
        assert_eq!(response.get("client_secret").is_none(), is_public, "{response}");
        Registered { client: self, response }
    }

    /// Initializes an MCP connection and calls a tool.
    pub async fn call(&self, access: &str) {
        let client = json!({"name": self.agent, "version": "1"});
        let parameters = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client});
        let response = self.request(access, &json!({"id": 1, "method": "initialize", "params": parameters})).await;
        assert!(response.contains("serverInfo"), "{response}");
        let call = json!({"name": TOOL, "arguments": {"message": "hello"}});
        let response = self.request(access, &json!({"id": 2, "method": "tools/call", "params": call})).await;
        assert!(response.contains("Echo: hello"), "{response}");
    }

    async fn request(&self, access: &str, message: &Value) -> String {
        let mut message = message.clone();
        message["jsonrpc"] = json!("2.0");
        let request = self.bed.client().post(self.resource()).bearer_auth(access).header(USER_AGENT, self.agent);
        let request = request.header(ACCEPT, "application/json, text/event-stream").json(&message);
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{response:?}");
        response.text().await.unwrap()
    }
}

impl Registered<'_> {
    pub fn authorize_url(&self, redirect_uri: &str) -> String {
        let resource = self.client.resource();
        let query = [
            ("response_type", "code"),
            ("client_id", self.id()),
            ("redirect_uri", redirect_uri),
            ("code_challenge", CHALLENGE),
            ("code_challenge_method", "S256"),
            ("state", STATE),
            ("scope", "mcp offline_access"),
            ("prompt", "consent"),
            ("resource", &resource),
        ];
        Url::parse_with_params(&self.client.bed.url("/authorize"), query).unwrap().to_string()
    }

    pub async fn log_in(&self, browser: &Browser, redirect_uri: &str) -> Tokens {
        let user = User { browser, email: ALICE };
        let final_page = user.log_in(&self.authorize_url(redirect_uri)).await.unwrap();
        assert!(final_page.consented, "{final_page:?}");
        self.redeem(redirect_uri, &final_page.url).await
    }

    /// Logs in page by page, without Chromium, which does not follow a redirect to an unregistered scheme.
    pub async fn log_in_without_browser(&self, redirect_uri: &str) -> Tokens {
        self.log_in_concurrently(redirect_uri, 1).await.remove(0)
    }

    /// Logs in several times concurrently in one browser, alternating between the pages.
    pub async fn log_in_concurrently(&self, redirect_uri: &str, logins: usize) -> Vec<Tokens> {
        let http = self.client.bed.client_with(|builder| builder.redirect(redirect::Policy::none()).cookie_store(true));
        let begin = Url::parse(&self.authorize_url(redirect_uri)).unwrap();
        let mut tabs = Vec::new();
        for _ in 0..logins {
            tabs.push((begin.clone(), http.get(begin.clone()).send().await.unwrap()));
        }
        let mut tokens = Vec::new();
        for _ in 0..12 {
            for (at, response) in std::mem::take(&mut tabs) {
                let (at, response) = next_page(&http, at, response, redirect_uri).await;
                match response {
                    Some(response) => tabs.push((at, response)),
                    None => tokens.push(self.redeem(redirect_uri, &at).await),
                }
            }
        }
        assert!(tabs.is_empty(), "a login did not finish: {}", tabs[0].0);
        tokens
    }

    /// Checks the redirect to the client and redeems its code.
    async fn redeem(&self, redirect_uri: &str, redirect: &Url) -> Tokens {
        assert!(redirect.as_str().starts_with(&format!("{redirect_uri}?")), "{redirect}");
        let query: HashMap<_, _> = redirect.query_pairs().collect();
        assert_eq!(query["state"], STATE);
        assert_eq!(query["iss"], self.client.bed.edge.url);
        let form = [
            ("grant_type", "authorization_code"),
            ("code", &query["code"]),
            ("redirect_uri", redirect_uri),
            ("code_verifier", VERIFIER),
        ];
        Tokens::from_response(self.token(&self.client.bed.client(), &form).await).await
    }

    pub async fn refresh(&self, tokens: &Tokens) -> Tokens {
        Tokens::from_response(self.refresh_by(&self.client.bed.client(), tokens).await).await
    }

    /// Refreshes from another address of this machine.
    pub async fn refresh_from(&self, address: IpAddr, tokens: &Tokens) -> Tokens {
        let http = self.client.bed.client_with(|builder| builder.local_address(address));
        Tokens::from_response(self.refresh_by(&http, tokens).await).await
    }

    async fn refresh_by(&self, http: &Client, tokens: &Tokens) -> Response {
        self.token(http, &[("grant_type", "refresh_token"), ("refresh_token", &tokens.refresh)]).await
    }

    async fn token(&self, http: &Client, form: &[(&str, &str)]) -> Response {
        let resource = self.client.resource();
        let mut form = form.to_vec();
        form.extend([("client_id", self.id()), ("resource", &resource)]);
        if let Some(secret) = self.response["client_secret"].as_str() {
            form.push(("client_secret", secret));
        }
        let request = http.post(self.client.bed.url("/token")).header(USER_AGENT, self.client.agent);
        request.form(&form).send().await.unwrap()
    }

    fn id(&self) -> &str {
        self.response["client_id"].as_str().unwrap()
    }
}

/// Follows a redirect, or submits a page's form. Returns no response when the redirect leads to the client.
async fn next_page(http: &Client, at: Url, response: Response, redirect_uri: &str) -> (Url, Option<Response>) {
    if let Some(location) = response.headers().get(LOCATION) {
        let at = at.join(location.to_str().unwrap()).unwrap();
        if at.as_str().starts_with(redirect_uri) {
            return (at, None);
        }
        let response = http.get(at.clone()).send().await.unwrap();
        return (at, Some(response));
    }
    let page = response.text().await.unwrap();
    let Some((_, rest)) = page.split_once(" action=\"") else { panic!("no form at {at}: {page}") };
    let at = at.join(rest.split_once('"').unwrap().0).unwrap();
    let mut form = hidden_fields(&page);
    // Each of the two forms uses its own fields.
    form.extend([("decision", "approve"), ("email", ALICE), ("password", "any")]);
    let response = http.post(at.clone()).form(&form).send().await.unwrap();
    (at, Some(response))
}

impl Tokens {
    async fn from_response(response: Response) -> Self {
        let status = response.status();
        let body: Value = response.json().await.unwrap();
        assert_eq!(status, StatusCode::OK, "{body}");
        assert_eq!(body["token_type"], json!("Bearer"));
        assert!(body["expires_in"].as_u64().unwrap() > 60, "mcp-remote would refresh before each request");
        let text = |name: &str| body[name].as_str().unwrap().to_owned();
        Self { access: text("access_token"), refresh: text("refresh_token") }
    }
}

/// The hidden fields of a page's form. None of them needs unescaping.
fn hidden_fields(page: &str) -> Vec<(&str, &str)> {
    page.split("<input type=\"hidden\" name=\"")
        .skip(1)
        .filter_map(|field| {
            let (name, rest) = field.split_once("\" value=\"")?;
            Some((name, rest.split_once('"')?.0))
        })
        .collect()
}
