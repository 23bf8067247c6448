"""What the chart renders: valid for the oldest and the newest Kubernetes, as reviewed, and nothing for wrong values."""
import itertools
import json
import os
import re
import unittest

import jsonschema
import kubernetes_validate
import yaml

import sealed
from helm import CHART, EXAMPLES, NEWEST, OLDEST, ROOT, ZONES, Refused, docs, helm, of_kind, parse, text
from policy import problems

GOLDEN = ROOT / "tests/chart/golden"
CUSTOM = yaml.safe_load((ROOT / "tests/chart/custom.yaml").read_text())
# Secrets of the operator's own, and those that cert-manager makes.
SECRETS = {"serving": "s", "bookie": "b", "etcd": "e", "monitoring": "m"}
TLS = {"tls.enabled": True, "tls.secrets": SECRETS}
MANAGED = {"tls.enabled": True, "tls.certManager.enabled": True, "tls.certManager.issuerRef.name": "authority"}
THEIRS = {"etcd.enabled": False, "externalEtcd.endpoints": ["e:2379"]}
# Each changes something on its own and must get along with every other.
TOGGLES = {
    "one etcd": {"etcd.replicas": 1},
    "external etcd": THEIRS,
    "external etcd by TLS": {**THEIRS, "externalEtcd.tls": {"enabled": True, "secret": "x"}},
    "TLS by Secrets": TLS,
    "TLS by cert-manager, certificates required": {**MANAGED, "tls.clientAuth": "required"},
    "autoscaling": {"serving.autoscaling.enabled": True},
    "autoscaling by a metric": {"serving.autoscaling.enabled": True, "serving.autoscaling.cpuUtilization": 0,
                                "serving.autoscaling.metric": {"name": "m", "averageValue": "10"}},
    "no Kafka": {"serving.kafka.enabled": False},
    "NodePort": {"serving.kafka.external": {"enabled": True, "host": "k.example.com"}},
    "LoadBalancer": {"serving.kafka.external": {"enabled": True, "type": "LoadBalancer", "host": "k-{ordinal}.example.com"}},
    "disks": {"bookie.disks": 3},
    "object store": {"objectStore": {"url": "s3://b/p", "endpoint": "http://s:9000", "pathStyle": True, "credentialsSecret": "s", "caSecret": "c", "env": {"AWS_REGION": "r"}}},
    "zones": {"zones": {"enabled": True, "podLabel": "example.com/zone"}},
    "no policies": {"networkPolicy.enabled": False},
    "clients": {"networkPolicy.clients": [{"podSelector": {}}], "networkPolicy.monitoring": [{"namespaceSelector": {}}]},
    "monitoring": {"serviceMonitor.enabled": True, "prometheusRule.enabled": True, "dashboards.enabled": True},
    "traces": {"tracing": {"endpoint": "http://collector:4317", "sampling": 0.5}},
    "no decommission": {"bookie.decommission.enabled": False},
    "IPv6": {"listenAddress": "[::]"},
}
# Not both at once: they set the same values, or one needs what the other takes away.
EITHER = [{"one etcd", "external etcd"}, {"one etcd", "external etcd by TLS"}, {"external etcd", "external etcd by TLS"},
          {"TLS by Secrets", "TLS by cert-manager, certificates required"}, {"TLS by Secrets", "external etcd"},
          {"TLS by Secrets", "external etcd by TLS"}, {"NodePort", "LoadBalancer"}, {"no Kafka", "NodePort"}, {"no Kafka", "LoadBalancer"},
          {"autoscaling", "autoscaling by a metric"}, {"no policies", "clients"}]
