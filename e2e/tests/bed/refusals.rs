use e2e::peers::browser::Browser;
use futures::{StreamExt, stream};
use mcp_oauth_operator::api::Bounded;
use reqwest::{
    StatusCode,
    header::{COOKIE, ORIGIN, SET_COOKIE},
};
use serde_json::json;

use crate::support::{ScriptedClient, client, environment, sessions};

#[tokio::test(flavor = "multi_thread")]
async fn refused_accounts_get_an_explanation_and_leave_no_session() {
    let environment = environment();
    let proxy = environment.deploy_proxy("refusals", |spec| spec.replicas = Bounded::of::<1>()).await.unwrap();
    let client = ScriptedClient::register(&environment, &proxy).await.unwrap();
    for (email, expected) in
        [("mallory@evil.example", "is not allowed to use this server"), ("bob@example.com", "has not verified")]
    {
        let browser = Browser::start(&environment.run).await.unwrap();
        let final_page = browser.login(client.authorize_url().as_str(), email).await.unwrap();
        assert!(final_page.consented && final_page.signed_in, "{final_page:?}");
        assert_eq!(final_page.status, 403, "{final_page:?}");
        assert!(final_page.text.contains(expected) && final_page.text.contains(email), "{final_page:?}");
        browser.close().await.unwrap();
    }
    assert!(sessions(&environment, "refusals").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn b4_b5_registrations_and_authorizations_store_nothing() {
    let environment = environment();
    let proxy = environment.deploy_proxy("flood", |spec| spec.replicas = Bounded::of::<1>()).await.unwrap();
    let scripted = ScriptedClient::register(&environment, &proxy).await.unwrap();
    let http = client(&environment);
    let objects = || {
        let kinds = "mcpsessions,secrets,configmaps";
        environment.cluster.kubectl_program().output(&[
            "--namespace",
            e2e::environment::NAMESPACE,
            "get",
            kinds,
            "-o",
            "name",
        ])
    };
    let flood_objects = |text: String| text.lines().filter(|line| line.contains("flood")).count();
    let before = flood_objects(objects().unwrap());
    let register =
        json!({"client_name": "flood", "redirect_uris": ["http://localhost/"], "token_endpoint_auth_method": "none"});
    let (registrations, authorize) = (format!("{}/register", proxy.edge.url), scripted.authorize_url());
    let statuses: Vec<(StatusCode, StatusCode)> = stream::iter(0..1000)
        .map(|_| async {
            let registered = http.post(&registrations).json(&register).send().await.unwrap().status();
            (registered, http.get(authorize.clone()).send().await.unwrap().status())
        })
        .buffer_unordered(16)
        .collect()
        .await;
    assert!(statuses.iter().all(|pair| *pair == (StatusCode::CREATED, StatusCode::OK)));
    assert!(sessions(&environment, "flood").await.is_empty());
    assert_eq!(flood_objects(objects().unwrap()), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a15_consent_form_of_another_browser_is_refused() {
    let environment = environment();
    let proxy = environment.deploy_proxy("consent", |spec| spec.replicas = Bounded::of::<1>()).await.unwrap();
    let client = ScriptedClient::register(&environment, &proxy).await.unwrap();
    let page = client.http.get(client.authorize_url()).send().await.unwrap();
    let cookie = |response: &reqwest::Response| {
        response.headers()[SET_COOKIE].to_str().unwrap().split(';').next().unwrap().to_owned()
    };
    let own = cookie(&page);
    let html = page.text().await.unwrap();
    let field = |name: &str| {
        let start = html.find(&format!("name=\"{name}\" value=\"")).unwrap() + name.len() + 15;
        html[start..].split('"').next().unwrap().to_owned()
    };
    let form = [("form", field("form")), ("binding", field("binding")), ("decision", "approve".to_owned())];
    let another = cookie(&client.http.get(client.authorize_url()).send().await.unwrap());
    let post = |cookie: Option<String>, origin: &str| {
        let mut request = client.http.post(format!("{}/consent", proxy.edge.url)).form(&form).header(ORIGIN, origin);
        if let Some(cookie) = cookie {
            request = request.header(COOKIE, cookie);
        }
        async move { request.send().await.unwrap() }
    };
    assert_eq!(post(Some(another), &proxy.edge.url).await.status(), StatusCode::FORBIDDEN);
    assert_eq!(post(None, &proxy.edge.url).await.status(), StatusCode::FORBIDDEN);
    assert_eq!(post(Some(own.clone()), "https://evil.example").await.status(), StatusCode::FORBIDDEN);
    assert_eq!(post(Some(own.clone()), "null").await.status(), StatusCode::FORBIDDEN);
    let approved = post(Some(own), &proxy.edge.url).await;
    assert_eq!(approved.status(), StatusCode::SEE_OTHER);
    assert!(approved.headers()["location"].to_str().unwrap().starts_with(&environment.provider.issuer));
}
