"""The servers of the test's internet, in one process: a name server, HTTP of every version with WebSocket, a package index for
pip and one for npm, a Git host, gRPC. They write down what reaches them.

`python origin.py FOLDER`: the folder has `setup.json`, the servers' certificate and key, packages and repositories."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import os
import socket
import struct
import sys
import zlib
from pathlib import Path
from typing import Any, Callable

import grpc
from hypercorn.asyncio import serve
from hypercorn.config import Config

FOLDER = Path(sys.argv[1]) if len(sys.argv) > 1 else Path()
SETUP: dict[str, Any] = json.loads((FOLDER / "setup.json").read_text()) if len(sys.argv) > 1 else {}
_JOURNAL = open(FOLDER / "journal", "a", buffering=1) if len(sys.argv) > 1 else None  # noqa: SIM115: as long as the process


def note(kind: str, **fields: Any) -> None:
    assert _JOURNAL is not None
    _JOURNAL.write(json.dumps({"kind": kind, **fields}) + "\n")


# Names


def name_answer(query: bytes) -> bytes:
    labels, at = [], 12
    while length := query[at]:
        labels.append(query[at + 1 : at + 1 + length].decode("latin-1"))
        at += 1 + length
    (number,) = struct.unpack(">H", query[at + 1 : at + 3])
    question = query[12 : at + 5]
    name = ".".join(labels)
    note("name", name=name, type=number)
    known = SETUP["zone"].get(name.lower())
    records = (known or {}).get(str(number), [])
    head = query[:2] + struct.pack(">HHHHH", 0x8180 if known is not None else 0x8183, 1, len(records), 0, 0)
    answers = b""
    for record in records:
        data = bytes.fromhex(record)
        answers += b"\xc0\x0c" + struct.pack(">HHIH", number, 1, 5, len(data)) + data
    return head + question + answers


class Names(asyncio.DatagramProtocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, peer: Any) -> None:
        self.transport.sendto(name_answer(data), peer)


# The secret, as a server may say it again

ENCODINGS: dict[str, Callable[[bytes], bytes]] = {
    "raw": lambda secret: secret,
    "base64": base64.b64encode,
    "base64-1": lambda secret: base64.b64encode(b"x" + secret),
    "base64-2": lambda secret: base64.b64encode(b"xy" + secret + b"z"),
    "base64url": lambda secret: base64.urlsafe_b64encode(b"??>" + secret),
    "hex": lambda secret: secret.hex().encode(),
    "HEX": lambda secret: secret.hex().upper().encode(),
    "percent": lambda secret: "".join(f"%{byte:02X}" for byte in secret).encode(),
    "json": lambda secret: "".join(f"\\u{byte:04x}" for byte in secret).encode(),
    "reversed": lambda secret: secret[::-1],
}


async def body_of(receive: Any) -> bytes:
    body = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return body
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body


class Reply:
    """One answer."""

    def __init__(self, send: Any) -> None:
        self._send = send

    async def head(self, status: int, headers: dict[str, str]) -> None:
        pairs = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": pairs})

    async def piece(self, data: bytes, more: bool = True) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": more})

    async def whole(self, data: bytes, kind: str = "text/plain", status: int = 200, **headers: str) -> None:
        await self.head(status, {"content-type": kind, "content-length": str(len(data)), **headers})
        await self.piece(data, more=False)


def presented(headers: dict[str, str]) -> bytes:
    """The credential of a request, without its scheme."""
    scheme, _, rest = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        return base64.b64decode(rest).partition(b":")[2]
    return rest.encode()


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        return await send({"type": "lifespan.shutdown.complete"})
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    host = headers.get("host", headers.get(":authority", "")).split(":")[0]
    seen = {
        "host": host,
        "path": scope["path"],
        "query": scope["query_string"].decode("latin-1"),
        "headers": headers,
        "version": scope["http_version"],
        "address": (scope.get("server") or ["", 0])[0],
        "scheme": scope["scheme"],
    }
    if scope["type"] == "websocket":
        note("websocket", **seen)
        return await talk(receive, send)
    body = await body_of(receive)
    if headers.get("content-encoding") == "gzip":
        seen["plain"] = gzip.decompress(body).decode("latin-1")
    seen |= {"method": scope["method"], "body": body.decode("latin-1")}
    note("request", **seen)
    reply = Reply(send)
    words = scope["path"].strip("/").split("/")
    if host.startswith("hang"):
        # For ever: until the other side is gone.
        while (await receive())["type"] != "http.disconnect":
            pass
        return
    match words:
        case ["said", encoding]:
            await reply.whole(b"<" + ENCODINGS[encoding](presented(headers)) + b">")
        case ["packed", "gzip"]:
            await reply.whole(gzip.compress(b"<" + presented(headers) + b">"), **{"content-encoding": "gzip"})
        case ["packed", "deflate"]:
            await reply.whole(zlib.compress(b"<" + presented(headers) + b">"), **{"content-encoding": "deflate"})
        case ["pieces"]:
            await reply.head(200, {"content-type": "text/plain"})
            for byte in b"<" + presented(headers) + b">":
                await reply.piece(bytes([byte]))
                await asyncio.sleep(0)
            await reply.piece(b"", more=False)
        case ["slow"]:
            await reply.head(200, {"content-type": "text/plain"})
            for byte in b"<" + presented(headers) + b">":
                await reply.piece(bytes([byte]))
                await asyncio.sleep(0.01)
            await reply.piece(b"", more=False)
        case ["in-header"]:
            await reply.whole(b"see the header", **{"x-said": presented(headers).decode("latin-1")})
        case ["away"]:
            await reply.whole(b"", status=302, location=base64.urlsafe_b64decode(seen["query"]).decode())
        case ["large"]:
            await reply.whole(b"x" * (4 << 20))
        case _ if host.startswith(("pypi", "files.pythonhosted")):
            await package_index(reply, host, words, headers)
        case _ if host.startswith(("npm", "registry")):
            await npm_registry(reply, host, words, headers)
        case _ if host.startswith("git"):
            await git_host(reply, scope, headers, body)
        case _:
            await reply.whole(json.dumps(seen).encode(), "application/json")


async def talk(receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        said = message.get("text") or (message.get("bytes") or b"").decode("latin-1")
        note("frame", text=said)
        await send({"type": "websocket.send", "text": f"echo {said}"})


# Packages


def is_private(host: str) -> bool:
    return host.endswith(".test.example")


async def refuse_unknown(reply: Reply, host: str, headers: dict[str, str]) -> bool:
    if is_private(host) and presented(headers).decode() not in SETUP["secrets"]:
        await reply.whole(b"who are you?", status=401, **{"www-authenticate": 'Basic realm="packages"'})
        return True
    return False


async def package_index(reply: Reply, host: str, words: list[str], headers: dict[str, str]) -> None:
    if await refuse_unknown(reply, host, headers):
        return
    wheel = SETUP["wheel"]
    files = "https://files.pythonhosted.org" if not is_private(host) else f"https://{host}"
    match words:
        case ["simple", "greeting"]:
            await reply.whole(f'<a href="{files}/files/{wheel}">{wheel}</a>'.encode(), "text/html")
        case ["files", name] if name == wheel:
            await reply.whole((FOLDER / wheel).read_bytes(), "application/octet-stream")
        case _:
            await reply.whole(b"no such package", status=404)


async def npm_registry(reply: Reply, host: str, words: list[str], headers: dict[str, str]) -> None:
    if await refuse_unknown(reply, host, headers):
        return
    match words:
        case ["greeting"]:
            dist = {"tarball": f"https://{host}/greeting/-/greeting-1.0.0.tgz", "integrity": SETUP["integrity"]}
            version = {"name": "greeting", "version": "1.0.0", "dist": dist}
            document = {"name": "greeting", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}}
            await reply.whole(json.dumps(document).encode(), "application/json")
        case ["greeting", "-", "greeting-1.0.0.tgz"]:
            await reply.whole((FOLDER / "greeting-1.0.0.tgz").read_bytes(), "application/octet-stream")
        case _:
            await reply.whole(b"{}", "application/json", 404)


# Git


async def git_host(reply: Reply, scope: Any, headers: dict[str, str], body: bytes) -> None:
    if presented(headers).decode() not in SETUP["secrets"]:
        return await reply.whole(b"who are you?", status=401, **{"www-authenticate": 'Basic realm="git"'})
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(FOLDER),
        "GIT_PROJECT_ROOT": str(FOLDER / "repositories"),
        "GIT_HTTP_EXPORT_ALL": "1",
        "REMOTE_USER": "somebody",
        "REQUEST_METHOD": scope["method"],
        "PATH_INFO": scope["path"],
        "QUERY_STRING": scope["query_string"].decode(),
        "CONTENT_TYPE": headers.get("content-type", ""),
        "HTTP_CONTENT_ENCODING": headers.get("content-encoding", ""),
        "HTTP_GIT_PROTOCOL": headers.get("git-protocol", ""),
        "CONTENT_LENGTH": str(len(body)),
    }
    pipe = asyncio.subprocess.PIPE
    backend = await asyncio.create_subprocess_exec("git", "http-backend", env=environment, stdin=pipe, stdout=pipe)
    out, _ = await backend.communicate(body)
    head, _, rest = out.partition(b"\r\n\r\n")
    fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
    status = int(fields.pop("Status", "200").split(" ")[0])
    await reply.head(status, {name.lower(): value for name, value in fields.items()})
    await reply.piece(rest, more=False)


# gRPC


class Notes(grpc.GenericRpcHandler):
    """One method that answers with what it was asked and who asks, and one that says it three times."""

    def service(self, details: Any) -> Any:
        metadata = {key: str(value) for key, value in details.invocation_metadata}
        note("grpc", method=details.method, metadata=metadata)

        def once(request: bytes, context: Any) -> bytes:
            note("message", text=request.decode("latin-1"))
            context.set_trailing_metadata((("said", metadata.get("authorization", "")),))
            return b"echo " + request + b" from " + metadata.get("authorization", "").encode()

        def thrice(request: bytes, context: Any) -> Any:
            for _ in range(3):
                yield once(request, context)

        if details.method.endswith("/Once"):
            return grpc.unary_unary_rpc_method_handler(once)
        return grpc.unary_stream_rpc_method_handler(thrice)


def serve_grpc() -> Any:
    from concurrent.futures import ThreadPoolExecutor

    server = grpc.server(ThreadPoolExecutor(4), handlers=[Notes()])
    pair = ((FOLDER / "key.pem").read_bytes(), (FOLDER / "cert.pem").read_bytes())
    server.add_secure_port(f"{SETUP['grpc']}:443", grpc.ssl_server_credentials([pair]))
    server.start()
    return server


async def main() -> None:
    loop = asyncio.get_running_loop()
    # The sandbox's machine asks the first one; the others are there for those who look for one of their own.
    for address in ("127.0.0.53", "8.8.8.8", "9.9.9.9"):
        names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        names.bind((address, 53))
        await loop.create_datagram_endpoint(Names, sock=names)
    grpc_server = serve_grpc()
    config = Config()
    config.bind = [f"{address}:443" for address in SETUP["https"]]
    config.insecure_bind = ["0.0.0.0:80"]
    config.certfile, config.keyfile = str(FOLDER / "cert.pem"), str(FOLDER / "key.pem")
    config.accesslog = None
    config.errorlog = None
    config.keep_alive_timeout = 60
    # Its end of a connection after the thousandth request comes before the answer to it.
    config.keep_alive_max_requests = 1 << 30

    async def ready() -> None:
        while True:
            try:
                _, writer = await asyncio.open_connection(SETUP["https"][0], 443)
                writer.close()
                break
            except OSError:
                await asyncio.sleep(0.01)
        print("origin: listening", flush=True)

    task = asyncio.ensure_future(ready())
    await serve(app, config)
    await task
    grpc_server.stop(None)


if __name__ == "__main__":
    asyncio.run(main())
