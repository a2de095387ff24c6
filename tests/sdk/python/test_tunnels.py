"""Tunnels and their certificates, through the published client."""

from __future__ import annotations

import datetime
from typing import Any, Iterator

import anthropic
import pytest

import pki
from refusals import refused
from servers import Plane
from sessions import fresh


@pytest.fixture(scope="module")
def own_plane() -> Iterator[Plane]:
    """A server of its own: a workspace has ten tunnels at most."""
    with Plane(None) as server:
        yield server


@pytest.fixture
def client(own_plane: Plane) -> Iterator[anthropic.Anthropic]:
    client = own_plane.client()
    yield client
    for tunnel in client.beta.tunnels.list():
        client.beta.tunnels.archive(tunnel.id)


def test_create_retrieve_list_archive(client: anthropic.Anthropic) -> None:
    name = fresh("tunnel")
    made = client.beta.tunnels.create(display_name=name)
    assert made.type == "tunnel" and made.id.startswith("tnl_")
    assert made.display_name == name and made.archived_at is None
    assert made.domain.endswith(".tunnel.outwork.internal")
    assert client.beta.tunnels.retrieve(made.id) == made
    unnamed = client.beta.tunnels.create()
    assert unnamed.display_name is None and unnamed.domain != made.domain
    third = client.beta.tunnels.create(display_name=None)
    listed = [tunnel.id for tunnel in client.beta.tunnels.list(limit=1)]
    assert listed == [third.id, unnamed.id, made.id]

    archived = client.beta.tunnels.archive(made.id)
    assert archived.archived_at is not None and archived.domain == made.domain
    assert client.beta.tunnels.archive(made.id) == archived
    assert client.beta.tunnels.retrieve(made.id) == archived
    assert made.id not in [tunnel.id for tunnel in client.beta.tunnels.list()]
    assert made.id in [tunnel.id for tunnel in client.beta.tunnels.list(limit=1, include_archived=True)]


def test_limit(client: anthropic.Anthropic) -> None:
    made = [client.beta.tunnels.create() for _ in range(10)]
    assert len({tunnel.domain for tunnel in made}) == 10
    with refused(409, "10"):
        client.beta.tunnels.create()
    client.beta.tunnels.archive(made[0].id)
    assert client.beta.tunnels.create().domain not in {tunnel.domain for tunnel in made}


def test_tokens(client: anthropic.Anthropic) -> None:
    tunnel = client.beta.tunnels.create()
    first = client.beta.tunnels.reveal_token(tunnel.id)
    assert first.type == "tunnel_token" and len(first.tunnel_token) > 40
    assert client.beta.tunnels.reveal_token(tunnel.id) == first
    second = client.beta.tunnels.rotate_token(tunnel.id, reason="it was on a screen")
    assert second.id != first.id and second.tunnel_token != first.tunnel_token
    assert client.beta.tunnels.reveal_token(tunnel.id) == second
    assert client.beta.tunnels.rotate_token(tunnel.id).id != second.id
    client.beta.tunnels.archive(tunnel.id)
    with refused(409, "archived"):
        client.beta.tunnels.reveal_token(tunnel.id)
    with refused(409, "archived"):
        client.beta.tunnels.rotate_token(tunnel.id, reason=None)


