"""Sessions that call tools of real MCP servers: what is offered, who is asked, what goes wrong and how it is told."""

from __future__ import annotations

from typing import Any, Iterator

import anthropic
import pytest

from script import call, message, say
from servers import McpServer, Plane, Rehearsal, wait_for
from sessions import Makers, Session

LOCAL = '[mcp]\nallowed_networks = ["127.0.0.0/8"]\nplain_http = true\n'
ALLOW = {"type": "always_allow"}


def toolset(policy: dict[str, str] | None = ALLOW, **fields: Any) -> dict[str, Any]:
    given = {"type": "mcp_toolset", "mcp_server_name": "notes", **fields}
    if policy is not None:
        given["default_config"] = {"permission_policy": policy}
    return given


def server_at(url: str) -> dict[str, str]:
    return {"type": "url", "name": "notes", "url": url}


@pytest.fixture(scope="module")
def near(rehearsal: Rehearsal) -> Iterator[Plane]:
    """A plane that may call servers on this machine."""
    with Plane(rehearsal.url, config=LOCAL) as plane:
        yield plane


@pytest.fixture(scope="module")
def notes() -> Iterator[McpServer]:
    with McpServer() as server:
        yield server


def begin(make: Makers, url: str, *steps: Any, tools: list[Any] | None = None, **fields: Any) -> Session:
    agent = make.agent(tools=tools if tools is not None else [toolset()], mcp_servers=[server_at(url)])
    session = make.session(agent=agent, **fields)
    session.send(message(*steps))
    return session


def result(session: Session, count: int = 1) -> Any:
    return session.wait_event("agent.mcp_tool_result", count)


def words(event: Any) -> str:
    return "".join(block.text for block in event.content if block.type == "text")


def test_an_agent_says_which_servers_it_has(near: Plane, notes: McpServer) -> None:
    make = Makers(near)
    agent = make.agent(tools=[toolset(None, configs=[{"name": "add_note", "enabled": False}])], mcp_servers=[server_at(notes.url)])
    assert agent.mcp_servers[0].url == notes.url
    tools = agent.tools[0]
    assert tools.type == "mcp_toolset" and tools.default_config.permission_policy.type == "always_ask"
    assert tools.configs[0].name == "add_note" and not tools.configs[0].enabled
    without = make.client.beta.agents.update(agent.id, version=agent.version, tools=[], mcp_servers=[])
    assert without.mcp_servers == [] and without.tools == []


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"tools": [toolset()]}, "tools.0.mcp_server_name"),
        ({"mcp_servers": [server_at("https://notes.example/mcp")]}, "mcp_servers.0"),
        ({"tools": [toolset(), toolset()], "mcp_servers": [server_at("https://notes.example/mcp")]}, "tools.1"),
        ({"tools": [toolset()], "mcp_servers": [server_at("notes.example")]}, "mcp_servers.0.url"),
        ({"tools": [toolset()], "mcp_servers": [server_at("https://me:word@notes.example")]}, "mcp_servers.0.url"),
    ],
)
def test_what_does_not_fit_together_is_refused(near: Plane, fields: dict[str, Any], path: str) -> None:
    with pytest.raises(anthropic.BadRequestError, match=path.replace(".", r"\.")):
        Makers(near).agent(**{"tools": [], **fields})


def test_a_tool_is_called_and_its_result_reaches_the_model(near: Plane, notes: McpServer) -> None:
    session = begin(Makers(near), notes.url, say(call("mcp__notes__find_note", topic="garden")), "so water them")
    session.wait_idle()
    types = [event.type for event in session.events() if event.type.startswith("agent.")]
    assert types == ["agent.mcp_tool_use", "agent.mcp_tool_result", "agent.message"]
    use = session.events("agent.mcp_tool_use")[0]
    assert (use.mcp_server_name, use.name, use.input) == ("notes", "find_note", {"topic": "garden"})
    assert use.evaluated_permission == "allow"
    answer = session.events("agent.mcp_tool_result")[0]
    assert answer.mcp_tool_use_id == use.id and words(answer) == "water the beans" and not answer.is_error
    assert session.idles()[-1].stop_reason.type == "end_turn"


