"""Who may call what: an API key, an environment key, the token of a work item, by calls of the published client."""

from __future__ import annotations

import base64
import json
from typing import Any, Callable

import anthropic
import pytest

from refusals import refused
from sessions import Claim, Makers

Call = Callable[[anthropic.Anthropic, Claim], Any]


def token_of(claim: Claim) -> str:
    secret = claim.item.secret
    return json.loads(base64.urlsafe_b64decode(secret + "=" * (-len(secret) % 4)))["sessions_token"]


def here(claim: Claim) -> dict[str, str]:
    return {"environment_id": claim.environment.id}


def beat(client: anthropic.Anthropic, claim: Claim) -> Any:
    return client.beta.environments.work.heartbeat(claim.item.id, expected_last_heartbeat="NO_HEARTBEAT", **here(claim))


def send(client: anthropic.Anthropic, claim: Claim) -> Any:
    (use,) = claim.session.events("agent.tool_use")
    content = [{"type": "text", "text": "done"}]
    event = {"type": "user.tool_result", "tool_use_id": use.id, "content": content}
    return client.beta.sessions.events.send(claim.session.id, events=[event])  # type: ignore[list-item]


CALLS: dict[str, Call] = {
    "poll": lambda client, claim: client.beta.environments.work.poll(claim.environment.id),
    "ack": lambda client, claim: client.beta.environments.work.ack(claim.item.id, **here(claim)),
    "heartbeat": beat,
    "stop": lambda client, claim: client.beta.environments.work.stop(claim.item.id, force=True, **here(claim)),
    "list": lambda client, claim: client.beta.environments.work.list(claim.environment.id),
    "stats": lambda client, claim: client.beta.environments.work.stats(claim.environment.id),
    "retrieve": lambda client, claim: client.beta.environments.work.retrieve(claim.item.id, **here(claim)),
    "update": lambda client, claim: client.beta.environments.work.update(claim.item.id, metadata={}, **here(claim)),
    "session": lambda client, claim: client.beta.sessions.retrieve(claim.session.id),
    "events": lambda client, claim: client.beta.sessions.events.list(claim.session.id),
    "stream": lambda client, claim: client.beta.sessions.events.stream(claim.session.id).close(),
    "send": send,
    "environment": lambda client, claim: client.beta.environments.retrieve(claim.environment.id),
    "environments": lambda client, claim: client.beta.environments.list(),
    "agents": lambda client, claim: client.beta.agents.list(),
    "sessions": lambda client, claim: client.beta.sessions.list(),
    "create session": lambda client, claim: client.beta.sessions.create(agent="agent_x", environment_id="env_x"),
    "delete session": lambda client, claim: client.beta.sessions.delete(claim.session.id),
    "models": lambda client, claim: client.beta.models.list(),
    "keys": lambda client, claim: client.get(f"/v1/environments/{claim.environment.id}/keys", cast_to=object),
    "api keys": lambda client, claim: client.get("/v1/api_keys", cast_to=object),
}
# Everything that is not named here is refused to that credential.
ALLOWED = {
    "environment key": {"poll", "ack", "heartbeat", "stop", "list", "stats", "session", "events", "stream", "send"},
    "sessions token": {"heartbeat", "stop", "session", "events", "stream", "send"},
    "API key": {
        "stop", "stats", "retrieve", "update", "session", "events", "stream", "send", "environment", "environments",
        "agents", "sessions", "delete session", "models", "keys", "api keys",
    },
}  # fmt: skip
# An operator is told to list the queue, and the service refuses the API key there: either answer is right.
FREE = {("API key", "list"), ("API key", "create session")}


def credential(kind: str, make: Makers, claim: Claim) -> anthropic.Anthropic:
    return {
        "environment key": lambda: make.plane.bearer(claim.key),
        "sessions token": lambda: make.plane.bearer(token_of(claim)),
        "API key": lambda: make.client,
    }[kind]()


