//! Access rules: who may log in, and which sessions may continue.

use jiff::Timestamp;
use thiserror::Error;

use crate::{
    api::proxy::{Access, AccessPolicy, EmailVerified},
    session::Session,
};

/// Google's issuer, where only the `hd` claim proves that an account belongs to a domain
/// (<https://developers.google.com/identity/openid-connect/openid-connect#an-id-tokens-payload>).
pub const GOOGLE: &str = "https://accounts.google.com";

/// What the issuer says of a user.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UserClaims {
    pub issuer: String,
    pub subject: String,
    /// Lower-cased by [`check_email`].
    pub email: String,
    pub email_verified: bool,
    /// Google's `hd` claim.
    pub hosted_domain: Option<String>,
    pub groups: Vec<String>,
}

impl UserClaims {
    /// The user of a session, as the issuer described them at login or at the last recheck.
    pub fn of_session(session: &Session) -> Self {
        Self {
            issuer: session.user.issuer.clone(),
            subject: session.user.subject.clone(),
            email: session.user.email.clone(),
            email_verified: session.claims.email_verified,
            hosted_domain: session.claims.hosted_domain.clone(),
            groups: session.claims.groups.clone(),
        }
    }
}

/// Why access is denied. The user sees the message.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum Denied {
    #[error("the identity provider returned no usable e-mail address for this account")]
    NoEmail,
    #[error("the identity provider has not verified this account's e-mail address")]
    EmailNotVerified,
    #[error("this account has been blocked")]
    Blocked,
    #[error("this account is not allowed to use this server")]
    NotListed,
}

impl Denied {
    /// Why a session ends.
    pub fn reason(self) -> String {
        format!("the access rules deny this user: {self}")
    }
}

/// Normalises an address to the form that is compared and forwarded. Ambiguous addresses are [`Denied::NoEmail`]: more than
/// one @, spaces, control characters, non-ASCII letters.
pub fn check_email(email: &str) -> Result<String, Denied> {
    let (local, domain) = email.split_once('@').ok_or(Denied::NoEmail)?;
    let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '@' | ',' | ';' | '<' | '>' | '"' | '\\' | '(' | ')');
    let well_formed = !local.is_empty()
        && !domain.is_empty()
        && email.len() <= 320
        && local.chars().all(plain)
        && domain.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-'));
    if well_formed { Ok(email.to_ascii_lowercase()) } else { Err(Denied::NoEmail) }
}

fn check_access(access: &Access, verified: EmailVerified, user: &UserClaims) -> Result<(), Denied> {
    let email = check_email(&user.email)?;
    if access.blocked.iter().any(|blocked| blocked.eq_ignore_ascii_case(&email)) {
        return Err(Denied::Blocked);
    }
    if !user.email_verified && verified == EmailVerified::Required {
        return Err(Denied::EmailNotVerified);
    }
    if access.policy == AccessPolicy::AnyUser {
        return Ok(());
    }
    let domain = if user.issuer == GOOGLE {
        user.hosted_domain.as_deref()
    } else {
        email.split_once('@').map(|(_, domain)| domain)
    };
    let listed = access.emails.iter().any(|listed| listed.eq_ignore_ascii_case(&email))
        || domain.is_some_and(|domain| access.domains.iter().any(|listed| listed.eq_ignore_ascii_case(domain)))
        || access.groups.iter().any(|listed| user.groups.contains(listed));
    if listed { Ok(()) } else { Err(Denied::NotListed) }
}

/// The verdict of the rules on a session.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Verdict {
    Allow,
    /// The session is younger than this process, so only a replica with other rules can have admitted it. Which replica has
    /// the newer rules shows when the rollout is over; until then the session is neither admitted here nor ended.
    Withhold,
    /// The session ends, for this reason.
    End(String),
}

/// The rules that sessions must satisfy.
#[derive(Clone, Debug)]
pub struct Rules {
    access: Access,
    email_verified: EmailVerified,
    not_before: Option<Timestamp>,
    started: Timestamp,
}

impl Rules {
    /// `started` is the start time of this process.
    pub fn new(
        access: Access,
        email_verified: EmailVerified,
        not_before: Option<Timestamp>,
        started: Timestamp,
    ) -> Self {
        Self { access, email_verified, not_before, started }
    }

    /// Whether the user may log in.
    pub fn check(&self, user: &UserClaims) -> Result<(), Denied> {
        check_access(&self.access, self.email_verified, user)
    }

    pub fn evaluate(&self, session: &Session) -> Verdict {
        match self.refuse(session) {
            None => Verdict::Allow,
            Some(_) if session.created_at >= self.started => Verdict::Withhold,
            Some(reason) => Verdict::End(reason),
        }
    }

