"""The Helm chart: linted, rendered with several values, every object checked against the schemas of Kubernetes, and
against what a gateway's pod must be."""

import copy
import pathlib
import sys

import helm_python
import kubernetes_validate
import yaml
from common import DEPLOY, UID, Wrong
from helm_python.chart import Chart

CHART = DEPLOY / "helm" / "outwork-gateway"
VERSIONS = ["1.29", "1.31", "1.33", "1.35", "1.37"]


def values(name):
    return yaml.safe_load((DEPLOY / "check" / "values" / f"{name}.yaml").read_text())


def objects(chart, given):
    rendered = chart.render(given, name="office", namespace="private")
    found = {}
    for path, text in rendered.items():
        if path.endswith(".txt"):
            continue
        for document in yaml.safe_load_all(text):
            if document:
                found[document["kind"]] = document
    return found


def lint(wrong):
    for name in ["least", "most", "one"]:
        report = helm_python.lint(str(CHART), values(name), strict=True, kube_version="v1.33.0")
        bad = [m for m in report["messages"] if m["severity"] >= 2]
        wrong.that(not bad and not report["errors"], f"helm lint with {name}.yaml: {bad} {report['errors']}")


def refusals(wrong, chart):
    """What the chart must not take."""

    def without(*path):
        changed = copy.deepcopy(values("least"))
        inner = changed
        for key in path[:-1]:
            inner = inner[key]
        del inner[path[-1]]
        return changed

    def with_(path, value):
        changed = copy.deepcopy(values("least"))
        inner = changed
        for key in path[:-1]:
            inner = inner.setdefault(key, {})
        inner[path[-1]] = value
        return changed

    cases = {
        "no Secret": without("secretName"),
        "no tunnel": without("config", "tunnel_id"),
        "no edge": without("config", "edge"),
        "no routes": without("config", "routes"),
        "a route with a path": with_(["config", "routes", "wiki"], "http://wiki:80/mcp"),
        "an unknown key": with_(["secretname"], "x"),
        "a token in the configuration": with_(["config", "token_file"], "/tmp/token"),
        "keys elsewhere": with_(["config", "tls"], {"cert_file": "a", "key_file": "b"}),
        "health beyond loopback": with_(["config", "health"], {"listen_addr": "0.0.0.0:9100"}),
        "a pod without a memory limit": with_(["resources", "limits"], {"memory": None}),
    }
    for what, given in cases.items():
        wrong.refused(lambda given=given: chart.render(given, name="office"), f"the chart: {what}")
    # The other way round: what these cases are made from is taken.
    wrong.that(objects(chart, values("least")), "the least values render nothing")


def schemas(wrong, name, found):
    for kind, document in found.items():
        for version in VERSIONS:
            try:
                kubernetes_validate.validate(document, version, strict=True)
                error = None
            except kubernetes_validate.ValidationError as refused:
                error = refused.message
            wrong.that(error is None, f"{name}.yaml, {kind} for Kubernetes {version}: {error}")
    broken = copy.deepcopy(found["StatefulSet"])
    broken["spec"]["template"]["spec"]["securityContex"] = {}
    wrong.refused(lambda: kubernetes_validate.validate(broken, VERSIONS[0], strict=True), "a misspelt key of a pod")


