"""Environments and their keys, through the published client."""

from __future__ import annotations

import anthropic

from refusals import refused
from script import call, message, say
from servers import wait_for
from sessions import Makers, fresh


def test_create_retrieve_update(make: Makers, client: anthropic.Anthropic) -> None:
    name = fresh("environment")
    made = make.environment(name=name, description="a place", metadata={"a": "1", "b": "2"})
    assert made.type == "environment" and made.id.startswith("env_")
    assert (made.name, made.description, made.metadata) == (name, "a place", {"a": "1", "b": "2"})
    assert made.config.type == "self_hosted" and made.archived_at is None
    assert client.beta.environments.retrieve(made.id) == made
    updated = client.beta.environments.update(made.id, description=None, metadata={"a": None, "b": "", "c": "3"})
    assert updated.description is None and updated.metadata == {"c": "3"} and updated.name == name
    assert client.beta.environments.update(made.id, description="").description == ""
    renamed = client.beta.environments.update(made.id, name=name + "-2")
    assert renamed.name == name + "-2" and renamed.metadata == {"c": "3"}
    assert client.beta.environments.retrieve(made.id) == renamed


def test_cloud_config(make: Makers, client: anthropic.Anthropic) -> None:
    made = make.environment(config={"type": "cloud"})
    assert made.config.type == "cloud"
    assert made.config.networking.type in ("unrestricted", "limited")
    assert made.config.packages.pip == []
    with refused(400, "type"):
        client.beta.environments.update(made.id, config={"type": "self_hosted"})


def test_cloud_networking_and_packages(make: Makers, client: anthropic.Anthropic) -> None:
    limited = {"type": "limited", "allowed_hosts": ["API.example.com", "*.example.org"], "allow_package_managers": True}
    made = make.environment(config={"type": "cloud", "networking": limited, "packages": {"pip": ["rich==13.7.0"]}})
    networking = made.config.networking
    assert networking.type == "limited" and networking.allowed_hosts == ["api.example.com", "*.example.org"]
    assert networking.allow_package_managers is True and networking.allow_mcp_servers is False
    assert made.config.packages.pip == ["rich==13.7.0"] and made.config.packages.apt == []
    # What an update does not name stays.
    changed = client.beta.environments.update(
        made.id, config={"type": "cloud", "networking": {"type": "limited", "allow_mcp_servers": True}}
    )
    assert changed.config.networking.allowed_hosts == ["api.example.com", "*.example.org"]
    assert changed.config.networking.allow_mcp_servers is True and changed.config.packages.pip == ["rich==13.7.0"]
    opened = client.beta.environments.update(made.id, config={"type": "cloud", "networking": {"type": "unrestricted"}})
    assert opened.config.networking.type == "unrestricted"
    for wrong, named in (
        ({"networking": {"type": "limited", "allowed_hosts": ["https://a.example"]}}, "allowed_hosts.0"),
        ({"networking": {"type": "limited"}, "packages": {"npm": ["left-pad"]}}, "allow_package_managers"),
        ({"networking": {"type": "unrestricted"}, "packages": {"pip": ["--index-url=x"]}}, "packages.pip.0"),
    ):
        with refused(400, named):
            make.environment(config={"type": "cloud", **wrong})


def test_list_pages(make: Makers, client: anthropic.Anthropic) -> None:
    made = [make.environment() for _ in range(5)]
    client.beta.environments.archive(made[0].id)
    page = client.beta.environments.list(limit=2)
    assert len(page.data) == 2 and page.has_next_page()
    seen = [environment.id for environment in client.beta.environments.list(limit=2)]
    assert len(seen) == len(set(seen))
    assert {environment.id for environment in made[1:]} <= set(seen) and made[0].id not in seen
    with_archived = {environment.id for environment in client.beta.environments.list(limit=3, include_archived=True)}
    assert {environment.id for environment in made} <= with_archived


