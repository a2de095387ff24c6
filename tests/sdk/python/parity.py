"""Calls every operation of the contract with the published client and writes what came back.

Arguments: the list of operations (JSON), the file for the answer. Run by `cargo xtask parity`. Operations whose objects
this service has are called with real ones, made for the call; every other one with made-up arguments, to see how it is
refused."""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path
from typing import Any, Callable

import anthropic
from typing_extensions import get_args

import files
import pki
from operations import Method, by_operation
from script import call, message, say
from servers import Plane, Rehearsal, wait_for
from sessions import TOOLSET, Claim, Follower, Makers, Session, bearer, fresh
from strict import faults

Arguments = dict[str, Any]
REPOSITORY = {"type": "github_repository", "url": "https://github.com/owner/name"}


class World:
    """Objects to call with; each is made when it is first needed, or afresh where a call uses it up."""

    def __init__(self, plane: Plane) -> None:
        self.plane = plane
        self.make = Makers(plane)

    @property
    def agent(self) -> Any:
        return self.make.agent(tools=[TOOLSET])

    @property
    def environment(self) -> Any:
        return self.make.environment()

    @functools.cached_property
    def session(self) -> Session:
        """A session that has run, with a call and its answer in its log."""
        session = self.make.session(initial_events=[message(say(call("bash", command="true")), "done")])
        use = session.wait_event("agent.tool_use")
        session.wait_idle()
        session.answer(use)
        session.wait_idle(2)
        return session

    @functools.cached_property
    def thread_id(self) -> str:
        return next(iter(self.make.client.beta.sessions.threads.list(self.session.id))).id

    def acked(self) -> Claim:
        claim = self.make.claimed()
        claim.ack()
        return claim

    @functools.cached_property
    def unknown_route(self) -> str:
        try:
            self.make.client.get("/v1/made_up_for_parity", cast_to=object)
        except anthropic.NotFoundError as error:
            return _without_route(error.api_message or "")
        raise AssertionError("a route that nobody could know was answered")

    @functools.cached_property
    def tunnel(self) -> Any:
        return self.make.client.beta.tunnels.create(display_name=fresh("parity"))

    @functools.cached_property
    def certificate(self) -> Any:
        return self.make.client.beta.tunnels.certificates.create(self.tunnel.id, ca_certificate_pem=pki.authority())

    @functools.cached_property
    def model_id(self) -> str:
        return next(iter(self.make.client.beta.models.list())).id

    def resting(self) -> Session:
        return self.make.session()

    def queued(self) -> tuple[anthropic.Anthropic, Arguments]:
        """An environment with an item that waits, and its key."""
        environment = self.make.environment()
        session = self.make.session(environment=environment)
        session.send(message(say(call("bash", command="true")), "done"))
        stats = self.make.client.beta.environments.work.stats
        wait_for("a queued item", lambda: stats(environment.id).depth == 1)
        return self.plane.bearer(self.make.key(environment.id)["key"]), {"environment_id": environment.id}


    def uploaded(self) -> Any:
        return self.make.client.beta.files.upload(file=("parity.csv", b"a,b\n", "text/csv"))

    @functools.cached_property
    def brought_forth(self) -> Any:
        """A file that a session brought forth, as its worker hands it over."""
        claim = self.acked()
        given = files.hand_over(self.plane, claim, "parity.md", b"# Parity\n")
        return self.make.client.beta.files.retrieve_metadata(given["file_id"])

    def resource(self, **fields: Any) -> Arguments:
        """A resource of a session of its own."""
        resources = [{**REPOSITORY, **fields}] if fields else [{"type": "file", "file_id": self.uploaded().id}]
        session = self.make.session(resources=resources)
        (only,) = self.make.client.beta.sessions.resources.list(session.id)
        return {"session_id": session.id, "resource_id": only.id}

    def vault(self) -> Any:
        return self.make.client.beta.vaults.create(display_name=fresh("parity"))

    def credential(self, auth: dict[str, Any] | None = None) -> Arguments:
        """A credential in a vault of its own."""
        vault = self.vault()
        auth = auth or bearer("https://mcp.example.com/mcp")
        made = self.make.client.beta.vaults.credentials.create(vault.id, auth=auth)
        return {"vault_id": vault.id, "credential_id": made.id}

    def unreachable(self) -> Arguments:
        """An OAuth credential for a server that nobody reaches."""
        return self.credential(
            {"type": "mcp_oauth", "access_token": "token", "mcp_server_url": "https://127.0.0.1:9/mcp"}
        )


def with_key(claim: Claim, **more: Any) -> tuple[anthropic.Anthropic, Arguments]:
    return claim.worker, {"work_id": claim.item.id, "environment_id": claim.environment.id, **more}


