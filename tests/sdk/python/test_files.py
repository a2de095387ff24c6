"""The Files API through the published client: uploads of every kind that it takes, lists, downloads, refusals."""

from __future__ import annotations

import asyncio
import io
from datetime import timedelta
from pathlib import Path
from typing import Any, Iterator

import anthropic
import pytest

from files import Desk
from refusals import refused
from servers import ADMIN_KEY, Plane, Rehearsal, wait_for
from s3_server import S3
from sessions import Makers, fresh

CONTENT = b"name,count\nbeans,3\n"


@pytest.fixture(scope="module")
def open_plane(rehearsal: Rehearsal) -> Iterator[Plane]:
    """A plane that gives back what was uploaded, and takes files up to a megabyte."""
    with Plane(rehearsal.url, config='[files]\ndownloadable_uploads = true\nmax_size = "1MB"\n') as plane:
        yield plane


def test_a_file_from_its_upload_to_its_end(client: anthropic.Anthropic) -> None:
    made = client.beta.files.upload(file=("beans.csv", CONTENT, "text/csv"))
    assert made.type == "file" and made.id.startswith("file_")
    assert (made.filename, made.mime_type, made.size_bytes) == ("beans.csv", "text/csv", len(CONTENT))
    assert made.downloadable is False and made.scope is None and made.expires_at is None
    assert client.beta.files.retrieve_metadata(made.id) == made
    assert client.beta.files.list(limit=1).data == [made]
    with pytest.raises(anthropic.BadRequestError) as refusal:
        client.beta.files.download(made.id)
    assert isinstance(refusal.value, anthropic.types.FileNotDownloadableError)
    assert refusal.value.error_code == "file_not_downloadable"
    deleted = client.beta.files.delete(made.id)
    assert (deleted.id, deleted.type) == (made.id, "file_deleted")
    for gone in (client.beta.files.retrieve_metadata, client.beta.files.download, client.beta.files.delete):
        with refused(404, made.id):
            gone(made.id)


def test_everything_that_the_client_takes_for_a_file(client: anthropic.Anthropic, tmp_path: Path) -> None:
    path = tmp_path / "on disk.md"
    path.write_bytes(b"# On disk\n")
    with path.open("rb") as opened:
        shapes: list[Any] = [path, opened, b"only bytes", io.BytesIO(b"a reader"), ("named.json", b"{}")]
        made = [client.beta.files.upload(file=shape) for shape in shapes]
    assert [file.filename for file in made[:2]] == ["on disk.md", "on disk.md"]
    assert made[0].size_bytes == 10 and made[2].size_bytes == 10 and made[3].size_bytes == 8
    assert (made[4].filename, made[4].mime_type) == ("named.json", "application/json")


def test_bytes_come_back_as_they_went(open_plane: Plane) -> None:
    client = open_plane.client()
    for size in (0, 1, 1_000_000):
        content = bytes(number % 253 for number in range(size))
        made = client.beta.files.upload(file=("ü.bin", content))
        assert made.downloadable and made.filename == "ü.bin"
        got = client.beta.files.download(made.id)
        assert got.read() == content
        assert got.http_response.headers["content-length"] == str(size)
    with client.beta.files.with_streaming_response.download(made.id) as response:
        assert sum(len(piece) for piece in response.iter_bytes(10_000)) == 1_000_000


def test_an_async_client_uploads_and_downloads(open_plane: Plane) -> None:
    async def round_trip() -> bytes:
        async with anthropic.AsyncAnthropic(base_url=open_plane.url, api_key=ADMIN_KEY, max_retries=0) as client:
            made = await client.beta.files.upload(file=("a.csv", CONTENT))
            return await (await client.beta.files.download(made.id)).read()

    assert asyncio.run(round_trip()) == CONTENT


