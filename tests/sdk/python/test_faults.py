"""What is left when a boundary breaks or is taken away: the worker is killed, its disk is full, a session is stopped while its
sandbox is prepared, made, at work or giving out results. Then nothing crosses, and nothing stays."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

from internet import FencedWorker, Inside, Internet, variable, vault
from script import call, message, say
from servers import Plane, wait_for
from sessions import Makers, Session, texts

POLICY = '[[allow]]\nhost = ["api.test.example", "hang.test.example"]\n'
NAMESPACES = ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup")
REFUSAL = "outwork: the request failed: the record of the request could not be kept, so it was not sent (rule none)"
# Far over what a forced stop takes (50 ms), for a machine that has other things to do.
SOON = 5.0


@pytest.fixture(scope="module")
def internet() -> Iterator[Internet]:
    made = Internet(["nobody-has-this-secret"])
    try:
        yield made
    finally:
        made.close()


class Bench:
    """An environment, and workers for it one after the other."""

    def __init__(self, internet: Internet, plane: Plane, make: Makers, folder: Path) -> None:
        self.internet, self.plane, self.make, self.folder = internet, plane, make, folder
        self.environment = make.environment()
        self.workers: list[FencedWorker] = []

    def worker(self, **more: Any) -> FencedWorker:
        key = self.make.key(self.environment.id)["key"]
        made = FencedWorker(self.internet, self.plane, self.environment.id, key, self.folder, POLICY, **more)
        self.workers.append(made)
        made.wait_for_line("polling for work")
        return made

    def session(self, **more: Any) -> Inside:
        return Inside(self.make.session(environment=self.environment, **more))

    def halt(self, session: Session) -> None:
        body = {"force": True, "reason": "the test"}
        options: Any = {"headers": {"anthropic-beta": "managed-agents-2026-04-01"}}
        self.make.client.post(f"/v1/outwork/sessions/{session.id}/halt", body=body, cast_to=object, options=options)


@pytest.fixture
def bench(internet: Internet, plane: Plane, make: Makers, tmp_path: Path) -> Iterator[Bench]:
    made = Bench(internet, plane, make, tmp_path)
    try:
        yield made
    finally:
        for worker in made.workers:
            worker.close()
            print(worker.output[-4000:])


def processes() -> Iterator[tuple[int, str]]:
    """Every process with its command line."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                yield int(entry.name), (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            except OSError:
                continue


def with_mark(mark: str) -> list[int]:
    """The processes of sandboxes that have a mark in their command line."""
    return [pid for pid, line in processes() if mark in line and pid != os.getpid()]


class Trace:
    """What the kernel has of a process in a sandbox: its namespaces and its groups."""

    def __init__(self, pid: int) -> None:
        own = {os.readlink(f"/proc/self/ns/{name}") for name in NAMESPACES}
        self.namespaces = {os.readlink(f"/proc/{pid}/ns/{name}") for name in NAMESPACES} - own
        assert len(self.namespaces) >= 6, "it is not in a sandbox"
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
        self.groups = {Path(line.split(":", 2)[2]).name for line in lines if "/outwork-" in line}
        self._ended = float("inf")

    def has_ended(self) -> None:
        """Who begins from now on is somebody else, also if the kernel gives a number a second time."""
        self._ended = min(self._ended, time.clock_gettime(time.CLOCK_BOOTTIME))

    def left(self) -> list[str]:
        """What of it is still there."""
        found = []
        for pid, line in processes():
            try:
                here = {os.readlink(f"/proc/{pid}/ns/{name}") for name in NAMESPACES}
                began = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
            except OSError:
                continue
            if began > self._ended:
                continue
            found += [f"{pid} ({line}) in {name}" for name in here & self.namespaces]
        for folder, names, _ in os.walk("/sys/fs/cgroup"):
            found += [f"{folder}/{name}" for name in names if name in self.groups]
        return found


def gone(trace: Trace, mark: str, seconds: float = SOON) -> None:
    """Nothing is left, soon."""
    trace.has_ended()
    deadline = time.monotonic() + seconds
    while left := [*with_mark(mark), *trace.left()]:
        assert time.monotonic() < deadline, f"left behind: {left}"
        time.sleep(0.02)


