"""What a session says when its model is busy, broken, unwilling or not there."""

from __future__ import annotations

from typing import Any, Iterator

import pytest

from script import message, say, status
from servers import Plane, Rehearsal
from sessions import Makers, texts, types_of


def retry_of(event: Any) -> str:
    return event.error.retry_status.type


@pytest.mark.parametrize(
    ("code", "error_type"),
    [(429, "model_rate_limited_error"), (529, "model_overloaded_error"), (500, "model_request_failed_error")],
)
def test_a_passing_fault_is_retried(make: Makers, code: int, error_type: str) -> None:
    session = make.session()
    fault = status(code, times=1, retry_after=0)
    session.send(message(say("Recovered.", faults=[fault])))
    assert session.wait_idle(seconds=60).stop_reason.type == "end_turn"
    assert texts(session.events("agent.message")[-1]) == "Recovered."
    types = types_of(session.events())
    (error,) = session.events("session.error")
    assert error.error.type == error_type and retry_of(error) == "retrying" and error.error.message
    assert types.index("session.error") < types.index("session.status_rescheduled") < types.index("agent.message")
    ends = session.events("span.model_request_end")
    assert [bool(end.is_error) for end in ends] == [True, False]


def test_retry_after_is_kept(make: Makers) -> None:
    session = make.session()
    session.send(message(say("Recovered.", faults=[status(429, times=1, retry_after=2)])))
    session.wait_idle(seconds=60)
    (error,) = session.events("session.error")
    second = session.events("span.model_request_start")[1]
    waited = (second.processed_at - error.processed_at).total_seconds()
    assert waited >= 1.9, f"the model asked for 2 s and was asked again after {waited:.2f} s"


@pytest.mark.parametrize("code", [400, 401, 403, 404])
def test_a_fault_that_retrying_does_not_mend(make: Makers, code: int) -> None:
    session = make.session()
    session.send(message(say("Never.", faults=[status(code)])))
    assert session.wait_idle(seconds=60).stop_reason.type == "retries_exhausted"
    (error,) = session.events("session.error")
    assert retry_of(error) in ("terminal", "exhausted")
    assert error.error.type in ("model_request_failed_error", "billing_error", "unknown_error")


@pytest.mark.parametrize(
    "fault",
    [
        {"cut_after_events": 4},
        {"disconnect": True},
        {"nonsense": "json", "after_events": 3},
        {"nonsense": "utf8", "after_events": 3},
        {"nonsense": "order", "after_events": 2},
        {"nonsense": "early_end", "after_events": 4},
        {"error_event": "overloaded_error", "after_events": 3},
        {"content_type": "text/html", "body": "<html>a proxy</html>"},
    ],
    ids=lambda fault: "-".join(str(part) for part in fault.values())[:24].replace("/", "-"),
)
def test_a_broken_answer_is_asked_for_again(make: Makers, fault: dict[str, Any]) -> None:
    session = make.session()
    session.send(message(say("The whole answer, in the end.", faults=[{**fault, "times": 1}])))
    assert session.wait_idle(seconds=60).stop_reason.type == "end_turn"
    assert [texts(event) for event in session.events("agent.message")] == ["The whole answer, in the end."]
    (error,) = session.events("session.error")
    assert retry_of(error) == "retrying"


def test_refusal(make: Makers) -> None:
    session = make.session()
    details = {"type": "refusal", "category": "cyber", "explanation": "Not this."}
    session.send(message(say("I cannot help with that.", stop_reason="refusal", stop_details=details)))
    idle = session.wait_idle()
    assert idle.stop_reason.type == "refusal"
    assert idle.stop_details is not None and idle.stop_details.type == "refusal"
    assert idle.stop_details.category == "cyber" and idle.stop_details.explanation == "Not this."
    thread = session.events("session.thread_status_idle")[-1]
    assert thread.stop_reason.type == "refusal"
    assert session.events("session.error") == []


def test_an_unknown_model(make: Makers) -> None:
    session = make.session(make.agent(model="no-such-model"))
    session.send(message("hello"))
    assert session.wait_idle(seconds=60).stop_reason.type == "retries_exhausted"
    (error,) = session.events("session.error")
    assert "no-such-model" in error.error.message


def test_no_model_provider() -> None:
    with Plane(None) as plane:
        make = Makers(plane)
        session = make.session()
        session.send(message("hello"))
        assert session.wait_idle().stop_reason.type == "retries_exhausted"
        (error,) = session.events("session.error")
        assert "OUTWORK_MODEL_BASE_URL" in error.error.message


def test_a_model_that_does_not_listen() -> None:
    with Plane("http://127.0.0.1:9") as plane:
        make = Makers(plane)
        session = make.session()
        session.send(message("hello"))
        error = session.wait_event("session.error")
        assert retry_of(error) == "retrying" and error.error.message
        session.send({"type": "user.interrupt"})
        assert session.wait_idle().stop_reason.type in ("end_turn", "retries_exhausted")


@pytest.fixture(scope="module")
def hasty(rehearsal: Rehearsal) -> Iterator[Makers]:
    """A plane that waits less than it should, so that a test can see it give up."""
    config = """
        [model]
        max_attempts = 4
        retry_base = "20ms"
        retry_cap = "100ms"
        first_byte_timeout = "1s"
        idle_timeout = "1s"
    """
    with Plane(rehearsal.url, config=config) as plane:
        yield Makers(plane)


@pytest.mark.parametrize(
    ("code", "error_type"), [(429, "model_rate_limited_error"), (529, "model_overloaded_error")]
)
def test_a_lasting_fault_exhausts_the_retries(hasty: Makers, code: int, error_type: str) -> None:
    session = hasty.session()
    session.send(message(say("Never.", faults=[status(code, retry_after=0)]), superseded=True))
    assert session.wait_idle().stop_reason.type == "retries_exhausted"
    errors = session.events("session.error")
    assert [retry_of(error) for error in errors] == ["retrying"] * 3 + ["exhausted"]
    assert {error.error.type for error in errors} == {error_type}
    assert len(session.events("session.status_rescheduled")) == 3
    assert session.retrieve().status == "idle" and session.events("agent.message") == []
    session.send(message("I am back."))
    session.wait_idle(2)
    assert texts(session.events("agent.message")[-1]) == "I am back."


@pytest.mark.parametrize("how", ["headers", "silence", "ping"])
def test_a_model_that_never_ends_is_given_up(hasty: Makers, how: str) -> None:
    session = hasty.session()
    fault = {"hang": how, "times": 1} | ({} if how == "headers" else {"after_events": 2})
    session.send(message(say("In the end.", faults=[fault])))
    if how == "ping":
        # Pings are a sign of life: only the person who waits ends it.
        session.wait_event("span.model_request_start")
        session.send({"type": "user.interrupt"})
        assert session.wait_idle().stop_reason.type == "end_turn"
        return
    assert session.wait_idle().stop_reason.type == "end_turn"
    assert texts(session.events("agent.message")[-1]) == "In the end."
    (error,) = session.events("session.error")
    assert retry_of(error) == "retrying"