def test_what_is_too_large_or_wrong_is_refused(open_plane: Plane) -> None:
    client = open_plane.client()
    before = len(client.beta.files.list(limit=1000).data)
    with refused(413, "1000000"):
        client.beta.files.upload(file=("large", b"x" * 1_000_001))
    for seconds in (3599, 7_776_001, 0, -1):
        with refused(400, "expires_in_seconds"):
            client.beta.files.upload(file=("a", b"a"), expires_in_seconds=seconds)
    with refused(400, "purpose"):
        client.beta.files.upload(file=("a", b"a"), extra_body={"purpose": "agent"})
    for name in ("a:b", "..", "x" * 256):
        with refused(400, "name"):
            client.beta.files.upload(file=(name, b"a"))
    assert len(client.beta.files.list(limit=1000).data) == before
    assert client.beta.files.upload(file=("../../etc/passwd", b"a")).filename == "passwd"


def test_a_file_says_when_it_ends(client: anthropic.Anthropic) -> None:
    made = client.beta.files.upload(file=("a", b"a"), expires_in_seconds=3600)
    assert made.expires_at is not None and made.expires_at - made.created_at == timedelta(hours=1)


def test_files_come_in_pages_and_by_ids(client: anthropic.Anthropic) -> None:
    made = [client.beta.files.upload(file=(fresh("f"), b"x")) for _ in range(5)]
    page = client.beta.files.list(limit=2)
    assert [file.id for file in page.data] == [made[4].id, made[3].id] and page.has_next_page()
    seen = [file.id for file in client.beta.files.list(limit=2)]
    assert len(seen) == len(set(seen)) and {file.id for file in made} <= set(seen)
    some = client.beta.files.list(ids=[made[0].id, made[2].id, "file_none", made[0].id])
    assert [file.id for file in some.data] == [made[2].id, made[0].id] and not some.has_next_page()
    with refused(400, "ids"):
        client.beta.files.list(ids=[made[0].id], limit=1)
    with refused(400, "100"):
        client.beta.files.list(ids=[f"file_{number:03}" for number in range(101)])
    with refused(400, "page"):
        client.beta.files.list(page="page_none")


def test_what_a_session_brings_forth_is_downloaded_by_its_scope(make: Makers, client: anthropic.Anthropic, plane: Plane) -> None:
    claim = make.claimed()
    claim.ack()
    desk = Desk(plane, claim)
    one = desk.hand_over("report.md", b"# Report\n")
    assert desk.hand_over("report.md", b"# Report\n") == one
    two = desk.hand_over("charts/sales.csv", CONTENT)
    found = client.beta.files.list(scope_id=claim.session.id)
    assert [file.id for file in found.data] == [two["file_id"], one["file_id"]]
    assert [file.filename for file in found.data] == ["sales.csv", "report.md"]
    for file in found.data:
        assert file.downloadable and file.scope is not None
        assert (file.scope.id, file.scope.type) == (claim.session.id, "session")
    assert client.beta.files.download(two["file_id"]).read() == CONTENT
    assert client.beta.files.list(scope_id="sesn_none").data == []
    answer = desk.get("outputs")
    assert [output["state"] for output in answer.json()["data"]] == ["stored", "stored"]


def test_bytes_can_be_kept_in_an_s3_compatible_store(rehearsal: Rehearsal) -> None:
    config = '[files]\ndownloadable_uploads = true\n[blobs]\nurl = "s3://bucket/outwork"\n'
    with S3() as s3, Plane(rehearsal.url, config=config, environment=s3.environment) as plane:
        client = plane.client()
        for size in (5, 20 << 20):
            content = bytes(size - 1) + b"x"
            made = client.beta.files.upload(file=("a.bin", content))
            (key,) = s3.objects
            assert key.startswith("outwork/") and key.endswith(made.id) and s3.objects[key] == content
            assert not s3.uploads and not s3.unsigned
            assert client.beta.files.download(made.id).read() == content
            client.beta.files.delete(made.id)
            wait_for("the object's end", lambda: not s3.objects)
        s3.full = True
        with refused(503, "try again"):
            client.beta.files.upload(file=("a.bin", b"x"))
        s3.full = False
        kept = client.beta.files.upload(file=("a.bin", b"x"))
        assert [file.id for file in client.beta.files.list()] == [kept.id]
        assert not (plane.data_dir / "blobs").exists()
        assert "key-of-the-suite" not in plane.output
