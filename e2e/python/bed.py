"""The common part of the clients with Python SDK 1.x and 2.x: log in with the test's help and call a tool.

    python client_N.py URL STORE REDIRECT_URI TOOL ARGUMENTS [expire]

Speaks JSON lines: prints {"authorize": url} to request a login and reads the browser's final URL from standard input; at
the end prints {"tools": [...], "text": [...], "error": bool}. The file STORE keeps registration and tokens between runs.
With `expire`, the tool is called once more with an expired access token.
"""

import asyncio
import json
import sys
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from mcp.shared.auth import OAuthClientInformationFull, OAuthClientMetadata, OAuthToken


class Store:
    """The SDK's TokenStorage, stored in a file."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def _read(self) -> dict:
        return json.loads(self.path.read_text()) if self.path.exists() else {}

    def _write(self, key: str, value) -> None:
        self.path.write_text(json.dumps({**self._read(), key: value.model_dump(mode="json", exclude_none=True)}))

    async def get_tokens(self) -> OAuthToken | None:
        stored = self._read().get("tokens")
        return OAuthToken.model_validate(stored) if stored else None

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self._write("tokens", tokens)

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        stored = self._read().get("client")
        return OAuthClientInformationFull.model_validate(stored) if stored else None

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self._write("client", client_info)


class Bed:
    """The arguments of the client, and its communication with the test."""

    def __init__(self) -> None:
        self.url, store, redirect_uri, self.tool, arguments, *rest = sys.argv[1:]
        self.arguments = json.loads(arguments)
        self.expires = rest == ["expire"]
        self.store = Store(store)
        self.metadata = OAuthClientMetadata(
            client_name="Python SDK",
            redirect_uris=[redirect_uri],
            grant_types=["authorization_code", "refresh_token"],
            response_types=["code"],
        )

    async def redirect(self, url: str) -> None:
        self._send({"authorize": url})

    async def redirect_query(self) -> dict[str, str]:
        """The query parameters of the browser's final URL."""
        line = await asyncio.to_thread(sys.stdin.readline)
        query = parse_qs(urlsplit(line.strip()).query)
        if "code" not in query:
            raise RuntimeError(f"the login ended at {line.strip()}")
        return {key: values[0] for key, values in query.items()}

    def expire(self, auth) -> None:
        """Expires the access token, for the SDK and for the server."""
        auth.context.token_expiry_time = 1
        auth.context.current_tokens.access_token = "not-a-token"

    def report(self, tools, result, error) -> None:
        text = [part.text for part in result.content if part.type == "text"]
        self._send({"tools": [found.name for found in tools.tools], "text": text, "error": bool(error)})

    def _send(self, message: dict) -> None:
        print(json.dumps(message), flush=True)
