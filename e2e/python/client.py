"""An MCP client of the Python SDK that logs in with its bed's help and calls one tool.

    python client.py URL STORE REDIRECT_URI TOOL ARGUMENTS

Speaks JSON lines: prints {"authorize": url} when a person must log in and reads the address at which the browser arrived
from standard input; at the end prints {"tools": [...], "text": [...], "error": bool}. STORE, a file, keeps the client's
registration and its tokens over runs.
"""

import asyncio
import json
import sys
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from mcp.client import Client
from mcp.client.auth import OAuthClientProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from mcp.shared.auth import AuthorizationCodeResult, OAuthClientInformationFull, OAuthClientMetadata, OAuthToken


class Store:
    """The SDK's TokenStorage in a file."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def _read(self) -> dict:
        return json.loads(self.path.read_text()) if self.path.exists() else {}

    def _write(self, key: str, value) -> None:
        self.path.write_text(json.dumps({**self._read(), key: value.model_dump(mode="json", exclude_none=True)}))

    async def get_tokens(self) -> OAuthToken | None:
        kept = self._read().get("tokens")
        return OAuthToken.model_validate(kept) if kept else None

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self._write("tokens", tokens)

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        kept = self._read().get("client")
        return OAuthClientInformationFull.model_validate(kept) if kept else None

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self._write("client", client_info)


def say(message: dict) -> None:
    print(json.dumps(message), flush=True)


async def redirect(url: str) -> None:
    say({"authorize": url})


async def arrived() -> AuthorizationCodeResult:
    line = await asyncio.to_thread(sys.stdin.readline)
    query = parse_qs(urlsplit(line.strip()).query)
    if "code" not in query:
        raise RuntimeError(f"the login ended at {line.strip()}")
    first = {key: values[0] for key, values in query.items()}
    return AuthorizationCodeResult(code=first["code"], state=first.get("state"), iss=first.get("iss"))


async def main(url: str, store: str, redirect_uri: str, tool: str, arguments: str) -> None:
    metadata = OAuthClientMetadata(
        client_name="Python SDK",
        redirect_uris=[redirect_uri],
        grant_types=["authorization_code", "refresh_token"],
        response_types=["code"],
    )
    auth = OAuthClientProvider(url, metadata, Store(store), redirect_handler=redirect, callback_handler=arrived)
    async with create_mcp_http_client(auth=auth) as http:
        async with Client(streamable_http_client(url, http_client=http)) as client:
            tools = [found.name for found in (await client.list_tools()).tools]
            result = await client.call_tool(tool, json.loads(arguments))
            text = [part.text for part in result.content if part.type == "text"]
            say({"tools": tools, "text": text, "error": bool(result.is_error)})


asyncio.run(main(*sys.argv[1:]))
