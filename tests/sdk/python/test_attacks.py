"""Ways out of a fenced sandbox, tried from inside with real sockets and programs; `inside/attacks.py` has the cases. The same
cases run once without a boundary, where they must get out: so none passes because it does not attack."""

from __future__ import annotations

import base64
import importlib.util
import json
import shutil
import sys
from pathlib import Path
from typing import Any, Iterator

import pytest

from internet import OTHER, API, FencedWorker, Inside, Internet, holds, python_packages, variable, vault, visible
from servers import Plane
from sessions import Makers

TOKEN = "sk-live-7d1e9f2a8b3c4d5e6f708192a3b4c5d6"
HERE = Path(__file__).parent
POLICY = """
[[allow]]
host = ["api.test.example", "sink.test.example", "rebound.test.example", "metadata.test.example"]

[[allow]]
name = "reading"
host = "other.test.example"
methods = ["GET"]
paths = ["/open/**"]
"""
# Those that the server's own parser stops, with and without a boundary.
STOPPED_BY_ANYBODY = {"host-twice", "smuggled", "smuggled-by-lengths"}


def cases() -> list[tuple[str, Any]]:
    spec = importlib.util.spec_from_file_location("attacks", HERE / "inside" / "attacks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = [(name, escapes) for name, escapes, _ in module.CASES]
    assert len({name for name, _ in found}) == len(found), "two cases have one name"
    return found


CASES = cases()


class World:
    """An internet and a worker in it, with or without a boundary."""

    def __init__(self, plane: Plane, make: Makers, folder: Path, fenced: bool) -> None:
        self.plane = plane
        self.internet = Internet([TOKEN])
        environment = make.environment()
        tools = folder / "workspace" / "tools"
        tools.mkdir(parents=True)
        shutil.copytree(HERE / "inside", tools / "inside")
        python = visible(Path(sys.executable), tools) if fenced else sys.executable
        python_packages(tools, "h2", "hpack", "hyperframe", "websockets")
        key = make.key(environment.id)["key"]
        policy, limits = (POLICY, ()) if fenced else (None, ("--isolation", "none"))
        self.worker = FencedWorker(self.internet, plane, environment.id, key, folder, policy, limits=limits)
        given: dict[str, Any] = {}
        variables = "PYTHONPATH=tools/packages PYTHONDONTWRITEBYTECODE=1"
        if fenced:
            credential = variable("API_TOKEN", TOKEN, ["api.test.example"], body=True)
            given["vault_ids"] = [vault(make, credential)]
        else:
            authority = self.internet.folder / "ca.pem"
            variables += f" API_TOKEN={TOKEN} CURL_CA_BUNDLE={authority} SSL_CERT_FILE={authority}"
        self.session = make.session(environment=environment, **given)
        self.inside = Inside(self.session)
        self.attack = f"{variables} {python} tools/inside/attacks.py"

    def attacks(self, run: str) -> dict[str, str]:
        """Tries every case; what each was told."""
        said = self.inside.run(f"{self.attack} {run} 2>&1", 60)
        lines = [json.loads(line) for line in said.splitlines() if line.startswith('{"name"')]
        assert len(lines) == len(CASES), said[-3000:]
        return {line["name"]: base64.b64decode(line["said"]).decode() for line in lines}

    def escaped(self, run: str, told: dict[str, str]) -> dict[str, Any]:
        """The cases that got out, and how."""
        flows, wire = self.internet.netspace.watched()
        journal = [json.dumps(entry) for entry in self.internet.journal()]
        wire = wire.lower()
        out: dict[str, Any] = {}
        for number, (name, escapes) in enumerate(CASES):
            mark = f"{run}{number:03}x"
            heard = [entry for entry in journal if mark in entry.lower()]
            if escapes == "heard":
                found: Any = heard or ([f"{mark} on the wire"] if mark.encode() in wire else [])
            elif escapes == "secret":
                found = [entry for entry in heard if holds(entry.encode(), [TOKEN])]
            elif escapes == "said":
                found = holds(told[name].encode("latin-1", "replace"), [TOKEN]) or ["proof"] * ("PROOF-OF-ESCAPE" in told[name])
            else:
                found = [escapes] if tuple(escapes) in flows else []
            if found:
                out[name] = found
        return out

    def close(self) -> None:
        self.worker.close()
        self.internet.close()


@pytest.fixture(scope="module")
def fenced(plane: Plane, make: Makers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = World(plane, make, tmp_path_factory.mktemp("fenced"), fenced=True)
    try:
        yield world
    finally:
        world.close()
        print(world.worker.output[-3000:])


@pytest.fixture(scope="module")
def told(fenced: World) -> dict[str, str]:
    """What the attacks were told."""
    return fenced.attacks("mark")


def test_nothing_gets_out(fenced: World, told: dict[str, str]) -> None:
    assert len(CASES) >= 60
    escaped = fenced.escaped("mark", told)
    assert escaped == {}, json.dumps({name: [how, told[name][:600]] for name, how in escaped.items()}, indent=1)


def test_the_attacks_had_something_to_attack(fenced: World, told: dict[str, str]) -> None:
    """What is allowed came through in the same run, and the credential with it: not everything was simply broken."""
    requests = fenced.internet.journal("request")
    with_token = [entry for entry in requests if entry["headers"].get("authorization") == f"Bearer {TOKEN}"]
    assert {"/said/raw", "/said/hex", "/packed/gzip", "/pieces", "/slow", "/in-header"} <= {e["path"] for e in with_token}
    assert {entry["host"] for entry in with_token} == {"api.test.example"}
    assert [name for name in told if name.startswith("said-") and " 200" not in told[name].split("\n")[0]] == []
    flows, _ = fenced.internet.netspace.watched()
    hosts = {(kind, target, port) for kind, target, port in flows if not target.startswith("127.")}
    assert hosts <= {("tcp", API, 443), ("tcp", API, 80), ("tcp", OTHER, 443), ("udp", "127.0.0.53", 53)}, hosts


def test_a_refusal_says_what_was_refused(told: dict[str, str]) -> None:
    for name, part in (
        ("host-denied", "evil.test.example"),
        ("host-in-the-clear", "evil.test.example"),
        ("method", "other.test.example"),
        ("path", "other.test.example"),
        ("redirected", "evil.test.example"),
        ("token-elsewhere", "API_TOKEN"),
    ):
        assert "outwork: refused by the network policy" in told[name] and part in told[name], f"{name}: {told[name]}"


def test_no_secret_byte_anywhere(fenced: World, told: dict[str, str]) -> None:
    """Looked for in every form, where anybody could find it: inside, and in what the programs outside wrote."""
    dump = (
        "mkdir -p dump; env > dump/env; cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline /proc/[0-9]*/maps > dump/proc 2>/dev/null;"
        " tar cf dump/files.tar /tmp /home /run /etc /mnt /var 2>/dev/null; declare -p > dump/shell; ls -la dump | wc -l"
    )
    assert int(fenced.inside.run(dump)) > 4
    memory = (
        "python3 - <<'END'\n"
        "import re\n"
        "out = open('dump/memory', 'wb')\n"
        "memory = open('/proc/self/mem', 'rb', 0)\n"
        "for line in open('/proc/self/maps'):\n"
        "    start, end, rights = re.match(r'(\\w+)-(\\w+) (\\S+)', line).groups()\n"
        "    if 'r' in rights and int(end, 16) < 1 << 47 and int(end, 16) - int(start, 16) < 1 << 24:\n"
        "        try:\n"
        "            memory.seek(int(start, 16)); out.write(memory.read(int(end, 16) - int(start, 16)))\n"
        "        except OSError:\n"
        "            pass\n"
        "END\n"
        "stat -c %s dump/memory"
    )
    assert int(fenced.inside.run(memory)) > 1 << 20
    placeholder = fenced.inside.run("echo $API_TOKEN").strip()
    assert len(placeholder) == len(TOKEN) and placeholder.encode() in (fenced.worker.workspace / "dump" / "env").read_bytes()
    looked = 0
    for root in (fenced.worker.workspace, fenced.worker.state, fenced.plane.data_dir):
        for file in root.rglob("*"):
            if file.is_file() and not file.is_symlink() and "tools" not in file.relative_to(root).parts:
                looked += 1
                assert holds(file.read_bytes(), [TOKEN]) == [], file
    assert looked > 8
    _, wire = fenced.internet.netspace.watched()
    events = json.dumps([event.to_dict() for event in fenced.session.events()], default=str)
    for what, data in (
        ("traffic", wire),
        ("log of the worker", fenced.worker.output.encode()),
        ("log of the plane", fenced.plane.output.encode()),
        ("events", events.encode()),
        ("answers", json.dumps(told).encode()),
    ):
        assert holds(data, [TOKEN]) == [], what


def test_without_a_boundary_the_attacks_get_out(plane: Plane, make: Makers, tmp_path: Path) -> None:
    world = World(plane, make, tmp_path, fenced=False)
    try:
        told = world.attacks("open")
        escaped = world.escaped("open", told)
        held = {name for name, _ in CASES} - set(escaped) - STOPPED_BY_ANYBODY
        assert held == set(), f"these do not attack: {json.dumps({name: told[name][:400] for name in held}, indent=1)}"
    finally:
        world.close()