def test_archive(make: Makers, client: anthropic.Anthropic) -> None:
    made = make.environment()
    archived = client.beta.environments.archive(made.id)
    assert archived.archived_at is not None
    assert client.beta.environments.archive(made.id).archived_at == archived.archived_at
    with refused(400, "archived"):
        client.beta.environments.update(made.id, name="x")
    with refused(400, "archived"):
        client.beta.sessions.create(agent=make.agent().id, environment_id=made.id)


def test_delete(make: Makers, client: anthropic.Anthropic) -> None:
    made = make.environment()
    deleted = client.beta.environments.delete(made.id)
    assert deleted.id == made.id and deleted.type == "environment_deleted"
    with refused(404, made.id):
        client.beta.environments.retrieve(made.id)
    with refused(404, made.id):
        client.beta.environments.delete(made.id)


def test_delete_waits_for_the_queue(make: Makers, client: anthropic.Anthropic) -> None:
    environment = make.environment()
    session = make.session(environment=environment)
    session.send(message(say(call("bash", command="true")), "done"))
    session.wait_event("agent.tool_use")
    wait_for("a queued item", lambda: client.beta.environments.work.stats(environment.id).depth == 1)
    with refused(409, "force=true") as refusal:
        client.beta.environments.delete(environment.id)
    assert "archive" in refusal.message
    assert client.beta.environments.retrieve(environment.id).id == environment.id
    deleted = client.beta.environments.delete(environment.id, extra_query={"force": "true"})
    assert deleted.type == "environment_deleted"
    with refused(404, environment.id):
        client.beta.environments.retrieve(environment.id)


def test_bad_fields_are_refused_by_name(make: Makers, client: anthropic.Anthropic) -> None:
    with refused(400, "colour"):
        client.beta.environments.create(name=fresh("e"), config={"type": "self_hosted"}, extra_body={"colour": "red"})
    with refused(400, "moon"):
        make.environment(config={"type": "moon"})
    with refused(400, "networking"):
        make.environment(config={"type": "self_hosted", "networking": {"type": "unrestricted"}})
    with refused(400, "scope"):
        make.environment(scope="account")
    with refused(400, "name"):
        make.environment(name="")
    with refused(404, "env_unknown"):
        client.beta.environments.retrieve("env_unknown")


def test_environment_keys(make: Makers, client: anthropic.Anthropic) -> None:
    environment = make.environment()
    path = f"/v1/environments/{environment.id}/keys"
    made = make.key(environment.id, "host-one")
    other = make.key(environment.id, "host-two")
    assert made["key"] != other["key"] and made["id"] != other["id"]
    listed = client.get(path, cast_to=object)
    assert {key["id"]: key["name"] for key in listed["data"]} == {made["id"]: "host-one", other["id"]: "host-two"}
    assert all("key" not in key or key["key"] is None for key in listed["data"]), "a list shows a secret"
    assert made["key"] not in str(listed) and other["key"] not in str(listed)

    worker = make.plane.bearer(made["key"])
    assert worker.beta.environments.work.poll(environment.id) is None
    client.delete(f"{path}/{made['id']}", cast_to=object)
    with refused(401, "revoked"):
        worker.beta.environments.work.poll(environment.id)
    assert make.plane.bearer(other["key"]).beta.environments.work.poll(environment.id) is None


def test_api_keys(make: Makers, client: anthropic.Anthropic) -> None:
    made = client.post("/v1/api_keys", body={"name": fresh("key")}, cast_to=object)
    assert made["key"] and made["id"].startswith("apikey_")
    with_it = make.plane.client(made["key"])
    assert with_it.beta.agents.list(limit=1).data is not None
    listed = client.get("/v1/api_keys", cast_to=object)
    assert made["id"] in [key["id"] for key in listed["data"]]
    assert made["key"] not in str(listed)
    client.post(f"/v1/api_keys/{made['id']}/revoke", cast_to=object)
    with refused(401):
        with_it.beta.agents.list(limit=1)