# The value, and a part of the reason that the operator is told.
WRONG = [
    ({"serving.replicas": 0}, "serving/replicas"),
    ({"serving.memoryMiB": 128}, "memoryMiB"),
    ({"zones.minAck": 0}, "minAck"),
    ({"serving.memoryMiB": "1Gi"}, "memoryMiB"),
    ({"serving.replica": 3}, "replica"),
    ({"bookie.replicas": 2}, "bookie/replicas"),
    ({"bookie.disks": 0}, "bookie/disks"),
    ({"bookie.podManagementPolicy": "OrderedReady"}, "podManagementPolicy"),
    ({"etcd.initialClusterState": "old"}, "initialClusterState"),
    ({"serving.kafka.external": {"enabled": True, "host": "h", "externalTrafficPolicy": "local"}}, "externalTrafficPolicy"),
    ({"bookie.resources.limits": {"cpu": "1", "memory": None}}, "memory"),
    ({"bookie.disks": 7}, "7 disk(s) take up to 2272Mi"),
    ({"bookie.repairRate": "50MB"}, "repairRate"),
    ({"bookie.lostBookieDelay": "soon"}, "lostBookieDelay"),
    ({"bookie.persistence.size": "a lot"}, "size"),
    ({"etcd.replicas": 2}, "etcd/replicas"),
    ({"externalEtcd.endpoints": ["http://e:2379"]}, "endpoints"),
    ({"externalEtcd.endpoints": ["e:2379"]}, "two places for the metadata"),
    ({"etcd.enabled": False}, "nowhere to keep the metadata"),
    ({"objectStore.url": "/mnt/store"}, "objectStore/url"),
    ({"objectStore.endpoint": "http://h:1"}, "objectStore.url is empty"),
    ({"objectStore": {"url": "s3://b", "env": {"PATH": "/"}}}, "PATH"),
    ({"objectStore": {"url": "s3://b", "interval": "50ms"}}, "objectStore/interval"),
    ({"objectStore": {"url": "s3://b", "interval": "0s"}}, "objectStore/interval"),
    ({"serviceMonitor.interval": "1day"}, "serviceMonitor/interval"),
    ({"serving.kafka.external": {"enabled": True}}, "external.host is empty"),
    ({"serving.kafka.external": {"enabled": True, "type": "LoadBalancer", "host": "one.example.com"}}, "must contain {ordinal}"),
    ({"serving.kafka.external": {"enabled": True, "host": "h"}, "serving.kafka.enabled": False}, "needs serving.kafka.enabled"),
    ({"serving.autoscaling": {"enabled": True, "minReplicas": 5, "maxReplicas": 4}}, "less than minReplicas"),
    ({"serving.autoscaling": {"enabled": True, "cpuUtilization": 0}}, "something to go by"),
    ({"image.digest": "sha256:1"}, "digest"),
    ({"logging.format": "xml"}, "format"),
    ({"prometheusRule.runbookUrl": "https://example.com/#there"}, "runbookUrl"),
    ({"dashboards.label": "grafana"}, "label"),
    ({"insecure": False}, "insecure=true"),
    ({"tls.enabled": True}, "tls.secrets.serving is empty"),
    ({"tls": {"enabled": True, "secrets": {"serving": "s"}}}, "tls.secrets.bookie is empty"),
    ({"tls": {"enabled": True, "secrets": {"serving": "s", "bookie": "b"}}}, "tls.secrets.etcd is empty"),
    ({"tls": {"enabled": True, "secrets": {**SECRETS, "monitoring": ""}, "clientAuth": "required"}, "serviceMonitor.enabled": True},
     "tls.secrets.monitoring is empty"),
    ({"tls": {"enabled": True, "secrets": {"serving": "S_"}}}, "tls/secrets/serving"),
    ({"tls.secrets.serving": "s"}, "tls.enabled is false"),
    ({"tls.clientAuth": "required"}, "tls.enabled is false"),
    ({"tls.certManager.enabled": True}, "tls.enabled is false"),
    ({**TLS, "tls.clientAuth": "optional"}, "clientAuth"),
    ({**TLS, **THEIRS, "externalEtcd.tls": {"enabled": True}}, "tls.secrets.etcd is for the etcd of this chart"),
    ({**TLS, "tls.certManager.dnsNames": ["a.example.com"]}, "tls.certManager.enabled is false"),
    ({**MANAGED, "tls.secrets.bookie": "b"}, "two sources of certificates: leave tls.secrets.bookie out"),
    ({**MANAGED, "tls.certManager.issuerRef.name": ""}, "issuerRef.name is empty"),
    ({**MANAGED, "tls.certManager.renewBefore": "2160h"}, "renewBefore is not less than duration"),
    ({**MANAGED, "tls.certManager.duration": "90d"}, "duration"),
    ({**MANAGED, "tls.certManager.ipAddresses": ["one.example.com"]}, "ipAddresses"),
    ({**MANAGED, **THEIRS, "insecure": False}, "etcd would be reached without TLS"),
    ({"externalEtcd.tls": {"enabled": True, "secret": "x"}}, "externalEtcd.tls is for an etcd of yours"),
    ({**THEIRS, "externalEtcd.tls": {"enabled": True}}, "externalEtcd.tls.secret is empty"),
    ({**THEIRS, "externalEtcd.tls": {"secret": "x"}}, "externalEtcd.tls.enabled is false"),
    ({**THEIRS, "externalEtcd.tls": {"enabled": True, "secret": "x"}, "insecure": False}, "without tls.enabled=true"),
]


