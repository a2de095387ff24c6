"""Vaults and credentials, through the published client. It checks every answer against its own types."""

from __future__ import annotations

import base64
from datetime import datetime, timedelta, timezone
from typing import Any, Iterator

import anthropic
import pytest

from refusals import refused
from servers import Plane
from sessions import Makers, bearer, fresh
from upstream import Upstream

SECRET = "s3cr3t"
LOOPBACK = '[mcp]\nallowed_networks = ["127.0.0.0/8"]\nplain_http = true\n'
URL = "https://mcp.example.com/mcp"


@pytest.fixture
def vault(client: anthropic.Anthropic) -> Any:
    return client.beta.vaults.create(display_name=fresh("Alice"))


def variable(name: str = "API_KEY", **more: Any) -> dict[str, Any]:
    networking = {"type": "limited", "allowed_hosts": ["api.example.com", "*.example.org"]}
    return {
        "type": "environment_variable",
        "secret_name": name,
        "secret_value": f"value-{SECRET}",
        "networking": networking,
        **more,
    }


def oauth(url: str, token_endpoint: str | None = None, **refresh: Any) -> dict[str, Any]:
    auth: dict[str, Any] = {"type": "mcp_oauth", "access_token": f"access-{SECRET}", "mcp_server_url": url}
    if token_endpoint is not None:
        auth["refresh"] = {
            "client_id": "client",
            "refresh_token": f"refresh-{SECRET}",
            "token_endpoint": token_endpoint,
            "token_endpoint_auth": {"type": "none"},
            **refresh,
        }
    return auth


def test_a_vault_from_its_making_to_its_end(client: anthropic.Anthropic) -> None:
    name = fresh("Alice")
    made = client.beta.vaults.create(display_name=name, metadata={"user": "1", "team": "a"})
    assert made.type == "vault" and made.id.startswith("vlt_")
    assert (made.display_name, made.metadata, made.archived_at) == (name, {"user": "1", "team": "a"}, None)
    assert client.beta.vaults.retrieve(made.id) == made
    updated = client.beta.vaults.update(made.id, display_name=name + "-2", metadata={"team": None, "plan": "", "user": "2"})
    assert (updated.display_name, updated.metadata) == (name + "-2", {"user": "2", "plan": ""})
    assert client.beta.vaults.update(made.id, metadata=None, display_name=None) == updated
    archived = client.beta.vaults.archive(made.id)
    assert archived.archived_at is not None
    assert client.beta.vaults.archive(made.id) == archived
    with refused(400, made.id, "archived"):
        client.beta.vaults.update(made.id, display_name="x")
    deleted = client.beta.vaults.delete(made.id)
    assert (deleted.id, deleted.type) == (made.id, "vault_deleted")
    for gone in (client.beta.vaults.retrieve, client.beta.vaults.archive, client.beta.vaults.delete):
        with refused(404, made.id):
            gone(made.id)


def test_vaults_come_in_pages(client: anthropic.Anthropic) -> None:
    made = [client.beta.vaults.create(display_name=fresh("v")) for _ in range(4)]
    client.beta.vaults.archive(made[0].id)
    page = client.beta.vaults.list(limit=2)
    assert [vault.id for vault in page.data] == [made[3].id, made[2].id] and page.has_next_page()
    seen = [vault.id for vault in client.beta.vaults.list(limit=2)]
    assert len(seen) == len(set(seen)) and made[0].id not in seen
    with_archived = {vault.id for vault in client.beta.vaults.list(limit=3, include_archived=True)}
    assert {vault.id for vault in made} <= with_archived