def test_certificates(client: anthropic.Anthropic) -> None:
    tunnel = client.beta.tunnels.create()
    certificates = client.beta.tunnels.certificates
    pem = pki.authority(days=400)
    first = certificates.create(tunnel.id, ca_certificate_pem=pem)
    assert first.type == "tunnel_certificate" and first.id.startswith("tcrt_") and first.tunnel_id == tunnel.id
    assert first.fingerprint == pki.fingerprint(pem) and first.archived_at is None
    assert first.expires_at is not None
    assert abs(first.expires_at - pki.expires(pem)) < datetime.timedelta(seconds=1)
    assert certificates.retrieve(first.id, tunnel_id=tunnel.id) == first
    with refused(409, first.id):
        certificates.create(tunnel.id, ca_certificate_pem=pem)
    second = certificates.create(tunnel.id, ca_certificate_pem=pki.authority())
    with refused(409, "2"):
        certificates.create(tunnel.id, ca_certificate_pem=pki.authority())
    assert [certificate.id for certificate in certificates.list(tunnel.id, limit=1)] == [second.id, first.id]

    archived = certificates.archive(first.id, tunnel_id=tunnel.id)
    assert archived.archived_at is not None
    assert certificates.archive(first.id, tunnel_id=tunnel.id) == archived
    assert [certificate.id for certificate in certificates.list(tunnel.id)] == [second.id]
    every = certificates.list(tunnel.id, include_archived=True, limit=1)
    assert [certificate.id for certificate in every] == [second.id, first.id]
    client.beta.tunnels.archive(tunnel.id)
    assert certificates.retrieve(second.id, tunnel_id=tunnel.id).archived_at is not None


@pytest.mark.parametrize(
    ("rule", "pem"),
    [
        ("ca_true_critical", pki.authority(ca=False)),
        ("ca_true_critical", pki.authority(critical=False)),
        ("subject_key_identifier", pki.authority(key_id=False)),
        ("key_cert_sign", pki.authority(sign=False)),
        ("valid_now", pki.authority(days=-1)),
        ("one_certificate", pki.authority() + pki.authority()),
        ("one_certificate", "no certificate at all"),
        ("no_private_key", pki.authority() + pki.key_pem(pki.key())),
        ("size", pki.authority() + "#" * 8192),
    ],
)
def test_certificate_rules(client: anthropic.Anthropic, rule: str, pem: str) -> None:
    tunnel = client.beta.tunnels.create()
    with refused(400, "ca_certificate_pem", rule):
        client.beta.tunnels.certificates.create(tunnel.id, ca_certificate_pem=pem)
    assert list(client.beta.tunnels.certificates.list(tunnel.id)) == []


def test_refusals(client: anthropic.Anthropic) -> None:
    for name in ("", "x" * 256):
        with refused(400, "display_name"):
            client.beta.tunnels.create(display_name=name)
    with refused(404, "tnl_unknown"):
        client.beta.tunnels.retrieve("tnl_unknown")
    tunnel = client.beta.tunnels.create()
    with refused(404, "tcrt_unknown"):
        client.beta.tunnels.certificates.retrieve("tcrt_unknown", tunnel_id=tunnel.id)
    with refused(400, "limit"):
        client.beta.tunnels.list(limit=1001)
    with refused(400, "anthropic-beta"):
        client.beta.tunnels.list(extra_headers={"anthropic-beta": "managed-agents-2026-04-01"})


def test_workspace_header(client: anthropic.Anthropic) -> None:
    made = client.beta.tunnels.create(workspace_id="default")
    assert made.id in [tunnel.id for tunnel in client.beta.tunnels.list(workspace_id="default")]
    with refused(403, "anthropic-workspace-id"):
        client.beta.tunnels.list(workspace_id="wrkspc_0123456789")


def test_pause_and_resume(client: anthropic.Anthropic) -> None:
    """What is this server's own, by the client's undocumented calls."""
    tunnel = client.beta.tunnels.create()
    betas = {"headers": {"anthropic-beta": "mcp-tunnels-2026-06-22"}}

    def get(what: str) -> Any:
        return client.get(f"/v1/tunnels/{tunnel.id}/{what}", cast_to=object, options=betas)

    def post(what: str) -> Any:
        return client.post(f"/v1/tunnels/{tunnel.id}/{what}", cast_to=object, options=betas)

    assert post("pause")["paused"] is True and get("status")["paused"] is True
    assert post("resume")["paused"] is False and get("status")["paused_at"] is None
    assert get("connections")["data"] == [] and get("usage")["routes"] == []
