"""What must hold of a release with TLS: nothing is plain, files are where they are looked for, certificates are for the names in use."""
import re
import tomllib

from helm import containers, of_kind, pod_specs

# Where a plain URL may be: etcd's metrics, for probes without a certificate, an object store, which has its own authorities, and a collector
# of traces, which is sent no records and no keys.
PLAIN_ALLOWED = ("--listen-metrics-urls=", "GEMINGA_OBJECT_STORE_ENDPOINT=", "--otlp-endpoint=")
# By which a pod is told to others.
TOLD = ("--advertise", "--kafka-advertise", "--advertise-client-urls", "--initial-advertise-peer-urls")
FILES = {"ca.crt", "tls.crt", "tls.key"}


def nothing_plain(manifests):
    for name, _, spec, kind in pod_specs(manifests):
        for container in containers(spec):
            words = container.get("args", [])
            if "--insecure" in words:
                yield f"{name}: {container['name']} may be reached without TLS"
            for word in words + [f"{variable['name']}={variable.get('value', '')}" for variable in container.get("env", [])]:
                if re.search(r"\b(http|etcd|plaintext)://", word) and not word.startswith(PLAIN_ALLOWED):
                    yield f"{name}: {word} is plain"
            if "command" not in container and not files(container):
                yield f"{name}: {container['name']} knows no authority"
            for probe in ("readinessProbe", "livenessProbe"):
                get = container.get(probe, {}).get("httpGet", {})
                if kind == "StatefulSet" and get["port"] == "http" and get.get("scheme") != "HTTPS":
                    yield f"{name}: its {probe} is plain"
    for doc in of_kind(manifests, "Service"):
        for port in doc["spec"]["ports"]:
            if port.get("appProtocol") == "kubernetes.io/h2c":
                yield f"Service {doc['metadata']['name']} is said to be plain"
    for doc in of_kind(manifests, "ConfigMap"):
        if "plaintext://" in str(doc["data"]):
            yield f"ConfigMap {doc['metadata']['name']} has a plain listener"
    for doc in of_kind(manifests, "ServiceMonitor"):
        for endpoint in scraped(doc):
            if endpoint.get("scheme") != "https" or not endpoint.get("tlsConfig", {}).get("serverName"):
                yield f"ServiceMonitor {doc['metadata']['name']} asks in plain text, or nobody by name"


def scraped(monitor):
    """Its endpoints, but for etcd's metrics, which are in plain text: etcd would ask probes for a certificate."""
    return [endpoint for endpoint in monitor["spec"]["endpoints"] if endpoint["port"] != "metrics"]


def files(container):
    """Files of certificates that a container is told of, by its variables and arguments."""
    told = [variable.get("value", "") for variable in container.get("env", [])] + container.get("args", [])
    return {path for word in told for path in re.findall(r"/etc/geminga[\w-]*-tls/[\w.]+", word)}


def files_are_there(manifests):
    for name, _, spec, _ in pod_specs(manifests):
        volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
        for container in containers(spec):
            mounts = {mount["mountPath"]: mount for mount in container.get("volumeMounts", [])}
            for path in files(container):
                directory, file = path.rsplit("/", 1)
                mount = mounts.get(directory, {})
                secret = volumes.get(mount.get("name"), {}).get("secret", {})
                there = {item["path"] for item in secret.get("items", [])} or FILES
                if not secret.get("secretName") or file not in there:
                    yield f"{name}: {container['name']} has no {path}"
                if "subPath" in mount:
                    yield f"{name}: {container['name']} would keep an old {path}"
                if secret.get("defaultMode", 0o644) & 0o007:
                    yield f"{name}: anybody can read {path}"


def covers(names, host):
    return host in names or ("*." + host.split(".", 1)[-1]) in names


def hosts(word):
    """Hosts in a value of addresses or URLs: `a=https://h:1,b=…`."""
    return {re.sub(r"^.*(=|//)", "", part).rsplit(":", 1)[0] for part in word.split(",")}


def certificates_are_for_who_uses_them(manifests):
    made = {doc["spec"]["secretName"]: doc["spec"] for doc in of_kind(manifests, "Certificate")}
    if not made:
        return
    for name, secret in needed(manifests):
        if secret not in made:
            yield f"{name}: nobody makes the Secret {secret}"
    for doc in of_kind(manifests, "StatefulSet"):
        for secret in mounted(doc["spec"]["template"]["spec"]):
            certificate = made.get(secret, {})
            if not {"server auth", "client auth"} <= set(certificate.get("usages", [])):
                yield f"{secret} is not for both uses"
            names = {*certificate.get("dnsNames", []), *certificate.get("ipAddresses", [])}
            for host in used(manifests, doc):
                if not covers(names, host):
                    yield f"{secret} is not for {host}"


def mounted(spec):
    """Secrets with the certificate of a pod itself."""
    return [volume["secret"]["secretName"] for volume in spec.get("volumes", []) if volume["name"] == "tls"]


def needed(manifests):
    """(who, Secret) of all that is to be made."""
    for name, _, spec, _ in pod_specs(manifests):
        for secret in mounted(spec):
            yield name, secret
    for doc in of_kind(manifests, "ServiceMonitor"):
        for endpoint in scraped(doc):
            tls = endpoint["tlsConfig"]
            for key in [tls["ca"]["secret"], *([tls["cert"]["secret"]] if "cert" in tls else [])]:
                yield f"ServiceMonitor {doc['metadata']['name']}", key["name"]


def used(manifests, workload):
    """All that a pod of a StatefulSet is connected to by."""
    name, template = workload["metadata"]["name"], workload["spec"]["template"]
    found = {"127.0.0.1", "localhost"}
    for word in template["spec"]["containers"][0]["args"]:
        flag, _, value = word.partition("=")
        if flag in TOLD:
            found |= hosts(value.replace("$(POD_NAME)", f"{name}-0"))
    for doc in of_kind(manifests, "Service"):
        service, selector = doc["metadata"], doc["spec"]["selector"]
        if selector.items() <= template["metadata"]["labels"].items() and doc["spec"].get("clusterIP") != "None":
            if "kafka-external" not in {port["targetPort"] for port in doc["spec"]["ports"]}:
                found |= {service["name"], f"{service['name']}.streams", f"{service['name']}.streams.svc.cluster.local"}
            hostname = service.get("annotations", {}).get("external-dns.alpha.kubernetes.io/hostname")
            found |= {hostname} if hostname else set()
    for doc in of_kind(manifests, "ConfigMap"):
        if doc["metadata"]["name"] == name:
            for text in (text for file, text in doc["data"].items() if file.endswith(".toml")):
                for word in tomllib.loads(text)["kafka"]["advertise"]:
                    found |= hosts(word)
    for doc in of_kind(manifests, "ServiceMonitor"):
        if doc["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items():
            found |= {endpoint["tlsConfig"]["serverName"] for endpoint in scraped(doc)}
    return found


RULES = [nothing_plain, files_are_there, certificates_are_for_who_uses_them]
