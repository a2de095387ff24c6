"""An internet for sandboxes: names, addresses and servers in a network of this test's own, and workers in it. Nothing in the
worker is changed for the test: it asks the name server, dials public addresses and checks certificates as it always does."""

from __future__ import annotations

import base64
import datetime
import gzip
import hashlib
import io
import ipaddress
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import urllib.parse
import uuid
import zipfile
from pathlib import Path
from typing import Any, Iterable

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

import pki
from netspace import Netspace
from script import call, message, say
from servers import BINARY, Plane, Program, wait_for
from sessions import Makers, Session, texts

API, OTHER, PACKAGES, GIT, GRPC, POSTGRES = (f"93.184.215.{number}" for number in range(10, 16))
PRIVATE = "10.20.0.5"
NAMESERVER = "127.0.0.53"
HOSTS = {
    "api.test.example": API,
    "sub.api.test.example": API,
    "sink.test.example": API,
    "other.test.example": OTHER,
    "pypi.test.example": PACKAGES,
    "npm.test.example": PACKAGES,
    "pypi.org": PACKAGES,
    "files.pythonhosted.org": PACKAGES,
    "registry.npmjs.org": PACKAGES,
    "git.test.example": GIT,
    "hang.test.example": GIT,
    "grpc.test.example": GRPC,
    "pg.test.example": POSTGRES,
    # An allowed name that leads where no sandbox may go.
    "rebound.test.example": "127.0.0.1",
    "metadata.test.example": "169.254.169.254",
    "private.test.example": PRIVATE,
}
# Not allowed by anything; asking for it would be heard by the name server.
EVIL = "evil.test.example"


def needles(secret: str) -> dict[str, bytes]:
    """How a secret may be written so that it is still the secret."""
    raw = secret.encode()
    found = {
        "raw": raw,
        "hex": raw.hex().encode(),
        "HEX": raw.hex().upper().encode(),
        "percent": "".join(f"%{byte:02X}" for byte in raw).encode(),
        "percent small": "".join(f"%{byte:02x}" for byte in raw).encode(),
        "json": "".join(f"\\u{byte:04x}" for byte in raw).encode(),
        "reversed": raw[::-1],
    }
    for offset in range(3):
        # Only those characters that no neighbour changes.
        coded = base64.b64encode(b"\0" * offset + raw)
        start, end = (offset * 8 + 5) // 6, (offset + len(raw)) * 8 // 6
        found[f"base64 {offset}"] = coded[start:end]
        found[f"base64url {offset}"] = coded[start:end].replace(b"+", b"-").replace(b"/", b"_")
    return found


def holds(data: bytes, secrets: Iterable[str]) -> list[str]:
    """In which forms secrets are in these bytes, or in what they unpack to."""
    found = []
    pieces = [data]
    for match in re.finditer(rb"\x1f\x8b\x08", data):
        try:
            pieces.append(gzip.GzipFile(fileobj=io.BytesIO(data[match.start() :])).read(1 << 20))
        except (OSError, EOFError):
            continue
        except Exception:  # noqa: BLE001: three bytes that only looked like a beginning
            continue
    for secret in secrets:
        for form, needle in needles(secret).items():
            if any(needle in piece for piece in pieces):
                found.append(form)
    return found


def certificates(folder: Path) -> None:
    """An authority in `ca.pem`, and what it says of every host in `cert.pem`."""
    start = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(hours=1)
    end = start + datetime.timedelta(days=2)

    def builder(subject: str, issuer: str, key: Any) -> x509.CertificateBuilder:
        name = lambda words: x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, words)])  # noqa: E731
        made = x509.CertificateBuilder().subject_name(name(subject)).issuer_name(name(issuer)).public_key(key.public_key())
        return made.serial_number(x509.random_serial_number()).not_valid_before(start).not_valid_after(end)

    authority, leaf = pki.key(), pki.key()
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only", "decipher_only"),
        False,
    )
    root = (
        builder("authority of the origins", "authority of the origins", authority)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(digital_signature=False, key_cert_sign=True, crl_sign=True, **usage), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(authority.public_key()), critical=False)
        .sign(authority, hashes.SHA256())
    )
    names: list[x509.GeneralName] = [x509.DNSName(name) for name in [*HOSTS, EVIL]]
    names.append(x509.IPAddress(ipaddress.ip_address(PRIVATE)))
    signed = (
        builder("origins", "authority of the origins", leaf)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(leaf.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), critical=False)
        .sign(authority, hashes.SHA256())
    )
    from cryptography.hazmat.primitives.serialization import Encoding

    (folder / "ca.pem").write_bytes(root.public_bytes(Encoding.PEM))
    (folder / "cert.pem").write_bytes(signed.public_bytes(Encoding.PEM))
    (folder / "key.pem").write_text(pki.key_pem(leaf))
    (folder / "key.pem").chmod(0o600)


