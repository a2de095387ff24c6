"""The work queue, call by call, as the service's recordings and the SDK's worker have it."""

from __future__ import annotations

import base64
import json

import anthropic

from refusals import check, refused
from script import call, message, say
from servers import wait_for
from sessions import Makers


def test_poll_of_an_empty_queue(make: Makers) -> None:
    environment = make.environment()
    worker = make.plane.bearer(make.key(environment.id)["key"])
    assert worker.beta.environments.work.poll(environment.id) is None
    assert worker.beta.environments.work.poll(environment.id, block_ms=50) is None
    for block_ms in (0, 1000, -1):
        with refused(400, "block_ms"):
            worker.beta.environments.work.poll(environment.id, block_ms=block_ms)


def test_a_waiting_poll_gets_the_item(make: Makers) -> None:
    import threading

    environment = make.environment()
    worker = make.plane.bearer(make.key(environment.id)["key"])
    session = make.session(environment=environment)
    found = []

    def poll() -> None:
        found.append(wait_for("an item", lambda: worker.beta.environments.work.poll(environment.id, block_ms=999)))

    waiting = threading.Thread(target=poll)
    waiting.start()
    session.send(message(say(call("bash", command="true")), "done"))
    waiting.join(60)
    assert not waiting.is_alive() and found[0].data.id == session.id


def test_a_polled_item_has_every_field(make: Makers) -> None:
    claim = make.claimed()
    item = claim.item
    assert item.type == "work" and item.id.startswith("work_") and item.environment_id == claim.environment.id
    assert item.data.type == "session" and item.data.id == claim.session.id
    assert item.state == "queued" and item.metadata == {} and item.created_at
    for stamp in ("acknowledged_at", "started_at", "latest_heartbeat_at", "stop_requested_at", "stopped_at"):
        assert getattr(item, stamp) is None, stamp
    assert item.secret
    payload = json.loads(base64.urlsafe_b64decode(item.secret + "=" * (-len(item.secret) % 4)))
    assert isinstance(payload["sessions_token"], str) and payload["sessions_token"]


def test_ack_then_heartbeats(make: Makers, client: anthropic.Anthropic) -> None:
    claim = make.claimed()
    acked = claim.ack()
    assert acked.state == "starting" and acked.acknowledged_at and acked.secret is None
    first = claim.beat("NO_HEARTBEAT")
    assert first.type == "work_heartbeat" and first.lease_extended is True
    assert first.state == "active" and first.ttl_seconds == 300 and first.last_heartbeat
    second = claim.beat(first.last_heartbeat)
    assert second.lease_extended and second.last_heartbeat != first.last_heartbeat
    shown = client.beta.environments.work.retrieve(claim.item.id, environment_id=claim.environment.id)
    assert shown.state == "active" and shown.started_at and shown.latest_heartbeat_at == second.last_heartbeat
    assert shown.secret is None


def test_desired_ttl(make: Makers) -> None:
    claim = make.claimed()
    claim.ack()
    first = claim.beat("NO_HEARTBEAT", desired_ttl_seconds=60)
    assert first.ttl_seconds == 60


def test_a_heartbeat_that_is_not_the_last_one_fails_the_precondition(make: Makers) -> None:
    claim = make.claimed()
    claim.ack()
    first = claim.beat("NO_HEARTBEAT")
    for stale in ("NO_HEARTBEAT", "2020-01-01T00:00:00Z"):
        try:
            claim.beat(stale)
        except anthropic.APIStatusError as error:
            check(error, 412)
            assert isinstance(error, anthropic.PreconditionFailedError)
            assert error.error_code == "heartbeat_precondition_failed"
            details = error.body["error"]["details"]  # type: ignore[index]
            assert details["error_visibility"] == "user_facing"
            state = details["current_state"]
            assert state["state"] == "active" and state["lease_extended"] is False
            assert state["last_heartbeat"] == first.last_heartbeat
            assert state["ttl_seconds"] > 0 and "lease_updated_at" in state
            assert stale in str(error.api_message) and first.last_heartbeat in str(error.api_message)
        else:
            raise AssertionError(f"a heartbeat that expected {stale} was taken")
    assert claim.beat(first.last_heartbeat).lease_extended


def test_a_first_heartbeat_that_expects_a_value_names_null(make: Makers) -> None:
    claim = make.claimed()
    claim.ack()
    with refused(412, "NULL"):
        claim.beat("2020-01-01T00:00:00Z")


def test_graceful_stop_of_a_starting_item(make: Makers) -> None:
    claim = make.claimed()
    claim.ack()
    stopped = claim.stop()
    assert stopped.state == "stopping" and stopped.stop_requested_at and stopped.stopped_at is None
    # An item that never beat answers a first heartbeat without taking it.
    beat = claim.beat("NO_HEARTBEAT")
    assert (beat.lease_extended, beat.state, beat.last_heartbeat, beat.ttl_seconds) == (False, "stopping", "", 120)
    forced = claim.stop(force=True)
    assert forced.state == "stopped" and forced.stopped_at
    assert forced.stop_requested_at == stopped.stop_requested_at


