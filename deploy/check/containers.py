"""The Compose files against the schema of the Compose specification and against what their containers must be; the
Dockerfile: what its images are made from, and who runs in them."""

import json
import re
import subprocess
import sys
import tempfile

import yaml
from common import DEPLOY, UID, Wrong
from dockerfile_parse import DockerfileParser


def schema(path):
    """What check-jsonschema says of a Compose file."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr


def seconds(span):
    match = re.fullmatch(r"(\d+)s", span)
    return int(match[1]) if match else 0


def service(wrong, where, it):
    wrong.that(it["user"] == f"{UID}:{UID}", f"{where} it runs as {it.get('user')}")
    wrong.that(it.get("read_only") is True, f"{where} its root can be written")
    wrong.that(it.get("cap_drop") == ["ALL"] and not it.get("cap_add"), f"{where} capabilities")
    wrong.that(it.get("security_opt") == ["no-new-privileges:true"], f"{where} security_opt {it.get('security_opt')}")
    for key in ["privileged", "network_mode", "pid", "ipc", "devices"]:
        wrong.that(key not in it, f"{where} {key}")
    for key in ["mem_limit", "pids_limit"]:
        wrong.that(key in it, f"{where} no {key}")
    wrong.that(seconds(it["stop_grace_period"]) > 30, f"{where} it is killed before it has drained")
    for volume in it["volumes"]:
        wrong.that("docker.sock" not in volume["source"], f"{where} it is given the engine")


def compose(wrong):
    for path in sorted((DEPLOY / "compose").glob("*.yaml")):
        code, said = schema(path)
        wrong.that(code == 0, f"{path.name}: {said}")
        for name, it in yaml.safe_load(path.read_text())["services"].items():
            service(wrong, f"{path.name}, {name}:", it)
    gateway = yaml.safe_load((DEPLOY / "compose" / "gateway.yaml").read_text())
    wrong.that("ports" not in gateway["services"]["gateway"], "gateway.yaml: it publishes a port")
    wrong.that(gateway["networks"]["private"]["internal"], "gateway.yaml: the private network has a way out")
    gateway["services"]["gateway"]["read_onyl"] = True
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as broken:
        json.dump(gateway, broken)
        broken.flush()
        wrong.that(schema(broken.name)[0] != 0, "a misspelt key of a Compose file was taken")


def dockerfile(wrong):
    parser = DockerfileParser(path=str(DEPLOY / "Dockerfile"), fileobj=None)
    stages, user = [], {}
    for entry in parser.structure:
        words = entry["value"].split()
        if entry["instruction"] == "FROM":
            image = words[0]
            stages.append(words[2] if len(words) == 3 else image)
            known = image == "scratch" or image in stages[:-1] or re.search(r":(?!latest$)[a-z0-9]", image)
            wrong.that(known, f"Dockerfile: {image} names no version")
        elif entry["instruction"] == "USER":
            user[stages[-1]] = entry["value"]
        elif entry["instruction"] == "COPY":
            source = [word for word in words if word.startswith("--from=")]
            wrong.that(not source or source[0][7:] in stages, f"Dockerfile: {entry['value']} is from no stage")
        elif entry["instruction"] == "ADD":
            wrong.that(False, "Dockerfile: ADD takes things from elsewhere")
        elif entry["instruction"] in ("ENV", "ARG"):
            wrong.that(not re.search(r"(?i)key|token|secret|password", entry["value"]), "Dockerfile: a secret in a layer")
    for image in ["outwork", "worker"]:
        wrong.that(image in stages, f"Dockerfile: there is no image {image}")
        wrong.that(user.get(image) == f"{UID}:{UID}", f"Dockerfile: {image} runs as {user.get(image)}")


if __name__ == "__main__":
    result = Wrong()
    compose(result)
    dockerfile(result)
    print(f"{result.looked} checks")
    for line in result.found:
        print(f"WRONG: {line}", file=sys.stderr)
    sys.exit(bool(result.found))
