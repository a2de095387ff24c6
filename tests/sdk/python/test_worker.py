"""Whole sessions with a worker beside them: the published `EnvironmentWorker`, unmodified, and our own."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Iterator

import pytest

from script import call, message, say
from servers import Plane, Rehearsal, Worker, wait_for
from sessions import TOOLSET, WEATHER, Makers, Session, asking, texts


class Bench:
    """An environment with a key and a folder, and workers of one kind for it."""

    def __init__(self, kind: str, plane: Plane, make: Makers, folder: Path) -> None:
        self.kind, self.plane, self.make, self.folder = kind, plane, make, folder
        self.environment = make.environment()
        self.workers: list[Worker] = []

    def worker(self) -> Worker:
        workdir = self.folder / f"work-{len(self.workers)}"
        workdir.mkdir()
        key = self.make.key(self.environment.id, f"host-{len(self.workers)}")["key"]
        worker = Worker(self.kind, self.plane.url, self.environment.id, key, workdir)
        self.workers.append(worker)
        return worker

    def session(self, tools: list[dict[str, Any]] | None = None) -> Session:
        return self.make.session(self.make.agent(tools=tools or [TOOLSET]), self.environment)

    def close(self) -> None:
        for worker in self.workers:
            worker.close()

    def outputs(self) -> str:
        return "\n---\n".join(worker.output[-4000:] for worker in self.workers)


@pytest.fixture(params=Worker.KINDS)
def bench(request: pytest.FixtureRequest, plane: Plane, make: Makers, tmp_path: Path) -> Iterator[Bench]:
    made = Bench(request.param, plane, make, tmp_path)
    try:
        yield made
    finally:
        made.close()
        print(made.outputs())


def finished(session: Session, seconds: float = 60) -> Any:
    """Waits until the session has nothing more to do."""

    def look() -> Any:
        idles = session.idles()
        return idles[-1] if idles and idles[-1].stop_reason.type != "requires_action" else None

    try:
        return wait_for(f"the end of {session.id}", look, seconds)
    except AssertionError as error:
        log = [(event.type, texts(event)[:200] if hasattr(event, "content") else "") for event in session.events()]
        raise AssertionError(f"{error}; its events are {log}") from None


def results_of(session: Session) -> dict[str, list[Any]]:
    """The results of each tool, in the order of the calls; each call has exactly one."""
    uses = session.events("agent.tool_use")
    results = session.events("user.tool_result", "agent.tool_result")
    by_call: dict[str, list[Any]] = {}
    for result in results:
        by_call.setdefault(result.tool_use_id, []).append(result)
    assert set(by_call) == {use.id for use in uses}
    assert all(len(found) == 1 for found in by_call.values()), "a call has more than one result"
    named: dict[str, list[Any]] = {}
    for use in uses:
        named.setdefault(use.name, []).append(by_call[use.id][0])
    return named


def test_every_tool(bench: Bench) -> None:
    bench.worker()
    session = bench.session()
    session.send(
        message(
            say("First a file.", call("write", file_path="notes/one.txt", content="alpha\nbeta\ngamma\n")),
            say(call("read", file_path="notes/one.txt")),
            say(call("edit", file_path="notes/one.txt", old_string="beta", new_string="delta")),
            say(call("bash", command="cat notes/one.txt && export KEPT=yes")),
            say(call("bash", command="echo kept=$KEPT")),
            say(call("glob", pattern="**/*.txt")),
            say(call("grep", pattern="del.a")),
            say(call("read", file_path="notes/missing.txt")),
            say(call("bash", command="exit 3")),
            "All done.",
        )
    )
    assert finished(session).stop_reason.type == "end_turn"
    assert texts(session.events("agent.message")[-1]) == "All done."
    results = results_of(session)
    read, missing = results["read"]
    cat, kept, failing = results["bash"]
    assert not results["write"][0].is_error and not results["edit"][0].is_error
    assert "alpha" in texts(read) and "beta" in texts(read)
    assert "delta" in texts(cat) and "beta" not in texts(cat)
    assert "kept=yes" in texts(kept), "the shell did not stay the same"
    assert "one.txt" in texts(results["glob"][0])
    assert "delta" in texts(results["grep"][0]) and "one.txt" in texts(results["grep"][0])
    assert missing.is_error is True and "missing.txt" in texts(missing)
    assert failing.is_error is True
    assert session.events("session.error") == []


def test_calls_side_by_side(bench: Bench) -> None:
    bench.worker()
    session = bench.session()
    calls = [call("bash", command=f"echo number-{number}") for number in range(5)]
    session.send(message(say(*calls), "done"))
    assert finished(session).stop_reason.type == "end_turn"
    shown = [texts(result).strip() for result in results_of(session)["bash"]]
    assert shown == [f"number-{number}" for number in range(5)]


def test_the_next_message_finds_a_worker_again(bench: Bench) -> None:
    bench.worker()
    session = bench.session()
    for turn in range(3):
        session.send(message(say(call("bash", command=f"echo turn-{turn} | tee -a log.txt")), f"Turn {turn}."))
        wait_for(f"turn {turn}", lambda: len(session.events("agent.message")) == turn + 1)
    session.send(message(say(call("bash", command="cat log.txt")), "Read."))
    wait_for("the last turn", lambda: len(session.events("agent.message")) == 4)
    finished(session)
    last = texts(results_of(session)["bash"][-1])
    assert [line for line in last.splitlines() if line] == ["turn-0", "turn-1", "turn-2"]


def test_the_item_is_stopped_when_the_session_rests(bench: Bench) -> None:
    bench.worker()
    session = bench.session()
    session.send(message(say(call("bash", command="true")), "done"))
    finished(session)
    key = bench.make.key(bench.environment.id)["key"]
    work = bench.plane.bearer(key).beta.environments.work

    def settled() -> Any:
        items = list(work.list(bench.environment.id))
        return items and all(item.state == "stopped" for item in items)

    wait_for("a stopped item", settled, 40)
    stats = work.stats(bench.environment.id)
    assert (stats.depth, stats.pending) == (0, 0)


def test_allowed_and_denied(bench: Bench) -> None:
    bench.worker()
    session = bench.session([asking("bash")])
    session.send(
        message(say(call("bash", command="echo yes > allowed")), say(call("bash", command="echo no > denied")), say("{{result}}"))
    )
    first = session.wait_event("agent.tool_use")
    assert first.evaluated_permission == "ask"
    session.send({"type": "user.tool_confirmation", "tool_use_id": first.id, "result": "allow"})
    second = session.wait_event("agent.tool_use", 2)
    session.send(
        {"type": "user.tool_confirmation", "tool_use_id": second.id, "result": "deny", "deny_message": "Keep out."}
    )
    assert finished(session).stop_reason.type == "end_turn"
    session.send(message(say(call("bash", command="ls")), "Listed."))
    third = session.wait_event("agent.tool_use", 3)
    session.send({"type": "user.tool_confirmation", "tool_use_id": third.id, "result": "allow"})
    wait_for("the list", lambda: [e for e in session.events("agent.message") if texts(e) == "Listed."])
    (listing,) = [result for result in session.events("user.tool_result", "agent.tool_result") if result.tool_use_id == third.id]
    assert "allowed" in texts(listing) and "denied" not in texts(listing)


def test_custom_tools_are_left_to_their_client(bench: Bench) -> None:
    bench.worker()
    session = bench.session([TOOLSET, WEATHER])
    session.send(message(say(call("bash", command="echo mine"), call("weather", city="Oslo")), "Both."))
    use = session.wait_event("agent.custom_tool_use")
    wait_for("the worker's result", lambda: session.events("user.tool_result", "agent.tool_result"))
    assert session.events("user.custom_tool_result") == [], "the worker answered a tool that is not its own"
    session.answer(use, "snow")
    assert finished(session).stop_reason.type == "end_turn"


def test_interrupt_stops_a_running_command(bench: Bench) -> None:
    bench.worker()
    session = bench.session()
    session.send(message(say(call("bash", command="echo begun; sleep 600")), "unused"))
    session.wait_event("agent.tool_use")
    session.send({"type": "user.interrupt"})
    assert finished(session).stop_reason.type == "end_turn"
    session.send(message(say(call("bash", command="echo alive")), "Back."))
    wait_for("the answer after the interrupt", lambda: [e for e in session.events("agent.message") if texts(e) == "Back."], 70)
    last = session.events("agent.tool_use")[-1]
    (result,) = [r for r in session.events("user.tool_result", "agent.tool_result") if r.tool_use_id == last.id]
    assert "alive" in texts(result)


def test_two_workers_share_the_sessions(bench: Bench) -> None:
    sessions = [bench.session() for _ in range(6)]
    for number, session in enumerate(sessions):
        session.send(message(say(call("bash", command=f"echo session-{number}")), say(call("bash", command="pwd")), "done"))
    bench.worker()
    bench.worker()
    for number, session in enumerate(sessions):
        assert finished(session, 80).stop_reason.type == "end_turn"
        assert texts(results_of(session)["bash"][0]).strip() == f"session-{number}"
    assert all("claimed work" in worker.output for worker in bench.workers), "one worker did it all"


def test_a_killed_worker_is_replaced(bench: Bench) -> None:
    """The lease of the dead worker must end first; an operator ends it at once."""
    first = bench.worker()
    session = bench.session()
    session.send(message(say(call("bash", command="echo one")), say(call("bash", command="sleep 5; echo two")), "done"))
    session.wait_event("agent.tool_use", 2)
    first.kill()
    items = bench.plane.bearer(bench.make.key(bench.environment.id)["key"]).beta.environments.work
    for item in items.list(bench.environment.id):
        if item.state != "stopped":
            items.stop(item.id, environment_id=bench.environment.id, force=True)
    bench.worker()
    assert finished(session, 80).stop_reason.type == "end_turn"
    one, two = results_of(session)["bash"]
    assert texts(one).strip() == "one" and texts(two).strip() == "two"


def test_up_serves_cloud_environments(rehearsal: Rehearsal) -> None:
    with Plane(rehearsal.url, command="up") as plane:
        make = Makers(plane)
        cloud = make.environment(config={"type": "cloud"})
        session = make.session(environment=cloud)
        steps = [
            say(call("write", file_path="one.txt", content="alpha\n")),
            say(call("bash", command="cat one.txt")),
            say(call("bash", command="exit 3")),
        ]
        session.send(message(*steps, "{{result}}"))
        assert finished(session).stop_reason.type == "end_turn"
        results = results_of(session)
        assert {event.type for found in results.values() for event in found} == {"agent.tool_result"}
        read, failing = results["bash"]
        assert texts(read).strip() == "alpha" and not read.is_error and failing.is_error is True
        assert [idle.stop_reason.type for idle in session.idles()] == ["end_turn"], "a cloud session waited for somebody"
        assert plane.stop() == 0, plane.output


@pytest.mark.parametrize("bench", ["outwork"], indirect=True)
def test_sigterm_releases_the_item(bench: Bench) -> None:
    """The SDK's worker is left out: once cancelled, it waits for the end of the command that runs."""
    worker = bench.worker()
    session = bench.session()
    session.send(message(say(call("bash", command="echo begun; sleep 600")), "unused", "unused"))
    session.wait_event("agent.tool_use")
    items = bench.plane.bearer(bench.make.key(bench.environment.id)["key"]).beta.environments.work
    wait_for("a claimed item", lambda: any(i.state == "active" for i in items.list(bench.environment.id)))
    assert worker.stop() == 0, worker.output
    wait_for("a released item", lambda: all(i.state in ("stopped", "queued") for i in items.list(bench.environment.id)), 40)
    session.send({"type": "user.interrupt"})
    finished(session)
