use http::{HeaderMap, HeaderName, HeaderValue};

use crate::crypto::{Keyring, Purpose};

const MCP_SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");

/// Characters of the MAC in an id: 132 bits.
const MAC_LEN: usize = 22;

/// The MCP session of a request belongs to another user, or its id has no valid MAC.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ForeignMcpSession;

/// Binds the upstream's MCP session id in a response to the user with a MAC, so that no other user can use it. Nothing is stored.
/// An id that cannot be bound is removed.
pub fn bind(keyring: &Keyring, user: &str, headers: &mut HeaderMap) {
    let Some(id) = headers.remove(MCP_SESSION_ID) else { return };
    let bound = [id.as_bytes(), b".", mac(keyring, user, id.as_bytes()).as_bytes()].concat();
    if let Ok(bound) = HeaderValue::from_bytes(&bound) {
        headers.insert(MCP_SESSION_ID, bound);
    }
}

/// Checks that the MCP session of a request belongs to the user, and restores the upstream's id.
pub fn unbind(keyring: &Keyring, user: &str, headers: &mut HeaderMap) -> Result<(), ForeignMcpSession> {
    let mut values = headers.get_all(MCP_SESSION_ID).iter();
    let Some(bound) = values.next() else { return Ok(()) };
    if values.next().is_some() {
        return Err(ForeignMcpSession);
    }
    let dot = bound.len().checked_sub(MAC_LEN + 1).ok_or(ForeignMcpSession)?;
    let (id, tag) = bound.as_bytes().split_at(dot);
    let (dot, tag) = tag.split_at(1);
    let parts = [id, user.as_bytes()];
    if dot != b"." || !keyring.verify_mac_start(Purpose::McpSessionId, &parts, tag, MAC_LEN) {
        return Err(ForeignMcpSession);
    }
    let id = HeaderValue::from_bytes(id).map_err(|_| ForeignMcpSession)?;
    headers.insert(MCP_SESSION_ID, id);
    Ok(())
}

fn mac(keyring: &Keyring, user: &str, id: &[u8]) -> String {
    let mut mac = keyring.mac_text(Purpose::McpSessionId, &[id, user.as_bytes()]);
    mac.truncate(MAC_LEN);
    mac
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::keyring;

    fn headers(id: &str) -> HeaderMap {
        HeaderMap::from_iter([(MCP_SESSION_ID, id.parse().unwrap())])
    }

    #[test]
    fn mcp_session_id_works_for_its_user() {
        let keyring = keyring();
        let mut headers = headers("a.b");
        bind(&keyring, "ada", &mut headers);
        assert_ne!(headers[MCP_SESSION_ID], "a.b");
        unbind(&keyring, "ada", &mut headers).unwrap();
        assert_eq!(headers[MCP_SESSION_ID], "a.b");
    }

    #[test]
    fn c11_mcp_session_id_of_another_user_or_without_mac_is_rejected() {
        let keyring = keyring();
        let mut given = headers("id");
        bind(&keyring, "ada", &mut given);
        assert_eq!(unbind(&keyring, "eve", &mut given.clone()), Err(ForeignMcpSession));
        for forged in ["id", "", ".", "id.AAAAAAAAAAAAAAAAAAAAAA", "AAAAAAAAAAAAAAAAAAAAAAAAAAA"] {
            assert_eq!(unbind(&keyring, "ada", &mut headers(forged)), Err(ForeignMcpSession), "{forged}");
        }
        given.append(MCP_SESSION_ID, "id".parse().unwrap());
        assert_eq!(unbind(&keyring, "ada", &mut given), Err(ForeignMcpSession));
    }

    #[test]
    fn request_without_mcp_session_id_passes() {
        assert_eq!(unbind(&keyring(), "ada", &mut HeaderMap::new()), Ok(()));
    }
}
