"""An MCP server that wants a bearer token, and the authorization server that gives these out, on loopback."""

from __future__ import annotations

import json
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Upstream:
    """Both servers. `access_token` is what the MCP server takes, `refresh_token` what serves once for another one."""

    def __init__(self) -> None:
        self.access_token = ""
        self.refresh_token = ""
        self.forms: list[dict[str, str]] = []
        self.authorizations: list[str | None] = []
        self.methods: list[str] = []
        upstream = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                status, answer = upstream._token(self, body) if self.path == "/token" else upstream._mcp(self, body)
                text = json.dumps(answer).encode() if answer is not None else b""
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def _token(self, request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, Any]:
        form = dict(urllib.parse.parse_qsl(body.decode()))
        self.forms.append(form)
        self.authorizations.append(request.headers.get("authorization"))
        if form.get("grant_type") != "refresh_token" or form.get("refresh_token") != self.refresh_token:
            return 400, {"error": "invalid_grant", "error_description": f"unknown: {form.get('refresh_token')}"}
        count = len(self.forms)
        self.access_token, self.refresh_token = f"granted-{count}", f"rotated-{count}"
        return 200, {
            "access_token": self.access_token,
            "refresh_token": self.refresh_token,
            "token_type": "Bearer",
            "expires_in": 3600,
        }

    def _mcp(self, request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, Any]:
        if request.headers.get("authorization") != f"Bearer {self.access_token}":
            return 401, {"error": "unauthorized"}
        message = json.loads(body)
        self.methods.append(message["method"])
        if "id" not in message:
            return 202, None
        return 200, {"jsonrpc": "2.0", "id": message["id"], "result": {}}

    def __enter__(self) -> Upstream:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
