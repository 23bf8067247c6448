"""Metrics that the code exports, and those that expressions, dashboards and the reference name."""
import json
import re
from typing import NamedTuple

import yaml

from helm import CHART, ROOT

RULES = CHART / "files/rules.yaml"
DASHBOARDS = sorted((CHART / "files/dashboards").glob("*.json"))
ROOMS = ("bookie", "cli", "client", "metastore", "proto", "serving")
# Metrics of others that our expressions name, with their labels; those of etcd are in every version since 3.4.
OTHERS = {
    "up": set(), "ALERTS": {"alertname", "alertstate", "severity"},
    "etcd_server_has_leader": set(), "etcd_mvcc_db_total_size_in_bytes": set(), "etcd_server_quota_backend_bytes": set(),
    "etcd_disk_wal_fsync_duration_seconds_bucket": {"le"}, "etcd_server_proposals_committed_total": set(),
}
# What Prometheus, or its operator, says of whom it asked.
TARGET = {"job", "instance", "namespace", "pod"}
SUFFIXES = {"_bucket": {"le"}, "_sum": set(), "_count": set()}

LABELS = r'((?:\s*,\s*"[a-z_]+"\s*=>\s*(?:[^,()]|\([^()]*\))+)*)'
CALL = re.compile(r'\b(counter|gauge|histogram)!\(\s*"([a-z_]+)"' + LABELS + r"\s*,?\s*\)")
# What is no counter or gauge of the library, whose counters are whole numbers: told as text.
TEXT = re.compile(r"# TYPE (process_[a-z_]+) (counter|gauge)\b")
NAME = re.compile(r"\b((?:geminga|etcd|process)_\w+|up|ALERTS)\b(?:\{([^}]*)\})?")
GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
# Functions of ever-rising numbers, and what they are applied to.
RISING = re.compile(r"\b(?:rate|increase|irate)\(\s*(\w+)")


class Metric(NamedTuple):
    kind: str
    labels: frozenset


def sources():
    for room in ROOMS:
        for file in sorted((ROOT / room).rglob("*.rs")):
            yield file, re.sub(r"^\s*//.*$", "", file.read_text(), flags=re.M)


def exported():
    """Every metric of the code, by its name. A call that cannot be read is an error, so that none is missed."""
    found = {}
    for file, text in sources():
        calls = CALL.findall(text)
        if len(calls) != len(re.findall(r"\b(?:counter|gauge|histogram)!\(", text)):
            raise AssertionError(f"{file.relative_to(ROOT)}: a metric whose name or labels are no literals")
        calls += [(kind, name, "") for name, kind in TEXT.findall(text)]
        for kind, name, labels in calls:
            metric = Metric(kind, frozenset(re.findall(r'"([a-z_]+)"\s*=>', labels)))
            if found.setdefault(name, metric) != metric:
                raise AssertionError(f"{file.relative_to(ROOT)}: {name} is {metric} here and {found[name]} elsewhere")
    return found


def series(metrics):
    """Names and labels as they are scraped."""
    scraped = dict(OTHERS)
    for name, metric in metrics.items():
        if metric.kind == "histogram":
            scraped.update({name + suffix: metric.labels | more for suffix, more in SUFFIXES.items()})
        else:
            scraped[name] = metric.labels
    return scraped


def rules():
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def dashboards():
    return {file.stem: json.loads(file.read_text()) for file in DASHBOARDS}


def panels(dashboard):
    for panel in dashboard["panels"]:
        yield panel
        yield from panel.get("panels", [])


def expressions():
    """(where, expression) of everything that is asked of Prometheus, with the variables of dashboards filled in."""
    for rule in rules():
        yield rule["alert"], rule["expr"]
    for name, dashboard in dashboards().items():
        for panel in panels(dashboard):
            for target in panel.get("targets", []):
                yield f"{name}: {panel['title']}", filled(target["expr"])


def filled(expression, window="5m"):
    return expression.replace("$__rate_interval", window).replace("$__range", window).replace("$namespace", ".*").replace("$instance", ".*")


def names(expression):
    """(name, labels that it is chosen by) of each series."""
    bare = re.sub(r'"[^"]*"', '""', expression)
    for name, matchers in NAME.findall(bare):
        yield name, set(re.findall(r"(\w+)\s*[=!]", matchers))


def faults(expression, metrics):
    """What an expression says that no metric does."""
    scraped, known = series(metrics), set(TARGET)
    for name, chosen in names(expression):
        if name not in scraped:
            yield f"{name} is exported by nobody"
            continue
        known |= scraped[name]
        for label in chosen - scraped[name] - TARGET:
            yield f"{name} has no label {label}"
    for grouping in GROUPING.findall(expression):
        for label in set(re.findall(r"\w+", grouping)) - known:
            yield f"no metric of it has the label {label}"
    for name in RISING.findall(expression):
        if metrics.get(name, Metric("counter", frozenset())).kind != "counter":
            yield f"{name} is a gauge, so it has no rate"
