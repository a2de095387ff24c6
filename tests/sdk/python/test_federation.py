"""Workload identity: the published client's own credential chain, against an identity provider that the test runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Iterator

import anthropic
import pytest
from anthropic.lib.credentials import WorkloadIdentityCredentials, WorkloadIdentityError

from issuer import AUDIENCE, Issuer
from servers import Plane, client as static_client

ORGANIZATION = "11111111-2222-3333-4444-555555555555"
RULE = "fdrl_prod"


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with Issuer() as provider:
        yield provider


@pytest.fixture(scope="module")
def trusting(issuer: Issuer) -> Iterator[Plane]:
    """A plane with a rule for the issuer."""
    config = f"""
[federation]
organization_id = "{ORGANIZATION}"

[[federation.rules]]
id = "{RULE}"
issuer = "{issuer.url}"
audience = "{AUDIENCE}"
subject = "repo:example/infra:*"
scope = "workspace:manage_tunnels"
lifetime = "5m"
"""
    with Plane(None, config=config) as server:
        yield server


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, trusting: Plane, tmp_path: Path) -> Any:
    """Sets what a workload has in its environment; the token is in a file, as orchestrators put it there."""
    static_client(trusting.url, api_key="x")  # takes the variables of whoever runs the suite away
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ANTHROPIC_BASE_URL", trusting.url)
    monkeypatch.setenv("ANTHROPIC_FEDERATION_RULE_ID", RULE)
    monkeypatch.setenv("ANTHROPIC_ORGANIZATION_ID", ORGANIZATION)
    file = tmp_path / "identity-token"

    def set_token(token: str, **more: str) -> None:
        file.write_text(token)
        monkeypatch.setenv("ANTHROPIC_IDENTITY_TOKEN_FILE", str(file))
        for name, value in more.items():
            monkeypatch.setenv(name, value)

    return set_token


def chained(**options: Any) -> anthropic.Anthropic:
    """A client that is given nothing: the chain finds everything in the environment."""
    return anthropic.Anthropic(max_retries=0, timeout=30.0, _strict_response_validation=True, **options)


def test_the_chain_from_the_environment(environment: Any, issuer: Issuer) -> None:
    environment(issuer.token())
    with chained() as client:
        tunnel = client.beta.tunnels.create(display_name="by a workload")
        assert client.beta.tunnels.retrieve(tunnel.id) == tunnel
        token = client.beta.tunnels.reveal_token(tunnel.id)
        assert client.beta.tunnels.rotate_token(tunnel.id, reason="again").id != token.id
        client.beta.tunnels.archive(tunnel.id)
        # Its scope opens nothing else.
        with pytest.raises(anthropic.PermissionDeniedError) as refusal:
            client.beta.agents.list()
        assert "workspace:manage_tunnels" in (refusal.value.api_message or "")


def test_the_token_in_a_variable_and_a_named_workspace(environment: Any, issuer: Issuer, monkeypatch: Any) -> None:
    environment("", ANTHROPIC_IDENTITY_TOKEN=issuer.token(), ANTHROPIC_WORKSPACE_ID="default")
    monkeypatch.delenv("ANTHROPIC_IDENTITY_TOKEN_FILE")
    with chained() as client:
        assert list(client.beta.tunnels.list(workspace_id="default")) == []
    environment(issuer.token(), ANTHROPIC_WORKSPACE_ID="wrkspc_0123456789")
    with chained() as client, pytest.raises(WorkloadIdentityError) as refusal:
        client.beta.tunnels.list()
    assert refusal.value.status_code == 401 and refusal.value.request_id
    assert "workspace_id" in str(refusal.value.body)


def test_a_provider_that_is_given(environment: Any, issuer: Issuer, trusting: Plane) -> None:
    asked = []

    def identity() -> str:
        asked.append(1)
        return issuer.token()

    provider = WorkloadIdentityCredentials(
        identity_token_provider=identity, federation_rule_id=RULE, organization_id=ORGANIZATION
    )
    with anthropic.Anthropic(base_url=trusting.url, credentials=provider, max_retries=0) as client:
        for _ in range(3):
            client.beta.tunnels.list()
        assert len(asked) == 1, "the client keeps the token as long as `expires_in` says"
        access = provider()
        assert access.token.startswith("outwork_fed_") and len(asked) == 2


@pytest.mark.parametrize(
    ("claims", "named"),
    [
        ({"sub": "repo:example/other:environment:prod"}, "sub"),
        ({"aud": "api.example"}, "aud"),
        ({"iss": "https://issuer.example"}, "iss"),
        ({"exp": 1_600_000_000}, "expired"),
    ],
)
def test_a_token_that_does_not_fit(environment: Any, issuer: Issuer, claims: dict[str, Any], named: str) -> None:
    environment(issuer.token(**claims))
    with chained() as client, pytest.raises(WorkloadIdentityError) as refusal:
        client.beta.tunnels.list()
    assert refusal.value.status_code == 401 and named in str(refusal.value.body)


def test_a_rule_or_an_organization_that_is_not_there(environment: Any, issuer: Issuer) -> None:
    for name, value, named in (
        ("ANTHROPIC_FEDERATION_RULE_ID", "fdrl_none", "fdrl_none"),
        ("ANTHROPIC_ORGANIZATION_ID", "0", "organization_id"),
    ):
        environment(issuer.token(), **{name: value})
        with chained() as client, pytest.raises(WorkloadIdentityError) as refusal:
            client.beta.tunnels.list()
        assert refusal.value.status_code == 401 and named in str(refusal.value.body)
        environment("", ANTHROPIC_FEDERATION_RULE_ID=RULE, ANTHROPIC_ORGANIZATION_ID=ORGANIZATION)
