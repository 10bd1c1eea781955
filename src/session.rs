use std::{fmt, str::FromStr, sync::Arc};

use arc_swap::ArcSwap;
use jiff::{SignedDuration, Timestamp};

use crate::{
    api::{McpOAuthSessionSpec, SessionClaims, SessionClient, SessionPhase, SessionUser},
    crypto::{Keyring, Purpose},
};

/// Name of a session: 128 bits as lower-case hex. It is an HMAC of the login nonce, so one login creates one session.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SessionId(u128);

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct InvalidSessionId;

impl SessionId {
    pub fn of_nonce(keyring: &Keyring, nonce: &str) -> Self {
        let mut id = [0; 16];
        id.copy_from_slice(&keyring.mac(Purpose::SessionName, &[nonce.as_bytes()])[..16]);
        Self(u128::from_be_bytes(id))
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for SessionId {
    type Err = InvalidSessionId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_id = text.len() == 32 && text.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
        let id = u128::from_str_radix(text, 16).map_err(|_| InvalidSessionId)?;
        if is_id { Ok(Self(id)) } else { Err(InvalidSessionId) }
    }
}

/// One login of one user with one MCP client.
#[derive(Clone, Debug, PartialEq)]
pub struct Session {
    pub id: SessionId,
    pub user: SessionUser,
    pub client: SessionClient,
    pub scopes: Vec<String>,
    /// URL of the MCP endpoint, the audience of the session's tokens.
    pub resource: String,
    pub created_at: Timestamp,
    /// Pending until the authorization code is redeemed.
    pub phase: SessionPhase,
    /// Generation of the current refresh token; 0 while pending.
    pub generation: u64,
    /// Issue time of the current generation.
    pub rotated_at: Timestamp,
    pub expires_at: Timestamp,
    /// Input of the access rules.
    pub claims: SessionClaims,
    /// Encrypted refresh token of the issuer.
    pub issuer_refresh_token: Option<String>,
    /// End of the exclusive lease of the replica that refreshes at the issuer.
    pub leased_until: Option<Timestamp>,
}

/// Converts sessions to authenticated records and back. Clones share the keys.
#[derive(Clone, Debug)]
pub struct RecordKeys {
    keyring: Arc<ArcSwap<Keyring>>,
    proxy: String,
}

impl RecordKeys {
    /// `proxy` is the name of the proxy resource.
    pub fn new(keyring: Arc<Keyring>, proxy: impl Into<String>) -> Self {
        Self { keyring: Arc::new(ArcSwap::new(keyring)), proxy: proxy.into() }
    }

    /// Replaces the keys of this value and all its clones.
    pub fn use_keyring(&self, keyring: Arc<Keyring>) {
        self.keyring.store(keyring);
    }

    pub fn record(&self, session: &Session) -> McpOAuthSessionSpec {
        let mut spec = McpOAuthSessionSpec {
            proxy: self.proxy.clone(),
            user: session.user.clone(),
            client: session.client.clone(),
            scopes: session.scopes.clone(),
            resource: session.resource.clone(),
            created_at: session.created_at.to_string(),
            phase: session.phase,
            generation: i64::try_from(session.generation).unwrap_or(i64::MAX),
            rotated_at: session.rotated_at.to_string(),
            expires_at: session.expires_at.to_string(),
            claims: session.claims.clone(),
            issuer_refresh_token: session.issuer_refresh_token.clone(),
            leased_until: session.leased_until.map(|until| until.to_string()),
            mac: String::new(),
        };
        spec.mac = self.mac(&session.id, &spec);
        spec
    }

    /// `None` if the MAC is invalid, a field does not parse or the proxy differs.
    pub fn session(&self, id: SessionId, spec: &McpOAuthSessionSpec) -> Option<Session> {
        let mut unsigned = spec.clone();
        let mac = std::mem::take(&mut unsigned.mac);
        let parts = self.parts(&id, &unsigned);
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        if spec.proxy != self.proxy || !self.keyring.load().verify_mac_text(Purpose::SessionRecord, &parts, &mac) {
            return None;
        }
        Some(Session {
            id,
            user: unsigned.user,
            client: unsigned.client,
            scopes: unsigned.scopes,
            resource: unsigned.resource,
            created_at: unsigned.created_at.parse().ok()?,
            phase: unsigned.phase,
            generation: u64::try_from(unsigned.generation).ok()?,
            rotated_at: unsigned.rotated_at.parse().ok()?,
            expires_at: unsigned.expires_at.parse().ok()?,
            claims: unsigned.claims,
            issuer_refresh_token: unsigned.issuer_refresh_token,
            leased_until: unsigned.leased_until.map(|until| until.parse()).transpose().ok()?,
        })
    }

