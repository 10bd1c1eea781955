//! C4 and C5: forged tokens, and our own tokens of another type (RFC 8725, RFC 9068 §4).

use serde_json::{Value, json};

use super::{super::*, check, ring};

const ISSUER: &str = "https://mcp.example.com";
const NOW: u64 = 1_500;

/// Our token header with these changes.
fn header(ring: &SigningRing, changes: &Value) -> String {
    let ours = String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(&ring.keys[0].header).unwrap()).unwrap();
    let is_same = changes.as_object().unwrap().is_empty();
    if is_same { ours } else { with(serde_json::from_str(&ours).unwrap(), changes) }
}

fn claims() -> Value {
    json!({
        "iss": ISSUER, "sub": "subject", "aud": "https://mcp.example.com/mcp", "exp": 2_000, "iat": 1_000, "jti": "jti",
        "client_id": "client", "sid": "0".repeat(32), "scope": "mcp",
    })
}

/// Signs arbitrary text with the first key of a ring.
fn signed(ring: &SigningRing, header: &str, claims: &str) -> String {
    let message = [header, claims].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part)).join(".");
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &ring.keys[0].signing, Algorithm::ES256).unwrap();
    format!("{message}.{signature}")
}

fn with(mut base: Value, changes: &Value) -> String {
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            base.as_object_mut().unwrap().remove(name);
        } else {
            base[name] = value.clone();
        }
    }
    base.to_string()
}

#[test]
fn c4_header_cannot_make_a_foreign_signature_valid() {
    let (ours, theirs) = (ring(), ring());
    let key = &theirs.keys[0].jwk;
    for change in [
        json!({}),
        json!({"kid": key.kid, "jwk": key}),
        json!({"jwk": key}),
        json!({"jku": "https://evil.example.com/jwks"}),
        json!({"x5u": "https://evil.example.com/cert", "kid": "https://evil.example.com/jwks"}),
        json!({"kid": "../../../../dev/null"}),
        json!({"kid": "' OR '1'='1"}),
        json!({"kid": ""}),
        json!({"kid": null}),
        json!({"kid": ["a"]}),
        json!({"alg": "none"}),
        json!({"alg": "EdDSA"}),
        json!({"b64": false, "crit": ["b64"]}),
        json!({"zip": "DEF", "x": "a".repeat(60_000)}),
    ] {
        let token = signed(&theirs, &header(&ours, &change), &claims().to_string());
        assert!(check(&ours, &token, NOW).is_err(), "{change}");
    }
}

#[test]
fn c4_missing_signature_or_hmac_with_the_public_key_is_rejected() {
    let ring = ring();
    let claims = BASE64_URL_SAFE_NO_PAD.encode(claims().to_string());
    let (x, y) = (&*ring.keys[0].jwk.x, &*ring.keys[0].jwk.y);
    for algorithm in ["none", "None", "NONE", "HS256", "ES256"] {
        let header = BASE64_URL_SAFE_NO_PAD.encode(header(&ring, &json!({"alg": algorithm})));
        let message = format!("{header}.{claims}");
        // Algorithm confusion: a server that trusts `alg` uses the public key as the shared secret.
        for secret in [x.as_bytes(), y.as_bytes(), &*serde_json::to_vec(&ring.keys[0].jwk).unwrap()] {
            let key = EncodingKey::from_secret(secret);
            let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
            for token in [format!("{message}.{signature}"), format!("{message}."), message.clone()] {
                assert!(check(&ring, &token, NOW).is_err(), "{algorithm}");
            }
        }
    }
}

#[test]
fn c4_signed_token_of_another_type_is_no_access_token() {
    let ring = ring();
    let verify = |headers: &Value, changes: &Value| {
        let token = signed(&ring, &header(&ring, headers), &with(claims(), changes));
        check(&ring, &token, NOW)
    };
    assert!(verify(&json!({}), &json!({})).is_ok());
    for headers in [
        json!({"typ": "JWT"}),
        json!({"typ": "id+jwt"}),
        json!({"typ": null}),
        json!({"typ": "at+jwt ", "cty": "at+jwt"}),
        json!({"alg": "ES384"}),
        json!({"crit": ["exp"]}),
        json!({"crit": []}),
        // An equivalent header with other bytes.
        json!({"typ": "AT+JWT"}),
        json!({"kid": ring.keys[0].jwk.kid}),
    ] {
        assert!(verify(&headers, &json!({})).is_err(), "{headers}");
    }
    for changes in [
        json!({"iss": "https://mcp.example.com/"}),
        json!({"iss": "https://evil.example.com"}),
        json!({"iss": ["https://mcp.example.com"]}),
        json!({"iss": null}),
        json!({"sub": null}),
        json!({"aud": null}),
        json!({"aud": ["https://mcp.example.com/mcp", "https://evil.example.com"]}),
        json!({"exp": null}),
        // CVE-2026-25537: a time given as a string was ignored, so the token did not expire.
        json!({"exp": "1"}),
        json!({"exp": "2000"}),
        json!({"exp": -1}),
        json!({"exp": 1e300}),
        json!({"iat": null}),
        json!({"client_id": null}),
        json!({"sid": null}),
    ] {
        assert!(verify(&json!({}), &changes).is_err(), "{changes}");
    }
    let twice = claims().to_string().replacen('{', "{\"sub\":\"another\",", 1);
    assert!(check(&ring, &signed(&ring, &header(&ring, &json!({})), &twice), NOW).is_err());
    let twice = header(&ring, &json!({})).replacen('{', "{\"typ\":\"JWT\",", 1);
    assert!(check(&ring, &signed(&ring, &twice, &claims().to_string()), NOW).is_err());
}

#[test]
fn c5_token_is_valid_from_iat_with_leeway_until_exp() {
    let ring = ring();
    let token = signed(&ring, &header(&ring, &json!({})), &claims().to_string());
    for (now, good) in
        [(0, false), (989, false), (990, true), (1_000, true), (1_999, true), (2_000, false), (u64::MAX, false)]
    {
        assert_eq!(check(&ring, &token, now).is_ok(), good, "{now}");
    }
}
