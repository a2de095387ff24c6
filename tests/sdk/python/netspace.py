"""A network of this test run's own, made without tools and without root: a namespace in which every address that exists is
this machine's, so that nothing leaves it, and in which everything that is sent can be seen.

`python netspace.py keep` makes it and waits at the socket that is its standard input; `python netspace.py enter ...` runs a
program in it, with name servers and hosts of its own. Both end with the process that started them."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import select
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any, Iterable

_NEWNS, _NEWUSER, _NEWNET = 0x20000, 0x10000000, 0x40000000
_MS_REC, _MS_PRIVATE, _MS_BIND = 0x4000, 1 << 18, 0x1000
_LIBC = ctypes.CDLL(None, use_errno=True)
# The kernel ends a helper whose parent is gone.
_PR_SET_PDEATHSIG, _SIGKILL = 1, 9
# The size of a small disk.
SMALL = 8 << 20


def _checked(what: str, result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _unshare(flags: int) -> None:
    _checked("unshare", _LIBC.unshare(flags))


def _map_user(inside: int, group: int) -> None:
    """Called in a new user namespace: the one user that there is outside has this number in it."""
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{inside} {_UID} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {_GID} 1")


_UID, _GID = os.geteuid(), os.getegid()


def _up() -> None:
    """The loopback interface is up, and every address leads to it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh22x", b"lo", 0x1 | 0x40)
        fcntl.ioctl(any_socket, 0x8914, request)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as route:
        for family in (socket.AF_INET, socket.AF_INET6):
            # Type "local", scope "host", table "local": what `ip route add local default dev lo` asks for.
            body = struct.pack("BBBBBBBBI", family, 0, 0, 0, 255, 3, 254, 2, 0) + struct.pack("HHI", 8, 4, 1)
            route.send(struct.pack("IHHII", 16 + len(body), 24, 0x605, 1, 0) + body)
            answer = route.recv(4096)
            (error,) = struct.unpack("i", answer[16:20])
            # Without IPv6 in the kernel there is nothing to lead anywhere.
            if error and family == socket.AF_INET:
                raise OSError(-error, "no route")
    try:
        Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").write_text("0")
    except OSError:
        pass  # root needs no such permission


