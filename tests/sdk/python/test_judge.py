"""The judge of `cargo xtask parity`: it must find what is wrong, and every operation must have a method."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import get_args

from operations import Method, by_operation
from strict import faults

OPERATIONS = Path(__file__).parents[3] / "xtask" / "contract" / "operations.json"


@pytest.fixture(scope="module")
def methods() -> dict[tuple[str, str], Method]:
    listed = json.loads(OPERATIONS.read_text())
    return by_operation([(operation["method"], operation["path"]) for operation in listed])


def agent(**fields: Any) -> dict[str, Any]:
    whole = {
        "type": "agent", "id": "agent_1", "name": "a", "version": 1, "archived_at": None, "description": None,
        "system": None, "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z", "metadata": {},
        "execution_identity": {"type": "service_account"}, "mcp_servers": [], "skills": [], "multiagent": None,
        "model": {"id": "m", "effort": None, "speed": "standard", "inference_geo": None}, "tools": [],
    }  # fmt: skip
    whole.update(fields)
    return {name: value for name, value in whole.items() if value is not ...}


def test_every_operation_has_a_method(methods: dict[tuple[str, str], Method]) -> None:
    listed = json.loads(OPERATIONS.read_text())
    assert [o for o in listed if (o["method"], o["path"]) not in methods] == []
    assert methods["GET", "/v1/environments/{environment_id}/work/poll"].name == "beta.environments.work.poll"
    assert methods["GET", "/v1/sessions/{session_id}/threads/{thread_id}/stream"].name == "beta.sessions.threads.events.stream"


def test_a_right_answer_passes(methods: dict[tuple[str, str], Method]) -> None:
    page = {"data": [agent(), agent(id="agent_2")], "next_page": None}
    assert list(faults(page, methods["GET", "/v1/agents"].result)) == []
    assert list(faults(None, methods["GET", "/v1/environments/{environment_id}/work/poll"].result)) == []


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        ({"name": ...}, "$.name is missing"),
        ({"name": None}, "$.name is None, not a text"),
        ({"version": "1"}, "$.version is '1', not a whole number"),
        ({"version": True}, "$.version is True"),
        ({"type": "robot"}, "$.type is 'robot', not one of 'agent'"),
        ({"updated_at": "2026-01-01T00:00:00"}, "$.updated_at is '2026-01-01T00:00:00', not a moment"),
        ({"created_at": 5}, "$.created_at is 5"),
        ({"colour": "red"}, "$.colour is not a field of BetaManagedAgentsAgent"),
        ({"metadata": {"a": 1}}, "$.metadata.a is 1, not a text"),
        ({"execution_identity": {"type": "root"}}, "$.execution_identity.type is 'root', which no variant has"),
        ({"tools": [{"type": "custom", "name": "x", "description": "y"}]}, "$.tools[0].input_schema is missing"),
        ({"model": {"id": "m", "speed": "warp"}}, "$.model.speed is 'warp'"),
        ({"skills": None}, "$.skills is not a list"),
    ],
)
def test_a_wrong_answer_is_found(methods: dict[tuple[str, str], Method], wrong: dict, found: str) -> None:
    said = list(faults(agent(**wrong), methods["GET", "/v1/agents/{agent_id}"].result))
    assert any(fault.startswith(found) for fault in said), said


def test_a_wrong_event_is_found(methods: dict[tuple[str, str], Method]) -> None:
    (event,) = get_args(methods["GET", "/v1/sessions/{session_id}/events/stream"].result)
    moment = "2026-01-01T00:00:00Z"
    assert list(faults({"type": "session.status_running", "id": "e", "processed_at": moment}, event)) == []
    assert list(faults({"type": "session.status_running", "id": "e", "processed_at": None}, event))
    assert list(faults({"type": "session.mood", "id": "e"}, event)) == ["$.type is 'session.mood', which no variant has"]
    preview = {"type": "event_start", "event": {"type": "agent.message"}}
    assert list(faults(preview, event)) == ["$.event.id is missing"]