def pod(wrong, name, given, found):
    """What is run is not root, may nothing, and drains."""
    spec = found["StatefulSet"]["spec"]["template"]["spec"]
    context = spec["securityContext"]
    where = f"{name}.yaml, the pod:"
    wrong.that(context["runAsNonRoot"] is True and context["runAsUser"] == UID, f"{where} it may be root")
    wrong.that(context["fsGroup"] == UID, f"{where} its user cannot read the Secret")
    wrong.that(context["seccompProfile"] == {"type": "RuntimeDefault"}, f"{where} seccomp")
    wrong.that(spec["automountServiceAccountToken"] is False, f"{where} it gets a token of the cluster")
    for key in ["hostNetwork", "hostPID", "hostIPC"]:
        wrong.that(not spec.get(key), f"{where} {key}")
    shutdown = given.get("shutdownTimeoutSeconds", 30)
    wrong.that(spec["terminationGracePeriodSeconds"] > shutdown, f"{where} it is killed before it has drained")
    wrong.that(len(spec["containers"]) == 1, f"{where} containers")
    container = spec["containers"][0]
    inner = container["securityContext"]
    wrong.that(inner["capabilities"] == {"drop": ["ALL"]}, f"{where} capabilities")
    wrong.that(inner["readOnlyRootFilesystem"] is True, f"{where} its root can be written")
    wrong.that(inner["allowPrivilegeEscalation"] is False and inner["privileged"] is False, f"{where} privileges")
    wrong.that("memory" in container["resources"]["limits"], f"{where} no limit of memory")
    wrong.that("ports" not in container, f"{where} it has ports")
    wrong.that("Service" not in found, f"{where} there is a Service")
    config = yaml.safe_load(found["ConfigMap"]["data"]["config.yaml"])
    for probe, page in [("startupProbe", "healthz"), ("livenessProbe", "healthz"), ("readinessProbe", "readyz")]:
        asked = container[probe]["exec"]["command"][-1]
        wrong.that(asked == f"http://{config['health']['listen_addr']}/{page}", f"{where} the {probe} asks {asked}")
    mounts = {m["name"]: m for m in container["volumeMounts"]}
    volumes = {v["name"]: v for v in spec["volumes"]}
    wrong.that(mounts["secret"]["readOnly"] and mounts["config"]["readOnly"], f"{where} its settings can be written")
    wrong.that(not any("subPath" in m for m in mounts.values()), f"{where} a subPath hides changes from the gateway")
    secret = volumes["secret"]["secret"]
    wrong.that(secret["defaultMode"] == 0o400, f"{where} the Secret's mode is {secret['defaultMode']:o}")
    wrong.that(secret["secretName"] == given["secretName"], f"{where} another Secret")
    for key in ["token_file", "state_dir"]:
        mount = mounts["secret"] if key == "token_file" else mounts["data"]
        wrong.that(config[key].startswith(mount["mountPath"] + "/"), f"{where} {key} is {config[key]}")
    wrong.that(config["ledger"]["dir"].startswith(mounts["data"]["mountPath"] + "/"), f"{where} the ledger's folder")
    wrong.that(config["routes"] == given["config"]["routes"], f"{where} its routes are not those that were given")
    wrong.that(config["shutdown_timeout"] == f"{shutdown}s", f"{where} shutdown_timeout")
    claims = found["StatefulSet"]["spec"].get("volumeClaimTemplates", [])
    kept = given.get("persistence", {}).get("enabled", True)
    wrong.that(bool(claims) == kept and ("data" in volumes) != kept, f"{where} where its data is kept")


def network(wrong, name, given, found):
    wanted = given.get("networkPolicy", {}).get("enabled", True)
    wrong.that(("NetworkPolicy" in found) == wanted, f"{name}.yaml: the network policy")
    if not wanted:
        return
    spec = found["NetworkPolicy"]["spec"]
    where = f"{name}.yaml, the network policy:"
    wrong.that(spec["policyTypes"] == ["Ingress", "Egress"] and spec["ingress"] == [], f"{where} something comes in")
    labels = found["StatefulSet"]["spec"]["template"]["metadata"]["labels"]
    chosen = spec["podSelector"]["matchLabels"]
    wrong.that(chosen and chosen.items() <= labels.items(), f"{where} it does not choose the pods")
    edge, private, names = spec["egress"][:3]
    ports = {int(a.rsplit(":", 1)[1]) for a in given["config"]["edge"]["addresses"]}
    wrong.that({(p["protocol"], p["port"]) for p in edge["ports"]} == {(t, p) for t in ("TCP", "UDP") for p in ports},
               f"{where} the edge's ports are {edge['ports']}")
    ranges = [to["ipBlock"]["cidr"] for to in private["to"]]
    allowed = given["config"].get("upstream", {}).get("allowed_ips", ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"])
    wrong.that(ranges == allowed, f"{where} private servers are at {ranges}")
    wrong.that({p["port"] for p in names["ports"]} == {53}, f"{where} names")
    everywhere = [rule for rule in spec["egress"] if not rule.get("to")]
    wrong.that(not everywhere, f"{where} {everywhere} leads everywhere")


def main(out):
    wrong = Wrong()
    lint(wrong)
    with Chart.load(str(CHART)) as chart:
        refusals(wrong, chart)
        for name in ["least", "most", "one"]:
            given = values(name)
            found = objects(chart, given)
            schemas(wrong, name, found)
            pod(wrong, name, given, found)
            network(wrong, name, given, found)
            budget = given.get("replicas", 2) > 1
            wrong.that(("PodDisruptionBudget" in found) == budget, f"{name}.yaml: the disruption budget")
            # For the gateway itself, which is asked about it afterwards.
            folder = pathlib.Path(out) / "config" / name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "config.yaml").write_text(found["ConfigMap"]["data"]["config.yaml"])
        most = objects(chart, values("most"))["StatefulSet"]["spec"]["template"]["spec"]["containers"][0]
        wrong.that(most["image"].endswith("@" + values("most")["image"]["digest"]), "the digest is not used")
    return wrong


if __name__ == "__main__":
    result = main(sys.argv[1])
    print(f"{result.looked} checks")
    for line in result.found:
        print(f"WRONG: {line}", file=sys.stderr)
    sys.exit(bool(result.found))