@pytest.mark.parametrize("kind", ALLOWED)
@pytest.mark.parametrize("name", CALLS)
def test_matrix(make: Makers, kind: str, name: str) -> None:
    if (kind, name) in FREE:
        pytest.skip("both answers are right")
    claim = make.claimed()
    if name in ("heartbeat", "stop"):
        claim.ack()
    client = credential(kind, make, claim)
    if name in ALLOWED[kind]:
        if (kind, name) == ("API key", "delete session"):
            claim.stop(force=True)
            claim.session.send({"type": "user.interrupt"})
            claim.session.wait_idle(2)
        CALLS[name](client, claim)
        return
    try:
        CALLS[name](client, claim)
    except anthropic.APIStatusError as error:
        assert error.status_code in (401, 403), f"{error.status_code}: {error.body}"
        assert error.type in ("authentication_error", "permission_error")
        assert error.response.headers.get("x-should-retry") == "false"
    else:
        raise AssertionError(f"{name} was allowed to the {kind}")


def test_no_credential(make: Makers) -> None:
    from servers import client as make_client

    nobody = make_client(make.plane.url, api_key="x")
    for key in ("", "sk-ow-wrong", "x" * 5000, "sk-ant-oat01-" + "A" * 80):
        wrong = nobody.with_options(default_headers={"x-api-key": key})
        with refused(401):
            wrong.beta.agents.list()
    with refused(401):
        make.plane.bearer("sk-ant-oat01-" + "A" * 80).beta.environments.work.poll(make.environment().id)


def test_a_key_of_another_environment(make: Makers) -> None:
    claim = make.claimed()
    other = make.environment()
    stranger = make.plane.bearer(make.key(other.id)["key"])
    with refused(403):
        stranger.beta.environments.work.poll(claim.environment.id)
    with refused(403):
        stranger.beta.environments.work.ack(claim.item.id, environment_id=claim.environment.id)
    for call in (
        lambda: stranger.beta.sessions.retrieve(claim.session.id),
        lambda: stranger.beta.sessions.events.list(claim.session.id),
        lambda: stranger.beta.sessions.events.stream(claim.session.id),
    ):
        with pytest.raises(anthropic.APIStatusError) as refusal:
            call()
        assert refusal.value.status_code in (403, 404)


def test_a_token_of_another_session(make: Makers) -> None:
    one, two = make.claimed(), make.claimed()
    client = make.plane.bearer(token_of(one))
    for call in (
        lambda: client.beta.sessions.retrieve(two.session.id),
        lambda: client.beta.sessions.events.list(two.session.id),
        lambda: client.beta.environments.work.heartbeat(two.item.id, environment_id=two.environment.id),
    ):
        with pytest.raises(anthropic.APIStatusError) as refusal:
            call()
        assert refusal.value.status_code in (401, 403, 404)


def test_polling_a_cloud_environment(make: Makers) -> None:
    cloud = make.environment(config={"type": "cloud"})
    try:
        key = make.key(cloud.id)["key"]
    except anthropic.APIStatusError as error:
        assert error.status_code == 400 and "cloud" in str(error.api_message)
        return
    with refused(400) as refusal:
        make.plane.bearer(key).beta.environments.work.poll(cloud.id)
    assert refusal.error.response.headers.get("x-should-retry") == "false"


def test_betas_and_versions(make: Makers, client: anthropic.Anthropic) -> None:
    for version in ("2023-06-01", "2026-10-21"):
        client.beta.agents.list(extra_headers={"anthropic-version": version})
    with refused(400, "anthropic-version"):
        client.beta.agents.list(extra_headers={"anthropic-version": "1999-01-01"})
    with refused(400, "anthropic-beta"):
        client.beta.agents.list(extra_headers={"anthropic-beta": ""})
    with refused(400, "made-up-2026-01-01"):
        client.beta.agents.list(betas=["made-up-2026-01-01"])
