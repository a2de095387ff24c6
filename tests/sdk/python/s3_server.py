"""A small S3-compatible store on loopback: objects in memory, with the calls that a client makes to write one whole or
in parts, to read it and to delete it. It looks at signatures only so far as to see that there is one."""

from __future__ import annotations

import hashlib
import itertools
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

BUCKET = "bucket"


class S3:
    """What it holds is in `objects`, what is written in parts in `uploads`."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.unsigned: list[str] = []
        self.full = False
        self._numbers = itertools.count(1)
        store = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def _call(self) -> None:
                parts = urlsplit(self.path)
                key = unquote(parts.path).removeprefix(f"/{BUCKET}/")
                query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                if not (self.headers.get("authorization") or "").startswith("AWS4-HMAC-SHA256 "):
                    store.unsigned.append(f"{self.command} {self.path}")
                status, answer, headers = store._answer(self.command, key, query, body)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(answer)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _call  # noqa: N815

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._server.server_address[1]}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "eu-test-1",
            "AWS_ACCESS_KEY_ID": "id-of-the-suite",
            "AWS_SECRET_ACCESS_KEY": "key-of-the-suite",
        }

    def _answer(self, method: str, key: str, query: dict[str, str], body: bytes) -> tuple[int, bytes, dict[str, str]]:
        def xml(text: str, status: int = 200) -> tuple[int, bytes, dict[str, str]]:
            return status, f'<?xml version="1.0"?>{text}'.encode(), {"content-type": "application/xml"}

        def tagged(content: bytes) -> dict[str, str]:
            tag = hashlib.md5(content, usedforsecurity=False).hexdigest()
            return {"etag": f'"{tag}"', "last-modified": "Sat, 21 Nov 2026 08:00:00 GMT"}

        if self.full and method in ("PUT", "POST"):
            return xml("<Error><Code>QuotaExceeded</Code><Message>full</Message></Error>", 403)
        if method == "PUT" and "uploadId" in query:
            self.uploads[query["uploadId"]][int(query["partNumber"])] = body
            return 200, b"", tagged(body)
        if method == "PUT":
            self.objects[key] = body
            return 200, b"", tagged(body)
        if method == "POST" and "uploads" in query:
            upload = f"upload-{next(self._numbers)}"
            self.uploads[upload] = {}
            return xml(f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>")
        if method == "POST" and "uploadId" in query:
            parts = self.uploads.pop(query["uploadId"])
            self.objects[key] = b"".join(parts[number] for number in sorted(parts))
            return xml('<CompleteMultipartUploadResult><ETag>"whole"</ETag></CompleteMultipartUploadResult>')
        if method == "POST" and "delete" in query:
            text = body.decode()
            for entry in text.split("<Key>")[1:]:
                self.objects.pop(entry.split("</Key>")[0], None)
            return xml("<DeleteResult></DeleteResult>")
        if method == "DELETE" and "uploadId" in query:
            self.uploads.pop(query["uploadId"], None)
            return 204, b"", {}
        if method == "DELETE":
            self.objects.pop(key, None)
            return 204, b"", {}
        if key not in self.objects:
            return xml("<Error><Code>NoSuchKey</Code><Message>no such key</Message></Error>", 404)
        return 200, self.objects[key], tagged(self.objects[key])

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    def __enter__(self) -> "S3":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
