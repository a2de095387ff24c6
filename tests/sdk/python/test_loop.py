"""The agent loop as a client sees it: tools, permissions, questions, interrupts, queued messages."""

from __future__ import annotations

import anthropic
import pytest

from refusals import refused
from script import call, message, say
from sessions import TOOLSET, WEATHER, Makers, asking, texts, types_of


def test_a_custom_tool(make: Makers) -> None:
    session = make.session(make.agent(tools=[WEATHER]))
    session.send(message(say("Let me look.", call("weather", city="Berlin")), say("It is {{result}}.")))
    idle = session.wait_idle()
    (use,) = session.events("agent.custom_tool_use")
    assert idle.stop_reason.type == "requires_action" and idle.stop_reason.event_ids == [use.id]
    assert use.name == "weather" and use.input == {"city": "Berlin"}
    assert session.retrieve().status == "idle"
    session.answer(use, "sunny")
    assert session.wait_idle(2).stop_reason.type == "end_turn"
    (result,) = session.events("user.custom_tool_result")
    assert result.custom_tool_use_id == use.id and texts(result) == "sunny" and result.processed_at
    assert texts(session.events("agent.message")[-1]) == "It is sunny."
    assert session.events("agent.tool_use") == []


def test_a_self_hosted_tool_call_by_hand(make: Makers) -> None:
    session = make.session()
    session.send(message(say(call("bash", command="uname")), say("It is {{result}}.")))
    idle = session.wait_idle()
    (use,) = session.events("agent.tool_use")
    assert use.name == "bash" and use.input == {"command": "uname"} and use.evaluated_permission == "allow"
    assert idle.stop_reason.type == "requires_action" and idle.stop_reason.event_ids == [use.id]
    session.answer(use, "Linux")
    assert session.wait_idle(2).stop_reason.type == "end_turn"
    (result,) = session.events("user.tool_result")
    assert result.tool_use_id == use.id and not result.is_error
    assert texts(session.events("agent.message")[-1]) == "It is Linux."


def test_an_error_result_reaches_the_model(make: Makers) -> None:
    session = make.session(make.agent(tools=[WEATHER]))
    branch = {"if": {"error": True}, "say": [{"text": "It failed: {{result}}"}]}
    session.send(message(say(call("weather", city="Atlantis")), {"when": [branch], "say": [{"text": "It worked."}]}))
    use = session.wait_event("agent.custom_tool_use")
    session.wait_idle()
    session.answer(use, "no such city", is_error=True)
    session.wait_idle(2)
    assert texts(session.events("agent.message")[-1]) == "It failed: no such city"
    assert session.events("user.custom_tool_result")[0].is_error is True


def test_partial_answers_leave_the_rest_open(make: Makers) -> None:
    session = make.session(make.agent(tools=[WEATHER]))
    cities = ["Berlin", "Paris", "Rome"]
    session.send(message(say(*[call("weather", city=city) for city in cities]), "done"))
    first = session.wait_idle()
    uses = session.events("agent.custom_tool_use")
    assert [use.input["city"] for use in uses] == cities
    assert set(first.stop_reason.event_ids) == {use.id for use in uses}
    session.answer(uses[1], "rain")
    second = session.wait_idle(2)
    assert second.stop_reason.type == "requires_action"
    assert set(second.stop_reason.event_ids) == {uses[0].id, uses[2].id}
    session.answer(uses[0], "sun")
    session.answer(uses[2], "fog")
    session.wait_event("agent.message")
    last = session.wait_idle(len(session.idles()))
    assert last.stop_reason.type == "end_turn"
    assert len(session.events("span.model_request_start")) == 2, "the model was asked before all results were there"


def test_a_second_result_for_a_call_is_refused(make: Makers) -> None:
    session = make.session(make.agent(tools=[WEATHER]))
    session.send(message(say(call("weather", city="Berlin")), "done"))
    use = session.wait_event("agent.custom_tool_use")
    session.wait_idle()
    session.answer(use, "sun")
    with refused(400, use.id):
        session.answer(use, "rain")
    session.wait_idle(2)
    with refused(400, use.id):
        session.answer(use, "rain")
    assert len(session.events("user.custom_tool_result")) == 1


def test_a_result_of_the_wrong_kind_is_refused(make: Makers) -> None:
    session = make.session(make.agent(tools=[WEATHER]))
    session.send(message(say(call("weather", city="Berlin")), "done"))
    use = session.wait_event("agent.custom_tool_use")
    session.wait_idle()
    with refused(400, use.id):
        session.send({"type": "user.tool_result", "tool_use_id": use.id, "content": [{"type": "text", "text": "x"}]})
    session.answer(use, "sun")
    assert session.wait_idle(2).stop_reason.type == "end_turn"


