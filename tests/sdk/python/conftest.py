"""What the tests share: one plane and one rehearsal model for all tests that do not stop them."""

from __future__ import annotations

from typing import Any, Iterator

import anthropic
import pytest

from script import message, say, status
from servers import BINARY, Plane, Rehearsal
from sessions import Makers, Session


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


@pytest.fixture(scope="session")
def tired(make: Makers) -> Session:
    """A session whose model stays overloaded: the waits between its retries add up to a minute."""
    session = make.session()
    session.send(message(say("Never.", faults=[status(529, retry_after=0)]), superseded=True))
    return session


@pytest.fixture(scope="session", autouse=True)
def begun_early(request: pytest.FixtureRequest) -> None:
    """Starts what takes its time before the first test, if a test will look at it."""
    if any("tired" in getattr(item, "fixturenames", ()) for item in request.session.items):
        request.getfixturevalue("tired")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Looks at what was begun early in the end."""
    items.sort(key=lambda item: "tired" in getattr(item, "fixturenames", ()))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Shows the end of the plane's output beside a failure."""
    report = yield
    if report.failed and "plane" in getattr(item, "fixturenames", ()):
        server = item.funcargs.get("plane")  # type: ignore[attr-defined]
        if isinstance(server, Plane):
            report.sections.append(("output of the plane", "\n".join(server.output.splitlines()[-12:])))
    return report
