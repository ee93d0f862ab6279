"""A server on the Python SDK: `safe` answers, `danger` writes its argument to the file that is named."""

import sys

from mcp.server.mcpserver import MCPServer

server = MCPServer("danger")


@server.tool()
def danger(a: str = "") -> str:
    with open(sys.argv[1], "a", encoding="utf-8") as file:
        file.write(f"{a}\n")
    return "done"


@server.tool()
def safe(a: str = "") -> str:
    return f"safe {a}"


server.run("stdio")
