"""Three network namespaces of this test run: outside, a router, and inside. From outside nothing gets in but answers from
one port; what the router loses, it loses silently.

```text
outside 10.77.1.2  ==  10.77.1.1 router 10.77.2.1  ==  10.77.2.2 inside
```

Each namespace belongs to a process that waits and ends by itself; with it the namespace and its interfaces are gone."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
from typing import IO, Iterator

from servers import wait_for

OUTSIDE = "10.77.1.2"
INSIDE = "10.77.2.2"
LIFETIME_SECONDS = 600
_CLONE_NEWNET = 0x40000000


def missing() -> str | None:
    """Why there can be no namespaces here."""
    if os.geteuid() != 0:
        return "it takes root to make network namespaces"
    for tool in ("ip", "unshare", "nsenter"):
        if shutil.which(tool) is None:
            return f"network namespaces need the program {tool}"
    if subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False).returncode != 0:
        return "network namespaces cannot be made here"
    return None


def _run(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=10, check=False)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
    return done.stdout


class Namespace:
    """A network namespace."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(["unshare", "--net", "sleep", str(LIFETIME_SECONDS)])
        self.path = f"/proc/{self._process.pid}/ns/net"
        own = os.readlink("/proc/self/ns/net")
        wait_for("the namespace", lambda: os.readlink(self.path) != own)
        # What a command is started with to run there.
        self.through = ("nsenter", f"--net={self.path}")
        self.run("ip", "link", "set", "lo", "up")

    @property
    def pid(self) -> int:
        return self._process.pid

    def run(self, *words: str) -> str:
        return _run(*self.through, *words)

    def close(self) -> None:
        self._process.kill()
        self._process.wait(10)


@contextlib.contextmanager
def within(namespace: Namespace) -> Iterator[None]:
    """The calling thread is there, and what it starts, until the end."""
    libc = ctypes.CDLL(None, use_errno=True)

    def enter(file: IO[str]) -> None:
        if libc.setns(file.fileno(), _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"could not enter {file.name}")

    with open("/proc/thread-self/ns/net") as own:
        with open(namespace.path) as other:
            enter(other)
        try:
            yield
        finally:
            enter(own)


class Network:
    """The three of them; `port` is the one whose answers get in."""

    def __init__(self, port: int) -> None:
        self.outside, self.router, self.inside = Namespace(), Namespace(), Namespace()
        self._pair(self.outside, "o0", OUTSIDE, "r0", "10.77.1.1")
        self._pair(self.inside, "i0", INSIDE, "r1", "10.77.2.1")
        self.router.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        for protocol in ("tcp", "udp"):
            self._rule("100", "iif", "r0", "ipproto", protocol, "sport", str(port), "lookup", "main")
        self._rule("110", "iif", "r0", "blackhole")

    def _pair(self, end: Namespace, name: str, address: str, router_name: str, router_address: str) -> None:
        self.router.run("ip", "link", "add", router_name, "type", "veth", "peer", "name", name, "netns", str(end.pid))
        self.router.run("ip", "address", "add", f"{router_address}/24", "dev", router_name)
        self.router.run("ip", "link", "set", router_name, "up")
        end.run("ip", "address", "add", f"{address}/24", "dev", name)
        end.run("ip", "link", "set", name, "up")
        end.run("ip", "route", "add", "default", "via", router_address)

    def _rule(self, preference: str, *words: str) -> None:
        self.router.run("ip", "rule", "add", "pref", preference, *words)

    def lose(self, protocol: str, port: int) -> None:
        """From now on what goes to and comes from this port of the inside is lost, and nobody is told."""
        self._rule("50", "iif", "r1", "ipproto", protocol, "sport", str(port), "blackhole")
        self._rule("50", "iif", "r0", "ipproto", protocol, "dport", str(port), "blackhole")

    def find(self) -> None:
        """Nothing is lost any more."""
        while "50:" in self.router.run("ip", "rule", "show"):
            self.router.run("ip", "rule", "del", "pref", "50")

    def throttle(self, rate: str | None) -> bool:
        """Lets no more than `rate` through in each direction; `None` ends it. Whether that can be done here."""
        for name in ("r0", "r1"):
            change = ["del"] if rate is None else ["add"]
            words = ["tc", "qdisc", *change, "dev", name, "root"]
            if rate is not None:
                words += ["tbf", "rate", rate, "burst", "32kb", "latency", "200ms"]
            done = subprocess.run([*self.router.through, *words], capture_output=True, timeout=10, check=False)
            if done.returncode != 0:
                return False
        return True

    def close(self) -> None:
        for namespace in (self.inside, self.router, self.outside):
            namespace.close()
