"""What every refusal has: the right class and status, an `error.type`, a request id in body and header, and a
message that names what was wrong."""

from __future__ import annotations

import contextlib
from typing import Any, Iterator

import anthropic

CLASSES: dict[int, type[anthropic.APIStatusError]] = {
    400: anthropic.BadRequestError,
    401: anthropic.AuthenticationError,
    403: anthropic.PermissionDeniedError,
    404: anthropic.NotFoundError,
    409: anthropic.ConflictError,
}
TYPES: dict[int, str | tuple[str, ...]] = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    # The reference has the first for an environment with a queue; the SDK knows the second, too.
    409: ("invalid_request_error", "conflict_error"),
    412: "invalid_request_error",
    413: "request_too_large",
}


class Refusal:
    """Filled when the block ends."""

    error: anthropic.APIStatusError

    @property
    def message(self) -> str:
        return self.error.api_message or ""


@contextlib.contextmanager
def refused(status: int, *names: str, type: str | None = None) -> Iterator[Refusal]:  # noqa: A002
    """The block must be refused with this status, by a message that has each of `names` in it."""
    refusal = Refusal()
    try:
        yield refusal
    except anthropic.APIStatusError as error:
        refusal.error = error
    else:
        raise AssertionError(f"it was accepted; a refusal with {status} was due")
    check(refusal.error, status, *names, type=type)


def check(error: anthropic.APIStatusError, status: int, *names: str, type: str | None = None) -> None:  # noqa: A002
    body: Any = error.body
    assert error.status_code == status, f"{error.status_code} instead of {status}: {body}"
    if status in CLASSES:
        assert isinstance(error, CLASSES[status])
    assert isinstance(body, dict) and body.get("type") == "error", body
    wanted = type or TYPES.get(status)
    if wanted is not None:
        allowed = (wanted,) if isinstance(wanted, str) else wanted
        assert error.type in allowed, f"{error.type} instead of {wanted}: {body}"
    assert error.request_id, "no request-id header"
    assert body.get("request_id") == error.request_id, f"{body.get('request_id')} is not {error.request_id}"
    message = error.api_message or ""
    assert len(message) > 10, f"no message for a person: {body}"
    for name in names:
        assert name in message, f"{name!r} is not named in {message!r}"
