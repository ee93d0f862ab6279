"""An MCP server of the official Python SDK on HTTP: `python listening.py PORT`."""

import sys

from mcp.server.mcpserver import MCPServer

server = MCPServer("listening")


@server.tool()
def echo(message: str) -> str:
    return "Echo: " + message


server.run("streamable-http", host="127.0.0.1", port=int(sys.argv[1]))