    /// Whether an unreadable record expired at least one hour before `now`. The hour covers a rollout: a replica with
    /// another configuration may still accept the record.
    pub(super) fn is_expired(spec: &McpOAuthSessionSpec, now: Timestamp, max_ttl: SignedDuration) -> bool {
        let time = |text: &str| text.parse::<Timestamp>().unwrap_or(Timestamp::MIN);
        // `expires_at` is not authenticated here and may have been edited.
        let longest = time(&spec.created_at).saturating_add(max_ttl).unwrap_or(Timestamp::MAX);
        let over = time(&spec.expires_at).min(longest);
        over.saturating_add(SignedDuration::from_hours(1)).is_ok_and(|over| over <= now)
    }

    fn mac(&self, id: &SessionId, unsigned: &McpOAuthSessionSpec) -> String {
        let parts = self.parts(id, unsigned);
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        self.keyring.load().mac_text(Purpose::SessionRecord, &parts)
    }

    /// MAC input: the id and each field in declaration order. The JSON of a struct is stable because serde writes its
    /// fields in declaration order.
    fn parts(&self, id: &SessionId, spec: &McpOAuthSessionSpec) -> Vec<Vec<u8>> {
        let McpOAuthSessionSpec {
            proxy,
            user,
            client,
            scopes,
            resource,
            created_at,
            phase,
            generation,
            rotated_at,
            expires_at,
            claims,
            issuer_refresh_token,
            leased_until,
            mac: _,
        } = spec;
        let json = |value: serde_json::Result<Vec<u8>>| value.unwrap_or_default();
        let mut parts = vec![
            id.0.to_be_bytes().to_vec(),
            proxy.clone().into_bytes(),
            json(serde_json::to_vec(user)),
            json(serde_json::to_vec(client)),
            json(serde_json::to_vec(scopes)),
            resource.clone().into_bytes(),
            created_at.clone().into_bytes(),
            json(serde_json::to_vec(phase)),
            generation.to_be_bytes().to_vec(),
            rotated_at.clone().into_bytes(),
            expires_at.clone().into_bytes(),
            json(serde_json::to_vec(claims)),
        ];
        // Omitted when both are absent: records from before these fields existed keep their MAC.
        if issuer_refresh_token.is_some() || leased_until.is_some() {
            parts.push(json(serde_json::to_vec(&(issuer_refresh_token, leased_until))));
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{keyring, record_keys, session};

    #[test]
    fn session_id_round_trips() {
        let id = SessionId::of_nonce(&keyring(), "nonce");
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in ["", "abc", &"G".repeat(32), &"A".repeat(32), &"0".repeat(33)] {
            assert_eq!(bad.parse::<SessionId>(), Err(InvalidSessionId));
        }
    }

    #[test]
    fn session_record_round_trips() {
        let session = session("nonce");
        assert_eq!(record_keys().session(session.id, &record_keys().record(&session)), Some(session));
    }

    #[test]
    fn record_with_any_changed_field_is_rejected() {
        let session = session("nonce");
        let record = serde_json::to_value(record_keys().record(&session)).unwrap();
        let mut leaves = 0;
        let mut paths = vec![];
        collect("", &record, &mut paths);
        for path in paths {
            let mut changed = record.clone();
            let leaf = changed.pointer_mut(&path).unwrap();
            *leaf = match leaf {
                serde_json::Value::String(text) if path == "/phase" => {
                    assert_eq!(text, "Pending");
                    "Active".into()
                }
                serde_json::Value::String(text) if path.ends_with("At") => text.replace("2027", "2028").into(),
                serde_json::Value::String(text) => format!("{text}x").into(),
                serde_json::Value::Bool(value) => (!*value).into(),
                serde_json::Value::Number(number) => (number.as_i64().unwrap() + 1).into(),
                _ => unreachable!(),
            };
            assert_ne!(changed, record, "{path}");
            let changed = serde_json::from_value(changed).unwrap();
            assert_eq!(record_keys().session(session.id, &changed), None, "{path}");
            leaves += 1;
        }
        assert!(leaves > 15);
    }

    #[test]
    fn record_under_another_name_is_rejected() {
        let session = session("nonce");
        let other = SessionId::of_nonce(&keyring(), "other");
        assert_eq!(record_keys().session(other, &record_keys().record(&session)), None);
    }

    fn collect(path: &str, value: &serde_json::Value, paths: &mut Vec<String>) {
        match value {
            serde_json::Value::Object(fields) => {
                fields.iter().for_each(|(name, value)| collect(&format!("{path}/{name}"), value, paths));
            }
            serde_json::Value::Array(items) => {
                items.iter().enumerate().for_each(|(i, value)| collect(&format!("{path}/{i}"), value, paths));
            }
            _ => paths.push(path.to_owned()),
        }
    }
}
