use super::*;

const MINIMAL: &str = r"
publicURL: https://mcp.example.com
identityProvider: {issuerURL: https://accounts.google.com}
credentials: {directory: /etc/mcp-oauth-proxy/credentials}
signingKeys: /etc/mcp-oauth-proxy/signing-keys/keys.json
access: {domains: [example.com]}
upstream: {url: 'http://gateway:4444'}
sessions: {store: {type: SQLite, path: /var/lib/mcp-oauth-proxy/sessions.db}}
";

fn parse(text: &str) -> ProxyConfig {
    serde_yaml::from_str(text).unwrap()
}

fn error(text: &str) -> String {
    match yaml::parse::<ProxyConfig>(text) {
        Ok(config) => config.validate().unwrap_err().to_string(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn minimal_config_is_valid_and_has_defaults() {
    let config = parse(MINIMAL);
    config.validate().unwrap();
    let paths: Vec<&str> = config.upstream.paths.iter().map(crate::api::PathPattern::as_str).collect();
    assert_eq!(paths, ["/mcp", "/servers/*/mcp"]);
    assert_eq!(config.tokens.access_ttl.as_secs(), 3600);
}

#[test]
fn config_round_trips_through_yaml() {
    let config = parse(MINIMAL);
    assert_eq!(parse(&serde_yaml::to_string(&config).unwrap()), config);
}

#[test]
fn validation_names_the_broken_rule() {
    for (from, to, says) in [
        ("https://mcp.example.com", "https://mcp.example.com/x", "publicURL"),
        ("https://accounts.google.com", "http://idp.example.com", "issuerURL"),
        ("domains: [example.com]", "domains: []", "admits no user"),
        ("http://gateway:4444", "gateway:4444", "upstream.url"),
    ] {
        let error = error(&MINIMAL.replace(from, to));
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn config_file_rejects_what_the_crd_rejects() {
    let upstream = |identity: &str| format!("upstream: {{url: 'http://gateway:4444', identity: {identity}}}");
    let sessions = |times: &str| format!("sessions: {{{times}, store: {{");
    for (from, to, says) in [
        ("domains: [example.com]", "policy: AnyUser, domains: [example.com]", "AnyUser admits every user"),
        ("domains: [example.com]", "domains: ['@example.com']", "without @"),
        ("domains: [example.com]", "emails: [ada]", "ada@example.com"),
        ("upstream: {url: 'http://gateway:4444'}", &upstream("{headers: {user: Mcp-Session-Id}}"), "reserved by HTTP"),
        ("upstream: {url: 'http://gateway:4444'}", &upstream("{headers: {user: a b}}"), "letters, digits and hyphens"),
        ("upstream: {url: 'http://gateway:4444'}", &upstream("{type: None, headers: {}}"), "requires type: Headers"),
        (
            "signingKeys:",
            "clients: {static: [{clientID: a, redirectURIs: ['http://a.example/']}]}\nsigningKeys:",
            "http for localhost",
        ),
        (
            "signingKeys:",
            "clients: {static: [{clientID: a b, redirectURIs: ['app:/cb']}]}\nsigningKeys:",
            "letters, digits",
        ),
        (
            "signingKeys:",
            "clients: {static: [{clientID: a, redirectURIs: ['app:/cb'], secretRef: {name: a, key: b}}]}\nsigningKeys:",
            "needs references",
        ),
        ("signingKeys:", "workers: 0\nsigningKeys:", "workers: 0 must lie between 1 and 1024"),
        ("signingKeys:", "workers: 100000\nsigningKeys:", "workers: 100000 must lie between 1 and 1024"),
        ("sessions: {store: {", &sessions("idleTTL: 0s"), "idleTTL: 0s must lie between 5m and 8784h"),
        ("sessions: {store: {", &sessions("maxTTL: 9000h"), "maxTTL: 9000h must lie"),
        ("sessions: {store: {", &sessions("idleTTL: 30m"), "shorter than sessions.idleTTL"),
    ] {
        let error = error(&MINIMAL.replace(from, to));
        assert!(error.contains(says), "{to}: {error}");
    }
    for (redirects, says) in
        [("{policy: Any, hosts: [a.b]}", "Any allows every"), ("{hosts: ['https://a']}", "lower case")]
    {
        let text = format!("{MINIMAL}\nclients: {{redirects: {redirects}}}");
        assert!(error(&text).contains(says), "{redirects}");
    }
    let origins = |origin: &str| format!("{MINIMAL}\nclients: {{origins: ['{origin}']}}");
    for origin in ["https://a.b", "https://a.b:8443", "http://[::1]:81", "http://[::1]", "chrome-extension://abc"] {
        parse(&origins(origin)).validate().unwrap();
    }
    for origin in [
        "null",
        "https://A.b",
        "https://a.b/",
        "https://a.b:443",
        "http://a:80",
        "a.b",
        "https://",
        "https://*.a.b",
        "https://a@b",
    ] {
        let error = error(&origins(origin));
        assert!(error.contains("as browsers send it"), "{origin}: {error}");
    }
}

#[test]
fn config_file_rejects_traffic_values_that_the_crd_rejects() {
    for (part, says) in [
        ("timeouts: {connect: 10ms}", "connect: 10ms must lie between 100ms and 1m"),
        ("timeouts: {responseHead: 2h}", "responseHead: 2h must lie between 1s and 1h"),
        ("timeouts: {streamIdle: 25h}", "streamIdle: 25h must lie between 1s and 24h"),
        ("timeouts: {requestBody: 10ms}", "requestBody: 10ms must lie between 1s and 10m"),
        ("timeouts: {drain: 61m}", "drain: 61m must be 1h at most"),
        ("limits: {concurrency: 0}", "concurrency: 0 must lie between 1 and 100000"),
        ("limits: {streams: 0}", "streams: 0 must lie"),
        ("limits: {streamsPerUser: 0}", "streamsPerUser: 0 must lie"),
    ] {
        let text = MINIMAL.replace("'http://gateway:4444'", &format!("'http://gateway:4444', {part}"));
        let error = error(&text);
        assert!(error.contains(says), "{part}: {error}");
    }
    let text = format!("{MINIMAL}\ntokens: {{streamGrace: 25h}}");
    assert!(error(&text).starts_with("tokens.streamGrace: 25h must be 24h at most"), "{}", error(&text));
    let text = MINIMAL.replace("'http://gateway:4444'", "'http://gateway:4444', limits: {requestBody: 16M}");
    let error = error(&text);
    assert!(error.contains("such as 512Ki or 16Mi"), "{error}");
}

#[test]
fn unknown_field_is_named_in_the_error() {
    let error = serde_yaml::from_str::<ProxyConfig>(&format!("{MINIMAL}\nacess: {{}}\n")).unwrap_err();
    assert!(error.to_string().contains("acess"), "{error}");
}
