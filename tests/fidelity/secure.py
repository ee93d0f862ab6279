"""Sessions over HTTPS through the Python SDK 2.x, as its users write them; prints what they see.

secure.py PLAN: the plan names the URL, the call, the mode (auto, legacy, 2026-07-28) and the ways in.
Whom to trust is said by $SSL_CERT_FILE.
"""

import asyncio
import json
import ssl
import sys

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

plan = json.load(open(sys.argv[1], encoding="utf-8"))


def http(way, wire):
    context = ssl.create_default_context()
    if "certificate" in way:
        context.load_cert_chain(way["certificate"] + ".crt", way["certificate"] + ".key")
    headers = {"Authorization": f"Bearer {way['bearer']}"} if "bearer" in way else {}
    async def seen(response):
        wire.update(status=response.status_code, challenge=response.headers.get("www-authenticate"))

    return httpx2.AsyncClient(verify=context, headers=headers, timeout=20, event_hooks={"response": [seen]})


def causes(error):
    """What an error is made of: groups opened, and what each was raised from."""
    if isinstance(error, BaseExceptionGroup):
        return [one for inner in error.exceptions for one in causes(inner)]
    source = error.__cause__ or error.__context__
    rest = causes(source) if source else []
    return [{"name": type(error).__name__, "code": getattr(error, "code", None), "message": str(error)}, *rest]


async def session(way, wire):
    progress = []

    async def told(amount, total, message):
        progress.append(amount)

    async with http(way, wire) as web:
        transport = streamable_http_client(plan["url"], http_client=web)
        async with Client(transport, mode=plan["mode"], read_timeout_seconds=60, cache=None) as client:
            tools = (await client.list_tools()).tools
            call = plan["call"]
            result = await client.call_tool(call["name"], call["arguments"], progress_callback=told)
            return {
                # Whoever is pinned to a revision without a handshake has not asked.
                "server": client.server_info.name if client.server_info else None, "tools": [tool.name for tool in tools],
                "text": result.content[0].text, "progress": len(progress), "version": client.protocol_version,
            }


async def main():
    for way in plan["ways"]:
        wire = {}
        try:
            seen = await session(way, wire)
        except Exception as error:  # what a user's program would see
            seen = {"errors": causes(error), **wire}
        print(json.dumps({"way": way["name"], **seen}), flush=True)


asyncio.run(main())
