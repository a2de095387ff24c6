"""The event log of a session: what is sent, what is listed, in which order."""

from __future__ import annotations

import anthropic
import pytest

from refusals import refused
from script import call, message, say, thinking
from sessions import TOOLSET, WEATHER, Makers, texts, types_of

ONE_TURN = [
    "session.status_running",
    "session.thread_status_running",
    "user.message",
    "span.model_request_start",
    "agent.message",
    "span.model_request_end",
    "session.usage",
    "session.thread_status_idle",
    "session.status_idle",
]


def without_usage_order(types: list[str]) -> list[str]:
    """The thread's rest and the usage both come right before the session's rest; their order is free."""
    return [name for name in types if name not in ("session.usage", "session.thread_status_idle")]


def test_one_turn_in_order(make: Makers) -> None:
    session = make.session()
    (sent,) = session.send(message("Hello."))
    assert sent.type == "user.message" and sent.id.startswith("sevt_")
    session.wait_idle()
    events = session.events()
    assert without_usage_order(types_of(events)) == without_usage_order(ONE_TURN)
    assert sorted(types_of(events)) == sorted(ONE_TURN)
    assert events[-1].type == "session.status_idle"
    assert next(event for event in events if event.type == "user.message").id == sent.id
    stamps = [event.processed_at for event in events]
    assert None not in stamps and stamps == sorted(stamps)
    assert len({event.id for event in events}) == len(events)


def test_usage_is_counted(make: Makers) -> None:
    session = make.session()
    session.send(message("Hello."))
    session.wait_idle()
    (end,) = session.events("span.model_request_end")
    (start,) = session.events("span.model_request_start")
    assert end.model_request_start_id == start.id and not end.is_error
    spent = end.model_usage
    assert spent.output_tokens > 0
    assert spent.input_tokens + spent.cache_creation_input_tokens + spent.cache_read_input_tokens > 0
    (usage,) = session.events("session.usage")
    shown = session.retrieve().usage
    for counted in (usage.usage, shown):
        assert counted.output_tokens == end.model_usage.output_tokens
        assert counted.input_tokens == end.model_usage.input_tokens
        assert counted.cache_read_input_tokens == end.model_usage.cache_read_input_tokens
        cached = counted.cache_creation
        assert cached is not None
        made = (cached.ephemeral_5m_input_tokens or 0) + (cached.ephemeral_1h_input_tokens or 0)
        assert made == end.model_usage.cache_creation_input_tokens
    session.send(message("Again."))
    session.wait_idle(2)
    first, second = session.events("span.model_request_end")
    total = first.model_usage.output_tokens + second.model_usage.output_tokens
    assert session.retrieve().usage.output_tokens == total
    assert session.events("session.usage")[1].usage.output_tokens == total


def test_list_pages_and_orders(make: Makers, client: anthropic.Anthropic) -> None:
    session = make.session()
    session.send(message("Hello."))
    session.wait_idle()
    ascending = [event.id for event in session.events()]
    assert [event.id for event in session.events(order="asc", limit=2)] == ascending
    assert [event.id for event in session.events(order="desc", limit=2)] == ascending[::-1]
    page = client.beta.sessions.events.list(session.id, limit=4)
    assert [event.id for event in page.data] == ascending[:4] and page.next_page
    rest = client.beta.sessions.events.list(session.id, limit=100, page=page.next_page)
    assert [event.id for event in rest.data] == ascending[4:] and not rest.next_page


