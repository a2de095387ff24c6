"""Sessions: made in three ways, listed from both ends, changed, archived, deleted."""

from __future__ import annotations

import anthropic
import pytest

from refusals import refused
from script import MODEL, call, message, say
from sessions import TOOLSET, WEATHER, Follower, Makers, asking, texts, unclocked


def test_agent_by_id(make: Makers, client: anthropic.Anthropic) -> None:
    agent = make.agent(system="first", tools=[TOOLSET, WEATHER], metadata={"a": "b"})
    agent = client.beta.agents.update(agent.id, system="second")
    environment = make.environment()
    made = client.beta.sessions.create(
        agent=agent.id, environment_id=environment.id, title="A title", metadata={"run": "7"}
    )
    assert made.type == "session" and made.id.startswith("sesn_")
    assert made.status == "idle" and made.title == "A title" and made.metadata == {"run": "7"}
    assert made.environment_id == environment.id and made.archived_at is None
    assert made.agent.type == "agent" and made.agent.id == agent.id and made.agent.version == 2
    assert made.agent.system == "second" and made.agent.tools == agent.tools and made.agent.model == agent.model
    assert made.resources == [] and made.vault_ids == [] and made.outcome_evaluations == []
    assert made.budget is None and made.deployment_id is None
    assert (made.usage.input_tokens or 0) == 0 and (made.usage.output_tokens or 0) == 0
    again = client.beta.sessions.retrieve(made.id)
    assert unclocked(again) == unclocked(made)


def test_agent_with_a_version(make: Makers, client: anthropic.Anthropic) -> None:
    agent = make.agent(system="first")
    client.beta.agents.update(agent.id, system="second")
    environment = make.environment()
    made = client.beta.sessions.create(
        agent={"type": "agent", "id": agent.id, "version": 1}, environment_id=environment.id
    )
    assert made.agent.version == 1 and made.agent.system == "first"
    latest = client.beta.sessions.create(agent={"type": "agent", "id": agent.id}, environment_id=environment.id)
    assert latest.agent.version == 2
    with refused(404):
        client.beta.sessions.create(agent={"type": "agent", "id": agent.id, "version": 9}, environment_id=environment.id)


def test_agent_with_overrides(make: Makers, client: anthropic.Anthropic) -> None:
    agent = make.agent(system="first", tools=[TOOLSET])
    environment = make.environment()
    made = client.beta.sessions.create(
        agent={
            "type": "agent_with_overrides",
            "id": agent.id,
            "system": "only here",
            "tools": [WEATHER],
            "model": {"id": MODEL, "effort": "high"},
        },
        environment_id=environment.id,
    )
    assert made.agent.id == agent.id and made.agent.version == 1 and made.agent.system == "only here"
    assert [tool.type for tool in made.agent.tools] == ["custom"]
    assert made.agent.model.effort is not None and made.agent.model.effort.type == "high"
    assert client.beta.agents.retrieve(agent.id).system == "first", "an override changed the agent"


def test_initial_events_start_the_session(make: Makers) -> None:
    session = make.session(initial_events=[message("Hello from the start.")])
    idle = session.wait_idle()
    assert idle.stop_reason.type == "end_turn"
    (answer,) = session.events("agent.message")
    assert texts(answer) == "Hello from the start."
    assert session.retrieve().status == "idle"


def test_list_pages_forward_and_back(make: Makers, client: anthropic.Anthropic) -> None:
    agent = make.agent()
    environment = make.environment()
    made = [make.session(agent, environment).id for _ in range(5)]
    first = client.beta.sessions.list(agent_id=agent.id, limit=2)
    assert [session.id for session in first.data] == [made[4], made[3]], "the newest come first"
    second = first.get_next_page()
    assert [session.id for session in second.data] == [made[2], made[1]]
    third = second.get_next_page()
    assert [session.id for session in third.data] == [made[0]] and not third.has_next_page()
    assert second.prev_page and not first.prev_page
    back = client.beta.sessions.list(agent_id=agent.id, limit=2, page=second.prev_page)
    assert [session.id for session in back.data] == [made[4], made[3]]
    again = client.beta.sessions.list(agent_id=agent.id, limit=2, page=third.prev_page)
    assert [session.id for session in again.data] == [made[2], made[1]]
    ascending = [session.id for session in client.beta.sessions.list(agent_id=agent.id, order="asc", limit=2)]
    assert ascending == made


def test_list_filters(make: Makers, client: anthropic.Anthropic) -> None:
    agent = make.agent()
    environment = make.environment()
    one = make.session(agent, environment)
    client.beta.agents.update(agent.id, system="second")
    two = make.session(agent, environment)
    three = make.session(agent, environment)

    def ids(**query: object) -> set[str]:
        return {session.id for session in client.beta.sessions.list(agent_id=agent.id, **query)}  # type: ignore[arg-type]

    assert ids() == {one.id, two.id, three.id}
    assert ids(agent_version=1) == {one.id} and ids(agent_version=2) == {two.id, three.id}
    created = two.retrieve().created_at
    assert ids(created_at_gt=created) == {three.id} and ids(created_at_gte=created) == {two.id, three.id}
    assert ids(created_at_lt=created) == {one.id} and ids(created_at_lte=created) == {one.id, two.id}
    client.beta.sessions.archive(two.id)
    assert ids() == {one.id, three.id} and ids(include_archived=True) == {one.id, two.id, three.id}
    three.send(message(say("a", pace={"first_token_ms": 60_000})))
    three.wait_event("span.model_request_start")
    assert ids(statuses=["running"]) == {three.id} and ids(statuses=["idle"]) == {one.id}
    assert ids(statuses=["running", "idle"]) == {one.id, three.id}
    three.send({"type": "user.interrupt"})
    three.wait_idle()
    with refused(400, "asleep"):
        ids(statuses=["asleep"])


