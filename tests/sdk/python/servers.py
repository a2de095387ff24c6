"""The programs under test, started and stopped: each in its own process group, on a port that the kernel
chooses, with a folder of its own, ended by its process id. Nothing waits for a time to pass: a program is ready
when it says so, and a condition is looked at until it holds or its deadline comes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Callable, Iterable, Mapping, TypeVar

import anthropic

T = TypeVar("T")

BINARY = Path(os.environ.get("OUTWORK_BINARY", Path(__file__).parents[3] / "target" / "debug" / "outwork"))
START_SECONDS = 30.0
STOP_SECONDS = 20.0
WAIT_SECONDS = 45.0
ADMIN_KEY = "sk-ow-suite-0123456789abcdefghijklmnopqrstuvwxyz"
MODEL_KEY = "sk-rehearsal-suite"

# What a child may see of this process's environment; everything else could change what it does.
_PASSED_ON = ("PATH", "LANG", "LC_ALL", "TMPDIR", "RUST_LOG", "RUST_BACKTRACE", "PYTHONPATH", "SSL_CERT_FILE")


def wait_for(what: str, look: Callable[[], T | None], seconds: float = WAIT_SECONDS) -> T:
    """Calls `look` until it gives something true; fails with `what` when the deadline comes."""
    deadline = time.monotonic() + seconds
    pause = 0.005
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come to be within {seconds:.0f} s")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.1)


class Program:
    """A running program whose output is kept and whose whole group ends with it."""

    def __init__(self, arguments: Iterable[str | Path], environment: Mapping[str, str] | None = None) -> None:
        self._lines: list[str] = []
        self._changed = threading.Condition()
        self.home = tempfile.TemporaryDirectory(prefix="outwork-suite-home-")
        passed = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        self.process = subprocess.Popen(
            [str(argument) for argument in arguments],
            env={**passed, "HOME": self.home.name, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self._lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    @property
    def output(self) -> str:
        with self._changed:
            return "\n".join(self._lines)

    def wait_for_line(self, pattern: str, seconds: float = START_SECONDS) -> re.Match[str]:
        """The first line that fits; fails with the whole output when the program ends or the deadline comes."""
        wanted = re.compile(pattern)
        deadline = time.monotonic() + seconds
        seen = 0
        with self._changed:
            while True:
                for line in self._lines[seen:]:
                    if found := wanted.search(line):
                        return found
                seen = len(self._lines)
                left = deadline - time.monotonic()
                if left <= 0 or (self.process.poll() is not None and not self._reader.is_alive()):
                    raise AssertionError(f"no line like {pattern!r} came; the output was:\n" + "\n".join(self._lines))
                self._changed.wait(min(left, 0.2))

    def kill(self) -> None:
        """Ends the program and what it started at once, as a power cut would."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait(STOP_SECONDS)

    def stop(self) -> int:
        """Asks the program to end and waits for it; the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()
                raise AssertionError(f"it did not stop within {STOP_SECONDS:.0f} s of SIGTERM:\n{self.output}") from None
        return self.process.returncode

    def close(self) -> None:
        """Leaves nothing behind, whatever happened before."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                pass
        self.kill()
        self._reader.join(STOP_SECONDS)
        self.home.cleanup()

    def __enter__(self):  # noqa: ANN204
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Rehearsal(Program):
    """The rehearsal model: a Messages API server that says what a scenario, or the message itself, scripts."""

    def __init__(self, scenario: Path | None = None) -> None:
        arguments: list[str | Path] = [BINARY, "rehearsal", "--listen", "127.0.0.1:0"]
        if scenario is not None:
            arguments += ["--scenario", scenario]
        super().__init__(arguments)
        self.url = self.wait_for_line(r"rehearsal: listening on (http://\S+)")[1]