def test_a_bearer_token(client: anthropic.Anthropic, vault: Any) -> None:
    credentials = client.beta.vaults.credentials
    made = credentials.create(vault.id, auth=bearer(URL, SECRET), display_name="mine", metadata={"a": "1"})
    assert made.type == "vault_credential" and made.id.startswith("vcrd_") and made.vault_id == vault.id
    assert (made.display_name, made.metadata, made.archived_at) == ("mine", {"a": "1"}, None)
    assert made.auth.type == "static_bearer" and made.auth.mcp_server_url == URL
    assert credentials.retrieve(made.id, vault_id=vault.id) == made
    updated = credentials.update(
        made.id, vault_id=vault.id, auth={"type": "static_bearer", "token": "another"}, metadata={"a": None, "b": "2"}
    )
    assert (updated.metadata, updated.display_name) == ({"b": "2"}, "mine")
    assert credentials.update(made.id, vault_id=vault.id, display_name="yours").display_name == "yours"
    with refused(409, made.id, "mcp_server_url"):
        credentials.create(vault.id, auth=bearer(URL + "/"))
    archived = credentials.archive(made.id, vault_id=vault.id)
    assert archived.archived_at is not None
    assert credentials.archive(made.id, vault_id=vault.id) == archived
    with refused(400, "archived"):
        credentials.update(made.id, vault_id=vault.id, display_name="x")
    successor = credentials.create(vault.id, auth=bearer(URL))
    listed = [credential.id for credential in credentials.list(vault.id)]
    assert listed == [successor.id]
    assert [c.id for c in credentials.list(vault.id, include_archived=True, limit=1)] == [successor.id, made.id]
    deleted = credentials.delete(successor.id, vault_id=vault.id)
    assert (deleted.id, deleted.type) == (successor.id, "vault_credential_deleted")
    with refused(404, successor.id):
        credentials.retrieve(successor.id, vault_id=vault.id)


def test_an_environment_variable(client: anthropic.Anthropic, vault: Any) -> None:
    credentials = client.beta.vaults.credentials
    made = credentials.create(vault.id, auth=variable())
    assert made.auth.type == "environment_variable" and made.auth.secret_name == "API_KEY"
    assert made.auth.networking.type == "limited"
    assert made.auth.networking.allowed_hosts == ["api.example.com", "*.example.org"]
    assert (made.auth.injection_location.header, made.auth.injection_location.body) == (True, False)

    def change(**auth: Any) -> Any:
        return credentials.update(made.id, vault_id=vault.id, auth={"type": "environment_variable", **auth})

    changed = change(networking={"type": "unrestricted"}, injection_location={"body": True})
    assert changed.auth.networking.type == "unrestricted"
    assert (changed.auth.injection_location.header, changed.auth.injection_location.body) == (True, True)
    assert change(secret_value="another").auth == changed.auth
    assert change(injection_location={"header": False}).auth.injection_location.header is False
    with refused(400, "injection_location"):
        change(injection_location={"body": False})
    with refused(400, "secret_name"):
        change(secret_name="OTHER")
    with refused(409, "secret_name"):
        credentials.create(vault.id, auth=variable())
    with refused(400, "mcp_oauth"):
        credentials.mcp_oauth_validate(made.id, vault_id=vault.id)


def test_an_oauth_credential(client: anthropic.Anthropic, vault: Any) -> None:
    credentials = client.beta.vaults.credentials
    end = datetime.now(timezone.utc).replace(microsecond=0) + timedelta(hours=1)
    auth = oauth(
        URL,
        "https://as.example.com/token",
        scope="read",
        resource=URL,
        token_endpoint_auth={"type": "client_secret_post", "client_secret": SECRET},
    )
    made = credentials.create(vault.id, auth={**auth, "expires_at": end})
    assert made.auth.type == "mcp_oauth" and made.auth.expires_at == end
    refresh = made.auth.refresh
    assert refresh is not None and refresh.client_id == "client" and refresh.token_endpoint_auth.type == "client_secret_post"
    assert (refresh.scope, refresh.resource) == ("read", URL)

    def change(**auth: Any) -> Any:
        return credentials.update(made.id, vault_id=vault.id, auth={"type": "mcp_oauth", **auth}).auth

    assert change(access_token="another").expires_at == end
    assert change(refresh={"refresh_token": "another", "scope": "write"}).refresh.scope == "write"
    assert change(refresh={"scope": ""}).refresh.scope is None
    kept = change(refresh={"token_endpoint_auth": {"type": "client_secret_basic", "client_secret": "another"}})
    assert kept.refresh.token_endpoint_auth.type == "client_secret_post"
    assert change(expires_at=None).expires_at is None
    for wrong in ({"mcp_server_url": "https://x.example"}, {"refresh": {"token_endpoint": "https://x.example"}}):
        with refused(400, next(iter(wrong))):
            change(**wrong)
    with refused(400, "expires_at"):
        change(expires_at="2020-01-01T00:00:00Z")
    with refused(400, "type"):
        credentials.update(made.id, vault_id=vault.id, auth={"type": "static_bearer", "token": "x"})
    plain = credentials.create(vault.id, auth=oauth("https://b.example/mcp"))
    assert plain.auth.refresh is None and plain.auth.expires_at is None
    with refused(400, "refresh"):
        credentials.update(plain.id, vault_id=vault.id, auth={"type": "mcp_oauth", "refresh": {"scope": "x"}})


