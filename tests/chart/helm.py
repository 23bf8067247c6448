"""Runs helm on our chart and reads what it renders."""
import json
import pathlib
import subprocess

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "geminga"
HELM = ROOT / ".cache" / "chart" / "helm"
EXAMPLES = sorted(CHART.glob("values-*.yaml"))
# What Chart.yaml asks for at least, and the newest that the schemas know.
OLDEST, NEWEST = "1.30", "1.37"
# The first that gives pods the zone of their node.
ZONES = "1.35"


class Refused(Exception):
    """Helm's reason not to render."""


class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """YAML in which a key that is there twice is an error, not silently the last one."""

    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise yaml.YAMLError(f"{node.start_mark}: twice: {', '.join(sorted(twice))}")
        return super().construct_mapping(node, deep)


def helm(*args):
    done = subprocess.run([HELM, *args], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Refused(done.stderr)
    return done.stdout


def text(files=(), values=None, version=NEWEST, upgrade=False, release="g", api=None):
    """The manifests of a release in the namespace `streams`; `api`: the address of the API server at which templates look things up."""
    args = ["template", release, str(CHART), "--namespace", "streams", "--kube-version", version + ".0"]
    if api:
        args += ["--dry-run=server", "--kube-apiserver", api, "--disable-openapi-validation"]
    if upgrade:
        args.append("--is-upgrade")
    for file in files:
        args += ["--values", str(file)]
    for key, value in (values or {}).items():
        args += ["--set-json", f"{key}={json.dumps(value)}"]
    return helm(*args)


def docs(*args, **kwargs):
    return parse(text(*args, **kwargs))


def parse(manifests):
    return [doc for doc in yaml.load_all(manifests, Loader) if doc]


def of_kind(manifests, kind):
    return [doc for doc in manifests if doc["kind"] == kind]


def pod_specs(manifests):
    """(name, labels, spec, kind) of everything that becomes a pod."""
    for doc in manifests:
        name = f"{doc['kind']} {doc['metadata']['name']}"
        if doc["kind"] == "Pod":
            yield name, doc["metadata"]["labels"], doc["spec"], "Pod"
        elif "template" in doc.get("spec", {}):
            template = doc["spec"]["template"]
            yield name, template["metadata"]["labels"], template["spec"], doc["kind"]


def containers(spec):
    return spec.get("initContainers", []) + spec["containers"]