def with_api_key(world: World, **given: Any) -> tuple[anthropic.Anthropic, Arguments]:
    return world.make.client, given


def item(world: World, **more: Any) -> tuple[anthropic.Anthropic, Arguments]:
    claim = world.acked()
    return with_api_key(world, work_id=claim.item.id, environment_id=claim.environment.id, **more)


Ready = Callable[[World], tuple[anthropic.Anthropic, Arguments]]

# Who calls, and with what. An operation that is not here is called with an API key and made-up arguments.
READY: dict[str, Ready] = {
    "POST /v1/agents": lambda w: with_api_key(w, name=fresh("parity"), model="rehearsal/script", tools=[TOOLSET]),
    "GET /v1/agents": lambda w: with_api_key(w, limit=1 if w.agent else 0),
    "GET /v1/agents/{agent_id}": lambda w: with_api_key(w, agent_id=w.agent.id),
    "POST /v1/agents/{agent_id}": lambda w: with_api_key(w, agent_id=w.agent.id, version=1, system="changed"),
    "POST /v1/agents/{agent_id}/archive": lambda w: with_api_key(w, agent_id=w.agent.id),
    "GET /v1/agents/{agent_id}/versions": lambda w: with_api_key(w, agent_id=w.agent.id),
    "POST /v1/environments": lambda w: with_api_key(w, name=fresh("parity"), config={"type": "self_hosted"}),
    "GET /v1/environments": lambda w: with_api_key(w, limit=1 if w.environment else 0),
    "GET /v1/environments/{environment_id}": lambda w: with_api_key(w, environment_id=w.environment.id),
    "POST /v1/environments/{environment_id}": lambda w: with_api_key(
        w, environment_id=w.environment.id, name=fresh("parity")
    ),
    "DELETE /v1/environments/{environment_id}": lambda w: with_api_key(w, environment_id=w.environment.id),
    "POST /v1/environments/{environment_id}/archive": lambda w: with_api_key(w, environment_id=w.environment.id),
    "GET /v1/environments/{environment_id}/work": lambda w: w.queued(),
    "GET /v1/environments/{environment_id}/work/poll": lambda w: w.queued(),
    "GET /v1/environments/{environment_id}/work/stats": lambda w: with_api_key(w, **w.queued()[1]),
    "GET /v1/environments/{environment_id}/work/{work_id}": lambda w: item(w),
    "POST /v1/environments/{environment_id}/work/{work_id}": lambda w: item(w, metadata={"parity": "yes"}),
    "POST /v1/environments/{environment_id}/work/{work_id}/ack": lambda w: with_key(w.make.claimed()),
    "POST /v1/environments/{environment_id}/work/{work_id}/heartbeat": lambda w: with_key(
        w.acked(), expected_last_heartbeat="NO_HEARTBEAT"
    ),
    "POST /v1/environments/{environment_id}/work/{work_id}/stop": lambda w: with_key(w.acked(), force=True),
    "GET /v1/models": lambda w: with_api_key(w),
    "GET /v1/models/{model_id}": lambda w: with_api_key(w, model_id=w.model_id),
    "POST /v1/sessions": lambda w: with_api_key(w, agent=w.agent.id, environment_id=w.environment.id),
    "GET /v1/sessions": lambda w: with_api_key(w, limit=1 if w.session else 0),
    "GET /v1/sessions/{session_id}": lambda w: with_api_key(w, session_id=w.session.id),
    "POST /v1/sessions/{session_id}": lambda w: with_api_key(w, session_id=w.session.id, title="Parity"),
    "DELETE /v1/sessions/{session_id}": lambda w: with_api_key(w, session_id=w.resting().id),
    "POST /v1/sessions/{session_id}/archive": lambda w: with_api_key(w, session_id=w.resting().id),
    "GET /v1/sessions/{session_id}/events": lambda w: with_api_key(w, session_id=w.session.id, limit=100),
    "POST /v1/sessions/{session_id}/events": lambda w: with_api_key(
        w, session_id=w.resting().id, events=[message("Hello.")]
    ),
    "GET /v1/sessions/{session_id}/events/stream": lambda w: with_api_key(
        w, session_id=w.resting().id, event_deltas=["agent.message"]
    ),
    "POST /v1/files": lambda w: with_api_key(w),
    "GET /v1/files": lambda w: with_api_key(w, limit=1 if w.uploaded() else 0),
    "GET /v1/files/{file_id}": lambda w: with_api_key(w, file_id=w.uploaded().id),
    "DELETE /v1/files/{file_id}": lambda w: with_api_key(w, file_id=w.uploaded().id),
    "GET /v1/files/{file_id}/content": lambda w: with_api_key(w, file_id=w.brought_forth.id),
    "GET /v1/sessions/{session_id}/resources": lambda w: with_api_key(w, session_id=w.resource()["session_id"]),
    "POST /v1/sessions/{session_id}/resources": lambda w: with_api_key(
        w, session_id=w.session.id, file_id=w.uploaded().id
    ),
    "GET /v1/sessions/{session_id}/resources/{resource_id}": lambda w: with_api_key(w, **w.resource()),
    "POST /v1/sessions/{session_id}/resources/{resource_id}": lambda w: with_api_key(
        w, **w.resource(authorization_token="one"), authorization_token="another"
    ),
    "DELETE /v1/sessions/{session_id}/resources/{resource_id}": lambda w: with_api_key(w, **w.resource()),
    "GET /v1/sessions/{session_id}/threads": lambda w: with_api_key(w, session_id=w.session.id),
    "GET /v1/sessions/{session_id}/threads/{thread_id}": lambda w: with_api_key(
        w, session_id=w.session.id, thread_id=w.thread_id
    ),
    "POST /v1/sessions/{session_id}/threads/{thread_id}/archive": lambda w: with_api_key(
        w, session_id=w.session.id, thread_id=w.thread_id
    ),
    "GET /v1/sessions/{session_id}/threads/{thread_id}/events": lambda w: with_api_key(
        w, session_id=w.session.id, thread_id=w.thread_id
    ),
    "GET /v1/sessions/{session_id}/threads/{thread_id}/stream": lambda w: with_api_key(w, **_resting_thread(w)),
    "POST /v1/vaults": lambda w: with_api_key(w, display_name=fresh("parity")),
    "GET /v1/vaults": lambda w: with_api_key(w, limit=1 if w.vault() else 0),
    "GET /v1/vaults/{vault_id}": lambda w: with_api_key(w, vault_id=w.vault().id),
    "POST /v1/vaults/{vault_id}": lambda w: with_api_key(w, vault_id=w.vault().id, display_name=fresh("parity")),
    "DELETE /v1/vaults/{vault_id}": lambda w: with_api_key(w, vault_id=w.vault().id),
    "POST /v1/vaults/{vault_id}/archive": lambda w: with_api_key(w, vault_id=w.vault().id),
    "POST /v1/vaults/{vault_id}/credentials": lambda w: with_api_key(
        w, vault_id=w.vault().id, auth=bearer("https://mcp.example.com/mcp")
    ),
    "GET /v1/vaults/{vault_id}/credentials": lambda w: with_api_key(w, vault_id=w.credential()["vault_id"]),
    "GET /v1/vaults/{vault_id}/credentials/{credential_id}": lambda w: with_api_key(w, **w.credential()),
    "POST /v1/vaults/{vault_id}/credentials/{credential_id}": lambda w: with_api_key(
        w, **w.credential(), auth={"type": "static_bearer", "token": "another"}
    ),
    "DELETE /v1/vaults/{vault_id}/credentials/{credential_id}": lambda w: with_api_key(w, **w.credential()),
    "POST /v1/vaults/{vault_id}/credentials/{credential_id}/archive": lambda w: with_api_key(w, **w.credential()),
    "POST /v1/vaults/{vault_id}/credentials/{credential_id}/mcp_oauth_validate": lambda w: with_api_key(
        w, **w.unreachable()
    ),
    "POST /v1/tunnels": lambda w: with_api_key(w, display_name=fresh("parity")),
    "GET /v1/tunnels": lambda w: with_api_key(w, limit=1 if w.tunnel else 0),
    "GET /v1/tunnels/{tunnel_id}": lambda w: with_api_key(w, tunnel_id=w.tunnel.id),
    "POST /v1/tunnels/{tunnel_id}/archive": lambda w: with_api_key(
        w, tunnel_id=w.make.client.beta.tunnels.create().id
    ),
    "POST /v1/tunnels/{tunnel_id}/reveal_token": lambda w: with_api_key(w, tunnel_id=w.tunnel.id),
    "POST /v1/tunnels/{tunnel_id}/rotate_token": lambda w: with_api_key(w, tunnel_id=w.tunnel.id, reason="parity"),
    "POST /v1/tunnels/{tunnel_id}/certificates": lambda w: with_api_key(
        w, tunnel_id=w.tunnel.id, ca_certificate_pem=pki.authority()
    ),
    "GET /v1/tunnels/{tunnel_id}/certificates": lambda w: with_api_key(w, tunnel_id=w.certificate.tunnel_id),
    "GET /v1/tunnels/{tunnel_id}/certificates/{certificate_id}": lambda w: with_api_key(
        w, tunnel_id=w.tunnel.id, certificate_id=w.certificate.id
    ),
    "POST /v1/tunnels/{tunnel_id}/certificates/{certificate_id}/archive": lambda w: with_api_key(
        w, tunnel_id=w.tunnel.id, certificate_id=w.certificate.id
    ),
}


