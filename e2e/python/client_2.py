"""A client with the Python SDK 2.x: see bed.py."""

import asyncio

from bed import Bed
from mcp.client import Client
from mcp.client.auth import OAuthClientProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from mcp.shared.auth import AuthorizationCodeResult


async def main(bed: Bed) -> None:
    async def callback() -> AuthorizationCodeResult:
        query = await bed.redirect_query()
        return AuthorizationCodeResult(code=query["code"], state=query.get("state"), iss=query.get("iss"))

    auth = OAuthClientProvider(
        bed.url, bed.metadata, bed.store, redirect_handler=bed.redirect, callback_handler=callback
    )
    async with create_mcp_http_client(auth=auth) as http:
        async with Client(streamable_http_client(bed.url, http_client=http)) as client:
            tools = await client.list_tools()
            result = await client.call_tool(bed.tool, bed.arguments)
            if bed.expires:
                bed.expire(auth)
                result = await client.call_tool(bed.tool, bed.arguments)
            bed.report(tools, result, result.is_error)


asyncio.run(main(Bed()))
