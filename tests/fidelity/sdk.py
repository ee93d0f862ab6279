"""One session through the Python SDK 2.x, as its users write it; prints what they see.

sdk.py PLAN: the plan names the server, the calls and the mode (auto, legacy, 2026-07-28).
"""

import asyncio
import json
import sys

import mcp_types as types
from mcp import Client
from mcp.client.stdio import StdioServerParameters

plan = json.load(open(sys.argv[1], encoding="utf-8"))
notices = []


def plain(value):
    return value.model_dump(mode="json", by_alias=True) if hasattr(value, "model_dump") else value


def say(what, value):
    print(json.dumps([what, plain(value)]), flush=True)


async def step(what, run):
    try:
        say(what, await run())
    except Exception as error:  # what a user's program would see
        say(what, {"error": type(error).__name__, "message": str(error)})


async def roots(context):
    return types.ListRootsResult(roots=[types.Root(uri=f"file://{plan['cwd']}", name="work")])


async def sampling(context, params):
    return types.CreateMessageResult(
        role="assistant", model="none", content=types.TextContent(type="text", text="yes")
    )


async def elicitation(context, params):
    return types.ElicitResult(action="accept", content={"name": "Ada"})


async def logging(params):
    notices.append(json.dumps(plain(params), sort_keys=True))


async def main():
    server = StdioServerParameters(
        command=plan["command"], args=plan["args"], env=plan["env"], cwd=plan["cwd"]
    )
    client = Client(
        server, mode=plan["mode"], read_timeout_seconds=60, sampling_callback=sampling,
        list_roots_callback=roots, elicitation_callback=elicitation, logging_callback=logging, cache=None,
    )
    async with client:
        say("version", client.protocol_version)
        say("server", client.server_info)
        say("capabilities", client.server_capabilities)
        await asyncio.sleep(0.6)
        await step("tools", client.list_tools)
        await step("resources", client.list_resources)
        await step("templates", client.list_resource_templates)
        await step("prompts", client.list_prompts)
        for call in plan["calls"]:
            progress = []

            async def told(amount, total, message):
                progress.append([amount, total, message])

            await step(call["name"], lambda: client.call_tool(call["name"], call["arguments"], progress_callback=told))
            say("progress", progress)
        for uri in plan["resources"]:
            await step(uri, lambda: client.read_resource(uri))
        for prompt in plan["prompts"]:
            await step(prompt["name"], lambda: client.get_prompt(prompt["name"], prompt["arguments"]))
        for one in plan["completions"]:
            ref = types.PromptReference(type="ref/prompt", name=one["ref"]["name"])
            await step("complete", lambda: client.complete(ref, one["argument"]))
        await step("no-such-tool", lambda: client.call_tool("no-such-tool", {}))
        slow = {"fixture": ("sleep", {"ms": 3000}), "everything": ("trigger-long-running-operation", {"duration": 2, "steps": 1})}
        if plan["server"] in slow:
            name, arguments = slow[plan["server"]]
            with_timeout = lambda: asyncio.wait_for(client.call_tool(name, arguments), 0.2)
            await step("cancel", with_timeout)
        if plan["mode"] == "legacy":
            await step("ping", client.send_ping)
            for uri in plan["resources"][:1]:
                await step("subscribe", lambda: client.subscribe_resource(uri))
                await step("unsubscribe", lambda: client.unsubscribe_resource(uri))
        await step("tools again", client.list_tools)
    say("notices", sorted(notices))


asyncio.run(main())