def packages(folder: Path) -> dict[str, str]:
    """A package `greeting` for pip and one for npm."""
    wheel = "greeting-1.0.0-py3-none-any.whl"
    info = "greeting-1.0.0.dist-info"
    with zipfile.ZipFile(folder / wheel, "w") as archive:
        archive.writestr("greeting.py", "WORDS = 'good day'\n")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: greeting\nVersion: 1.0.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", f"greeting.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    with tarfile.open(folder / "greeting-1.0.0.tgz", "w:gz") as archive:
        files = {
            "package.json": json.dumps({"name": "greeting", "version": "1.0.0", "main": "index.js"}),
            "index.js": "module.exports = 'good day';\n",
        }
        for name, words in files.items():
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size = len(words)
            archive.addfile(entry, io.BytesIO(words.encode()))
    digest = hashlib.sha512((folder / "greeting-1.0.0.tgz").read_bytes()).digest()
    return {"wheel": wheel, "integrity": "sha512-" + base64.b64encode(digest).decode()}


def repository(place: Path) -> None:
    """A repository with one commit, into which may be pushed."""
    place.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as work:
        environment = {"PATH": os.environ["PATH"], "HOME": work}

        def git(where: str | Path, *words: str) -> None:
            command = ["git", "-c", "user.name=t", "-c", "user.email=t@test.example", *words]
            subprocess.run(command, cwd=where, env=environment, check=True, capture_output=True)

        git(place, "init", "--quiet", "--bare", "--initial-branch=main")
        git(place, "config", "http.receivepack", "true")
        git(work, "init", "--quiet", "--initial-branch=main")
        Path(work, "read.me").write_text("on main\n")
        git(work, "add", ".")
        git(work, "commit", "--quiet", "-m", "first")
        git(work, "push", "--quiet", str(place), "main")


def https_record(address: str) -> str:
    """The data of an HTTPS record with protocols, an address hint, and a key for encrypted greetings (ECH)."""
    alpn = b"\x02h2\x02h3"
    # One configuration whose public name is the one below; its key is of no use to anybody.
    public = b"\x12" + b"public.ech.example"
    content = b"\x07" + b"\x00\x20" + b"\x00\x20" + bytes(range(32)) + b"\x00\x04\x00\x01\x00\x01" + b"\x40" + public + b"\x00\x00"
    config = b"\xfe\x0d" + len(content).to_bytes(2, "big") + content
    ech = len(config).to_bytes(2, "big") + config
    hint = ipaddress.ip_address(address).packed
    parameters = ((1, alpn), (4, hint), (5, ech))
    fields = b"".join(key.to_bytes(2, "big") + len(data).to_bytes(2, "big") + data for key, data in parameters)
    return (b"\x00\x01\x00" + fields).hex()


class Internet:
    """The servers, running."""

    def __init__(self, secrets: list[str]) -> None:
        self.secrets = secrets
        self._folder = tempfile.TemporaryDirectory(prefix="outwork-suite-internet-")
        self.folder = Path(self._folder.name)
        certificates(self.folder)
        zone: dict[str, dict[str, list[str]]] = {
            name: {"1": [ipaddress.ip_address(address).packed.hex()]} for name, address in HOSTS.items()
        }
        zone["api.test.example"]["65"] = [https_record(API)]
        repository(self.folder / "repositories" / "team" / "notes")
        setup = {"zone": zone, "secrets": secrets, "grpc": GRPC, "https": [API, OTHER, PACKAGES, GIT], **packages(self.folder)}
        (self.folder / "setup.json").write_text(json.dumps(setup))
        self.netspace = Netspace(NAMESERVER)
        self.origin = Program([*self.netspace.through(), sys.executable, Path(__file__).parent / "origin.py", self.folder])
        self.origin.wait_for_line("origin: listening")

    def journal(self, kind: str | None = None, **wanted: Any) -> list[dict[str, Any]]:
        """What reached the servers: the entries of a kind whose fields are these."""
        entries = [json.loads(line) for line in (self.folder / "journal").read_text().splitlines()]
        entries = [entry for entry in entries if kind in (None, entry["kind"])]
        return [entry for entry in entries if all(entry.get(name) == value for name, value in wanted.items())]

    def heard(self, mark: str) -> list[dict[str, Any]]:
        """The entries that have a mark anywhere, whatever its case: names come in small letters."""
        return [entry for entry in self.journal() if mark.lower() in json.dumps(entry).lower()]

    def close(self) -> None:
        self.origin.close()
        self.netspace.close()
        self._folder.cleanup()


