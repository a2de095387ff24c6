"""Agents and their versions, through the published client."""

from __future__ import annotations

import datetime

import anthropic
import pytest

from refusals import refused
from script import MODEL
from sessions import TOOLSET, WEATHER, Makers, asking, fresh


def test_create_keeps_every_field(make: Makers, client: anthropic.Anthropic) -> None:
    name = fresh("agent")
    made = make.agent(
        name=name,
        description="Mends things.",
        system="You mend things.",
        metadata={"team": "repair"},
        tools=[TOOLSET, WEATHER],
        model={"id": MODEL, "effort": "low", "speed": "standard"},
    )
    assert made.type == "agent" and made.id.startswith("agent_")
    assert (made.name, made.description, made.system) == (name, "Mends things.", "You mend things.")
    assert made.metadata == {"team": "repair"}
    assert made.version == 1 and made.archived_at is None
    assert made.model.id == MODEL and made.model.speed == "standard"
    assert made.model.effort is not None and made.model.effort.type == "low"
    assert made.execution_identity.type == "service_account"
    assert made.mcp_servers == [] and made.skills == [] and made.multiagent is None
    toolset, custom = made.tools
    assert toolset.type == "agent_toolset_20260401"
    assert toolset.default_config.enabled and toolset.default_config.permission_policy.type == "always_allow"
    assert custom.type == "custom" and custom.name == "weather"
    assert custom.input_schema.required == ["city"]
    assert made.created_at == made.updated_at
    assert abs(datetime.datetime.now(datetime.timezone.utc) - made.created_at) < datetime.timedelta(minutes=5)
    assert client.beta.agents.retrieve(made.id) == made


def test_least_create(client: anthropic.Anthropic) -> None:
    made = client.beta.agents.create(name=fresh("agent"), model=MODEL)
    assert made.tools == [] and made.metadata == {} and made.description is None and made.system is None


def test_tool_configs_are_shown_in_full(make: Makers) -> None:
    made = make.agent(tools=[asking("bash")])
    (toolset,) = made.tools
    by_name = {config.name: config for config in toolset.configs}
    assert by_name["bash"].permission_policy.type == "always_ask"
    assert by_name["bash"].enabled is True


def test_update_makes_a_version_and_keeps_the_old_one(make: Makers, client: anthropic.Anthropic) -> None:
    made = make.agent(system="first", metadata={"a": "1", "b": "2"})
    updated = client.beta.agents.update(made.id, version=1, system="second", metadata={"a": None, "c": "3"})
    assert updated.id == made.id and updated.version == 2
    assert updated.system == "second" and updated.metadata == {"b": "2", "c": "3"}
    assert updated.name == made.name and updated.tools == made.tools
    assert updated.created_at == made.created_at and updated.updated_at > made.updated_at
    assert client.beta.agents.retrieve(made.id) == updated
    assert client.beta.agents.retrieve(made.id, version=1).system == "first"
    assert client.beta.agents.retrieve(made.id, version=2).system == "second"


def test_update_clears_what_null_clears(make: Makers, client: anthropic.Anthropic) -> None:
    made = make.agent(system="words", description="more words", tools=[TOOLSET, WEATHER])
    updated = client.beta.agents.update(made.id, system=None, description=None, tools=None)
    assert updated.system is None and updated.description is None and updated.tools == []


def test_a_stale_version_conflicts(make: Makers, client: anthropic.Anthropic) -> None:
    made = make.agent()
    client.beta.agents.update(made.id, version=1, system="second")
    with refused(409, "version") as refusal:
        client.beta.agents.update(made.id, version=1, system="third")
    assert "2" in refusal.message, "the message does not say which version is current"
    assert client.beta.agents.retrieve(made.id).system == "second"


def test_versions_are_listed_page_by_page(make: Makers, client: anthropic.Anthropic) -> None:
    made = make.agent(system="1")
    for number in range(2, 6):
        client.beta.agents.update(made.id, system=str(number))
    first = client.beta.agents.versions.list(made.id, limit=2)
    assert len(first.data) == 2 and first.next_page
    everything = list(client.beta.agents.versions.list(made.id, limit=2))
    assert sorted(agent.version for agent in everything) == [1, 2, 3, 4, 5]
    assert [agent.system for agent in everything] == [str(agent.version) for agent in everything]
    numbers = [agent.version for agent in everything]
    assert numbers in ([1, 2, 3, 4, 5], [5, 4, 3, 2, 1])


