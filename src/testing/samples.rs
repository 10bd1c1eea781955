//! Keys and sessions.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use crate::{
    api::{SessionClaims, SessionClient, SessionPhase, SessionUser},
    crypto::{Keyring, SigningKeys, SigningRing},
    session::{RecordKeys, Session, SessionId},
};

pub fn keyring() -> Keyring {
    Keyring::new("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", "https://mcp.example.com").unwrap()
}

/// A new signing key.
pub fn ring() -> SigningRing {
    SigningRing::new(&SigningKeys::generate(Timestamp::UNIX_EPOCH).unwrap()).unwrap()
}

pub fn record_keys() -> RecordKeys {
    RecordKeys::new(Arc::new(keyring()), "mcp")
}

/// A pending session with every optional field.
pub fn session(nonce: &str) -> Session {
    let now = Timestamp::from_second(1_800_000_000).unwrap();
    Session {
        id: SessionId::of_nonce(&keyring(), nonce),
        user: SessionUser {
            issuer: "https://accounts.example.com".to_owned(),
            subject: "1234".to_owned(),
            email: "ada@example.com".to_owned(),
        },
        client: SessionClient {
            name: "Test".to_owned(),
            id_hash: "hash".to_owned(),
            redirect_host: "localhost".to_owned(),
        },
        scopes: vec!["mcp".to_owned()],
        resource: "https://mcp.example.com/mcp".to_owned(),
        created_at: now,
        phase: SessionPhase::Pending,
        generation: 0,
        rotated_at: now,
        expires_at: now + SignedDuration::from_mins(2),
        claims: SessionClaims {
            hosted_domain: Some("example.com".to_owned()),
            email_verified: true,
            groups: vec!["staff".to_owned()],
        },
        issuer_refresh_token: Some("sealed".to_owned()),
        leased_until: Some(now),
    }
}

/// The same session, redeemed and valid for another hour.
pub fn active_session(nonce: &str, now: Timestamp) -> Session {
    Session { phase: SessionPhase::Active, expires_at: now + SignedDuration::from_hours(1), ..session(nonce) }
}