class Plane(Program):
    """`outwork serve`, or `outwork up`, on a folder of its own."""

    def __init__(
        self,
        model_url: str | None,
        data_dir: Path | None = None,
        config: str | None = None,
        command: str = "serve",
        environment: Mapping[str, str] | None = None,
        flags: Iterable[str] = (),
    ) -> None:
        self._own = tempfile.TemporaryDirectory(prefix="outwork-suite-data-") if data_dir is None else None
        self.data_dir = Path(self._own.name) if self._own is not None else data_dir
        settings = {"OUTWORK_API_KEY": ADMIN_KEY, **(environment or {})}
        if model_url is not None:
            settings |= {"OUTWORK_MODEL_BASE_URL": model_url, "OUTWORK_MODEL_API_KEY": MODEL_KEY}
        arguments: list[str | Path] = [BINARY, command, "--listen", "127.0.0.1:0", "--data-dir", self.data_dir]
        self._config = tempfile.NamedTemporaryFile("w", prefix="outwork-suite-", suffix=".toml")
        if config is not None:
            self._config.write(config)
            self._config.flush()
            arguments += ["--config", self._config.name]
        arguments += flags
        super().__init__(arguments, settings)
        self.url = self.wait_for_line(r"outwork: listening on (https?://\S+)")[1]

    def client(self, key: str = ADMIN_KEY, **options: object) -> anthropic.Anthropic:
        """The published client with an API key. It checks every answer against its own types, and it does not
        retry: an answer that is wrong the first time is wrong."""
        return client(self.url, api_key=key, **options)

    def bearer(self, token: str, **options: object) -> anthropic.Anthropic:
        """The published client with an environment key or a session's token, as workers send them."""
        return client(self.url, auth_token=token, **options)

    def close(self) -> None:
        super().close()
        self._config.close()
        if self._own is not None:
            self._own.cleanup()


def client(url: str, *, api_key: str | None = None, auth_token: str | None = None, **options: object) -> anthropic.Anthropic:
    # Credentials of the person who runs the suite must not get in.
    for name in [name for name in os.environ if name.startswith("ANTHROPIC_")]:
        del os.environ[name]
    given = {"max_retries": 0, "timeout": 30.0, "_strict_response_validation": True, **options}
    return anthropic.Anthropic(base_url=url, api_key=api_key, auth_token=auth_token, **given)  # type: ignore[arg-type]


class Worker(Program):
    """A worker of an environment: `outwork` (ours) or `sdk` (the published `EnvironmentWorker`, unmodified)."""

    KINDS = ("sdk", "outwork")

    def __init__(self, kind: str, plane_url: str, environment_id: str, key: str, workdir: Path, max_idle: float = 5) -> None:
        if kind == "outwork":
            arguments: list[str | Path] = [BINARY, "worker", "--environment-id", environment_id, "--environment-key", key]
            arguments += ["--base-url", plane_url, "--workdir", workdir, "--max-idle", f"{max_idle:g}s"]
        elif kind == "sdk":
            arguments = [sys.executable, Path(__file__).parent / "sdk_worker.py"]
            arguments += [plane_url, environment_id, key, workdir, f"{max_idle:g}"]
        else:
            raise ValueError(f"there is no worker of kind {kind}")
        self.kind = kind
        super().__init__(arguments)


class McpServer(Program):
    """A real MCP server on the official Python package; see `mcp_server.py`."""

    def __init__(
        self,
        port: int = 0,
        token: str | None = None,
        journal: Path | None = None,
        host: str = "127.0.0.1",
        through: Iterable[str] = (),
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="outwork-suite-mcp-")
        self.journal_path = journal or Path(self._folder.name) / "journal"
        arguments: list[str | Path] = [*through, sys.executable, Path(__file__).parent / "mcp_server.py"]
        arguments += ["--host", host, "--port", str(port), "--journal", self.journal_path]
        self.token_file = Path(self._folder.name) / "token"
        if token is not None:
            self.token_file.write_text(token)
            arguments += ["--token-file", self.token_file]
        super().__init__(arguments)
        self.url = self.wait_for_line(r"mcp: listening on (http://\S+)")[1]
        self.port = int(self.url.split(":")[2].split("/")[0])

    def journal(self, kind: str, tool: str | None = None) -> list[dict[str, object]]:
        """The entries of a kind, those of one tool if it is given."""
        if not self.journal_path.exists():
            return []
        entries = [json.loads(line) for line in self.journal_path.read_text().splitlines()]
        return [entry for entry in entries if entry["kind"] == kind and tool in (None, entry.get("tool"))]

    def close(self) -> None:
        super().close()
        self._folder.cleanup()
