"""A real MCP server on the official Python package, for the suites: a few tools, a bearer token if one is asked for,
and a journal of what reached it. Run as a program; it says where it listens."""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import time
from pathlib import Path
from typing import Any

import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from mcp_types import ToolAnnotations
from starlette.datastructures import Headers
from starlette.responses import JSONResponse

READ_ONLY = ToolAnnotations(readOnlyHint=True)


class Journal:
    """What happened, one JSON object a line, written before anything is answered."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, kind: str, **fields: Any) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps({"kind": kind, "at": time.time(), **fields}) + "\n")


def tools(journal: Journal) -> MCPServer:
    server = MCPServer(name="notes", version="1", log_level="ERROR")
    notes = {"garden": "water the beans", "cellar": "the third key fits"}

    @server.tool(annotations=READ_ONLY)
    def find_note(topic: str) -> str:
        """Finds a note by its topic."""
        journal.write("call", tool="find_note", topic=topic)
        return notes.get(topic, "there is no such note")

    @server.tool()
    def add_note(topic: str, text: str) -> str:
        """Writes a note down."""
        journal.write("call", tool="add_note", topic=topic)
        notes[topic] = text
        return f"noted {topic}"

    async def wait(tool: str, seconds: float) -> str:
        journal.write("call", tool=tool)
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            journal.write("cancelled", tool=tool)
            raise
        journal.write("done", tool=tool)
        return "waited"

    @server.tool(annotations=READ_ONLY)
    async def slow_read(seconds: float) -> str:
        """Takes its time and only reads."""
        return await wait("slow_read", seconds)

    @server.tool()
    async def slow_write(seconds: float) -> str:
        """Takes its time and changes something."""
        return await wait("slow_write", seconds)

    @server.tool(annotations=READ_ONLY)
    def long_text(characters: int) -> str:
        """Gives a long text."""
        journal.write("call", tool="long_text")
        return "0123456789" * (characters // 10)

    @server.tool(annotations=READ_ONLY)
    def broken() -> str:
        """Always fails."""
        journal.write("call", tool="broken")
        raise ValueError("the cupboard is locked")

    @server.tool(annotations=READ_ONLY)
    async def progressing(ctx: Context) -> str:
        """Tells how far it is before it answers."""
        for step in range(3):
            await ctx.report_progress(step, 3)
        return "arrived"

    return server


class Door:
    """Lets in who carries the token, and writes the headers down that matter."""

    def __init__(self, app: Any, journal: Journal, token_file: Path | None) -> None:
        self.app, self.journal, self.token_file = app, journal, token_file

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        self.journal.write(
            "request",
            method=scope["method"],
            mcp_method=headers.get("mcp-method"),
            authorization=headers.get("authorization"),
            identity=headers.get("outwork-agent-identity"),
        )
        if self.token_file is not None and headers.get("authorization") != f"Bearer {self.token_file.read_text().strip()}":
            refusal = JSONResponse({"error": "invalid_token"}, 401, {"www-authenticate": 'Bearer error="invalid_token"'})
            await refusal(scope, receive, send)
            return
        await self.app(scope, receive, send)


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--journal", type=Path, required=True)
    parser.add_argument("--token-file", type=Path, help="the bearer token that is asked for; read at each request")
    arguments = parser.parse_args()

    journal = Journal(arguments.journal)
    # The socket is bound here: the port is known, and taken, before the server starts.
    listener = socket.create_server((arguments.host, arguments.port), backlog=64)
    app = tools(journal).streamable_http_app(host=arguments.host)
    config = uvicorn.Config(Door(app, journal, arguments.token_file), log_level="error", timeout_graceful_shutdown=1)
    print(f"mcp: listening on http://{arguments.host}:{listener.getsockname()[1]}/mcp", flush=True)
    await uvicorn.Server(config).serve(sockets=[listener])


if __name__ == "__main__":
    asyncio.run(main())
