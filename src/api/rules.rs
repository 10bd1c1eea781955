//! The validation rules of the resources. Each exists once: as CEL that the API server evaluates, as a message, and as a
//! function for files that no API server has seen (`proxy --config`, `dev`, `render`). For URLs, CEL may accept more than the
//! function, which requires the normalised form.

use super::{
    proxy::{Access, AccessPolicy, Credentials, Identity, IdentityHeaders, IdentityType, RedirectPolicy, Redirects},
    rule::Condition::{self, Excludes, Implies, Matches},
};

pub use super::rule::{BrokenRule, ObjectRule, TextRule};

/// URL parsers strip or rewrite control characters and backslashes.
const NO_REWRITTEN_CHARACTERS: Condition = Excludes(r"[^!-~]|\\");

const DEFAULT_PORT: Condition = Excludes("^(https:.*:443|http:.*:80)$");

/// https, or http to a loopback host.
pub const PUBLIC_URL: TextRule = TextRule {
    conditions: &[
        Matches(
            r"^(https://[a-z0-9.-]+|http://(localhost|[a-z0-9.-]+\.localhost|127\.[0-9.]+|\[::1\]))(:[1-9][0-9]{0,4})?$",
        ),
        DEFAULT_PORT,
        // Clients compare the issuer byte for byte, so only the normalised form is accepted.
        Condition::Url(|text, url| url.origin().ascii_serialization() == text),
    ],
    message: "publicURL must be https://HOST or https://HOST:PORT in lower case, without path, query, trailing slash or default port; http is allowed for localhost only",
};

pub const ISSUER_URL: TextRule = TextRule {
    conditions: &[
        Matches(
            r"^(https://[^/?#@ ]+|http://(localhost|[a-z0-9.-]+\.localhost|127\.[0-9.]+|\[::1\])(:[0-9]{1,5})?)(/[^?# ]*)?$",
        ),
        NO_REWRITTEN_CHARACTERS,
        Condition::Url(|_, _| true),
    ],
    message: "issuerURL must be the https URL of an OpenID Connect issuer, such as https://accounts.google.com, without query; http is allowed for localhost only",
};

pub const UPSTREAM_URL: TextRule = TextRule {
    conditions: &[Matches("^https?://[^/?#@ ]+(/[^?# ]*)?$"), NO_REWRITTEN_CHARACTERS, Condition::Url(|_, _| true)],
    message: "upstream.url must be http://HOST:PORT or https://HOST:PORT, with or without a path, without query or fragment",
};

pub const PATH: TextRule = TextRule {
    conditions: &[Matches("^(/([A-Za-z0-9._~-]+|[*]))+$"), Excludes(r"/\.{1,2}(/|$)")],
    message: "an upstream path may contain only letters, digits and -._~ between single slashes, or * for one whole segment, without a slash at the end, such as /mcp or /servers/*/mcp",
};

pub const PATH_IS_NOT_OURS: TextRule = TextRule {
    conditions: &[Excludes(r"^/([*]|\.well-known|authorize|callback|consent|jwks|register|revoke|token)(/|$)")],
    message: "an upstream path must not shadow the proxy's own endpoints (/.well-known, /authorize, /callback, /consent, /jwks, /register, /revoke, /token)",
};

pub const PATHS: ObjectRule<[super::PathPattern]> = ObjectRule {
    cel: "self.exists(path, !path.contains('*'))",
    message: "paths needs at least one path without *, the default endpoint of clients",
    holds: |paths| paths.iter().any(super::PathPattern::is_literal),
};

pub const EMAIL: TextRule = TextRule {
    conditions: &[Matches("^[^@ ]+@[^@ ]+$")],
    message: "each of emails and blocked must be an e-mail address such as ada@example.com",
};

pub const DOMAIN: TextRule = TextRule {
    conditions: &[Matches("^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$")],
    message: "each of domains must be a domain such as example.com, without @ or *",
};

/// CEL: an allow list has an entry.
macro_rules! listed {
    ($prefix:literal, $suffix:literal) => {
        concat!(
            $prefix,
            "[has(self.emails) && size(self.emails) > 0, has(self.domains) && size(self.domains) > 0, has(self.groups) && size(self.groups) > 0].exists(listed, listed)",
            $suffix
        )
    };
}

