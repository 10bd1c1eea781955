"""A client with the Python SDK 1.x: see bed.py."""

import asyncio

from bed import Bed
from mcp import ClientSession
from mcp.client.auth import OAuthClientProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client


async def main(bed: Bed) -> None:
    async def callback() -> tuple[str, str | None]:
        query = await bed.redirect_query()
        return query["code"], query.get("state")

    auth = OAuthClientProvider(bed.url, bed.metadata, bed.store, redirect_handler=bed.redirect, callback_handler=callback)
    async with create_mcp_http_client(auth=auth) as http:
        async with streamable_http_client(bed.url, http_client=http) as (receive, send, _):
            async with ClientSession(receive, send) as client:
                await client.initialize()
                tools = await client.list_tools()
                result = await client.call_tool(bed.tool, bed.arguments)
                if bed.expires:
                    bed.expire(auth)
                    result = await client.call_tool(bed.tool, bed.arguments)
                bed.report(tools, result, result.isError)


asyncio.run(main(Bed()))