# Values unlike the default, where no rule of `other` finds one that is accepted.
OTHER = {
    "image.digest": "sha256:" + "0" * 64, "image.pullPolicy": "Always", "imagePullSecrets": [{"name": "s"}],
    "listenAddress": "[::]", "serving.kafka.external.type": "LoadBalancer", "serving.kafka.external.enabled": False,
    "serving.kafka.external.sourceRanges": ["10.0.0.0/8"], "serving.service.type": "LoadBalancer",
    "serving.kafka.external.externalTrafficPolicy": "Cluster", "serving.service.externalTrafficPolicy": "Local", "etcd.initialClusterState": "existing",
    "bookie.repairRate": "1MiB", "bookie.lostBookieDelay": "1h", "etcd.replicas": 5, 
    "externalEtcd.endpoints": ["e:1"], "objectStore.url": "gs://b", "objectStore.endpoint": "http://h:1", "objectStore.uploadRate": "1MiB",
    "objectStore.interval": "1m", "objectStore.localRetention": "2h", "objectStore.env": {"AWS_REGION": "r"}, "spread.hosts": "DoNotSchedule",
    "spread.zones": "ScheduleAnyway", "zones.podLabel": "example.com/zone", "zones.min": 3, "zones.minAck": 2, "logging.format": "text", "logging.filter": "warn", "tracing.endpoint": "http://other:4317",
    "networkPolicy.clients": [{"podSelector": {}}], "networkPolicy.monitoring": [{"podSelector": {}}], "serviceMonitor.interval": "1m",
    "serving.autoscaling.enabled": False, "serviceMonitor.enabled": False, "prometheusRule.enabled": False, "dashboards.enabled": False, "serving.replicas": 9,
    "serving.autoscaling.minReplicas": 1, "serving.kafka.external.host": "other-{ordinal}",
    "tls.clientAuth": "required", "tls.certManager.dnsNames": ["a.example.com"], "tls.certManager.ipAddresses": ["10.0.0.1"],
}
# Toggles show what these do: alone they are half of something.
WHETHER = {"tls.enabled", "tls.certManager.enabled", "externalEtcd.tls.enabled"}


def leaves(values, prefix=""):
    """(path, value) of everything that can be set; a map that the operator fills is one value."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def other(value):
    """Another value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value / 2
    if isinstance(value, dict):
        return {"example": "other"}
    if isinstance(value, list):
        return [{"key": "other"}]
    found = re.fullmatch(r"(\d+)(\D*)", value)
    return f"{int(found.group(1)) + 1}{found.group(2)}" if found else "other"


