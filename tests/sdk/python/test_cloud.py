"""A `cloud` environment's `networking` and the credentials of vaults, in the worker beside the plane, as `outwork up` has it."""

from __future__ import annotations

import urllib.parse
from pathlib import Path
from typing import Any, Iterator

import anthropic
import pytest

import servers
from internet import EVIL, Inside, Internet, holds, variable, vault
from servers import ADMIN_KEY, BINARY, MODEL_KEY, Program, Rehearsal, wait_for
from sessions import Makers

TOKEN = "sk-live-cloud-0123456789abcdefghijklmnop"


class Up(Program):
    """`outwork up` in an internet of the test's. It has what the makers want of a plane."""

    def __init__(self, internet: Internet, model_url: str, folder: Path) -> None:
        config = folder / "outwork.toml"
        config.write_text(f'[worker]\nupstream_ca_file = "{internet.folder / "ca.pem"}"\n')
        model = internet.netspace.let_in(int(urllib.parse.urlsplit(model_url).port or 0))
        settings = {"OUTWORK_API_KEY": ADMIN_KEY, "OUTWORK_MODEL_API_KEY": MODEL_KEY}
        settings["OUTWORK_MODEL_BASE_URL"] = f"http://127.0.0.1:{model}"
        arguments: list[str | Path] = [*internet.netspace.through(), BINARY, "up", "--listen", "127.0.0.1:0"]
        super().__init__([*arguments, "--data-dir", folder / "data", "--config", config], settings)
        inside = self.wait_for_line(r"outwork: listening on http://127.0.0.1:(\d+)")[1]
        self.url = f"http://127.0.0.1:{internet.netspace.let_out(int(inside))}"

    def client(self, key: str = ADMIN_KEY, **options: object) -> anthropic.Anthropic:
        return servers.client(self.url, api_key=key, **options)


@pytest.fixture(scope="module")
def cloud(rehearsal: Rehearsal, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Internet, Makers]]:
    internet = Internet([TOKEN])
    up = Up(internet, rehearsal.url, tmp_path_factory.mktemp("cloud"))
    made: Any = up
    try:
        yield internet, Makers(made)
        assert holds(up.output.encode(), [TOKEN]) == []
    finally:
        up.close()
        internet.close()
        print(up.output[-4000:])


def limited(*hosts: str, packages: bool = False) -> dict[str, Any]:
    networking = {"type": "limited", "allowed_hosts": list(hosts), "allow_package_managers": packages, "allow_mcp_servers": False}
    return {"type": "cloud", "networking": networking}


def code(inside: Inside, words: str) -> str:
    return inside.bash(f"curl -sS -m 20 -o answer -w '%{{http_code}}' {words} 2>/dev/null")[1].strip().split()[0]


def test_an_environments_hosts_and_no_other(cloud: tuple[Internet, Makers]) -> None:
    internet, make = cloud
    environment = make.environment(config=limited("api.test.example"))
    inside = Inside(make.session(environment=environment, vault_ids=[vault(make, variable("API_TOKEN", TOKEN, ["api.test.example"]))]))
    assert code(inside, '-H "Authorization: Bearer $API_TOKEN" https://api.test.example/said/raw') == "200"
    assert any(TOKEN in entry["headers"].get("authorization", "") for entry in internet.journal("request"))
    said = inside.run("cat answer; env")
    assert holds(said.encode(), [TOKEN]) == [] and "<sk-" in said, said
    assert code(inside, "https://other.test.example/cloud-other") == "000"
    assert code(inside, f"https://{EVIL}/") == "000"
    assert code(inside, "https://pypi.org/simple/greeting/") == "000"
    assert internet.heard("cloud-other") == [] and internet.heard(EVIL) == []
    events = str([event.to_dict() for event in inside.session.events()])
    assert holds(events.encode(), [TOKEN]) == []


def test_a_change_holds_for_a_running_session(cloud: tuple[Internet, Makers]) -> None:
    internet, make = cloud
    environment = make.environment(config=limited("api.test.example"))
    inside = Inside(make.session(environment=environment))
    assert code(inside, "https://api.test.example/changed-one") == "200"
    inside.run("KEPT=yes")
    make.client.beta.environments.update(environment.id, config=limited("other.test.example"))  # type: ignore[arg-type]
    wait_for("the change", lambda: code(inside, "https://other.test.example/open/changed-two") == "200")
    assert code(inside, "https://api.test.example/changed-three") in ("000", "403")
    assert internet.heard("changed-three") == []
    assert inside.run("echo $KEPT").strip() == "yes", "the sandbox is another one"


def test_package_managers(cloud: tuple[Internet, Makers]) -> None:
    _, make = cloud
    inside = Inside(make.session(environment=make.environment(config=limited(packages=True))))
    assert code(inside, "https://pypi.org/simple/greeting/") == "200"
    assert code(inside, "https://registry.npmjs.org/greeting") == "200"
    assert code(inside, "https://api.test.example/") in ("000", "403")


def test_no_network_at_all(cloud: tuple[Internet, Makers]) -> None:
    internet, make = cloud
    inside = Inside(make.session(environment=make.environment(config=limited())))
    assert code(inside, "https://api.test.example/no-network") == "000"
    assert inside.run("cat /proc/net/dev | grep -c :").strip() == "1"
    assert internet.heard("no-network") == []
