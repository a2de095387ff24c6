"""Resources of sessions through the published client, and what a session's worker is told of them."""

from __future__ import annotations

from typing import Any

import anthropic
import pytest

from files import Desk
from refusals import refused
from servers import Plane, Rehearsal
from sessions import Claim, Makers, bearer
from script import call, message, say

TOKEN = "ghp_s3cr3t-of-the-tests"
REPOSITORY = {"type": "github_repository", "url": "https://github.com/owner/name"}


@pytest.fixture
def file(client: anthropic.Anthropic) -> Any:
    return client.beta.files.upload(file=("data.csv", b"a,b,c"))


def test_resources_are_given_when_a_session_is_made(make: Makers, client: anthropic.Anthropic, file: Any) -> None:
    commit = {"type": "commit", "sha": "0123456789abcdef0123456789abcdef01234567"}
    session = make.session(
        resources=[
            {"type": "file", "file_id": file.id},
            {"type": "file", "file_id": file.id, "mount_path": "/workspace/in.csv"},
            {**REPOSITORY, "authorization_token": TOKEN, "checkout": commit},
        ]
    )
    shown = session.retrieve().resources
    assert [resource.type for resource in shown] == ["file", "file", "github_repository"]
    assert [resource.mount_path for resource in shown] == [
        f"/mnt/session/uploads/{file.id}",
        "/workspace/in.csv",
        "/workspace/name",
    ]
    assert shown[2].checkout.sha == commit["sha"] and shown[2].url == REPOSITORY["url"]
    assert TOKEN not in client.beta.sessions.with_raw_response.retrieve(session.id).text()
    listed = client.beta.sessions.resources.list(session.id)
    assert [resource.id for resource in listed] == [resource.id for resource in shown]
    paged = [resource.id for resource in client.beta.sessions.resources.list(session.id, limit=2)]
    assert paged == [resource.id for resource in shown]
    for resource in shown:
        assert client.beta.sessions.resources.retrieve(resource.id, session_id=session.id) == resource


def test_resources_are_added_changed_and_taken_away(make: Makers, client: anthropic.Anthropic, file: Any) -> None:
    session = make.session(resources=[{**REPOSITORY, "mount_path": "/srv/code"}])
    resources = client.beta.sessions.resources
    added = resources.add(session.id, type="file", file_id=file.id)
    assert (added.file_id, added.mount_path) == (file.id, f"/mnt/session/uploads/{file.id}")
    with refused(400, "mount_path"):
        resources.add(session.id, type="file", file_id=file.id)
    with refused(400, "mount_path"):
        resources.add(session.id, type="file", file_id=file.id, mount_path="../x")
    with refused(404, "file_none"):
        resources.add(session.id, type="file", file_id="file_none")
    (repository, _) = resources.list(session.id)
    changed = resources.update(repository.id, session_id=session.id, authorization_token=TOKEN)
    assert changed.id == repository.id and changed.updated_at > repository.updated_at
    with refused(400, "token"):
        resources.update(added.id, session_id=session.id, authorization_token=TOKEN)
    gone = resources.delete(added.id, session_id=session.id)
    assert (gone.id, gone.type) == (added.id, "session_resource_deleted")
    with refused(404, added.id):
        resources.retrieve(added.id, session_id=session.id)
    assert [resource.id for resource in session.retrieve().resources] == [repository.id]
    other = make.session()
    with refused(404, repository.id):
        resources.retrieve(repository.id, session_id=other.id)


@pytest.mark.parametrize(
    ("resources", "named"),
    [
        ([{"type": "memory_store", "memory_store_id": "memstore_1"}], "memory stores"),
        ([{**REPOSITORY, "url": "git@github.com:owner/name"}], "resources.0.url"),
        ([REPOSITORY, REPOSITORY], "resources.1.mount_path"),
        ([{**REPOSITORY, "mount_path": "/dev/x"}], "resources.0.mount_path"),
        ([{**REPOSITORY, "checkout": {"type": "branch", "name": "-x"}}], "resources.0.checkout.name"),
        ([{**REPOSITORY, "depth": 1}], "depth"),
    ],
)
def test_wrong_ones_are_refused_with_their_place(make: Makers, resources: list[Any], named: str) -> None:
    with refused(400, named):
        make.session(resources=resources)


def test_a_worker_reads_what_its_session_has(make: Makers, plane: Plane, client: anthropic.Anthropic, file: Any) -> None:
    other = client.beta.files.upload(file=("other.csv", b"d"))
    vault = client.beta.vaults.create(display_name="Alice")
    variable = {
        "type": "environment_variable",
        "secret_name": "API_KEY",
        "secret_value": "value-s3cr3t",
        "networking": {"type": "limited", "allowed_hosts": ["api.example.com"]},
    }
    client.beta.vaults.credentials.create(vault.id, auth=variable)  # type: ignore[arg-type]
    client.beta.vaults.credentials.create(vault.id, auth=bearer("https://mcp.example.com/mcp"))
    environment = make.environment()
    resources = [{"type": "file", "file_id": file.id}, {**REPOSITORY, "authorization_token": TOKEN}]
    session = make.session(environment=environment, resources=resources, vault_ids=[vault.id])
    session.send(message(say(call("bash", command="true")), "done"))
    session.wait_event("agent.tool_use")
    claim = Claim(make, environment, session)
    claim.ack()
    desk, token = Desk(plane, claim), plane.bearer(claim.token)
    mounts = desk.get("mounts").json()["data"]
    assert [(mount["type"], mount["available"]) for mount in mounts] == [("file", True), ("github_repository", True)]
    assert TOKEN not in str(mounts)
    assert token.beta.files.download(mounts[0]["file_id"]).read() == b"a,b,c"
    with refused(404, other.id):
        token.beta.files.download(other.id)
    with refused(403):
        token.beta.files.list()
    secrets = desk.get("secrets")
    assert secrets.headers["cache-control"] == "no-store"
    assert [one["token"] for one in secrets.json()["repositories"]] == [TOKEN]
    assert [(one["name"], one["value"]) for one in secrets.json()["variables"]] == [("API_KEY", "value-s3cr3t")]
    with refused(403):
        client.get(f"/v1/outwork/sessions/{session.id}/secrets", cast_to=object)
    assert TOKEN not in plane.output and "value-s3cr3t" not in plane.output


def test_a_server_can_refuse_them_as_the_hosted_service_does(rehearsal: Rehearsal) -> None:
    with Plane(rehearsal.url, config="[files]\nself_hosted_resources = false\n") as plane:
        make = Makers(plane)
        with refused(400, "self_hosted"):
            make.session(resources=[REPOSITORY])
        session = make.session()
        file = make.client.beta.files.upload(file=("a", b"a"))
        with refused(400, "self_hosted"):
            make.client.beta.sessions.resources.add(session.id, type="file", file_id=file.id)
