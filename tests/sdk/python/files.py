"""What a session's worker does with files: own endpoints of this server, which the published client does not have."""

from __future__ import annotations

import hashlib
from typing import Any

import httpx2

from servers import Plane
from sessions import Claim

_VERSIONS = {"anthropic-version": "2023-06-01", "anthropic-beta": "managed-agents-2026-04-01"}


class Desk:
    """The own endpoints for one session, with the token of its work item."""

    def __init__(self, plane: Plane, claim: Claim) -> None:
        self._url = f"{plane.url}/v1/outwork/sessions/{claim.session.id}"
        self._headers = {**_VERSIONS, "authorization": f"Bearer {claim.token}"}

    def get(self, path: str) -> httpx2.Response:
        return httpx2.get(f"{self._url}/{path}", headers=self._headers)

    def hand_over(self, path: str, content: bytes) -> dict[str, Any]:
        """Hands an output over; what the server says of it."""
        form = {"path": path, "sha256": hashlib.sha256(content).hexdigest()}
        answer = httpx2.post(f"{self._url}/outputs", headers=self._headers, data=form, files={"file": ("output", content)})
        assert answer.status_code == 200, answer.text
        return answer.json()


def hand_over(plane: Plane, claim: Claim, path: str, content: bytes) -> dict[str, Any]:
    return Desk(plane, claim).hand_over(path, content)