class _Watch(threading.Thread):
    """Everything that is sent in the namespace: which way, and what."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.lock = threading.Lock()
        self.flows: dict[tuple[str, str, int], int] = {}
        self.file = tempfile.TemporaryFile()  # noqa: SIM115: it lives as long as the process
        self.hidden: set[int] = set()
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 << 20)

    def run(self) -> None:
        while True:
            packet, (_, _, way, *_rest) = self._socket.recvfrom(1 << 17)
            if way == 4:  # once when it is sent is enough
                self._note(packet)

    def _note(self, packet: bytes) -> None:
        if packet[0] >> 4 == 4:
            number, start = packet[9], (packet[0] & 15) * 4
            target = socket.inet_ntop(socket.AF_INET, packet[16:20])
        else:
            number, start = packet[6], 40
            target = socket.inet_ntop(socket.AF_INET6, packet[24:40])
        if number not in (6, 17):
            with self.lock:
                self.flows[(str(number), target, 0)] = 1
            return
        source_port, port = struct.unpack(">HH", packet[start : start + 4])
        if number == 6:
            flags = packet[start + 13]
            payload = packet[start + (packet[start + 12] >> 4) * 4 :]
            opening = flags & 0x12 == 0x02
        else:
            payload, opening = packet[start + 8 :], True
        with self.lock:
            if opening:
                key = ("tcp" if number == 6 else "udp", target, port)
                self.flows[key] = self.flows.get(key, 0) + 1
            if payload and not {source_port, port} & self.hidden:
                self.file.write(payload)


def _keep() -> None:
    """Makes the namespace and serves requests until the other side is gone."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, _SIGKILL)
    _unshare(_NEWNET | (0 if _UID == 0 else _NEWUSER))
    if _UID != 0:
        _map_user(_UID, _GID)
    _up()
    watch = _Watch()
    watch.start()
    control = socket.socket(fileno=0)
    control.send(json.dumps({"ready": True}).encode())
    while data := control.recv(4096):
        request: Any = json.loads(data)
        descriptors: list[int] = []
        answer: Any = {}
        try:
            match request:
                case {"listen": [address, port]}:
                    made = socket.create_server((address, port), backlog=512)
                    watch.hidden.add(made.getsockname()[1])
                    answer, descriptors = {"port": made.getsockname()[1]}, [made.detach()]
                case {"connect": [address, port]}:
                    watch.hidden.add(port)
                    made = socket.create_connection((address, port), 5)
                    made.settimeout(None)
                    descriptors = [made.detach()]
                case {"watched": _}:
                    with watch.lock:
                        watch.file.flush()
                        answer = {"flows": [[*flow, count] for flow, count in watch.flows.items()]}
                        descriptors = [os.open(f"/proc/self/fd/{watch.file.fileno()}", os.O_RDONLY)]
        except OSError as error:
            answer = {"error": str(error)}
        socket.send_fds(control, [json.dumps(answer).encode()], descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _enter(pid: str, folder: str, how: str, *command: str) -> None:
    """Becomes a program in the namespace of that process, whose name servers and hosts are those of the folder. `how` is
    `user` for one that is no root, whoever runs it, `small:FOLDER` for one to which this folder is a small disk, or `self`."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, _SIGKILL)
    namespaces = [("user", _NEWUSER), ("net", _NEWNET)] if _UID != 0 else [("net", _NEWNET)]
    files = [(open(f"/proc/{pid}/ns/{name}"), flag) for name, flag in namespaces]  # noqa: SIM115
    for file, flag in files:
        _checked(f"setns {file.name}", _LIBC.setns(file.fileno(), flag))
    _unshare(_NEWNS)
    _checked("mount", _LIBC.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None))
    for name in ("resolv.conf", "hosts"):
        target = os.path.realpath(f"/etc/{name}").encode()
        source = os.path.join(folder, name).encode()
        _checked(f"mount {name}", _LIBC.mount(source, target, None, _MS_BIND, None))
    if how.startswith("small:"):
        target = how.removeprefix("small:").encode()
        _checked("mount", _LIBC.mount(b"tmpfs", target, b"tmpfs", 0, f"size={SMALL}".encode()))
    if how == "user":
        _unshare(_NEWUSER)
        _map_user(1000, 1000)
    os.execvp(command[0], command)


class Netspace:
    """The namespace, from outside."""

    def __init__(self, nameserver: str, hosts: dict[str, str] | None = None) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="outwork-suite-net-")
        folder = Path(self._folder.name)
        (folder / "resolv.conf").write_text(f"nameserver {nameserver}\n")
        lines = [f"{address} {name}" for name, address in (hosts or {}).items()]
        (folder / "hosts").write_text("\n".join(["127.0.0.1 localhost", *lines, ""]))
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen([sys.executable, __file__, "keep"], stdin=theirs)
        self._lock = threading.Lock()
        self._control.settimeout(20)
        assert json.loads(self._control.recv(4096)) == {"ready": True}, "the namespace was not made"
        self._stop_read, self._stop_write = os.pipe()

    def through(self, how: str = "self") -> tuple[str, ...]:
        """What a command is started with to run there; see `_enter`."""
        return (sys.executable, __file__, "enter", str(self._process.pid), self._folder.name, how)

    def _ask(self, request: Any) -> tuple[Any, list[int]]:
        with self._lock:
            self._control.send(json.dumps(request).encode())
            data, descriptors, _, _ = socket.recv_fds(self._control, 1 << 20, 1)
        answer = json.loads(data)
        if "error" in answer:
            raise OSError(answer["error"])
        return answer, descriptors

    def let_in(self, port: int) -> int:
        """A port there that leads to this port of the machine's loopback."""
        answer, (descriptor,) = self._ask({"listen": ["127.0.0.1", 0]})
        listener = socket.socket(fileno=descriptor)
        def connect() -> socket.socket:
            made = socket.create_connection(("127.0.0.1", port), 5)
            made.settimeout(None)
            return made

        self._serve(listener, connect)
        return int(answer["port"])

    def let_out(self, port: int) -> int:
        """A port of the machine's loopback that leads to this port there."""

        def connect() -> socket.socket:
            _, (descriptor,) = self._ask({"connect": ["127.0.0.1", port]})
            return socket.socket(fileno=descriptor)

        listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self._serve(listener, connect)
        return int(listener.getsockname()[1])

    def _serve(self, listener: socket.socket, connect: Any) -> None:
        def accept() -> None:
            with listener:
                while True:
                    readable, _, _ = select.select([listener, self._stop_read], [], [])
                    if listener not in readable:
                        return
                    near, _ = listener.accept()
                    try:
                        far = connect()
                    except OSError:
                        near.close()
                        continue
                    for one, other in ((near, far), (far, near)):
                        threading.Thread(target=_pump, args=(one, other), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()

    def watched(self) -> tuple[set[tuple[str, str, int]], bytes]:
        """Where something was sent, and all that was said but with the other side of this class."""
        answer, (descriptor,) = self._ask({"watched": True})
        with os.fdopen(descriptor, "rb") as file:
            file.seek(0)
            said = file.read()
        return {(kind, target, port) for kind, target, port, _ in answer["flows"]}, said

    def close(self) -> None:
        os.close(self._stop_write)
        self._control.close()
        self._process.wait(20)
        self._folder.cleanup()

    def __enter__(self) -> Netspace:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        for one in (source, target):
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


def main(words: Iterable[str]) -> None:
    verb, *rest = words
    if verb == "keep":
        _keep()
    else:
        _enter(*rest)


if __name__ == "__main__":
    main(sys.argv[1:])