def test_update(make: Makers, client: anthropic.Anthropic) -> None:
    session = make.session(title="before", metadata={"a": "1", "b": "2"})
    with Follower.of(session) as stream:
        updated = client.beta.sessions.update(session.id, title="after", metadata={"a": None, "c": "3"})
        assert updated.title == "after" and updated.metadata == {"b": "2", "c": "3"}
        event = stream.wait_type("session.updated")
    assert event.title == "after" and event.agent is None
    assert client.beta.sessions.update(session.id, title=None).title is None
    assert client.beta.sessions.retrieve(session.id).metadata == {"b": "2", "c": "3"}


def test_update_of_the_tools(make: Makers, client: anthropic.Anthropic) -> None:
    session = make.session()
    updated = client.beta.sessions.update(session.id, agent={"tools": [WEATHER]})
    assert [tool.type for tool in updated.agent.tools] == ["custom"]
    session.send(message(say(call("weather", city="Berlin")), "sunny"))
    use = session.wait_event("agent.custom_tool_use")
    session.answer(use, "sun")
    assert session.wait_idle(2).stop_reason.type == "end_turn"


def test_a_running_session_keeps_its_tools_and_its_place(make: Makers, client: anthropic.Anthropic) -> None:
    session = make.session()
    session.send(message(say("slow", pace={"first_token_ms": 60_000})))
    session.wait_event("span.model_request_start")
    assert session.retrieve().status == "running"
    with refused(400, "idle"):
        client.beta.sessions.update(session.id, agent={"tools": []})
    for refuse in (client.beta.sessions.archive, client.beta.sessions.delete):
        with pytest.raises(anthropic.APIStatusError) as refusal:
            refuse(session.id)
        assert refusal.value.status_code in (400, 409) and "running" in str(refusal.value.api_message)
    session.send({"type": "user.interrupt"})
    assert session.wait_idle().stop_reason.type == "end_turn"
    client.beta.sessions.archive(session.id)


def test_archive(make: Makers, client: anthropic.Anthropic) -> None:
    session = make.session(initial_events=[message("hello")])
    session.wait_idle()
    archived = client.beta.sessions.archive(session.id)
    assert archived.archived_at is not None and archived.status == "terminated"
    assert session.events("session.status_terminated")
    assert client.beta.sessions.archive(session.id).archived_at == archived.archived_at
    with refused(400, "archived"):
        session.send(message("again"))
    with refused(400, "archived"):
        client.beta.sessions.update(session.id, title="x")
    assert texts(session.events("agent.message")[0]) == "hello"


def test_delete(make: Makers, client: anthropic.Anthropic) -> None:
    session = make.session(initial_events=[message("hello")])
    session.wait_idle()
    with Follower.of(session) as stream:
        deleted = client.beta.sessions.delete(session.id)
        assert deleted.id == session.id and deleted.type == "session_deleted"
        stream.wait_type("session.deleted")
        stream.wait_end()
    for gone in (session.retrieve, session.events, lambda: client.beta.sessions.delete(session.id)):
        with refused(404, session.id):
            gone()


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"resources": [{"type": "memory_store", "memory_store_id": "memstore_x"}]}, "memory stores"),
        ({"resources": [{"type": "github_repository", "url": "example.com/x/y"}]}, "resources.0.url"),
        ({"vault_ids": ["agent_x"]}, "vault_ids"),
        ({"metadata": {"k": "v" * 513}}, "metadata"),
        ({"initial_events": [{"type": "user.interrupt"}]}, "user.interrupt"),
        ({"initial_events": [{"type": "user.message", "content": []}]}, "content"),
        ({"initial_events": [message("x")] * 51}, "initial_events"),
        ({"extra_body": {"mood": "good"}}, "mood"),
        ({"extra_body": {"initial_events": [{**message("x"), "loud": True}]}}, "loud"),
    ],
)
def test_bad_fields_are_refused_by_name(make: Makers, fields: dict, named: str) -> None:
    with refused(400, named):
        make.session(**fields)


def test_unknown_agent_and_environment(make: Makers, client: anthropic.Anthropic) -> None:
    agent, environment = make.agent(), make.environment()
    unknown = agent.id[:-4] + "zzzz"
    with pytest.raises(anthropic.APIStatusError) as refusal:
        client.beta.sessions.create(agent=unknown, environment_id=environment.id)
    assert refusal.value.status_code in (400, 404) and unknown in str(refusal.value.api_message)
    unknown = environment.id[:-4] + "zzzz"
    with pytest.raises(anthropic.APIStatusError) as refusal:
        client.beta.sessions.create(agent=agent.id, environment_id=unknown)
    assert refusal.value.status_code in (400, 404) and unknown in str(refusal.value.api_message)


def test_asking_tools_are_shown_in_the_session(make: Makers) -> None:
    session = make.session(make.agent(tools=[asking("bash")]))
    (toolset,) = session.retrieve().agent.tools
    assert {config.name: config.permission_policy.type for config in toolset.configs}["bash"] == "always_ask"