def test_a_tool_that_reports_progress_and_one_that_fails(near: Plane, notes: McpServer) -> None:
    session = begin(
        Makers(near), notes.url, say(call("mcp__notes__progressing"), call("mcp__notes__broken")), "one of two"
    )
    session.wait_idle()
    answers = {words(event): event.is_error for event in session.events("agent.mcp_tool_result")}
    assert answers.pop("arrived") is False
    [(text, is_error)] = answers.items()
    assert "broken" in text and is_error


def test_a_call_waits_for_its_confirmation(near: Plane, notes: McpServer) -> None:
    asked = say(
        call("mcp__notes__add_note", topic="attic", text="swept"), call("mcp__notes__add_note", topic="roof", text="leaks")
    )
    session = begin(Makers(near), notes.url, asked, "noted", tools=[toolset(None)])
    idle = session.wait_idle()
    uses = session.events("agent.mcp_tool_use")
    assert idle.stop_reason.type == "requires_action" and idle.stop_reason.event_ids == [use.id for use in uses]
    assert not [entry for entry in notes.journal("call", "add_note") if entry["topic"] in ("attic", "roof")]
    session.send(
        {"type": "user.tool_confirmation", "tool_use_id": uses[0].id, "result": "allow"},
        {"type": "user.tool_confirmation", "tool_use_id": uses[1].id, "result": "deny", "deny_message": "not the roof"},
    )
    session.wait_event("agent.message")
    assert [entry["topic"] for entry in notes.journal("call", "add_note") if entry["topic"] in ("attic", "roof")] == ["attic"]
    assert [words(event) for event in session.events("agent.mcp_tool_result")] == ["noted attic"]


def test_a_tool_that_is_off_is_not_offered(near: Plane, notes: McpServer) -> None:
    tools = [toolset(configs=[{"name": "add_note", "enabled": False}])]
    before = len(notes.journal("call", "add_note"))
    session = begin(Makers(near), notes.url, say(call("mcp__notes__add_note", topic="x", text="y")), tools=tools)
    session.wait_idle()
    # The rehearsal model says what it is offered when it wants to call something else.
    said = words(session.events("agent.message")[0])
    assert "offers only" in said and "mcp__notes__find_note" in said
    assert "add_note" not in said.split("offers only")[1]
    assert len(notes.journal("call", "add_note")) == before


def test_a_server_that_is_away_costs_its_tools_and_is_tried_again(near: Plane) -> None:
    with McpServer() as server:
        port, url = server.port, server.url
    session = begin(Makers(near), url, "without it, then")
    session.wait_idle()
    error = session.events("session.error")[0].error
    assert (error.type, error.mcp_server_name) == ("mcp_connection_failed_error", "notes")
    assert "notes" in error.message and session.events("agent.message")
    with McpServer(port=port) as server:
        session.send(message(say(call("mcp__notes__find_note", topic="cellar")), "found"))
        session.wait_idle(2)
        assert words(result(session)) == "the third key fits"
    assert len(session.events("session.error")) == 1


def test_a_server_that_wants_a_token_says_so(near: Plane) -> None:
    with McpServer(token="right") as server:
        session = begin(Makers(near), server.url, "without it, then")
        session.wait_idle()
        error = session.events("session.error")[0].error
        assert (error.type, error.mcp_server_name) == ("mcp_authentication_failed_error", "notes")


def test_addresses_inside_the_network_are_not_called(rehearsal: Rehearsal, notes: McpServer) -> None:
    before = len(notes.journal("request"))
    with Plane(rehearsal.url, config="[mcp]\nplain_http = true\n") as plane:
        session = begin(Makers(plane), notes.url.replace("127.0.0.1", "localhost"), "not reached")
        session.wait_idle()
        error = session.events("session.error")[0].error
    assert error.type == "mcp_connection_failed_error" and "may not be dialled" in error.message
    assert len(notes.journal("request")) == before


