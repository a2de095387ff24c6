"""Sessions that call real MCP servers in a private network, through a tunnel: one that wants a bearer token, one that
wants OAuth, both from the session's vault."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Iterator

import pytest

from private import Gateway, Office
from script import call, message, say
from servers import McpServer, Plane, Rehearsal
from sessions import Makers, Session, bearer
from upstream import Upstream

FLAGS = ("--tunnel-listen", "127.0.0.1:0")
# Where the authorization server is; the MCP servers themselves are reached through the tunnel alone.
LOCAL = '[mcp]\nallowed_networks = ["127.0.0.0/8"]\nplain_http = true\n'
GATEWAY = ("--allow", "127.0.0.1/32", "--health", "127.0.0.1:0", "--identity")
TOOLS = [
    {"type": "mcp_toolset", "mcp_server_name": "notes", "default_config": {"permission_policy": {"type": "always_allow"}}}
]
FIND = say(call("mcp__notes__find_note", topic="garden"))


@pytest.fixture(scope="module")
def far(rehearsal: Rehearsal) -> Iterator[Plane]:
    """A plane with an edge."""
    with Plane(rehearsal.url, config=LOCAL, flags=FLAGS) as plane:
        yield plane


@pytest.fixture(scope="module")
def notes() -> Iterator[McpServer]:
    with McpServer(token="right") as server:
        yield server


@pytest.fixture(scope="module")
def office(far: Plane, notes: McpServer) -> Iterator[Office]:
    """A gateway beside the server, running."""
    with Office(far, *GATEWAY, notes=f"http://127.0.0.1:{notes.port}") as office, Gateway(office):
        yield office


def begin(plane: Plane, url: str, *steps: Any, auth: dict[str, Any] | None = None) -> Session:
    """A session whose agent has the server at `url`, and a vault with the credential for it."""
    make = Makers(plane)
    fields: dict[str, Any] = {}
    if auth is not None:
        vault = make.client.beta.vaults.create(display_name="of a user")
        make.client.beta.vaults.credentials.create(vault.id, auth=auth)
        fields["vault_ids"] = [vault.id]
    agent = make.agent(tools=TOOLS, mcp_servers=[{"type": "url", "name": "notes", "url": url}])
    session = make.session(agent=agent, **fields)
    session.send(message(*steps))
    session.wait_idle()
    return session


def words(session: Session) -> list[str]:
    """What the calls answered; none of them may have failed, and nor may the session."""
    errors = [event.error.message for event in session.events("session.error")]
    results = session.events("agent.mcp_tool_result")
    assert not errors and not any(event.is_error for event in results), (errors, results)
    return [block.text for event in results for block in event.content if block.type == "text"]


def test_a_server_that_wants_a_token(far: Plane, notes: McpServer, office: Office) -> None:
    url = office.url("notes")
    both = say(call("mcp__notes__find_note", topic="garden"), call("mcp__notes__progressing"))
    session = begin(far, url, both, "water them", auth=bearer(url, "right"))
    assert sorted(words(session)) == ["arrived", "water the beans"]
    called = [entry for entry in notes.journal("request") if entry["mcp_method"] == "tools/call"]
    assert called and all(entry["authorization"] == "Bearer right" for entry in called)
    assert all(entry["identity"] is None for entry in notes.journal("request")), "identities end at the gateway"
    [record] = office.records(tool="find_note", session=session.id)
    agent = session.retrieve().agent
    assert (record["decision"], record["status"], record["mcp_method"]) == ("allowed", 200, "tools/call"), record
    assert (record["agent"]["id"], record["route"], record["hostname"]) == (agent.id, "notes", f"notes.{office.domain}")
    assert "garden" not in str(record), "nor arguments"
    # The stream of events that the other call was answered with is complete, too.
    assert [one["decision"] for one in office.records(tool="progressing", session=session.id)] == ["allowed"]


@pytest.mark.parametrize("token", [None, "wrong"])
def test_a_token_that_is_not_right(far: Plane, office: Office, token: str | None) -> None:
    url = office.url("notes")
    auth = None if token is None else bearer(url, token)
    session = begin(far, url, "without it, then", auth=auth)
    error = session.events("session.error")[0].error
    assert (error.type, error.mcp_server_name) == ("mcp_authentication_failed_error", "notes")
    assert [record["status"] for record in office.records(session=session.id)][:1] == [401]


class Grants(Upstream):
    """An authorization server whose grants a real MCP server takes."""

    def __init__(self, token_file: Path) -> None:
        self.token_file = token_file
        super().__init__()

    def _token(self, request: Any, body: bytes) -> tuple[int, Any]:
        status, answer = super()._token(request, body)
        if status == 200:
            self.token_file.write_text(answer["access_token"])
        return status, answer


def test_a_server_that_wants_oauth(far: Plane) -> None:
    with McpServer(token="never given") as server, Grants(server.token_file) as grants:
        grants.refresh_token = "first"
        with Office(far, *GATEWAY, notes=f"http://127.0.0.1:{server.port}") as office, Gateway(office):
            url = office.url("notes")
            refresh = {
                "client_id": "client",
                "refresh_token": "first",
                "token_endpoint": f"{grants.url}/token",
                "token_endpoint_auth": {"type": "none"},
            }
            auth = {"type": "mcp_oauth", "access_token": "stale", "mcp_server_url": url, "refresh": refresh}
            session = begin(far, url, FIND, "water them", auth=auth)
            assert words(session) == ["water the beans"]
            assert [form["refresh_token"] for form in grants.forms] == ["first"]
            sent = [entry["authorization"] for entry in server.journal("request")]
            assert sent[0] == "Bearer stale" and sent[-1] == "Bearer granted-1"
            # What the server takes changes: the refresh token of the last answer serves, not the first.
            server.token_file.write_text("withdrawn")
            session.send(message(FIND, "still"))
            session.wait_idle(2)
            assert words(session) == ["water the beans"] * 2
            assert [form["refresh_token"] for form in grants.forms] == ["first", "rotated-1"]
            statuses = [record["status"] for record in office.records(session=session.id)]
            assert statuses.count(401) == 2 and statuses[-1] == 200, statuses