def marked(mark: str, look: Callable[[], list[int]] | None = None) -> int:
    """A process with this mark, in a sandbox."""
    return wait_for(f"a process {mark}", look or (lambda: with_mark(mark)))[0]


# Processes that try to outlive their sandbox: forked twice, in sessions of their own, deaf to signals.
STUBBORN = (
    "for i in 1 2 3 4 5 6 7 8; do (trap '' TERM HUP INT; setsid bash -c \"trap '' TERM HUP INT; "
    "exec -a {mark} sleep 600\" & ) ; done; while :; do curl -s -m 5 -o /dev/null https://api.test.example/{mark}; done"
)


def test_a_killed_worker_leaves_no_network_and_nothing_else(bench: Bench, internet: Internet) -> None:
    worker = bench.worker()
    inside = bench.session()
    inside.ask(STUBBORN.format(mark="orphan-mark"))
    trace = Trace(marked("orphan-mark"))
    wait_for("requests", lambda: len(internet.heard("orphan-mark")) > 2)
    # The worker alone, not what it started.
    os.kill(worker.process.pid, signal.SIGKILL)
    worker.process.wait(10)
    deadline = time.monotonic() + SOON
    while living := [pid for pid in with_mark("orphan-mark")]:
        assert time.monotonic() < deadline, f"they outlived their worker: {living}"
        time.sleep(0.02)
    trace.has_ended()
    came = len(internet.heard("orphan-mark"))
    # The next worker takes away what the kernel keeps by name.
    bench.worker()
    gone(trace, "orphan-mark")
    assert len(internet.heard("orphan-mark")) == came, "something was sent after the end"


