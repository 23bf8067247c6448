"""What every pod and budget of the chart must keep to. Each rule answers with sentences about what breaks it."""
import re

import sealed
from helm import ROOT, containers, of_kind, pod_specs

UNITS = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40}
# What a broker takes to stop beside its hand-over: to finish what it accepted, and to end.
STOPPING_SECONDS = 40


def cluster_quorum():
    """(write quorum, ack quorum) that a cluster's topics get by default, from the code."""
    code = (ROOT / "serving/src/topics/quorum.rs").read_text()
    body = re.search(r"const CLUSTER: Self = (.*?);", code, re.S).group(1)
    write, ack = re.findall(r"\d+", body)[:2]
    return int(write), int(ack)


def size(quantity):
    number, unit = re.fullmatch(r"(\d+)([KMGT]i)?", str(quantity)).groups()
    return int(number) * UNITS.get(unit, 1)


def component(labels):
    return labels.get("app.kubernetes.io/component")


def arguments(spec):
    return dict(re.fullmatch(r"(--[^=]+)=?(.*)", a).groups() for a in spec["containers"][0].get("args", []) if a[:2] == "--")


def without_rights(manifests):
    for doc in manifests:
        if doc["kind"] in ("Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"):
            yield f"{doc['kind']} {doc['metadata']['name']} gives rights"
        if doc["kind"] == "ServiceAccount" and doc.get("automountServiceAccountToken") is not False:
            yield f"ServiceAccount {doc['metadata']['name']} gives pods its token"
    for name, _, spec, _ in pod_specs(manifests):
        if spec.get("automountServiceAccountToken") is not False:
            yield f"{name} is given a token"
        if spec.get("enableServiceLinks") is not False:
            yield f"{name} is given variables of Services"
        if any(spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")):
            yield f"{name} shares something with its node"
        security = spec.get("securityContext", {})
        if security.get("runAsNonRoot") is not True or not security.get("runAsUser"):
            yield f"{name} may run as root"
        if security.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            yield f"{name} may make any system call"
        for container in containers(spec):
            own = container.get("securityContext", {})
            if own.get("runAsUser") == 0 or own.get("privileged"):
                yield f"{name}: {container['name']} runs as root"
            if own.get("allowPrivilegeEscalation") is not False or own.get("capabilities") != {"drop": ["ALL"]}:
                yield f"{name}: {container['name']} can get rights"
            if own.get("readOnlyRootFilesystem") is not True:
                yield f"{name}: {container['name']} can write to its image"
        for volume in spec.get("volumes", []):
            if "hostPath" in volume:
                yield f"{name} sees a directory of its node"


def bounded(manifests):
    for name, _, spec, _ in pod_specs(manifests):
        for container in containers(spec):
            resources = container.get("resources", {})
            requests, limits = resources.get("requests", {}), resources.get("limits", {})
            if "memory" not in limits or "memory" not in requests or "cpu" not in requests:
                yield f"{name}: {container['name']} has no limit of memory, or requests nothing"
            elif size(requests["memory"]) > size(limits["memory"]):
                yield f"{name}: {container['name']} requests more memory than its limit"
            image = container["image"]
            if not re.search(r":[^/:]+$|@sha256:", image) or image.endswith(":latest"):
                yield f"{name}: {image} may be another one tomorrow"
        budget = arguments(spec).get("--memory")
        if budget:
            memory = int(budget.removesuffix("MiB")) << 20
            limit = size(spec["containers"][0]["resources"]["limits"]["memory"])
            if limit < memory * 5 // 4:
                yield f"{name}: a limit of {limit} bytes leaves too little beside --memory={budget}"
        disks = sum(argument.startswith("--data-dir=") for argument in spec["containers"][0].get("args", []))
        if disks and name.endswith("-bookie"):
            limit = size(spec["containers"][0]["resources"]["limits"]["memory"])
            # What waits for the disk, the newest entries, blocks for readers that are behind, and the index.
            if limit < (256 + disks * (64 + 64 + 32 + 128)) << 20:
                yield f"{name}: a limit of {limit} bytes is too little for {disks} disks"


def probed(manifests):
    for name, _, spec, kind in pod_specs(manifests):
        if kind != "StatefulSet":
            continue
        for container in spec["containers"]:
            ports = {port["name"] for port in container["ports"]}
            for probe in ("readinessProbe", "livenessProbe"):
                get = container.get(probe, {}).get("httpGet", {})
                if get.get("port") not in ports:
                    yield f"{name}: {container['name']} has no {probe}, or of no port of its own"
        get = spec["containers"][0]["readinessProbe"]["httpGet"] if "readinessProbe" in spec["containers"][0] else {}
        if get.get("path") == "/livez":
            yield f"{name} is ready whenever it lives"


def stops_in_time(manifests):
    for name, _, spec, kind in pod_specs(manifests):
        if kind != "StatefulSet":
            continue
        sleep = spec["containers"][0].get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        drain = arguments(spec).get("--drain-timeout")
        ours = "command" not in spec["containers"][0]
        need = sleep + (int(drain) if drain else 0) + (STOPPING_SECONDS if ours else 0)
        if spec.get("terminationGracePeriodSeconds", 0) < need:
            yield f"{name} is killed before the {need} s are over that it may take"


def quorums_survive(manifests):
    write, ack = cluster_quorum()
    budgets = {component(doc["spec"]["selector"]["matchLabels"]): doc["spec"] for doc in of_kind(manifests, "PodDisruptionBudget")}
    for doc in of_kind(manifests, "StatefulSet"):
        name, spec = component(doc["spec"]["selector"]["matchLabels"]), doc["spec"]
        if spec["updateStrategy"]["type"] != "RollingUpdate" or "rollingUpdate" in spec["updateStrategy"]:
            yield f"{name}: pods are not replaced one after the other"
        replicas = spec.get("replicas")
        away = budgets.get(name, {}).get("maxUnavailable")
        if name == "etcd" and replicas == 1:
            if away is not None:
                yield "a budget for one etcd keeps its node from being drained for ever"
            continue
        if away is None:
            yield f"{name} has no PodDisruptionBudget with maxUnavailable"
        elif not isinstance(away, int) or away < 1:
            yield f"{name}: nodes can never be drained with maxUnavailable={away}"
        elif name == "etcd" and away > (replicas - 1) // 2:
            yield f"{name}: with {away} of {replicas} away there is no majority"
        elif name == "bookie" and away > write - ack:
            yield f"{name}: with {away} away, of {write} copies fewer than {ack} can be written"
        if name == "bookie":
            if replicas < write:
                yield f"{replicas} bookies cannot hold {write} copies"
            if set(spec.get("persistentVolumeClaimRetentionPolicy", {}).values()) != {"Retain"}:
                yield "volumes of bookies go with their pods"


def connected(manifests):
    """Names that objects have for each other lead somewhere."""
    pods = [(name, labels, {p["name"] for c in containers(spec) for p in c.get("ports", [])}) for name, labels, spec, _ in pod_specs(manifests)]

    def chosen(selector):
        wanted = {key: value for key, value in selector.items() if not key.startswith("statefulset.kubernetes.io/")}
        return [ports for _, labels, ports in pods if wanted.items() <= labels.items()]

    for doc in of_kind(manifests, "Service"):
        for port in doc["spec"]["ports"]:
            if not any(port["targetPort"] in ports for ports in chosen(doc["spec"]["selector"])):
                yield f"Service {doc['metadata']['name']}: no pod has the port {port['targetPort']}"
    services = {doc["metadata"]["name"] for doc in of_kind(manifests, "Service")}
    for doc in of_kind(manifests, "StatefulSet"):
        if doc["spec"]["serviceName"] not in services:
            yield f"StatefulSet {doc['metadata']['name']}: its Service is not there"
    open_ports = {}
    for doc in of_kind(manifests, "NetworkPolicy"):
        ports = {port["port"] for rule in doc["spec"]["ingress"] for port in rule["ports"]}
        for own in chosen(doc["spec"]["podSelector"]["matchLabels"]):
            if not ports <= own:
                yield f"NetworkPolicy {doc['metadata']['name']} names ports that no pod has: {ports - own}"
        open_ports[component(doc["spec"]["podSelector"]["matchLabels"])] = ports
    for name, labels, ports in pods:
        if component(labels) in open_ports and ports - open_ports[component(labels)]:
            yield f"{name}: nobody reaches {ports - open_ports[component(labels)]}"
    accounts = {doc["metadata"]["name"] for doc in of_kind(manifests, "ServiceAccount")}
    for name, _, spec, kind in pod_specs(manifests):
        if spec["serviceAccountName"] not in accounts:
            yield f"{name}: its ServiceAccount is not there"
        claims = next((d["spec"].get("volumeClaimTemplates", []) for d in manifests if f"{d['kind']} {d['metadata']['name']}" == name and kind == "StatefulSet"), [])
        volumes = {v["name"] for v in spec.get("volumes", [])} | {c["metadata"]["name"] for c in claims}
        mounts = {m["name"] for c in containers(spec) for m in c.get("volumeMounts", [])}
        if volumes != mounts:
            yield f"{name}: volumes {volumes} and mounts {mounts} differ"


RULES = [without_rights, bounded, probed, stops_in_time, quorums_survive, connected]


def problems(manifests, tls=False):
    rules = RULES + (sealed.RULES if tls else [])
    return [f"{rule.__name__}: {problem}" for rule in rules for problem in rule(manifests)]
