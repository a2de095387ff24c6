"""The live stream of a session, and previews of what is being said."""

from __future__ import annotations

import anthropic
import pytest
from anthropic.lib.sessions import accumulate_managed_agents_event

from refusals import refused
from script import call, message, say, thinking
from sessions import WEATHER, Follower, Makers, texts, types_of, unclocked

PREVIEWS = ("event_start", "event_delta")
LONG = "The quick brown fox jumps over the lazy dog. " * 20


def test_the_stream_gives_what_the_list_gives(make: Makers) -> None:
    session = make.session()
    with Follower.of(session) as stream:
        session.send(message("Hello."))
        stream.wait_type("session.status_idle")
        streamed = list(stream.events)
    listed = {event.id: event for event in session.events()}
    final = {event.id: event for event in streamed}
    assert set(final) == set(listed)
    assert types_of(streamed)[-1] == "session.status_idle"
    for id, event in final.items():  # noqa: A001
        if event.processed_at is not None:
            assert event == listed[id]
    assert not [event for event in streamed if event.type in PREVIEWS], "previews without being asked for"


def test_the_stream_is_live_only(make: Makers) -> None:
    session = make.session()
    session.send(message("Before."))
    session.wait_idle()
    before = {event.id for event in session.events()}
    with Follower.of(session) as stream:
        session.send(message("After."))
        stream.wait_type("session.status_idle")
        assert not before & {event.id for event in stream.events}, "the stream replayed history"


def test_two_streams_give_the_same(make: Makers) -> None:
    session = make.session()
    with Follower.of(session) as one, Follower.of(session) as two:
        session.send(message(say(LONG, pace={"per_chunk_ms": 1})))
        one.wait_type("session.status_idle")
        two.wait_type("session.status_idle")
        assert [event.id for event in one.events] == [event.id for event in two.events]


def test_message_previews_are_a_prefix(make: Makers) -> None:
    session = make.session()
    with Follower.of(session, event_deltas=["agent.message"]) as stream:
        session.send(message(say(LONG, pace={"per_chunk_ms": 2})))
        stream.wait_type("session.status_idle")
        events = list(stream.events)
    (final,) = [event for event in events if event.type == "agent.message"]
    (start,) = [event for event in events if event.type == "event_start"]
    deltas = [event for event in events if event.type == "event_delta"]
    assert start.event.type == "agent.message" and start.event.id == final.id
    assert len(deltas) > 1, "a slow answer came in one piece"
    assert {delta.event_id for delta in deltas} == {final.id}
    order = [event.type for event in events if event.type in (*PREVIEWS, "agent.message")]
    assert order == ["event_start"] + ["event_delta"] * len(deltas) + ["agent.message"]
    shown = None
    for event in events:
        shown = accumulate_managed_agents_event(shown, event)
        if event.type == "event_delta":
            assert shown is not None
            assert all(
                block.text.startswith(part.text) for block, part in zip(final.content, shown.content, strict=False)
            )
    assert texts(final) == LONG
    starts = types_of(events)
    assert starts.index("span.model_request_start") < starts.index("event_start")
    assert not [event for event in session.events() if event.type in PREVIEWS], "a preview was kept"


def test_thinking_previews_start_only(make: Makers) -> None:
    session = make.session(make.agent(model={"id": "rehearsal/script", "effort": "high"}))
    with Follower.of(session, event_deltas=["agent.thinking"]) as stream:
        session.send(message(say(thinking(LONG), "Spoken.", pace={"per_chunk_ms": 1})))
        stream.wait_type("session.status_idle")
        events = list(stream.events)
    (start,) = [event for event in events if event.type == "event_start"]
    (final,) = [event for event in events if event.type == "agent.thinking"]
    assert start.event.type == "agent.thinking" and start.event.id == final.id
    assert "event_delta" not in types_of(events)
    assert LONG not in str([event.to_dict() for event in events if event.type != "user.message"])


