use std::collections::HashMap;

use anyhow::{Context, Result};
use reqwest::{Client, header::LOCATION, redirect};
use serde_json::{Value, json};
use url::Url;

use crate::tls::install_crypto_provider;

// RFC 7636, appendix B.
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
const REDIRECT_URI: &str = "http://localhost:9/callback";

/// The tokens of a login.
#[derive(Clone, Debug)]
pub struct Tokens {
    pub access: String,
    pub refresh: String,
    client_id: String,
}

/// Logs in at a proxy run by `dev` and returns the access token.
pub async fn token(proxy: &str, email: &str) -> Result<String> {
    Ok(log_in(&client()?, proxy, email).await?.access)
}

/// Refreshes tokens.
pub async fn refresh(http: &Client, proxy: &str, tokens: &Tokens) -> Result<Tokens> {
    let client_id = tokens.client_id.as_str();
    let form = [("grant_type", "refresh_token"), ("refresh_token", tokens.refresh.as_str()), ("client_id", client_id)];
    read(&http.post(format!("{proxy}/token")).form(&form).send().await?.json().await?, client_id)
}

/// Revokes the session of the tokens.
pub async fn revoke(http: &Client, proxy: &str, tokens: &Tokens) -> Result<()> {
    let form = [("token", tokens.refresh.as_str()), ("client_id", tokens.client_id.as_str())];
    http.post(format!("{proxy}/revoke")).form(&form).send().await?.error_for_status()?;
    Ok(())
}

/// A client with keep-alive and cookies, like a browser.
pub fn client() -> Result<Client> {
    install_crypto_provider();
    let client = Client::builder().no_proxy().redirect(redirect::Policy::none()).tls_certs_only([]);
    Ok(client.cookie_store(true).build()?)
}

fn read(tokens: &Value, client_id: &str) -> Result<Tokens> {
    let text = |name: &str| tokens[name].as_str().map(str::to_owned).with_context(|| format!("no token: {tokens}"));
    Ok(Tokens { access: text("access_token")?, refresh: text("refresh_token")?, client_id: client_id.to_owned() })
}

/// Registers a client and follows the login up to the issuer's page. Returns the client id and the page's URL.
pub async fn to_issuer(client: &Client, proxy: &str) -> Result<(String, Url)> {
    let registration = json!({"redirect_uris": [REDIRECT_URI], "token_endpoint_auth_method": "none"});
    let registered: Value = client.post(format!("{proxy}/register")).json(&registration).send().await?.json().await?;
    let client_id = registered["client_id"].as_str().context("no client_id")?;
    let query = [
        ("response_type", "code"),
        ("client_id", client_id),
        ("redirect_uri", REDIRECT_URI),
        ("code_challenge", CHALLENGE),
        ("code_challenge_method", "S256"),
    ];
    let consent = client.get(Url::parse_with_params(&format!("{proxy}/authorize"), query)?).send().await?;
    let mut form = fields(&consent.text().await?);
    form.insert("decision".to_owned(), "approve".to_owned());
    let to_issuer = location(&client.post(format!("{proxy}/consent")).form(&form).send().await?)?;
    Ok((client_id.to_owned(), to_issuer))
}

/// Registers a client and logs in page by page. `client` can be reused for other users.
pub async fn log_in(client: &Client, proxy: &str, email: &str) -> Result<Tokens> {
    let (client_id, to_issuer) = to_issuer(client, proxy).await?;
    let login = client.get(to_issuer.clone()).send().await?;
    let mut form = fields(&login.text().await?);
    form.insert("email".to_owned(), email.to_owned());
    let back = location(&client.post(to_issuer.join("/login")?).form(&form).send().await?)?;
    // Always to this proxy, even if the issuer knows another one's URL.
    let callback = Url::parse(proxy)?.join(&format!("/callback?{}", back.query().unwrap_or_default()))?;
    let to_client = location(&client.get(callback).send().await?)?;
    let code = to_client.query_pairs().find(|(name, _)| name == "code").context("no code")?.1.into_owned();
    let form =
        [("grant_type", "authorization_code"), ("code", &code), ("client_id", &client_id), ("code_verifier", VERIFIER)];
    read(&client.post(format!("{proxy}/token")).form(&form).send().await?.json().await?, &client_id)
}

fn location(response: &reqwest::Response) -> Result<Url> {
    let location = response.headers().get(LOCATION).with_context(|| format!("no redirect: {}", response.status()))?;
    Ok(Url::parse(location.to_str()?)?)
}

/// The hidden fields of a page's form. None of them needs unescaping.
fn fields(html: &str) -> HashMap<String, String> {
    html.split("<input type=\"hidden\" name=\"")
        .skip(1)
        .filter_map(|field| {
            let (name, rest) = field.split_once("\" value=\"")?;
            Some((name.to_owned(), rest.split_once('"')?.0.to_owned()))
        })
        .collect()
}