def test_forced_stop_of_an_active_item(make: Makers) -> None:
    claim = make.claimed()
    claim.ack()
    claim.beat("NO_HEARTBEAT")
    stopped = claim.stop(force=True)
    assert stopped.state == "stopped" and stopped.stopped_at and stopped.stop_requested_at


def test_graceful_stop_of_an_active_item_is_told_by_the_heartbeat(make: Makers) -> None:
    claim = make.claimed()
    claim.ack()
    first = claim.beat("NO_HEARTBEAT")
    assert claim.stop(force=False).state == "stopping"
    # No value is compared any more.
    told = claim.beat("anything")
    assert told.state == "stopping" and told.lease_extended is False
    assert told.last_heartbeat == first.last_heartbeat
    assert claim.stop(force=True).state == "stopped"


def test_a_stop_of_a_stopped_item_changes_nothing(make: Makers) -> None:
    claim = make.claimed()
    claim.ack()
    claim.beat("NO_HEARTBEAT")
    first = claim.stop(force=True)
    assert claim.stop() == first
    assert claim.stop(force=True) == first
    told = claim.beat("anything")
    assert told.state == "stopped" and told.lease_extended is False


def test_the_operator_may_stop_with_an_api_key(make: Makers, client: anthropic.Anthropic) -> None:
    claim = make.claimed()
    claim.ack()
    stopped = client.beta.environments.work.stop(claim.item.id, environment_id=claim.environment.id)
    assert stopped.state == "stopping"


def test_a_forced_stop_with_open_calls_queues_the_session_again(make: Makers) -> None:
    """The call has no answer yet: another worker must get it."""
    claim = make.claimed()
    claim.ack()
    claim.beat("NO_HEARTBEAT")
    claim.stop(force=True)
    again = wait_for("the session's next item", lambda: claim.work.poll(claim.environment.id, block_ms=500))
    assert again.data.id == claim.session.id and again.id != claim.item.id


def test_an_item_that_is_not_acked_is_offered_again(make: Makers) -> None:
    claim = make.claimed()
    assert claim.work.poll(claim.environment.id) is None, "an item that was just polled was offered again"
    again = wait_for("the same item", lambda: claim.work.poll(claim.environment.id, reclaim_older_than_ms=1))
    assert again.id == claim.item.id and again.secret
    claim.ack()
    assert claim.work.poll(claim.environment.id, reclaim_older_than_ms=1) is None, "an acked item was offered again"


def test_list_and_stats(make: Makers, client: anthropic.Anthropic) -> None:
    environment = make.environment()
    worker = make.plane.bearer(make.key(environment.id)["key"])
    work = worker.beta.environments.work
    empty = client.beta.environments.work.stats(environment.id)
    assert (empty.type, empty.depth, empty.pending, empty.oldest_queued_at) == ("work_queue_stats", 0, 0, None)
    sessions = [make.session(environment=environment) for _ in range(3)]
    for session in sessions:
        session.send(message(say(call("bash", command="true")), "done"))
    wait_for("three queued items", lambda: client.beta.environments.work.stats(environment.id).depth == 3)
    full = client.beta.environments.work.stats(environment.id)
    assert full.pending == 0 and full.oldest_queued_at
    polled = work.poll(environment.id, anthropic_worker_id="suite-1")
    assert polled is not None
    after = work.stats(environment.id)
    assert (after.depth, after.pending) == (2, 1)
    assert after.workers_polling == 1
    work.poll(environment.id, anthropic_worker_id="suite-2")
    assert client.beta.environments.work.stats(environment.id).workers_polling == 2
    page = work.list(environment.id, limit=2)
    assert len(page.data) == 2 and page.has_next_page()
    everything = list(work.list(environment.id, limit=2))
    assert {item.data.id for item in everything} == {session.id for session in sessions}
    assert all(item.secret is None for item in everything), "a list shows a secret"


def test_metadata_is_merged(make: Makers, client: anthropic.Anthropic) -> None:
    claim = make.claimed()
    work = client.beta.environments.work
    where = {"environment_id": claim.environment.id}
    assert work.update(claim.item.id, metadata={"a": "1", "b": "2"}, **where).metadata == {"a": "1", "b": "2"}
    assert work.update(claim.item.id, metadata={"a": None, "c": "3"}, **where).metadata == {"b": "2", "c": "3"}
    assert work.retrieve(claim.item.id, **where).metadata == {"b": "2", "c": "3"}
    with refused(400, "metadata"):
        work.update(claim.item.id, metadata={"k": "v" * 513}, **where)


def test_unknown_items(make: Makers, client: anthropic.Anthropic) -> None:
    claim = make.claimed()
    elsewhere = make.environment()
    unknown = claim.item.id[:-4] + "zzzz"
    with refused(404, unknown):
        claim.work.ack(unknown, environment_id=claim.environment.id)
    with refused(404):
        client.beta.environments.work.retrieve(claim.item.id, environment_id=elsewhere.id)
    with refused(404):
        client.beta.environments.work.retrieve(unknown, environment_id=claim.environment.id)


def test_the_queue_of_a_cloud_environment(make: Makers, client: anthropic.Anthropic) -> None:
    cloud = make.environment(config={"type": "cloud"})
    stats = client.beta.environments.work.stats(cloud.id)
    assert stats.workers_polling is None