def test_both_previews(make: Makers) -> None:
    session = make.session(make.agent(model={"id": "rehearsal/script", "effort": "high"}))
    with Follower.of(session, event_deltas=["agent.message", "agent.thinking"]) as stream:
        session.send(message(say(thinking("Hm."), "Spoken.")))
        stream.wait_type("session.status_idle")
        started = [event.event.type for event in stream.events if event.type == "event_start"]
    assert started == ["agent.thinking", "agent.message"]


def test_an_interrupted_answer_closes_its_preview(make: Makers) -> None:
    session = make.session()
    with Follower.of(session, event_deltas=["agent.message"]) as stream:
        session.send(message(say(LONG, pace={"per_chunk_ms": 200})))
        stream.wait_type("event_delta")
        session.send({"type": "user.interrupt"})
        stream.wait_type("session.status_idle")
        events = list(stream.events)
    finals = [event for event in events if event.type == "agent.message"]
    shown = "".join(event.delta.content.text for event in events if event.type == "event_delta")
    # Either no final event and the span closes it, or a final event that begins with what was shown.
    assert "span.model_request_end" in types_of(events)
    assert all(texts(final).startswith(shown) for final in finals)


def test_unknown_previews_are_refused(make: Makers, client: anthropic.Anthropic) -> None:
    session = make.session()
    with refused(400, "agent.tool_use"):
        client.beta.sessions.events.stream(session.id, event_deltas=["agent.tool_use"])  # type: ignore[list-item]


def test_a_stream_hears_the_end_of_its_session(make: Makers, client: anthropic.Anthropic) -> None:
    session = make.session()
    with Follower.of(session) as stream:
        client.beta.sessions.archive(session.id)
        stream.wait_type("session.status_terminated")
        stream.wait_end()
        assert stream.failure is None


def test_threads(make: Makers, client: anthropic.Anthropic) -> None:
    session = make.session(make.agent(tools=[WEATHER], name="threads of one"))
    threads = client.beta.sessions.threads
    (primary,) = list(threads.list(session.id))
    assert primary.type == "session_thread" and primary.session_id == session.id
    assert primary.parent_thread_id is None and primary.status == "idle"
    assert primary.agent.type == "agent" and primary.agent.name == "threads of one"
    assert unclocked(threads.retrieve(primary.id, session_id=session.id)) == unclocked(primary)
    open_stream = lambda: threads.events.stream(primary.id, session_id=session.id)  # noqa: E731
    with Follower(open_stream) as stream:
        session.send(message(say(call("weather", city="Rome")), "done"))
        use = session.wait_event("agent.custom_tool_use")
        session.wait_idle()
        session.answer(use, "sun")
        session.wait_idle(2)
        stream.wait_type("session.thread_status_idle", 2)
        streamed = types_of(stream.events)
    listed = list(threads.events.list(primary.id, session_id=session.id, limit=3))
    types = types_of(listed)
    for wanted in ("user.message", "agent.custom_tool_use", "user.custom_tool_result", "agent.message"):
        assert wanted in types and wanted in streamed
    whole = {event.id for event in session.events()}
    assert {event.id for event in listed} <= whole
    for status in ("session.thread_status_running", "session.thread_status_idle"):
        for event in session.events(status):
            assert event.session_thread_id == primary.id and event.agent_name == "threads of one"
    assert threads.retrieve(primary.id, session_id=session.id).usage.output_tokens == session.retrieve().usage.output_tokens
    assert [thread.id for thread in threads.list(session.id, statuses=["idle"])] == [primary.id]
    assert list(threads.list(session.id, statuses=["running"])) == []
    with refused(404, "sthr_unknown"):
        threads.retrieve("sthr_unknown", session_id=session.id)
    with pytest.raises(anthropic.APIStatusError) as refusal:
        threads.archive(primary.id, session_id=session.id)
    assert refusal.value.status_code in (400, 409)


def test_interrupt_of_one_thread(make: Makers, client: anthropic.Anthropic) -> None:
    session = make.session()
    (primary,) = list(client.beta.sessions.threads.list(session.id))
    session.send(message(say("slow", pace={"first_token_ms": 60_000})))
    session.wait_event("span.model_request_start")
    session.send({"type": "user.interrupt", "session_thread_id": primary.id})
    assert session.wait_idle().stop_reason.type == "end_turn"