def test_list_filters(make: Makers) -> None:
    session = make.session()
    session.send(message("One."))
    session.wait_idle()
    session.send(message("Two."))
    session.wait_idle(2)
    both = session.events("user.message", "agent.message")
    assert types_of(both) == ["user.message", "agent.message"] * 2
    everything = session.events()
    middle = everything[len(everything) // 2].processed_at

    def ids(**query: object) -> list[str]:
        return [event.id for event in session.events(**query)]  # type: ignore[arg-type]

    assert ids(created_at_gt=middle) == [event.id for event in everything if event.processed_at > middle]
    assert ids(created_at_gte=middle) == [event.id for event in everything if event.processed_at >= middle]
    assert ids(created_at_lt=middle) == [event.id for event in everything if event.processed_at < middle]
    assert ids(created_at_lte=middle) == [event.id for event in everything if event.processed_at <= middle]
    with refused(400, "agent.mumble"):
        session.events("agent.mumble")
    with refused(400, "order"):
        session.events(order="sideways")
    with refused(400, "created_at"):
        session.events(created_at_gt="yesterday")
    with refused(400, "page"):
        session.events(page="nonsense")
    with refused(400, "hue"):
        session.events(extra_query={"hue": "red"})


def test_thinking_is_marked_but_not_shown(make: Makers) -> None:
    session = make.session(make.agent(model={"id": "rehearsal/script", "effort": "high"}))
    session.send(message(say(thinking("Secret thought."), "Spoken."), "unused"))
    session.wait_idle()
    types = types_of(session.events())
    assert types.index("agent.thinking") < types.index("agent.message")
    assert "Secret thought." not in str([event.to_dict() for event in session.events("agent.thinking", "agent.message")])
    session.send(message("And on."))
    assert session.wait_idle(2).stop_reason.type == "end_turn", "a turn after thinking failed"
    assert not session.events("session.error")


def test_several_events_in_one_call_keep_their_order(make: Makers) -> None:
    session = make.session(make.agent(tools=[TOOLSET, WEATHER]))
    session.send(message(say(call("weather", city="Berlin"), call("weather", city="Paris")), "done"))
    session.wait_idle()
    uses = session.events("agent.custom_tool_use")
    results = [
        {
            "type": "user.custom_tool_result",
            "custom_tool_use_id": use.id,
            "content": [{"type": "text", "text": use.input["city"]}],
        }
        for use in uses
    ]
    sent = session.send(*results)
    assert [event.custom_tool_use_id for event in sent] == [use.id for use in uses]
    session.wait_idle(2)
    assert [event.id for event in session.events("user.custom_tool_result")] == [event.id for event in sent]


def test_a_refused_batch_leaves_nothing(make: Makers) -> None:
    session = make.session()
    with refused(400, "sevt_nothing"):
        session.send(
            message("x"),
            {"type": "user.tool_result", "tool_use_id": "sevt_nothing", "content": [{"type": "text", "text": "x"}]},
        )
    assert session.events() == [] and session.retrieve().status == "idle"


@pytest.mark.parametrize(
    ("event", "named"),
    [
        ({"type": "user.sneeze"}, "user.sneeze"),
        ({"type": "agent.message", "content": [{"type": "text", "text": "x"}]}, "agent.message"),
        ({"type": "user.message", "content": []}, "content"),
        ({"type": "user.message", "content": [{"type": "text", "text": ""}]}, "text"),
        ({"type": "user.message", "content": [{"type": "hologram"}]}, "hologram"),
        ({"type": "user.message", "content": "words"}, "content"),
        ({"type": "user.message"}, "content"),
        ({"type": "user.message", "content": [{"type": "text", "text": "x"}], "priority": 1}, "priority"),
        ({"type": "user.message", "content": [{"type": "text", "text": "x", "bold": True}]}, "bold"),
        ({"type": "user.tool_confirmation", "tool_use_id": "sevt_x", "result": "perhaps"}, "perhaps"),
        ({"type": "user.tool_confirmation", "tool_use_id": "sevt_x", "result": "allow"}, "sevt_x"),
        ({"type": "user.custom_tool_result", "custom_tool_use_id": "sevt_x", "content": []}, "sevt_x"),
        ({"type": "user.interrupt", "session_thread_id": "sthr_x"}, "sthr_x"),
        ({"content": []}, "type"),
    ],
)
def test_bad_events_are_refused_by_name(make: Makers, event: dict, named: str) -> None:
    session = make.session()
    with refused(400, named):
        session.send(event)
    assert session.events() == []


def test_a_batch_has_bounds(make: Makers, client: anthropic.Anthropic) -> None:
    session = make.session()
    with refused(400, "events"):
        client.beta.sessions.events.send(session.id, events=[])
    with refused(400, "events"):
        client.post(f"/v1/sessions/{session.id}/events", body={}, cast_to=object, options={
            "headers": {"anthropic-beta": "managed-agents-2026-04-01"}
        })  # fmt: skip


def test_system_messages(make: Makers) -> None:
    session = make.session()
    system = {"type": "system.message", "content": [{"type": "text", "text": "Be brief."}]}
    session.send(message("Hello."), system)
    assert session.wait_idle().stop_reason.type in ("end_turn", "retries_exhausted")
    assert texts(session.events("system.message")[0]) == "Be brief."
    with refused(400, "system.message"):
        session.send(system, message("Hello."))
    with refused(400, "system.message"):
        session.send(message("Hello."), system, system)


def test_events_of_an_unknown_session(client: anthropic.Anthropic) -> None:
    for gone in (
        lambda: client.beta.sessions.events.list("sesn_unknown"),
        lambda: client.beta.sessions.events.send("sesn_unknown", events=[message("x")]),  # type: ignore[list-item]
        lambda: client.beta.sessions.events.stream("sesn_unknown"),
    ):
        with refused(404, "sesn_unknown"):
            gone()