def _resting_thread(world: World) -> Arguments:
    session = world.resting()
    (thread,) = world.make.client.beta.sessions.threads.list(session.id)
    return {"session_id": session.id, "thread_id": thread.id}


def outcome(world: World, operation: str, method: Method) -> tuple[str, str]:
    """What came back: the outcome and, for a person, what it was."""
    try:
        caller, given = READY[operation](world) if operation in READY else (world.make.client, {})
    except Exception as error:  # noqa: BLE001: this row says so, and the others are still worth having
        print(f"{operation}: {type(error).__name__}: {error}", file=sys.stderr)
        return "wrong", "wrong: what it is called with could not be made"
    # The loose client: what is wrong with an answer is found here, with its place.
    caller = caller.with_options()
    caller._strict_response_validation = False
    try:
        if operation.endswith("/stream"):
            wrong = _streamed(world, caller, method, given)
        else:
            wrong = _answered(caller, method, given)
    except anthropic.APIStatusError as error:
        return _refused(error, world.unknown_route)
    if wrong == ["empty"]:
        return "pass", "pass (an empty list)"
    if wrong:
        return "wrong", "wrong: " + "; ".join(wrong[:3])
    return "pass", "pass"


def _refused(error: anthropic.APIStatusError, unknown_route: str) -> tuple[str, str]:
    said = f"{error.status_code}, {error.type or 'no error.type'}"
    if error.status_code >= 500 or error.type is None or not error.api_message:
        return "wrong", f"wrong: {said}"
    # The server's words for a route that nobody could know, without the route.
    if error.status_code == 404 and _without_route(error.api_message) == unknown_route:
        return "missing", f"missing ({said})"
    return "refused", f"refused ({said})"