def test_an_interrupt_cancels_the_call(near: Plane, notes: McpServer) -> None:
    session = begin(Makers(near), notes.url, say(call("mcp__notes__slow_write", seconds=600)), "never")
    wait_for("the call", lambda: notes.journal("call", "slow_write"))
    session.send({"type": "user.interrupt"})
    session.wait_idle()
    answer = result(session)
    assert answer.is_error and "interrupted" in words(answer)
    wait_for("the cancellation", lambda: notes.journal("cancelled", "slow_write"))


def test_a_long_text_is_shortened_for_the_model(near: Plane, notes: McpServer) -> None:
    session = begin(Makers(near), notes.url, say(call("mcp__notes__long_text", characters=300_000)), "long")
    session.wait_idle()
    text = words(result(session))
    assert len(text) < 10_000 and text.startswith("0123456789") and "300000" in text.replace(",", "")
    # All of it is kept beside the log, under the call, and the result says where a worker puts it.
    use = session.events("agent.mcp_tool_use")[0]
    assert f".outwork/outputs/{use.id}.txt" in text
    path = f"/v1/outwork/sessions/{session.id}/texts"
    beta: Any = {"headers": {"anthropic-beta": "managed-agents-2026-04-01"}}
    (known,) = session.client.get(path, cast_to=object, options=beta)["data"]  # type: ignore[index]
    assert known["event_id"] == use.id and known["characters"] == 300_000
    whole = session.client.get(f"{path}/{use.id}", cast_to=str, options=beta)
    assert len(whole) == 300_000 and whole.startswith(text[:2000])
    session.client.beta.sessions.delete(session.id)
    with pytest.raises(anthropic.NotFoundError):
        session.client.get(path, cast_to=object, options=beta)


def test_a_long_text_is_in_the_sandbox_when_the_next_tool_runs(rehearsal: Rehearsal, notes: McpServer) -> None:
    with Plane(rehearsal.url, config=LOCAL, command="up") as plane:
        make = Makers(plane)
        tools = [{"type": "agent_toolset_20260401", "default_config": {"permission_policy": ALLOW}}, toolset()]
        agent = make.agent(tools=tools, mcp_servers=[server_at(notes.url)])
        session = make.session(agent=agent, environment=make.environment(config={"type": "cloud"}))
        long = say(call("mcp__notes__long_text", characters=150_000))
        look = say(call("bash", command="wc -c .outwork/outputs/*.txt; head -c 10 .outwork/outputs/*.txt"))
        session.send(message(look, long, look, "read"))
        session.wait_idle()
        before, after = session.events("agent.tool_result")
        assert "No such file" in words(before)
        assert words(after).split()[0] == "150000" and words(after).endswith("0123456789"), words(after)
        assert plane.stop() == 0, plane.output


def test_after_a_crash_only_what_only_reads_is_called_again(rehearsal: Rehearsal, tmp_path: Any) -> None:
    with McpServer() as server:
        plane = Plane(rehearsal.url, data_dir=tmp_path, config=LOCAL)
        try:
            steps = say(call("mcp__notes__slow_read", seconds=4), call("mcp__notes__slow_write", seconds=4)), "both"
            session = begin(Makers(plane), server.url, *steps)
            wait_for("both calls", lambda: server.journal("call", "slow_read") and server.journal("call", "slow_write"))
            plane.kill()
        finally:
            plane.close()
        with Plane(rehearsal.url, data_dir=tmp_path, config=LOCAL) as plane:
            session = Session(plane.client(), session.id)
            session.wait_idle()
            answers = sorted(words(event) for event in session.events("agent.mcp_tool_result"))
            assert len(answers) == 2 and answers[1] == "waited" and "not known" in answers[0]
            assert len(server.journal("call", "slow_read")) == 2
            assert len(server.journal("call", "slow_write")) == 1
