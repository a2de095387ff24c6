"""What most tests do with a session: make the things that it needs, follow its stream, wait until it rests."""

from __future__ import annotations

import base64
import json
import threading
import time
import uuid
from typing import Any, Callable, Iterable

import anthropic

from script import MODEL, call, message, say
from servers import WAIT_SECONDS, Plane, wait_for

TOOLSET: dict[str, Any] = {
    "type": "agent_toolset_20260401",
    "default_config": {"enabled": True, "permission_policy": {"type": "always_allow"}},
}
WEATHER: dict[str, Any] = {
    "type": "custom",
    "name": "weather",
    "description": "Says the weather of a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


def asking(*names: str) -> dict[str, Any]:
    """The toolset with these tools behind a question."""
    configs = [{"type": name, "name": name, "permission_policy": {"type": "always_ask"}} for name in names]
    return {**TOOLSET, "configs": configs}


def fresh(name: str) -> str:
    """A name that no other test has."""
    return f"{name}-{uuid.uuid4().hex[:10]}"


def bearer(url: str, token: str = "token") -> dict[str, Any]:
    """`auth` of a credential with a fixed token."""
    return {"type": "static_bearer", "token": token, "mcp_server_url": url}


class Session:
    """One session and the client that made it."""

    def __init__(self, client: anthropic.Anthropic, id: str) -> None:  # noqa: A002
        self.client = client
        self.id = id

    def retrieve(self) -> Any:
        return self.client.beta.sessions.retrieve(self.id)

    def send(self, *events: Any) -> list[Any]:
        return list(self.client.beta.sessions.events.send(self.id, events=list(events)).data or [])

    def events(self, *types: str, **query: Any) -> list[Any]:
        """The whole history, page by page, as far as its types are wanted."""
        if types:
            query["types"] = list(types)
        return list(self.client.beta.sessions.events.list(self.id, **query))

    def idles(self) -> list[Any]:
        return self.events("session.status_idle")

    def wait_idle(self, count: int = 1, seconds: float = WAIT_SECONDS) -> Any:
        """Waits until the session came to rest for the `count`th time; that event."""

        def look() -> Any:
            idles = self.idles()
            return idles[count - 1] if len(idles) >= count else None

        try:
            return wait_for(f"rest number {count} of {self.id}", look, seconds)
        except AssertionError as error:
            types = [event.type for event in self.events()]
            raise AssertionError(f"{error}; its events are {types}") from None

    def wait_event(self, type: str, count: int = 1, seconds: float = WAIT_SECONDS) -> Any:  # noqa: A002
        """Waits for the `count`th event of a type."""

        def look() -> Any:
            found = self.events(type)
            return found[count - 1] if len(found) >= count else None

        return wait_for(f"event {type} number {count} of {self.id}", look, seconds)

    def answer(self, use: Any, words: str = "done", is_error: bool = False) -> None:
        """Posts the result of a call, as a worker or a program with the custom tool would."""
        content = [{"type": "text", "text": words}]
        if use.type == "agent.custom_tool_use":
            self.send(
                {"type": "user.custom_tool_result", "custom_tool_use_id": use.id, "content": content, "is_error": is_error}
            )
        else:
            self.send({"type": "user.tool_result", "tool_use_id": use.id, "content": content, "is_error": is_error})


class Makers:
    """Makes agents, environments, keys and sessions on one plane."""

    def __init__(self, plane: Plane) -> None:
        self.plane = plane
        self.client = plane.client()

    def agent(self, **fields: Any) -> Any:
        given = {"name": fresh("agent"), "model": MODEL, "tools": [TOOLSET], **fields}
        return self.client.beta.agents.create(**given)

    def environment(self, **fields: Any) -> Any:
        given = {"name": fresh("environment"), "config": {"type": "self_hosted"}, **fields}
        return self.client.beta.environments.create(**given)

    def key(self, environment_id: str, name: str = "suite") -> Any:
        """A fresh environment key; the secret is in `["key"]`, shown this once."""
        path = f"/v1/environments/{environment_id}/keys"
        return self.client.post(path, body={"name": name}, cast_to=object)

    def session(self, agent: Any = None, environment: Any = None, **fields: Any) -> Session:
        agent = agent if agent is not None else self.agent()
        environment = environment if environment is not None else self.environment()
        agent = agent if isinstance(agent, (str, dict)) else agent.id
        made = self.client.beta.sessions.create(agent=agent, environment_id=environment.id, **fields)
        return Session(self.client, made.id)

    def claimed(self) -> "Claim":
        """A session that asked for a tool, and the work item that a poll of its environment gave."""
        environment = self.environment()
        session = self.session(environment=environment)
        session.send(message(say(call("bash", command="true")), "done"))
        session.wait_event("agent.tool_use")
        return Claim(self, environment, session)


class Claim:
    """A polled work item with the clients that may speak about it."""

    def __init__(self, makers: Makers, environment: Any, session: Session) -> None:
        self.environment = environment
        self.session = session
        self.key = makers.key(environment.id)["key"]
        self.worker = makers.plane.bearer(self.key)
        self.work = self.worker.beta.environments.work
        self.item = wait_for("a work item", lambda: self.work.poll(environment.id, block_ms=500))

    @property
    def token(self) -> str:
        """The token inside the item, which opens the item and its session."""
        secret = self.item.secret
        return json.loads(base64.urlsafe_b64decode(secret + "=" * (-len(secret) % 4)))["sessions_token"]

    def ack(self) -> Any:
        return self.work.ack(self.item.id, environment_id=self.environment.id)

    def beat(self, expected: str, **query: Any) -> Any:
        return self.work.heartbeat(
            self.item.id, environment_id=self.environment.id, expected_last_heartbeat=expected, **query
        )

    def stop(self, force: bool | None = None) -> Any:
        given = {} if force is None else {"force": force}
        return self.work.stop(self.item.id, environment_id=self.environment.id, **given)


class Follower:
    """Reads a session's stream in the background; what it read is in `events`."""

    def __init__(self, open_stream: Callable[[], Any]) -> None:
        self._changed = threading.Condition()
        self.events: list[Any] = []
        self.failure: BaseException | None = None
        self.ended = False
        # Opened here: the stream is live before the first event that a test causes.
        self._stream = open_stream()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    @classmethod
    def of(cls, session: Session, **query: Any) -> "Follower":
        return cls(lambda: session.client.beta.sessions.events.stream(session.id, **query))

    def _read(self) -> None:
        try:
            for event in self._stream:
                with self._changed:
                    self.events.append(event)
                    self._changed.notify_all()
        except Exception as error:  # noqa: BLE001: whatever it is, the test that waits must see it
            self.failure = error
        with self._changed:
            self.ended = True
            self._changed.notify_all()

    def wait(self, what: str, look: Callable[[list[Any]], Any], seconds: float = WAIT_SECONDS) -> Any:
        """Waits until `look` finds something in what was read so far."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while True:
                found = look(self.events)
                if found:
                    return found
                left = deadline - time.monotonic()
                if self.ended or left <= 0:
                    types = [event.type for event in self.events]
                    raise AssertionError(f"{what} did not come; the stream gave {types}, failure {self.failure!r}")
                self._changed.wait(left)

    def wait_type(self, type: str, count: int = 1) -> Any:  # noqa: A002
        def look(events: Iterable[Any]) -> Any:
            found = [event for event in events if event.type == type]
            return found[count - 1] if len(found) >= count else None

        return self.wait(f"event {type} number {count}", look)

    def wait_end(self, seconds: float = WAIT_SECONDS) -> None:
        self._thread.join(seconds)
        assert not self._thread.is_alive(), "the stream did not end"

    def close(self) -> None:
        self._stream.close()

    def __enter__(self) -> "Follower":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def unclocked(thing: Any) -> dict[str, Any]:
    """A session or a thread without the figures that grow by themselves."""
    return {name: value for name, value in thing.to_dict().items() if name != "stats"}


def texts(event: Any) -> str:
    """The text of an event's content."""
    return "".join(block.text for block in event.content or [] if block.type == "text")


def types_of(events: Iterable[Any]) -> list[str]:
    return [event.type for event in events]