def test_a_vault_holds_twenty(client: anthropic.Anthropic, vault: Any) -> None:
    for number in range(20):
        client.beta.vaults.credentials.create(vault.id, auth=bearer(f"https://mcp.example.com/{number}"))
    with refused(400, vault.id, "20"):
        client.beta.vaults.credentials.create(vault.id, auth=bearer("https://mcp.example.com/more"))


def test_archiving_and_deleting_a_vault_takes_its_credentials(client: anthropic.Anthropic, vault: Any) -> None:
    made = client.beta.vaults.credentials.create(vault.id, auth=bearer(URL))
    client.beta.vaults.archive(vault.id)
    assert client.beta.vaults.credentials.retrieve(made.id, vault_id=vault.id).archived_at is not None
    with refused(400, "archived"):
        client.beta.vaults.credentials.create(vault.id, auth=bearer("https://b.example"))
    client.beta.vaults.delete(vault.id)
    with refused(404, vault.id):
        client.beta.vaults.credentials.list(vault.id)


@pytest.mark.parametrize(
    ("auth", "named"),
    [
        ({"type": "basic"}, "auth.type"),
        (bearer("http://mcp.example.com/mcp"), "auth.mcp_server_url"),
        (bearer("not an address"), "auth.mcp_server_url"),
        ({**bearer(URL), "colour": "red"}, "colour"),
        (bearer(URL, ""), "auth.token"),
        (oauth(URL, "http://as.example.com/token"), "auth.refresh.token_endpoint"),
        (oauth(URL, "https://as.example.com", token_endpoint_auth={"type": "magic"}), "token_endpoint_auth.type"),
        (variable("1st"), "auth.secret_name"),
        (variable(networking={"type": "limited", "allowed_hosts": ["https://a.example"]}), "allowed_hosts.0"),
        (variable(networking={"type": "limited", "allowed_hosts": ["a.example"] * 17}), "allowed_hosts"),
        (variable(injection_location={"header": False}), "injection_location"),
    ],
)
def test_bad_auth_is_refused_by_name(client: anthropic.Anthropic, vault: Any, auth: Any, named: str) -> None:
    with refused(400, named) as refusal:
        client.beta.vaults.credentials.create(vault.id, auth=auth)
    assert SECRET not in refusal.message


def test_bad_fields_are_refused_by_name(client: anthropic.Anthropic, vault: Any) -> None:
    for fields, named in (
        ({"display_name": ""}, "display_name"),
        ({"display_name": "x" * 256}, "display_name"),
        ({"display_name": "x", "metadata": {"k" * 65: "v"}}, "metadata"),
        ({"display_name": "x", "metadata": {str(n): "v" for n in range(17)}}, "metadata"),
        ({"display_name": "x", "extra_body": {"mood": "good"}}, "mood"),
    ):
        with refused(400, named):
            client.beta.vaults.create(**fields)
    with refused(400, "display_name"):
        client.beta.vaults.credentials.create(vault.id, auth=bearer(URL), display_name="x" * 256)
    with refused(400, "limit"):
        client.beta.vaults.list(limit=101)
    with refused(404, "vlt_unknown"):
        client.beta.vaults.credentials.create("vlt_unknown", auth=bearer(URL))
    with refused(404, "vcrd_unknown"):
        client.beta.vaults.credentials.retrieve("vcrd_unknown", vault_id=vault.id)


