"""What the tests share: one plane and one rehearsal model for all tests that do not stop them."""

from __future__ import annotations

from typing import Any, Iterator

import anthropic
import pytest

from servers import BINARY, Plane, Rehearsal
from sessions import Makers


def pytest_configure(config: pytest.Config) -> None:
    if not BINARY.exists():
        raise pytest.UsageError(f"{BINARY} is not there; build it or set OUTWORK_BINARY")


@pytest.fixture(scope="session")
def rehearsal() -> Iterator[Rehearsal]:
    with Rehearsal() as model:
        yield model


@pytest.fixture(scope="session")
def plane(rehearsal: Rehearsal) -> Iterator[Plane]:
    with Plane(rehearsal.url) as server:
        yield server
        assert server.process.poll() is None, f"the plane ended under the tests:\n{server.output}"
        assert "panicked" not in server.output, server.output


@pytest.fixture(scope="session")
def make(plane: Plane) -> Makers:
    return Makers(plane)


@pytest.fixture(scope="session")
def client(make: Makers) -> anthropic.Anthropic:
    return make.client


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Shows the end of the plane's output beside a failure."""
    report = yield
    if report.failed and "plane" in getattr(item, "fixturenames", ()):
        server = item.funcargs.get("plane")  # type: ignore[attr-defined]
        if isinstance(server, Plane):
            report.sections.append(("output of the plane", "\n".join(server.output.splitlines()[-12:])))
    return report
