"""Hosts in network namespaces: the plane outside, the gateway and a real MCP server inside, and between them a router
that lets nothing in. What breaks, breaks as it does in the field: processes are killed, packets are lost and nobody is
told, a line is slow."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Iterator

import pytest

from network import INSIDE, OUTSIDE, Network, missing, within
from private import Gateway, Office
from script import call, message, say
from servers import McpServer, Plane, Rehearsal, wait_for
from sessions import Makers, Session

EDGE_PORT = 8443
FLAGS = ("--tunnel-listen", f"{OUTSIDE}:{EDGE_PORT}")
NOTICED_SECONDS = 3.0
# What a look at the plane may add on a machine that has more to do.
LOOK_SECONDS = 0.5
TOOLS = [
    {"type": "mcp_toolset", "mcp_server_name": "notes", "default_config": {"permission_policy": {"type": "always_allow"}}}
]
FIND = say(call("mcp__notes__find_note", topic="garden"))
CANNOT = missing()
pytestmark = pytest.mark.skipif(CANNOT is not None, reason=CANNOT or "")


class Field:
    """The three hosts and what runs on them."""

    def __init__(self, network: Network, folder: Path) -> None:
        self.network, self.folder = network, folder
        self.rehearsal = Rehearsal()
        self.plane = self.start_plane()
        self.server = McpServer(host=INSIDE, through=self.network.inside.through)
        # The folder is made by whoever may call the API, which the inside cannot.
        self.office = Office(self.plane, "--health", "none", notes=f"http://{INSIDE}:{self.server.port}")
        self.gateway: Gateway | None = None

    def start_plane(self) -> Plane:
        return Plane(self.rehearsal.url, data_dir=self.folder, flags=FLAGS)

    def restart_plane(self) -> None:
        self.plane = self.start_plane()
        self.office.at(self.plane)

    def start_gateway(self, transport: str = "auto", copy: bool = False) -> Gateway:
        """The gateway, or another one on a copy of its folder with a ledger of its own."""
        folder = self.office.path
        if copy:
            folder = folder.with_name("gateway-2")
            shutil.copytree(self.office.path, folder, ignore=shutil.ignore_patterns("ledger"))
        config = folder / "config.yaml"
        lines = [line for line in config.read_text().splitlines() if not line.startswith("  transport:")]
        lines.insert(lines.index("edge:") + 1, f"  transport: {transport}")
        config.write_text("\n".join(lines) + "\n")
        self.gateway = Gateway(self.office, folder, through=self.network.inside.through)
        return self.gateway

    def end_gateway(self) -> None:
        if self.gateway is not None:
            self.gateway.close()
            self.gateway = None
        wait_for("the end of its connections", lambda: not self.ids())

    def ids(self) -> set[str]:
        return {one["id"] for one in self.office.connections()}

    def session(self, *steps: Any) -> Session:
        make = Makers(self.plane)
        agent = make.agent(tools=TOOLS, mcp_servers=[{"type": "url", "name": "notes", "url": self.office.url("notes")}])
        session = make.session(agent=agent)
        session.send(message(*steps))
        return session

    def find(self) -> float:
        """Finds a note through the tunnel; how long it took."""
        start = time.monotonic()
        session = self.session(FIND, "water them")
        session.wait_idle()
        assert answers(session) == [("water the beans", False)]
        return time.monotonic() - start

    def calls(self, tool: str) -> int:
        return len(self.server.journal("call", tool))

    def close(self) -> None:
        for program in (self.gateway, self.server, self.plane, self.rehearsal):
            if program is not None:
                program.close()
        self.office.close()


def answers(session: Session, may_fail: bool = False) -> list[tuple[str, bool]]:
    errors = [event.error.message for event in session.events("session.error")]
    assert may_fail or not errors, errors
    results = session.events("agent.mcp_tool_result")
    assert len({event.mcp_tool_use_id for event in results}) == len(results), "a call was answered twice"
    return sorted(("".join(block.text for block in event.content), bool(event.is_error)) for event in results)


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    network = Network(EDGE_PORT)
    try:
        with within(network.outside):
            hosts = Field(network, tmp_path_factory.mktemp("plane"))
            try:
                yield hosts
            finally:
                hosts.close()
    finally:
        network.close()


def reaches(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=0.7).close()
    except OSError as error:
        assert isinstance(error, TimeoutError), f"it is lost, not refused: {error!r}"
        return False
    return True


def test_nothing_gets_in_and_calls_do(hosts: Field) -> None:
    inside = hosts.network.inside
    look = f"import socket; socket.create_connection(({INSIDE!r}, {hosts.server.port}), timeout=2)"
    inside.run(sys.executable, "-c", look)
    assert not reaches(INSIDE, hosts.server.port) and not reaches(INSIDE, EDGE_PORT)
    ping = ["ping", "-c", "1", "-W", "1", INSIDE]
    if shutil.which("ping"):
        assert subprocess.run(ping, capture_output=True, check=False).returncode != 0
    hosts.start_gateway()
    hosts.find()
    assert {one["transport"] for one in hosts.office.connections()} == {"quic"}
    # It still has nothing that could be reached: not one socket listens but the server's.
    listening = inside.run("ss", "-H", "-l", "-t", "-n") if shutil.which("ss") else f"{INSIDE}:{hosts.server.port}"
    assert [line for line in listening.splitlines() if str(hosts.server.port) not in line] == []
    assert not reaches(INSIDE, hosts.server.port)


@pytest.mark.parametrize(("transport", "protocol"), [("quic", "udp"), ("tcp", "tcp")])
def test_one_line_is_lost_and_nobody_is_told(hosts: Field, transport: str, protocol: str) -> None:
    hosts.end_gateway()
    hosts.start_gateway(transport)
    reads = hosts.calls("slow_read")
    session = hosts.session(say(call("mcp__notes__slow_read", seconds=1)), "read")
    wait_for("the call", lambda: hosts.calls("slow_read") > reads)
    [lost] = [one for one in hosts.office.connections() if one["in_flight"] > 0]
    port = int(lost["remote_address"].rsplit(":", 1)[1])
    start = time.monotonic()
    hosts.network.lose(protocol, port)
    try:
        # Whichever line another call takes, it gets its answer.
        took = hosts.find()
        wait_for("the loss to be noticed", lambda: lost["id"] not in hosts.ids(), NOTICED_SECONDS + 5)
        noticed = time.monotonic() - start
        # So does the call whose line is lost: it only reads, and is called again on the other one.
        session.wait_idle()
        assert answers(session) == [("waited", False)] and hosts.calls("slow_read") == reads + 2
    finally:
        hosts.network.find()
    wait_for("two connections again", lambda: len(hosts.ids()) == 2)
    assert noticed <= NOTICED_SECONDS + LOOK_SECONDS, f"noticed after {noticed:.2f} s; the other call took {took:.2f} s"


def in_flight(hosts: Field, seconds: float) -> tuple[Session, int, int]:
    """A session with two calls under way, one of which only reads."""
    reads, writes = hosts.calls("slow_read"), hosts.calls("slow_write")
    both = say(call("mcp__notes__slow_read", seconds=seconds), call("mcp__notes__slow_write", seconds=seconds))
    session = hosts.session(both, "both")
    wait_for("both calls", lambda: hosts.calls("slow_read") > reads and hosts.calls("slow_write") > writes)
    return session, reads, writes


def check_in_flight(hosts: Field, session: Session, reads: int, writes: int) -> None:
    """What only reads was called again and answered; of what writes it is said that nobody knows, and it was not."""
    session.wait_idle()
    told = answers(session, may_fail=True)
    assert ("waited", False) in told and len(told) == 2, told
    [unknown] = [text for text, failed in told if failed]
    assert "not known" in unknown, unknown
    assert hosts.calls("slow_write") == writes + 1
    assert hosts.calls("slow_read") == reads + 2


def test_the_gateway_is_killed_with_calls_in_flight(hosts: Field) -> None:
    hosts.end_gateway()
    gateway = hosts.start_gateway()
    session, reads, writes = in_flight(hosts, 2)
    # Another one comes beside it, as where two run all the time; the calls are under way on the first.
    second = hosts.start_gateway(copy=True)
    assert len(hosts.ids()) == 4
    gateway.kill()
    check_in_flight(hosts, session, reads, writes)
    # Nobody has to wait until the first is missed, and it is.
    assert hosts.find() < NOTICED_SECONDS
    wait_for("the first to be missed", lambda: len(hosts.ids()) == 2, NOTICED_SECONDS + 1)
    gateway.close()
    # The records of the first end with its death; the second has one of the call that came again.
    kept = hosts.office.records(folder=second.folder, session=None, tool="slow_read")
    assert [record["decision"] for record in kept] == ["allowed"], kept


def test_the_edge_is_killed_and_comes_back(hosts: Field) -> None:
    session, reads, writes = in_flight(hosts, 2)
    hosts.plane.kill()
    hosts.restart_plane()
    start = time.monotonic()
    wait_for("the gateway", lambda: hosts.ids())
    connected = time.monotonic() - start
    hosts.find()
    first = time.monotonic() - start
    check_in_flight(hosts, Session(hosts.plane.client(), session.id), reads, writes)
    wait_for("both connections", lambda: len(hosts.ids()) == 2)
    assert first < NOTICED_SECONDS, f"connected after {connected:.2f} s, the first call's answer after {first:.2f} s"


def test_a_slow_line_is_slow_and_not_lost(hosts: Field) -> None:
    ids = hosts.ids()
    if not hosts.network.throttle("2mbit"):
        pytest.skip("lines cannot be throttled here: tc or its token bucket is missing")
    try:
        start = time.monotonic()
        session = hosts.session(say(call("mcp__notes__long_text", characters=800_000)), "long")
        quick = hosts.find()
        session.wait_idle()
        took = time.monotonic() - start
    finally:
        hosts.network.throttle(None)
    [(text, failed)] = answers(session)
    assert not failed and text.startswith("0123456789")
    # 800 kB are 3.2 s at that rate. Meanwhile the heartbeat got through, and another call.
    assert took > 2.5 and hosts.ids() == ids, f"{took:.2f} s, {quick:.2f} s"
