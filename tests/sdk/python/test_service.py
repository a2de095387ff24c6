"""The service itself: health, metrics, bodies that are wrong, a restart, a second server on one folder."""

from __future__ import annotations

import http.client
import json
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import anthropic
import pytest

from refusals import refused
from script import call, message, say
from servers import ADMIN_KEY, BINARY, Plane, Rehearsal, wait_for
from sessions import WEATHER, Makers, texts


def raw(plane: Plane, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, dict, bytes]:
    """A request as no SDK would send it."""
    connection = http.client.HTTPConnection(urlsplit(plane.url).netloc, timeout=30)
    try:
        given = {
            "x-api-key": ADMIN_KEY,
            "anthropic-version": "2023-06-01",
            "anthropic-beta": "managed-agents-2026-04-01",
            "content-type": "application/json",
        }
        connection.request(method, path, body, {**given, **{k.replace("_", "-"): v for k, v in headers.items()}})
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def test_health_and_metrics(plane: Plane) -> None:
    for path in ("/healthz", "/readyz"):
        assert raw(plane, "GET", path)[0] == 200
    status, _, body = raw(plane, "GET", "/metrics")
    assert status == 200 and b"# TYPE" in body
    assert ADMIN_KEY.encode() not in body


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b"null", 400),
        (b'{"name": 1, "model": "x"}', 400),
        (b'{"name": "x", "name": "y", "model": "rehearsal/script"}', 400),
        (b'{"name": "\xff\xfe", "model": "x"}', 400),
        (b"[" * 100_000, 400),
        (b'{"name": "x", "model": "rehearsal/script", "metadata": ' + b'{"a":' * 200 + b"1" + b"}" * 200 + b"}", 400),
        (b'{"name": "' + b"x" * (64 << 20) + b'"}', 413),
    ],
    ids=["empty", "cut", "list", "null", "type", "twice", "bytes", "deep", "nested", "large"],
)
def test_bad_bodies(plane: Plane, body: bytes, status: int) -> None:
    try:
        got, headers, answer = raw(plane, "POST", "/v1/agents", body)
    except (BrokenPipeError, ConnectionResetError):
        assert status == 413, "the connection was cut"
        return
    assert got == status, answer[:300]
    error = json.loads(answer)
    assert error["type"] == "error" and error["error"]["type"] in ("invalid_request_error", "request_too_large")
    assert error["request_id"] == headers["request-id"] and len(error["error"]["message"]) > 10


def test_unknown_routes_and_methods(plane: Plane) -> None:
    status, _, body = raw(plane, "GET", "/v1/teapots")
    assert status == 404 and json.loads(body)["error"]["type"] == "not_found_error" and b"/v1/teapots" in body
    status, _, body = raw(plane, "PUT", "/v1/agents")
    assert status == 405 and json.loads(body)["type"] == "error"


def test_a_wrong_content_type_is_refused(plane: Plane) -> None:
    status, _, body = raw(plane, "POST", "/v1/agents", b'{"name": "x", "model": "m"}', content_type="text/plain")
    assert status in (400, 415) and json.loads(body)["type"] == "error"


def test_answers_name_their_request(client: anthropic.Anthropic) -> None:
    answer = client.beta.agents.with_raw_response.list(limit=1)
    assert answer.headers["request-id"].startswith("req_")
    assert answer.headers["content-type"].startswith("application/json")


def test_a_restart_loses_nothing(rehearsal: Rehearsal, tmp_path: Path) -> None:
    with Plane(rehearsal.url, tmp_path) as plane:
        make = Makers(plane)
        session = make.session(make.agent(tools=[WEATHER]))
        session.send(message(say(call("weather", city="Berlin")), say("It is {{result}}.")))
        session.wait_idle()
        before = [event.to_dict() for event in session.events()]
        assert plane.stop() == 0, plane.output
    with Plane(rehearsal.url, tmp_path) as plane:
        session.client = plane.client()
        assert [event.to_dict() for event in session.events()] == before
        (use,) = session.events("agent.custom_tool_use")
        session.answer(use, "sunny")
        assert session.wait_idle(2).stop_reason.type == "end_turn"
        assert texts(session.events("agent.message")[-1]) == "It is sunny."


def test_a_killed_plane_goes_on_where_it_was(rehearsal: Rehearsal, tmp_path: Path) -> None:
    with Plane(rehearsal.url, tmp_path) as plane:
        make = Makers(plane)
        session = make.session()
        session.send(message(say("Said in the end.", pace={"first_token_ms": 2000})))
        session.wait_event("span.model_request_start")
        plane.kill()
    with Plane(rehearsal.url, tmp_path) as plane:
        session.client = plane.client()
        assert session.wait_idle(seconds=80).stop_reason.type == "end_turn"
        assert [texts(event) for event in session.events("agent.message")] == ["Said in the end."]
        assert len(session.events("user.message")) == 1


def test_a_second_server_on_the_folder_stops(rehearsal: Rehearsal, tmp_path: Path) -> None:
    with Plane(rehearsal.url, tmp_path):
        second = subprocess.run(
            [BINARY, "serve", "--listen", "127.0.0.1:0", "--data-dir", tmp_path],
            capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert second.returncode != 0
        assert str(tmp_path) in second.stderr + second.stdout


def test_a_public_address_needs_tls(tmp_path: Path) -> None:
    refused_start = subprocess.run(
        [BINARY, "serve", "--listen", "0.0.0.0:0", "--data-dir", tmp_path],
        capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert refused_start.returncode != 0 and "--insecure-http" in refused_start.stderr + refused_start.stdout


def test_sigterm_drains_open_streams(rehearsal: Rehearsal) -> None:
    from sessions import Follower

    with Plane(rehearsal.url) as plane:
        make = Makers(plane)
        session = make.session()
        with Follower.of(session) as stream:
            session.send(message("Hello."))
            stream.wait_type("session.status_idle")
            assert plane.stop() == 0, plane.output
            stream.wait_end()


def test_metrics_count_requests(plane: Plane, client: anthropic.Anthropic) -> None:
    def total() -> float:
        lines = raw(plane, "GET", "/metrics")[2].decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if "requests_total" in line and not line.startswith("#"))

    before = total()
    client.beta.agents.list(limit=1)
    wait_for("a counted request", lambda: total() > before)


def test_unsupported_endpoints_say_so(client: anthropic.Anthropic) -> None:
    for refuse in (client.beta.skills.list, client.beta.deployments.list, client.beta.memory_stores.list):
        with pytest.raises(anthropic.APIStatusError) as refusal:
            refuse()
        assert 400 <= refusal.value.status_code < 500
        assert "not supported" in str(refusal.value.api_message)


def test_a_long_id_is_not_found(client: anthropic.Anthropic) -> None:
    with refused(404):
        client.beta.agents.retrieve("agent_" + "x" * 5000)