def invalid(manifests, version):
    """What a Kubernetes of this version would refuse, also fields that it does not know."""
    for doc in manifests:
        if doc["kind"] in CUSTOM["definitions"]:
            for error in jsonschema.Draft201909Validator({**CUSTOM, "$ref": f"#/definitions/{doc['kind']}"}).iter_errors(doc):
                yield f"{doc['kind']} {doc['metadata']['name']}: {error.message}"
            continue
        if doc["kind"] == "PrometheusRule":
            continue
        try:
            kubernetes_validate.validate(doc, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            yield f"{version}: {doc['kind']} {doc['metadata']['name']}: {error}"


def combinations():
    names = list(TOGGLES)
    for pair in [(name,) for name in names] + list(itertools.combinations(names, 2)):
        if set(pair) not in EITHER:
            yield " and ".join(pair), {"insecure": True, **{k: v for name in pair for k, v in TOGGLES[name].items()}}


class Render(unittest.TestCase):
    maxDiff = None

    def test_lint_finds_nothing(self):
        for example in EXAMPLES:
            with self.subTest(example.name):
                helm("lint", str(CHART), "--strict", "--values", str(example), "--kube-version", ZONES + ".0")

    def test_examples_are_valid_and_keep_the_rules(self):
        for example, version in itertools.product(EXAMPLES, (OLDEST, NEWEST)):
            if "zones:" in example.read_text() and version == OLDEST:
                version = ZONES
            with self.subTest(example.name, version=version):
                manifests = docs([example], version=version)
                self.assertEqual(list(invalid(manifests, version)), [])
                self.assertEqual(problems(manifests, tls="\ntls:" in example.read_text()), [])

    def test_toggles_get_along(self):
        # Most of what a pair renders was rendered, and found valid, before.
        valid = set()
        for name, values in combinations():
            with self.subTest(name):
                manifests = docs(values=values)
                plain = values.get("etcd.enabled") is False and "externalEtcd.tls" not in values
                self.assertEqual(problems(manifests, tls="tls.enabled" in values and not plain), [])
                for version in (OLDEST, NEWEST) if " and " not in name else (NEWEST,):
                    new = {json.dumps(doc): doc for doc in manifests if (version, json.dumps(doc)) not in valid}
                    self.assertEqual(list(invalid(new.values(), version)), [])
                    valid |= {(version, text) for text in new}

    def test_renders_are_as_reviewed(self):
        for example in EXAMPLES:
            golden = GOLDEN / example.name
            with self.subTest(example.name):
                # Dashboards are reviewed where they are written.
                now = text([example], {"dashboards.enabled": False}, version=NEWEST)
                if os.environ.get("GEMINGA_UPDATE_GOLDEN"):
                    golden.write_text(now)
                self.assertEqual(now, golden.read_text(), "if this is meant: GEMINGA_UPDATE_GOLDEN=1 make chart-test, and review the diff")

    def test_wrong_values_are_refused_with_the_reason(self):
        for values, reason in WRONG:
            with self.subTest(values=values):
                with self.assertRaises(Refused) as refused:
                    docs(values={"insecure": True, **values})
                self.assertIn(reason, str(refused.exception))

    def test_no_value_is_without_effect(self):
        """Each value, changed alone or beside what it belongs to, changes what is rendered."""
        defaults = yaml.safe_load((CHART / "values.yaml").read_text())
        pending = {path: value for path, value in leaves(defaults) if path not in ("insecure", "etcd.enabled", *WHETHER)}
        beside = {
            "serving.autoscaling.": {"serving.autoscaling.enabled": True, "serving.autoscaling.metric.name": "n"},
            "serving.kafka.external.": {"serving.kafka.external": {"enabled": True, "host": "h-{ordinal}"}},
            "serving.service.": {"serving.service.type": "NodePort"},
            "externalEtcd.": THEIRS,
            "externalEtcd.tls.": {"externalEtcd.tls": {"enabled": True, "secret": "x"}},
            "tls.": TLS,
            "tls.secrets.monitoring": {"tls.clientAuth": "required", "serviceMonitor.enabled": True},
            "tls.certManager.": {**MANAGED, "tls.secrets": {}},
            "objectStore.": {"objectStore.url": "s3://b"},
            "zones.podLabel": {"zones.enabled": True},
            "zones.min": {"zones.enabled": True},
            "zones.minAck": {"zones.enabled": True},
            "spread.zones": {"zones.enabled": True},
            "serviceMonitor.": {"serviceMonitor.enabled": True},
            "prometheusRule.": {"prometheusRule.enabled": True},
            "dashboards.": {"dashboards.enabled": True},
            "tracing.": {"tracing.endpoint": "http://c:4317"},
        }
        for path, value in pending.items():
            with self.subTest(path):
                base = {"insecure": True}
                for start, values in beside.items():
                    if path.startswith(start):
                        base.update(values)
                if path in ("serving.kafka.external.port", "serving.kafka.external.sourceRanges", "serving.kafka.external.externalTrafficPolicy"):
                    base["serving.kafka.external"] = {**base["serving.kafka.external"], "type": "LoadBalancer"}
                self.assertNotEqual(text(values=base), text(values={**base, path: OTHER.get(path, other(value))}))

    def test_a_plain_etcd_beside_tls_has_to_be_said(self):
        manifests = docs(values={"insecure": True, **MANAGED, **THEIRS})
        found = {problem.split(": ", 2)[2] for problem in problems(manifests, tls=True)}
        self.assertEqual(found, {"GEMINGA_METASTORE=etcd://e:2379/default is plain", "--metastore=etcd://e:2379/default is plain", "decommission knows no authority"})

    def test_the_hook_shows_etcd_what_etcd_knows(self):
        def secrets(values):
            (job,) = of_kind(docs(values={"insecure": True, **values}), "Job")
            return [volume["secret"]["secretName"] for volume in job["spec"]["template"]["spec"].get("volumes", [])]

        theirs = {**THEIRS, "externalEtcd.tls": {"enabled": True, "secret": "x"}}
        ours = {**TLS, "tls.secrets": {"serving": "s", "bookie": "b"}}
        self.assertEqual(secrets(THEIRS), [])
        self.assertEqual(secrets(TLS), ["b"])
        self.assertEqual(secrets(theirs), ["x"])
        self.assertEqual(secrets({**theirs, **ours}), ["x"])
        self.assertEqual(secrets({**theirs, **ours, "externalEtcd.tls": {"enabled": True}}), ["b"])
        self.assertEqual(secrets({**THEIRS, **ours}), [])

    def test_who_shows_no_certificate_is_given_no_key(self):
        """`helm test` and Prometheus, where none is required."""
        manifests = docs(values={**TLS, "serviceMonitor.enabled": True})
        (pod,) = of_kind(manifests, "Pod")
        self.assertEqual(pod["spec"]["volumes"][0]["secret"]["items"], [{"key": "ca.crt", "path": "ca.crt"}])
        shown = {monitor["metadata"]["name"]: set(endpoint["tlsConfig"])
                 for monitor in of_kind(manifests, "ServiceMonitor") for endpoint in sealed.scraped(monitor)}
        self.assertEqual(shown, {"g-geminga-serving": {"ca", "serverName"}, "g-geminga-bookie": {"ca", "serverName"}})

    def test_brokers_have_a_certificate_for_each_name_outside(self):
        def names(**external):
            values = {**MANAGED, "serving.kafka.external": {"enabled": True, **external}}
            (spec,) = (doc["spec"] for doc in of_kind(docs(values=values), "Certificate") if doc["metadata"]["name"] == "g-geminga-serving")
            return set(spec["dnsNames"]) | set(spec["ipAddresses"])

        self.assertLessEqual({"k-bootstrap.example.com", "k-0.example.com", "k-1.example.com"},
                             names(type="LoadBalancer", host="k-{ordinal}.example.com"))
        self.assertIn("nodes.example.com", names(host="Nodes.example.com"))
        self.assertIn("192.0.2.1", names(host="192.0.2.1"))

    def test_the_hook_runs_before_every_change_of_bookies(self):
        """A way back may be one to fewer bookies: its hook is that of the revision that is gone back to, and so has the number of that one."""
        (job,) = of_kind(docs(values={"insecure": True, "bookie.replicas": 5}, release="streams"), "Job")
        self.assertEqual(job["metadata"]["annotations"]["helm.sh/hook"].split(","), ["pre-upgrade", "pre-rollback"])
        args = job["spec"]["template"]["spec"]["containers"][0]["args"]
        self.assertIn("--ordinal-from=5", args)
        # Bookies of other StatefulSets are nobody's business.
        self.assertIn("--set=streams-geminga-bookie", args)

    def test_addresses_of_clients_are_kept_where_policies_go_by_them(self):
        def policies(**values):
            services = of_kind(docs(values={"insecure": True, **values}), "Service")
            return {doc["spec"].get("externalTrafficPolicy") for doc in services if doc["spec"].get("type", "ClusterIP") != "ClusterIP"}

        balanced = {"enabled": True, "type": "LoadBalancer", "host": "k-{ordinal}.example.com"}
        self.assertEqual(policies(**{"serving.kafka.external": balanced, "serving.service.type": "LoadBalancer"}), {"Local"})
        self.assertEqual(policies(**{"serving.kafka.external": {**balanced, "externalTrafficPolicy": "Cluster"}}), {"Cluster"})
        # Any node may be connected to.
        self.assertEqual(policies(**{"serving.kafka.external": {"enabled": True, "host": "k.example.com"}}), {"Cluster"})
        for doc in of_kind(docs(values={"insecure": True}), "Service"):
            self.assertNotIn("externalTrafficPolicy", doc["spec"])

    def test_pods_of_ours_read_each_others_health(self):
        """`geminga cluster doctor` in a pod, whoever else may."""
        manifests = docs(values={"insecure": True, **TOGGLES["clients"]})
        for component in ("serving", "bookie"):
            (policy,) = (doc for doc in of_kind(manifests, "NetworkPolicy") if doc["metadata"]["name"] == f"g-geminga-{component}")
            (rule,) = (rule for rule in policy["spec"]["ingress"] if {"port": "http"} in rule["ports"])
            allowed = [peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"] for peer in rule["from"] if "podSelector" in peer]
            self.assertEqual(allowed, ["serving", "bookie"])
            self.assertIn({"namespaceSelector": {}}, rule["from"])

    def test_names_keep_what_alert_rules_know_jobs_by(self):
        for release in ("g", "geminga", "a" * 53, "a" * 32, "a" * 36 + "-geminga", "a" * 33 + "-geminga", "a" * 31 + "-b"):
            with self.subTest(release):
                for doc in docs(values={"insecure": True}, release=release):
                    name = doc["metadata"]["name"]
                    self.assertIn("geminga", name)
                    # Kubernetes adds a hash of ten and a dash to the name of a StatefulSet, in a label.
                    self.assertLessEqual(len(name), 52 if doc["kind"] == "StatefulSet" else 63)

    def test_zones_need_a_kubernetes_that_says_them(self):
        values = {"insecure": True, "zones.enabled": True}
        with self.assertRaises(Refused) as refused:
            docs(values=values, version="1.34")
        self.assertIn("zones.podLabel", str(refused.exception))
        docs(values=values, version=ZONES)

    def test_only_brokers_are_told_how_many_zones_and_only_if_it_is_not_the_default(self):
        for count, told in ((2, []), (3, ["serving"])):
            manifests = docs(values={"insecure": True, "zones.enabled": True, "zones.min": count}, version=ZONES)
            servers = [doc["spec"]["template"]["spec"] for doc in of_kind(manifests, "StatefulSet") + of_kind(manifests, "Deployment")]
            passed = [one["name"] for spec in servers for one in spec["containers"] if any("--min-zones" in arg for arg in one.get("args", []))]
            self.assertEqual(passed, told)

    def test_acknowledgements_are_in_zones_only_where_that_is_asked_for(self):
        zoned = {"insecure": True, "zones.enabled": True, "zones.min": 3}
        for count, told in ((1, []), (2, ["--min-ack-zones=2"])):
            manifests = docs(values={**zoned, "zones.minAck": count}, version=ZONES)
            args = [arg for doc in of_kind(manifests, "StatefulSet") for one in doc["spec"]["template"]["spec"]["containers"]
                    for arg in one.get("args", []) if arg.startswith("--min-ack-zones")]
            self.assertEqual(args, told)
        for wrong in ({**zoned, "zones.minAck": 4}, {"insecure": True, "zones.minAck": 2}):
            with self.assertRaises(Refused) as refused:
                docs(values=wrong, version=ZONES)
            self.assertIn("zones.minAck", str(refused.exception))

    def test_an_older_kubernetes_is_refused(self):
        with self.assertRaises(Refused):
            docs(values={"insecure": True}, version="1.29")

    def test_more_brokers_or_another_chart_version_restart_nobody(self):
        external = {"insecure": True, "serving.kafka.external": {"enabled": True, "host": "h"}}
        templates = [{doc["metadata"]["name"]: doc["spec"]["template"] for doc in of_kind(docs(values={**external, **more}), "StatefulSet")}
                     for more in ({}, {"serving.replicas": 5, "bookie.replicas": 7})]
        self.assertEqual(*templates)
        self.assertNotIn("helm.sh/chart", json.dumps(templates[0]))

    def test_autoscaling_and_the_chart_do_not_both_set_the_number(self):
        manifests = docs(values={"insecure": True, **TOGGLES["autoscaling"]})
        serving = next(d for d in of_kind(manifests, "StatefulSet") if d["metadata"]["name"].endswith("-serving"))
        self.assertNotIn("replicas", serving["spec"])

    def test_notes_tell_the_next_three_commands(self):
        notes = helm("install", "g", str(CHART), "--dry-run=client", "--set", "insecure=true").split("NOTES:")[1]
        self.assertEqual(len(re.findall(r"^ +(kubectl|helm) ", notes, re.M)), 3, notes)
        self.assertIn("Nothing is encrypted", notes)

    def test_notes_tell_clients_what_they_need_for_tls(self):
        args = ["install", "g", str(CHART), "--dry-run=client"]
        for key, value in {**TLS, "tls.clientAuth": "required"}.items():
            args += ["--set-json", f"{key}={json.dumps(value)}"]
        notes = helm(*args).split("NOTES:")[1]
        for part in ("get secret s ", "--tls-ca ca.crt --tls-cert tls.crt --tls-key tls.key", "security.protocol=SSL", "ssl.keystore"):
            self.assertIn(part, notes)
        self.assertNotIn("Nothing is encrypted", notes)

    def test_every_variable_is_one_that_the_code_reads(self):
        code = "".join(file.read_text() for file in (ROOT / "cli/src").rglob("*.rs"))
        values = {"insecure": True, **TLS, "tls.secrets": {"serving": "s", "bookie": "b"}, **TOGGLES["external etcd by TLS"]}
        names = set(re.findall(r"GEMINGA_[A-Z_]+", text(values=values)))
        self.assertLessEqual({"GEMINGA_TLS_CA", "GEMINGA_TLS_CLIENT_AUTH", "GEMINGA_ETCD_CA"}, names)
        for name in names:
            self.assertIn(f'env = "{name}"', code)


if __name__ == "__main__":
    unittest.main()
