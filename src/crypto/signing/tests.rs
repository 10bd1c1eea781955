mod forged;

use super::*;
use crate::testing::ring;

const ISSUER: &str = "https://mcp.example.com";

fn check(ring: &SigningRing, token: &str, now: u64) -> Result<(), InvalidAccessToken> {
    ring.verify(token, ISSUER, now, &mut Vec::new()).map(drop)
}

fn claims() -> AccessClaims<'static> {
    AccessClaims {
        iss: ISSUER.into(),
        sub: "subject".into(),
        aud: "https://mcp.example.com/mcp".into(),
        exp: 2_000,
        iat: 1_000,
        jti: "jti".into(),
        client_id: "client".into(),
        sid: "0".repeat(32).into(),
        scope: "mcp".into(),
    }
}

fn signed_with_header(ring: &SigningRing, change: impl FnOnce(&mut Header)) -> String {
    let mut header = Header::new(Algorithm::ES256);
    header.typ = Some(ACCESS_TOKEN_TYPE.to_owned());
    header.kid = Some(ring.keys[0].jwk.kid.clone());
    change(&mut header);
    jsonwebtoken::encode(&header, &claims(), &ring.keys[0].signing).unwrap()
}

#[test]
fn signed_token_verifies_until_expiry() {
    let ring = ring();
    let token = ring.sign(&claims(), Timestamp::UNIX_EPOCH).unwrap();
    // The previous content is discarded.
    let mut buffer = b"{}".to_vec();
    assert_eq!(ring.verify(&token, ISSUER, 1_999, &mut buffer), Ok(claims()));
    assert_eq!(ring.verify(&token, ISSUER, 2_000, &mut buffer), Err(InvalidAccessToken::Expired));
    assert_eq!(ring.verify(&token, "https://other", 1_999, &mut buffer), Err(InvalidAccessToken::Signature));
}

#[test]
fn token_of_other_ring_type_or_algorithm_is_refused() {
    let ring = ring();
    let other = crate::testing::ring().sign(&claims(), Timestamp::UNIX_EPOCH).unwrap();
    assert_eq!(check(&ring, &other, 1_500), Err(InvalidAccessToken::Signature));
    let id_token = signed_with_header(&ring, |header| header.typ = Some("JWT".to_owned()));
    assert_eq!(check(&ring, &id_token, 1_500), Err(InvalidAccessToken::Signature));
    let no_kid = signed_with_header(&ring, |header| header.kid = None);
    assert_eq!(check(&ring, &no_kid, 1_500), Err(InvalidAccessToken::Signature));
    let good = signed_with_header(&ring, |_| ());
    assert!(check(&ring, &good, 1_500).is_ok());
    let (_, rest) = good.split_once('.').unwrap();
    for header in [r#"{"alg":"none","typ":"at+jwt"}"#, r#"{"alg":"HS256","typ":"at+jwt","kid":"x"}"#] {
        let forged = format!("{}.{rest}", BASE64_URL_SAFE_NO_PAD.encode(header));
        assert!(check(&ring, &forged, 1_500).is_err(), "{header}");
    }
}

#[test]
fn key_signs_from_its_start_time_but_verifies_earlier() {
    let now = Timestamp::UNIX_EPOCH;
    let later = now + jiff::SignedDuration::from_mins(5);
    let mut keys = SigningKeys::generate(now).unwrap();
    keys.keys.extend(SigningKeys::generate(later).unwrap().keys);
    let ring = SigningRing::new(&keys).unwrap();
    let kid = |at| jsonwebtoken::decode_header(ring.sign(&claims(), at).unwrap()).unwrap().kid.unwrap();
    assert_eq!(kid(now), keys.keys[0].kid);
    assert_eq!(kid(later), keys.keys[1].kid);
    let jwks = serde_json::to_value(ring.jwks()).unwrap();
    assert_eq!(jwks["keys"].as_array().unwrap().len(), 2);
    let (kid, x, y) = (&keys.keys[0].kid, &jwks["keys"][0]["x"], &jwks["keys"][0]["y"]);
    assert!([x, y].iter().all(|coordinate| coordinate.as_str().is_some_and(|text| text.len() == 43)), "{jwks}");
    let members = json!({"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": kid, "x": x, "y": y});
    assert_eq!(jwks["keys"][0], members);
    assert!(!jwks.to_string().contains("\"d\""));
}

#[test]
fn tokens_verify_while_replicas_load_rotated_keys_at_different_times() {
    let (step, late) = (jiff::SignedDuration::from_mins(3), jiff::SignedDuration::from_mins(9));
    let begin = Timestamp::UNIX_EPOCH;
    let mut secret = SigningKeys::generate(begin).unwrap();
    let ring = |keys: &SigningKeys| SigningRing::new(keys).unwrap();
    // The keys that each replica has loaded, and the time at which the second one loads the new ones.
    let (mut early, mut second, mut pending) = (ring(&secret), ring(&secret), None);
    let mut tokens: std::collections::VecDeque<(Timestamp, String)> = std::collections::VecDeque::new();
    let mut signed_with = std::collections::HashSet::new();
    let mut now = begin;
    while now < begin + jiff::SignedDuration::from_hours(70 * 24) {
        if let Some(rotated) = secret.rotated(now).unwrap() {
            secret = rotated;
            early = ring(&secret);
            pending = Some(now + late);
        }
        if pending.is_some_and(|at| at <= now) {
            second = ring(&secret);
            pending = None;
        }
        // Every third hour is enough, and every step while the replicas differ or soon after.
        let seconds = now.as_second();
        if pending.is_some() || seconds % (3 * 3600) == 0 {
            for ring in [&early, &second] {
                let exp = u64::try_from(seconds).unwrap() + 24 * 3600;
                let claims = AccessClaims { exp, iat: exp - 24 * 3600, ..claims() };
                let token = ring.sign(&claims, now).unwrap();
                signed_with.insert(jsonwebtoken::decode_header(&token).unwrap().kid);
                tokens.push_back((now + jiff::SignedDuration::from_hours(24), token));
            }
            tokens.retain(|(end, _)| now < *end);
            let at = u64::try_from(seconds).unwrap();
            for (_, token) in &tokens {
                assert!(check(&early, token, at).is_ok() && check(&second, token, at).is_ok(), "{now}");
            }
        }
        now += step;
    }
    assert_eq!(signed_with.len(), 3, "each key has signed");
    assert!(early.keys.len() <= 2);
}