fn has_allow_list(access: &Access) -> bool {
    !(access.emails.is_empty() && access.domains.is_empty() && access.groups.is_empty())
}

pub const LISTED_NEEDS_A_LIST: ObjectRule<Access> = ObjectRule {
    cel: listed!("self.policy != 'Listed' || ", ""),
    message: "access admits no user: list emails, domains or groups, or set policy: AnyUser",
    holds: |access| access.policy == AccessPolicy::AnyUser || has_allow_list(access),
};

pub const ANY_USER_NEEDS_NO_LIST: ObjectRule<Access> = ObjectRule {
    cel: listed!("self.policy != 'AnyUser' || !(", ")"),
    message: "policy AnyUser admits every user: remove emails, domains and groups, or set policy: Listed",
    holds: |access| access.policy == AccessPolicy::Listed || !has_allow_list(access),
};

/// Whether `access.groups` has an entry, and whether `identityProvider.groupsClaim` is set.
pub const GROUPS_NEED_A_CLAIM: ObjectRule<(bool, bool)> = ObjectRule {
    cel: "!has(self.access.groups) || size(self.access.groups) == 0 || has(self.identityProvider.groupsClaim)",
    message: "access.groups requires identityProvider.groupsClaim, the claim that lists a user's groups, such as groups",
    holds: |(groups, claim)| !groups || *claim,
};

pub const SCOPES: ObjectRule<[String]> = ObjectRule {
    cel: "'openid' in self && 'email' in self",
    message: "scopes must include openid and email, which identify the user",
    holds: |scopes| ["openid", "email"].iter().all(|scope| scopes.iter().any(|listed| listed == scope)),
};

/// A parameter of the authorization request that the proxy neither sets itself nor depends on.
pub const AUTHORIZE_PARAMETER: TextRule = TextRule {
    conditions: &[
        Matches("^[A-Za-z0-9_.-]{1,64}$"),
        Excludes(
            "^(client_id|client_secret|response_type|response_mode|redirect_uri|scope|state|nonce|code_challenge|code_challenge_method|request|request_uri)$",
        ),
    ],
    message: "a name in authorizeParameters may contain only letters, digits and _.-, and must not be a parameter that the proxy sets itself (client_id, redirect_uri, scope, state, nonce, ...)",
};

pub const CLIENT_ID: TextRule = TextRule {
    conditions: &[Matches("^[A-Za-z0-9][A-Za-z0-9._~-]*$")],
    message: "clientID may contain only letters, digits and . _ ~ -, such as claude-ai",
};

pub const REDIRECT_URI: TextRule = TextRule {
    conditions: &[
        Matches("^[a-zA-Z][a-zA-Z0-9+.-]*:[!-~]+$"),
        Excludes("^(?i)(javascript|data|file|vbscript|blob|about):"),
        Excludes("#"),
        Implies("^(?i)http:", r"^http://(localhost|127\.0\.0\.1|\[::1\])([:/?].*)?$"),
        Condition::Url(|_, _| true),
    ],
    message: "each of redirectURIs must be https, http for localhost, or an app's own scheme, without fragment and spaces, such as https://claude.ai/api/mcp/auth_callback",
};

pub const REDIRECT_HOST: TextRule = TextRule {
    conditions: &[Matches("^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$")],
    message: "each of hosts must be a host name in lower case, such as chat.example.com, without scheme, port or path",
};

pub const ANY_NEEDS_NO_HOSTS: ObjectRule<Redirects> = ObjectRule {
    cel: "self.policy == 'Known' || !has(self.hosts) || size(self.hosts) == 0",
    message: "policy Any allows every https host: remove hosts, or set policy: Known",
    holds: |redirects| redirects.policy == RedirectPolicy::Known || redirects.hosts.is_empty(),
};

pub const ORIGIN: TextRule = TextRule {
    conditions: &[
        Matches(r"^[a-z][a-z0-9+.-]*://([a-z0-9]([a-z0-9._-]*[a-z0-9])?|\[[0-9a-f:.]+\])(:[0-9]{1,5})?$"),
        DEFAULT_PORT,
    ],
    message: "each of origins must be an origin as browsers send it: scheme and host in lower case, no default port, no path and no slash at the end, such as https://tools.example.com",
};