def test_a_session_with_vaults(make: Makers, client: anthropic.Anthropic, vault: Any) -> None:
    other = client.beta.vaults.create(display_name="Bob")
    session = make.session(vault_ids=[other.id, vault.id])
    assert session.retrieve().vault_ids == [other.id, vault.id]
    with refused(400, "vault_ids"):
        client.beta.sessions.update(session.id, vault_ids=[vault.id])
    client.beta.vaults.archive(other.id)
    with refused(400, "vault_ids", other.id):
        make.session(vault_ids=[other.id])
    with refused(404, "vlt_unknown"):
        make.session(vault_ids=["vlt_unknown"])
    assert session.retrieve().vault_ids == [other.id, vault.id]


@pytest.fixture(scope="module")
def reaching() -> Iterator[anthropic.Anthropic]:
    """A plane that may call this machine."""
    with Plane(None, config=LOOPBACK) as plane:
        yield plane.client()


def validate(client: anthropic.Anthropic, auth: dict[str, Any]) -> Any:
    vault = client.beta.vaults.create(display_name=fresh("v"))
    made = client.beta.vaults.credentials.create(vault.id, auth=auth)
    answer = client.beta.vaults.credentials.mcp_oauth_validate(made.id, vault_id=vault.id)
    assert answer.type == "vault_credential_validation"
    assert (answer.credential_id, answer.vault_id) == (made.id, vault.id)
    assert answer.has_refresh_token == ("refresh" in auth)
    assert SECRET not in answer.to_json()
    return answer


def test_a_valid_token(reaching: anthropic.Anthropic) -> None:
    with Upstream() as upstream:
        upstream.access_token = f"access-{SECRET}"
        answer = validate(reaching, oauth(upstream.url + "/mcp"))
        assert (answer.status, answer.mcp_probe, answer.refresh) == ("valid", None, None)
        assert upstream.methods == ["initialize", "notifications/initialized", "tools/list"]


@pytest.mark.parametrize("kind", ["none", "client_secret_basic", "client_secret_post"])
def test_a_rejected_token_is_refreshed(reaching: anthropic.Anthropic, kind: str) -> None:
    with Upstream() as upstream:
        upstream.refresh_token = f"refresh-{SECRET}"
        client_auth = {"type": kind} if kind == "none" else {"type": kind, "client_secret": "its:own"}
        auth = oauth(
            upstream.url + "/mcp", upstream.url + "/token", token_endpoint_auth=client_auth, scope="a b", resource="urn:r"
        )
        answer = validate(reaching, auth)
        assert (answer.status, answer.mcp_probe) == ("valid", None)
        assert answer.refresh.status == "succeeded" and answer.refresh.http_response is None
        (form,) = upstream.forms
        assert (form["scope"], form["resource"]) == ("a b", "urn:r")
        assert form.get("client_id") == (None if kind == "client_secret_basic" else "client")
        assert form.get("client_secret") == ("its:own" if kind == "client_secret_post" else None)
        basic = "Basic " + base64.b64encode(b"client:its%3Aown").decode()
        assert upstream.authorizations == [basic if kind == "client_secret_basic" else None]


def test_a_token_that_nothing_helps(reaching: anthropic.Anthropic) -> None:
    with Upstream() as upstream:
        answer = validate(reaching, oauth(upstream.url + "/mcp"))
        assert answer.status == "invalid" and answer.refresh.status == "no_refresh_token"
        assert answer.mcp_probe.method == "initialize" and answer.mcp_probe.http_response.status_code == 401
        answer = validate(reaching, oauth(upstream.url + "/mcp", upstream.url + "/token"))
        assert answer.status == "invalid" and answer.refresh.status == "failed"
        response = answer.refresh.http_response
        assert response.status_code == 400 and response.content_type == "application/json"
        assert "invalid_grant" in response.body and not response.body_truncated


def test_a_server_that_is_not_there(reaching: anthropic.Anthropic, client: anthropic.Anthropic) -> None:
    for caller, url in ((reaching, "http://127.0.0.1:9/mcp"), (client, "https://127.0.0.1:9/mcp")):
        answer = validate(caller, oauth(url))
        assert answer.status == "unknown"
        assert answer.mcp_probe.method == "initialize" and answer.mcp_probe.http_response is None