    /// Why the rules deny a session, whatever its age.
    pub fn refuse(&self, session: &Session) -> Option<String> {
        if self.not_before.is_some_and(|not_before| session.created_at < not_before) {
            return Some("it was created before sessions.notBefore".to_owned());
        }
        self.check(&UserClaims::of_session(session)).err().map(Denied::reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access() -> Access {
        serde_json::from_str(r#"{"emails": ["Ada@Other.example"], "domains": ["example.com"]}"#).unwrap()
    }

    fn check_access(access: &Access, user: &UserClaims) -> Result<(), Denied> {
        super::check_access(access, EmailVerified::Required, user)
    }

    fn user(issuer: &str, email: &str, hosted_domain: Option<&str>) -> UserClaims {
        UserClaims {
            issuer: issuer.to_owned(),
            subject: "1".to_owned(),
            email: email.to_owned(),
            email_verified: true,
            hosted_domain: hosted_domain.map(str::to_owned),
            groups: vec![],
        }
    }

    #[test]
    fn a16_google_domain_rule_uses_the_hd_claim() {
        let check = |hd| check_access(&access(), &user(GOOGLE, "eve@example.com", hd));
        assert_eq!(check(Some("example.com")), Ok(()));
        assert_eq!(check(None), Err(Denied::NotListed));
        assert_eq!(check(Some("evil.example")), Err(Denied::NotListed));
    }

    #[test]
    fn a16_malformed_email_addresses_are_rejected() {
        for email in [
            "a@evil.com@example.com",
            "@example.com",
            "a@",
            "a",
            "",
            "a b@example.com",
            "a@exa\u{0000}mple.com",
            "а@example.com",
            "a@example.com\n",
            "\"a@evil.com\"@example.com",
        ] {
            assert_eq!(check_email(email), Err(Denied::NoEmail), "{email:?}");
        }
        assert_eq!(check_email("Ada@Example.COM").as_deref(), Ok("ada@example.com"));
    }

    #[test]
    fn only_listed_emails_and_domains_are_allowed() {
        let idp = "https://idp.example.net";
        assert_eq!(check_access(&access(), &user(idp, "ada@other.example", None)), Ok(()));
        assert_eq!(check_access(&access(), &user(idp, "bob@example.com", None)), Ok(()));
        assert_eq!(check_access(&access(), &user(idp, "bob@sub.example.com", None)), Err(Denied::NotListed));
        assert_eq!(check_access(&access(), &user(idp, "bob@notexample.com", None)), Err(Denied::NotListed));
        let any: Access = serde_json::from_str(r#"{"policy": "AnyUser"}"#).unwrap();
        assert_eq!(check_access(&any, &user(idp, "who@ever.example", None)), Ok(()));
        let unverified = UserClaims { email_verified: false, ..user(idp, "bob@example.com", None) };
        assert_eq!(check_access(&any, &unverified), Err(Denied::EmailNotVerified));
    }

    #[test]
    fn group_rule_allows_its_members() {
        let access: Access = serde_json::from_str(r#"{"groups": ["gateway-users"]}"#).unwrap();
        let outside = user("https://idp.example.net", "bob@any.example", None);
        assert_eq!(check_access(&access, &outside), Err(Denied::NotListed));
        let groups = vec!["staff".to_owned(), "gateway-users".to_owned()];
        assert_eq!(check_access(&access, &UserClaims { groups, ..outside.clone() }), Ok(()));
        let groups = vec!["Gateway-Users".to_owned()];
        assert_eq!(check_access(&access, &UserClaims { groups, ..outside }), Err(Denied::NotListed));
    }

    #[test]
    fn blocked_email_overrides_every_other_rule() {
        for access in [
            r#"{"policy": "AnyUser", "blocked": ["Bob@example.com"]}"#,
            r#"{"emails": ["bob@example.com"], "blocked": ["bob@example.com"]}"#,
        ] {
            let access: Access = serde_json::from_str(access).unwrap();
            let bob = user("https://idp.example.net", "bob@example.com", None);
            assert_eq!(check_access(&access, &bob), Err(Denied::Blocked));
        }
    }

    #[test]
    fn trust_issuer_accepts_unverified_emails() {
        let any: Access = serde_json::from_str(r#"{"policy": "AnyUser"}"#).unwrap();
        let silent = UserClaims { email_verified: false, ..user("https://idp.example.net", "bob@example.com", None) };
        assert_eq!(super::check_access(&any, EmailVerified::TrustIssuer, &silent), Ok(()));
        assert_eq!(super::check_access(&any, EmailVerified::Required, &silent), Err(Denied::EmailNotVerified));
    }
}