pub const HEADER_NAME: TextRule = TextRule {
    conditions: &[Matches("^[A-Za-z0-9-]+$")],
    message: "a header's name may contain only letters, digits and hyphens",
};

pub const HEADER_IS_NOT_RESERVED: TextRule = TextRule {
    conditions: &[Excludes(
        "^(?i)(authorization|cookie|host|connection|content-length|content-type|transfer-encoding|te|trailer|upgrade|keep-alive|proxy-connection|expect|accept|accept-encoding|content-encoding|date|origin|traceparent|tracestate|x-forwarded-for|x-forwarded-host|x-forwarded-proto|mcp-.*)$",
    )],
    message: "this header is reserved by HTTP, MCP or the proxy: choose another name, such as X-Forwarded-User",
};

pub const HEADERS_DIFFER: ObjectRule<IdentityHeaders> = ObjectRule {
    cel: "self.user.lowerAscii() != self.email.lowerAscii()",
    message: "user and email are the same header; name another for one of them, such as X-Forwarded-Email",
    holds: |headers| !headers.user.eq_ignore_ascii_case(&headers.email),
};

pub const HEADERS_NEED_THEIR_TYPE: ObjectRule<Identity> = ObjectRule {
    cel: "self.type == 'Headers' || !has(self.headers)",
    message: "identity.headers requires type: Headers; remove headers or change type",
    holds: |identity| identity.kind == IdentityType::Headers || identity.headers.is_none(),
};

/// About `tokens.accessTTL` and `sessions.idleTTL`.
pub const ACCESS_TTL_BELOW_IDLE_TTL: ObjectRule<(std::time::Duration, std::time::Duration)> = ObjectRule {
    cel: "duration(self.tokens.accessTTL) < duration(self.sessions.idleTTL)",
    message: "tokens.accessTTL must be shorter than sessions.idleTTL: otherwise the session expires before the client refreshes",
    holds: |(access, idle)| access < idle,
};

/// About `idleTTL` and `maxTTL`.
pub const IDLE_TTL_WITHIN_MAX_TTL: ObjectRule<(std::time::Duration, std::time::Duration)> = ObjectRule {
    cel: "duration(self.idleTTL) <= duration(self.maxTTL)",
    message: "idleTTL may not be longer than maxTTL",
    holds: |(idle, max)| idle <= max,
};

/// The Service has the resource's name, which must be an RFC 1035 label short enough for suffixes.
pub const RESOURCE_NAME: TextRule = TextRule {
    conditions: &[Matches("^[a-z]([-a-z0-9]{0,50}[a-z0-9])?$")],
    message: "the name must begin with a letter and have at most 52 lower-case letters, digits and hyphens: the Service has the same name",
};

pub const ONE_CREDENTIALS_SOURCE: ObjectRule<Credentials> = ObjectRule {
    cel: "has(self.onePassword) != has(self.secretRef)",
    message: "credentials needs exactly one source: set either onePassword or secretRef",
    holds: |credentials| credentials.one_password.is_some() != credentials.secret_ref.is_some(),
};

pub const ITEM_PATH: TextRule = TextRule {
    conditions: &[Matches("^vaults/[^/]+/items/[^/]+$")],
    message: "itemPath must be vaults/VAULT/items/ITEM",
};

pub const OBJECT_NAME: TextRule = TextRule {
    conditions: &[Matches("^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$")],
    message: "the name of a Secret or ConfigMap may contain only lower-case letters, digits, - and .",
};

/// Keys are file names in the pods.
pub const DATA_KEY: TextRule = TextRule {
    conditions: &[Matches("^[-._a-zA-Z0-9]+$"), Excludes(r"^\.(\.|$)")],
    message: "the key of a Secret or ConfigMap may contain only letters, digits and -._, and must not begin with ..",
};

pub const IMAGE: TextRule = TextRule {
    conditions: &[Matches("^[^@ ]+(@sha256:[0-9a-f]{64}|:[A-Za-z0-9_][A-Za-z0-9_.-]*)$"), Excludes(":latest$")],
    message: "image needs a tag other than latest, or a digest: NAME:TAG or NAME@sha256:DIGEST",
};

/// The keys of labels and annotations.
pub const QUALIFIED_NAME: TextRule = TextRule {
    conditions: &[Matches("^([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$")],
    message: "the name of a label or annotation must be NAME or example.com/NAME, with only letters, digits and -._",
};