class FencedWorker(Program):
    """`outwork worker` in that internet, for one environment, whose working folder is the workspace."""

    def __init__(
        self,
        internet: Internet,
        plane: Plane,
        environment_id: str,
        key: str,
        folder: Path,
        policy: str | None = None,
        settings: str = "",
        limits: Iterable[str] = (),
        small_state: bool = False,
    ) -> None:
        self.workspace, self.state = folder / "workspace", folder / "state"
        self.workspace.mkdir(parents=True, exist_ok=True)
        self.state.mkdir(exist_ok=True)
        config = folder / "worker.toml"
        config.write_text(f'[worker]\nupstream_ca_file = "{internet.folder / "ca.pem"}"\n{settings}')
        port = internet.netspace.let_in(int(urllib.parse.urlsplit(plane.url).port or 0))
        through = internet.netspace.through(f"small:{self.state}" if small_state else "self")
        arguments: list[str | Path] = [*through, BINARY, "worker", "--config", config]
        arguments += ["--base-url", f"http://127.0.0.1:{port}", "--environment-id", environment_id]
        arguments += ["--workdir", self.workspace, "--state-dir", self.state, "--max-idle", "60s", *limits]
        if policy is not None:
            (folder / "policy.toml").write_text(policy)
            arguments += ["--policy", folder / "policy.toml"]
        super().__init__(arguments, {"OUTWORK_ENVIRONMENT_KEY": key})


    def seen(self, path: Path) -> Path:
        """A path as this worker sees it."""
        return Path(f"/proc/{self.process.pid}/root") / path.relative_to("/")


class Inside:
    """A session whose commands run in a fenced sandbox."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._asked = 0

    def ask(self, command: str, seconds: float = 45) -> Any:
        """Asks for a command and does not wait for its end; the call."""
        self._asked += 1
        self.session.send(message(say(call("bash", command=command, timeout_ms=int(seconds * 1000))), "done"))
        return self.session.wait_event("agent.tool_use", self._asked)

    def bash(self, command: str, seconds: float = 45) -> tuple[bool, str]:
        """Whether a command failed, and what it said."""
        use = self.ask(command, seconds)

        def look() -> Any:
            found = [r for r in self.session.events("user.tool_result", "agent.tool_result") if r.tool_use_id == use.id]
            return found and found[0]

        result = wait_for(f"the result of {command[:80]!r}", look, seconds + 15)
        self.session.wait_idle(self._asked)
        return bool(result.is_error), texts(result)

    def run(self, command: str, seconds: float = 45) -> str:
        """What a command said that must not fail."""
        failed, said = self.bash(command, seconds)
        assert not failed, f"{command[:400]}\n{said}"
        return said


def visible(program: Path, tools: Path) -> str:
    """A Python as sandboxes start it: where it is, if that is a system folder, else a copy in `tools` without what is not
    needed."""
    if program.resolve().is_relative_to("/usr"):
        return str(program.resolve())
    prefix = program.resolve().parent.parent
    skipped = shutil.ignore_patterns("test", "tests", "idlelib", "tkinter", "site-packages", "__pycache__", "*.a", "config-*", "share")
    for part in ("bin", "lib"):
        shutil.copytree(prefix / part, tools / "python" / part, symlinks=True, ignore=skipped)
    inside = Path("/workspace/tools/python")
    # It may have a library of its own, which must not be taken for the system's.
    return f"LD_LIBRARY_PATH={inside / 'lib'} {inside / 'bin' / program.resolve().name}"


def python_packages(tools: Path, *names: str) -> None:
    """What the suite's own Python has, for the sandbox's."""
    target = tools / "packages"
    target.mkdir(parents=True, exist_ok=True)
    places = list(map(Path, dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *sys.path])))
    for name in names:
        sources = [source for place in places for source in sorted(place.glob(name))]
        assert sources, f"the package {name} is not installed"
        if sources[0].is_dir():
            shutil.copytree(sources[0], target / name, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(sources[0], target / sources[0].name)


def variable(name: str, value: str, hosts: list[str], *, header: bool = True, body: bool = False) -> dict[str, Any]:
    """`auth` of a credential that sandboxes have as a variable."""
    return {
        "type": "environment_variable",
        "secret_name": name,
        "secret_value": value,
        "networking": {"type": "limited", "allowed_hosts": hosts},
        "injection_location": {"header": header, "body": body},
    }


def vault(make: Makers, *auths: dict[str, Any]) -> str:
    made = make.client.beta.vaults.create(display_name=f"vault {uuid.uuid4().hex[:8]}")
    for auth in auths:
        make.client.beta.vaults.credentials.create(made.id, auth=auth)  # type: ignore[arg-type]
    return str(made.id)