def _without_route(message: str) -> str:
    return message.rsplit(": ", 1)[-1]


def _answered(caller: anthropic.Anthropic, method: Method, given: Arguments) -> list[str]:
    answer = method.call(caller, given, raw=True)
    wanted = method.result
    name = getattr(wanted, "__name__", "")
    if "BinaryAPIResponse" in name:
        return [] if answer.http_response.content else ["an empty body"]
    document = json.loads(answer.http_response.content)
    if "Page" in name:
        return _page(document, wanted)
    return list(faults(document, wanted))


def _page(document: Any, wanted: Any) -> list[str]:
    # Every page type has its items in `data`; what else it has are cursors.
    found = list(faults(document, wanted))
    if not found and document["data"] == []:
        return ["empty"]
    return found


def _streamed(world: World, caller: anthropic.Anthropic, method: Method, given: Arguments) -> list[str]:
    """Follows the stream through one turn and looks at every event as it came."""
    documents: list[Any] = []
    original = caller._process_response_data

    def keep(*, data: object, **more: Any) -> Any:
        documents.append(data)
        return original(data=data, **more)

    caller._process_response_data = keep  # type: ignore[method-assign]
    with Follower(lambda: method.call(caller, given)) as stream:
        Session(world.make.client, given["session_id"]).send(message("Streamed."))
        last = "session.thread_status_idle" if "thread_id" in given else "session.status_idle"
        stream.wait_type(last)
    (wanted,) = get_args(method.result)
    return [fault for document in documents for fault in faults(document, wanted, f"${document.get('type')}")]


def main(operations_file: str, answer_file: str) -> None:
    operations = json.loads(Path(operations_file).read_text())
    pairs = [(operation["method"], operation["path"]) for operation in operations]
    methods = by_operation(pairs)
    unknown = sorted(set(READY) - {" ".join(pair) for pair in pairs})
    assert not unknown, f"not in the contract: {unknown}"
    rows = []
    with Rehearsal() as rehearsal, Plane(rehearsal.url) as plane:
        world = World(plane)
        for number, pair in enumerate(pairs, 1):
            method = methods.get(pair)
            if method is None:
                raise SystemExit(f"the client has no method for {' '.join(pair)}")
            name, result = outcome(world, " ".join(pair), method)
            print(f"[{number}/{len(pairs)}] {' '.join(pair)}: {result}", flush=True)
            rows.append(
                {"method": pair[0], "path": pair[1], "call": method.name, "outcome": name, "result": result}
            )
    Path(answer_file).write_text(json.dumps({"sdk": anthropic.__version__, "rows": rows}, indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