def test_always_ask_allowed(make: Makers) -> None:
    session = make.session(make.agent(tools=[asking("bash")]))
    session.send(message(say(call("bash", command="id")), say("I am {{result}}.")))
    first = session.wait_idle()
    (use,) = session.events("agent.tool_use")
    assert use.evaluated_permission == "ask"
    assert first.stop_reason.type == "requires_action" and first.stop_reason.event_ids == [use.id]
    session.send({"type": "user.tool_confirmation", "tool_use_id": use.id, "result": "allow"})
    (confirmation,) = session.events("user.tool_confirmation")
    assert confirmation.result == "allow" and confirmation.tool_use_id == use.id
    session.answer(use, "root")
    session.wait_event("agent.message")
    assert texts(session.events("agent.message")[-1]) == "I am root."


def test_always_ask_denied(make: Makers) -> None:
    session = make.session(make.agent(tools=[asking("bash")]))
    session.send(message(say(call("bash", command="rm -rf /")), say("Refused: {{result}}")))
    session.wait_idle()
    (use,) = session.events("agent.tool_use")
    session.send(
        {"type": "user.tool_confirmation", "tool_use_id": use.id, "result": "deny", "deny_message": "Not on my machine."}
    )
    session.wait_event("agent.message")
    assert session.wait_idle(2).stop_reason.type == "end_turn"
    assert "Not on my machine." in texts(session.events("agent.message")[-1])
    assert session.events("user.tool_confirmation")[0].deny_message == "Not on my machine."
    with refused(400, use.id):
        session.answer(use, "too late")


def test_a_call_that_asks_takes_no_result_before_it_is_allowed(make: Makers) -> None:
    session = make.session(make.agent(tools=[asking("bash")]))
    session.send(message(say(call("bash", command="id")), "done"))
    session.wait_idle()
    (use,) = session.events("agent.tool_use")
    with refused(400, use.id):
        session.answer(use, "root")


def test_confirmations_need_a_call_that_asks(make: Makers) -> None:
    session = make.session()
    session.send(message(say(call("bash", command="id")), "done"))
    session.wait_idle()
    (use,) = session.events("agent.tool_use")
    with refused(400, use.id):
        session.send({"type": "user.tool_confirmation", "tool_use_id": use.id, "result": "allow"})
    with refused(400, "deny_message"):
        session.send(
            {"type": "user.tool_confirmation", "tool_use_id": use.id, "result": "allow", "deny_message": "no"}
        )


def test_a_disabled_tool_is_not_offered(make: Makers) -> None:
    tools = [{**TOOLSET, "configs": [{"type": "bash", "name": "bash", "enabled": False}]}]
    session = make.session(make.agent(tools=tools))
    branch = {"if": {"offered": "bash"}, "say": [{"text": "bash is offered"}]}
    other = {"if": {"offered": "read"}, "say": [{"text": "only read is offered"}]}
    session.send(message({"when": [branch, other]}))
    session.wait_idle()
    assert texts(session.events("agent.message")[-1]) == "only read is offered"


def test_a_tool_that_is_not_offered_is_answered_with_an_error(make: Makers) -> None:
    session = make.session(make.agent(tools=[WEATHER]))
    unlisted = {"tool_use": {"name": "teleport", "input": {}, "unlisted": True}}
    session.send(message(say(unlisted), say("I was told: {{result}}")))
    assert session.wait_idle().stop_reason.type == "end_turn"
    assert "teleport" in texts(session.events("agent.message")[-1])


def test_interrupt_while_the_model_speaks(make: Makers) -> None:
    session = make.session()
    session.send(message(say("never said", pace={"first_token_ms": 60_000}), superseded=True))
    session.wait_event("span.model_request_start")
    session.send({"type": "user.interrupt"})
    assert session.wait_idle().stop_reason.type == "end_turn"
    types = types_of(session.events())
    assert "agent.message" not in types
    assert types.index("user.interrupt") < types.index("session.status_idle")
    assert session.retrieve().status == "idle"
    session.send(message("I am back."))
    session.wait_idle(2)
    assert texts(session.events("agent.message")[-1]) == "I am back."


