"""A private network for the suites: a gateway, set up and run with the binary, beside servers that only it reaches."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Sequence

from servers import ADMIN_KEY, BINARY, Plane, Program, wait_for
from sessions import fresh

SETUP_SECONDS = 30.0
BETA = "mcp-tunnels-2026-06-22"


def outwork(plane_url: str, *words: str | Path, through: Sequence[str] = ()) -> str:
    """Runs `outwork tunnel ...` to its end; what it said. `through` is what it is started with, for another network."""
    environment = {name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ}
    environment |= {"OUTWORK_BASE_URL": plane_url, "OUTWORK_API_KEY": ADMIN_KEY}
    command = [*through, str(BINARY), "tunnel", *(str(word) for word in words)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SETUP_SECONDS, check=False)
    assert done.returncode == 0, f"{words}: {done.stdout}\n{done.stderr}"
    return done.stdout


class Gateway(Program):
    """`outwork tunnel run` on a folder that `outwork tunnel setup` wrote, connected to the plane."""

    def __init__(self, office: Office, folder: Path | None = None, through: Sequence[str] = ()) -> None:
        self.folder = folder or office.path
        before = len(office.connections())
        super().__init__([*through, BINARY, "tunnel", "run", "--folder", self.folder])
        self.wait_for_line(r"gateway of")
        wait_for("two connections of the gateway", lambda: len(office.connections()) == before + 2)


class Office:
    """A tunnel and the folder of its gateway, with these routes."""

    def __init__(self, plane: Plane, *flags: str, through: Sequence[str] = (), **routes: str) -> None:
        self.at(plane)
        self._folder = tempfile.TemporaryDirectory(prefix="outwork-suite-office-")
        self.path = Path(self._folder.name) / "gateway"
        words = ["setup", "--folder", str(self.path), "--name", fresh("office"), "--json", *flags]
        for label, url in routes.items():
            words += ["--route", f"{label}={url}"]
        made = json.loads(outwork(plane.url, *words, through=through).splitlines()[0])
        self.tunnel_id: str = made["tunnel_id"]
        self.domain: str = made["domain"]

    def at(self, plane: Plane) -> None:
        """The plane is this one now: it was restarted."""
        self.plane = plane
        self._client = plane.client()

    def url(self, label: str, path: str = "/mcp") -> str:
        return f"https://{label}.{self.domain}{path}"

    def connections(self) -> list[dict[str, Any]]:
        options: Any = {"headers": {"anthropic-beta": BETA}}
        answer: Any = self._client.get(f"/v1/tunnels/{self.tunnel_id}/connections", cast_to=object, options=options)
        return list(answer["data"])

    def records(self, folder: Path | None = None, **wanted: Any) -> list[dict[str, Any]]:
        """The gateway's records, oldest first, whose fields are these."""
        text = outwork(self.plane.url, "records", "--folder", folder or self.path, "--json")
        records = [json.loads(line) for line in text.splitlines()]
        return [record for record in records if all(record.get(name) == value for name, value in wanted.items())]

    def close(self) -> None:
        self._folder.cleanup()

    def __enter__(self) -> Office:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