def test_list_pages_and_filters(make: Makers, client: anthropic.Anthropic) -> None:
    made = [make.agent() for _ in range(5)]
    client.beta.agents.archive(made[0].id)
    since = made[0].created_at
    page = client.beta.agents.list(limit=2, created_at_gte=since)
    assert len(page.data) == 2 and page.has_next_page()
    seen = [agent.id for agent in client.beta.agents.list(limit=2, created_at_gte=since)]
    assert len(seen) == len(set(seen)), "a page repeated an agent"
    assert {agent.id for agent in made[1:]} <= set(seen) and made[0].id not in seen
    with_archived = {agent.id for agent in client.beta.agents.list(limit=2, created_at_gte=since, include_archived=True)}
    assert {agent.id for agent in made} <= with_archived
    before = {agent.id for agent in client.beta.agents.list(created_at_lte=made[1].created_at, limit=100)}
    assert made[1].id in before and made[4].id not in before


def test_archive_is_final_and_can_be_repeated(make: Makers, client: anthropic.Anthropic) -> None:
    made = make.agent()
    archived = client.beta.agents.archive(made.id)
    assert archived.archived_at is not None
    again = client.beta.agents.archive(made.id)
    assert again.archived_at == archived.archived_at
    assert client.beta.agents.retrieve(made.id).archived_at == archived.archived_at
    with refused(400, "archived"):
        client.beta.agents.update(made.id, system="x")
    environment = make.environment()
    with refused(400, "archived"):
        client.beta.sessions.create(agent=made.id, environment_id=environment.id)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"name": ""}, "name"),
        ({"model": ""}, "model"),
        ({"metadata": {f"k{n}": "v" for n in range(17)}}, "metadata"),
        ({"metadata": {"k" * 65: "v"}}, "metadata"),
        ({"metadata": {"k": "v" * 513}}, "metadata"),
        ({"tools": [{"type": "agent_toolset_20991231"}]}, "agent_toolset_20991231"),
        ({"tools": [{"type": "agent_toolset_20260401", "configs": [{"type": "rm", "name": "rm"}]}]}, "rm"),
        ({"tools": [WEATHER, WEATHER]}, "weather"),
        ({"tools": [{**WEATHER, "name": "no spaces"}]}, "name"),
        (
            {"tools": [{**TOOLSET, "default_config": {"permission_policy": {"type": "always_maybe"}}}]},
            "always_maybe",
        ),
    ],
)
def test_bad_fields_are_refused_by_name(make: Makers, fields: dict, named: str) -> None:
    with refused(400, named):
        make.agent(**fields)


def test_unknown_fields_are_refused_by_name(client: anthropic.Anthropic) -> None:
    with refused(400, "temperament"):
        client.beta.agents.create(name=fresh("agent"), model=MODEL, extra_body={"temperament": "calm"})
    with refused(400, "flavour"):
        client.beta.agents.list(extra_query={"flavour": "sweet"})


def test_unknown_ids_are_not_found(make: Makers, client: anthropic.Anthropic) -> None:
    made = make.agent()
    unknown = made.id[:-4] + "zzzz"
    with refused(404, unknown):
        client.beta.agents.retrieve(unknown)
    with refused(404):
        client.beta.agents.retrieve(made.id, version=7)
    with refused(404, unknown):
        client.beta.agents.update(unknown, system="x")
    with refused(404, unknown):
        client.beta.agents.archive(unknown)
    with refused(404, unknown):
        client.beta.agents.versions.list(unknown)


def test_bad_pages_are_refused(client: anthropic.Anthropic) -> None:
    with refused(400, "page"):
        client.beta.agents.list(page="not-a-cursor")
    for limit in (0, -1, 100_000):
        with refused(400, "limit"):
            client.beta.agents.list(limit=limit)