def test_interrupt_with_open_calls(make: Makers) -> None:
    session = make.session(make.agent(tools=[TOOLSET, WEATHER]))
    session.send(message(say(call("weather", city="Berlin"), call("bash", command="sleep 9")), "unused"))
    session.wait_idle()
    custom, builtin = session.events("agent.custom_tool_use", "agent.tool_use")
    session.send({"type": "user.interrupt"})
    assert session.wait_idle(2).stop_reason.type == "end_turn"
    events = session.events()
    results = [event for event in events if event.type in ("user.custom_tool_result", "user.tool_result", "agent.tool_result")]
    answered = {getattr(event, "custom_tool_use_id", None) or event.tool_use_id for event in results}
    assert answered == {custom.id, builtin.id} and all(event.is_error for event in results)
    types = types_of(events)
    interrupted = types.index("user.interrupt")
    assert all(events.index(result) < interrupted for result in results)
    with refused(400, builtin.id):
        session.answer(builtin, "late")
    session.send(message("Fresh."))
    session.wait_idle(3)
    assert texts(session.events("agent.message")[-1]) == "Fresh."


def test_interrupt_when_idle_does_nothing(make: Makers) -> None:
    session = make.session()
    session.send(message("Hello."))
    session.wait_idle()
    session.send({"type": "user.interrupt"})
    session.send(message("Still here."))
    session.wait_idle(2)
    assert texts(session.events("agent.message")[-1]) == "Still here."
    assert len(session.idles()) == 2


def test_messages_queue_while_the_session_works(make: Makers) -> None:
    session = make.session()
    session.send(message(say("First.", pace={"first_token_ms": 1500})))
    session.wait_event("span.model_request_start")
    (queued,) = session.send(message("Second."))
    assert queued.processed_at is None
    listed = session.events()
    if listed[-1].id == queued.id:
        assert listed[-1].processed_at is None, "an event in the queue has a time"
    session.wait_event("agent.message", 2)
    session.wait_idle(len(session.idles()) or 1)
    assert [texts(event) for event in session.events("agent.message")] == ["First.", "Second."]
    events = session.events()
    second = next(event for event in events if event.id == queued.id)
    assert second.processed_at is not None
    first_answer = next(event for event in events if event.type == "agent.message")
    assert events.index(first_answer) < events.index(second)


def test_many_turns_of_calls(make: Makers) -> None:
    session = make.session(make.agent(tools=[WEATHER]))
    steps = [say(call("weather", city=f"city-{number}")) for number in range(8)]
    session.send(message(*steps, "all seen"))
    for number in range(8):
        use = session.wait_event("agent.custom_tool_use", number + 1)
        assert use.input == {"city": f"city-{number}"}
        session.wait_idle(number + 1)
        session.answer(use, f"weather of {number}")
    assert session.wait_idle(9).stop_reason.type == "end_turn"
    assert len(session.events("span.model_request_end")) == 9


@pytest.mark.parametrize("kind", ["image", "document"])
def test_rich_results(make: Makers, kind: str) -> None:
    sources = {
        "image": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="},
        "document": {"type": "text", "media_type": "text/plain", "data": "words"},
    }  # fmt: skip
    session = make.session(make.agent(tools=[WEATHER]))
    session.send(message(say(call("weather", city="Berlin")), "seen"))
    use = session.wait_event("agent.custom_tool_use")
    session.wait_idle()
    block = {"type": kind, "source": sources[kind]}
    session.send({"type": "user.custom_tool_result", "custom_tool_use_id": use.id, "content": [block]})
    assert session.wait_idle(2).stop_reason.type == "end_turn"
    (result,) = session.events("user.custom_tool_result")
    assert result.content[0].type == kind


def test_a_message_to_a_session_that_waits(make: Makers, client: anthropic.Anthropic) -> None:
    """A message does not answer a question: it waits until the call is settled, and then goes along."""
    session = make.session(make.agent(tools=[WEATHER]))
    session.send(message(say(call("weather", city="Berlin")), "Never said: the next message comes first."))
    use = session.wait_event("agent.custom_tool_use")
    session.wait_idle()
    (queued,) = session.send(message("Second."))
    assert queued.processed_at is None and session.events()[-1].id == queued.id
    assert len(session.events("span.model_request_start")) == 1
    session.answer(use, "sun")
    assert texts(session.wait_event("agent.message")) == "Second."
    assert session.wait_idle(len(session.idles())).stop_reason.type == "end_turn"
    events = session.events()
    ids = [event.id for event in events]
    (result,) = session.events("user.custom_tool_result")
    assert ids.index(result.id) < ids.index(queued.id)
    assert events[ids.index(queued.id)].processed_at is not None