def test_a_full_disk_stops_every_crossing_until_there_is_room(bench: Bench, internet: Internet) -> None:
    worker = bench.worker(small_state=True)
    # With a credential each request is a crossing of its own; without one a connection is.
    credential = variable("API_TOKEN", "sk-live-0123456789abcdef", ["api.test.example"])
    inside = bench.session(vault_ids=[vault(bench.make, credential)])
    ask = "curl -sS -m 10 -w ' %{{http_code}}' https://api.test.example/{mark}"
    assert inside.run(ask.format(mark="before-it")).endswith(" 200")
    # One that connects anew each time, and one that keeps its connection.
    loop = "touch new kept; (while sleep 0.1; do " + ask.format(mark="new-mark") + " >> new 2>&1; echo >> new; done) & disown;"
    kept = "(curl -s -m 300 -w ' %{http_code}\\n' 'https://api.test.example/kept-mark?[1-1000000]' >> kept 2>&1) & disown; echo begun"
    assert inside.run(loop + kept).strip() == "begun"
    new, kept = worker.workspace / "new", worker.workspace / "kept"
    wait_for("both to have crossed", lambda: internet.heard("new-mark") and internet.heard("kept-mark"))
    filler = worker.seen(worker.state) / "filler"
    with open(filler, "wb", buffering=0) as file:
        for size in (65536, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue

    def since(path: Path, offset: int) -> list[str]:
        return [line for line in path.read_text()[offset:].splitlines()[:-1] if line.strip()]

    wait_for("refusals", lambda: REFUSAL in since(kept, 0))
    wait_for("refusals of new connections", lambda: not (since(new, 0) or [" 200"])[-1].endswith(" 200"))
    before = {path: len(path.read_text()) for path in (new, kept)}
    came = {mark: len(internet.heard(mark)) for mark in ("new-mark", "kept-mark")}
    wait_for("more refusals", lambda: all(len(since(path, offset)) > 8 for path, offset in before.items()))
    assert {line for line in since(kept, before[kept])[1:]} == {REFUSAL, " 503"}
    assert not [line for line in since(new, before[new]) if line.endswith(" 200")]
    assert {mark: len(internet.heard(mark)) for mark in came} == came, "something crossed without a record"
    failed, said = inside.bash("echo must not run > ran; " + ask.format(mark="while-full"))
    assert failed and "record" in said and "space" in said and internet.heard("while-full") == [], said
    assert not (worker.workspace / "ran").exists(), "a call ran that could not be recorded"
    filler.unlink()
    offsets = {path: len(path.read_text()) for path in (new, kept)}
    for path, offset in offsets.items():
        wait_for("requests again", lambda path=path, offset=offset: any(line.endswith(" 200") for line in since(path, offset)))
    assert inside.run(ask.format(mark="after-it")).endswith(" 200")


def test_a_session_is_stopped_while_its_sandbox_is_prepared(bench: Bench, internet: Internet) -> None:
    bench.worker()
    stuck = {
        "type": "github_repository",
        "url": "https://hang.test.example/team/prepared-mark",
        "authorization_token": "nobody-has-this-secret",
        "mount_path": "/workspace/notes",
    }
    inside = bench.session(resources=[stuck])
    inside.ask("echo never")
    wait_for("the clone", lambda: internet.heard("prepared-mark"))
    git = marked("git", lambda: [p for p, line in processes() if "git" in line and "prepared-mark" in line and in_sandbox(p)])
    trace = Trace(git)
    bench.halt(inside.session)
    gone(trace, "team/prepared-mark")


def in_sandbox(pid: int) -> bool:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid") != os.readlink("/proc/self/ns/pid")
    except OSError:
        return False


def test_a_session_is_stopped_while_its_sandbox_is_made(bench: Bench) -> None:
    """At every moment between the call and its process, as far as these steps go."""
    bench.worker()
    for step in range(8):
        inside = bench.session()
        mark = f"made-{step}-mark"
        inside.session.send(message(say(call("bash", command=f"(exec -a {mark} sleep 600)")), "done"))
        inside.session.wait_event("agent.tool_use")
        time.sleep(step * 0.012)  # what is tried here is a moment, not that something is ready
        bench.halt(inside.session)
        wait_for(f"the end of {mark}", lambda mark=mark: not with_mark(mark), SOON)
    inside = bench.session()
    assert inside.run("echo alive").strip() == "alive"
    inside.ask("(exec -a last-mark sleep 600)")
    trace = Trace(marked("last-mark"))
    bench.halt(inside.session)
    gone(trace, "last-mark")
    assert [line for _, line in processes() if line.startswith("made-")] == []


def test_a_session_is_stopped_at_work(bench: Bench, internet: Internet) -> None:
    bench.worker()
    inside = bench.session()
    inside.ask(STUBBORN.format(mark="work-mark"))
    trace = Trace(marked("work-mark"))
    wait_for("requests", lambda: internet.heard("work-mark"))
    bench.halt(inside.session)
    gone(trace, "work-mark")
    came = len(internet.heard("work-mark"))
    # The worker goes on with others.
    other = bench.session()
    assert other.run("curl -s -o /dev/null -w '%{http_code}' https://api.test.example/other") == "200"
    assert len(internet.heard("work-mark")) == came


def test_a_session_is_stopped_while_its_results_are_looked_at(bench: Bench, tmp_path: Path) -> None:
    scan = tmp_path / "scan"
    scan.write_text("#!/bin/bash\n(exec -a scan-mark sleep 600) | cat\n")
    scan.chmod(0o755)
    bench.worker(settings=f'scan_command = "{scan}"\n')
    inside = bench.session()
    inside.run("echo result > /mnt/session/outputs/result; (exec -a results-mark sleep 600) & disown")
    trace = Trace(marked("results-mark"))
    marked("scan-mark")
    bench.halt(inside.session)
    gone(trace, "results-mark")
    wait_for("the end of the scan", lambda: not with_mark("scan-mark"), SOON + 12)
    # What is there is looked at once more, for a while; what was not looked at to the end is not let out.
    assert list(inside.session.client.beta.files.list(scope_id=inside.session.id)) == []


def test_nothing_stays_after_a_worker_that_ended(bench: Bench) -> None:
    worker = bench.worker()
    inside = bench.session()
    inside.run("(exec -a ended-mark sleep 600) & disown")
    trace = Trace(marked("ended-mark"))
    mounts = Path("/proc/self/mountinfo").read_text()
    assert worker.stop() == 0, worker.output
    gone(trace, "ended-mark")
    assert str(bench.folder) not in mounts and Path("/proc/self/mountinfo").read_text().count("\n") <= mounts.count("\n") + 1
    last = inside.session.events("user.tool_result", "agent.tool_result")[-1]
    assert "sleep" not in texts(last)
