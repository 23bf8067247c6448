"""Rules, dashboards and the reference of metrics: every metric is one that the code exports, with the labels it has, and none is missing."""
import filecmp
import re
import subprocess
import tempfile
import unittest

import metrics
import yaml

from helm import CHART, HELM, ROOT, docs, of_kind

PROMTOOL = HELM.with_name("promtool")
RUNBOOK = ROOT / "docs/operations.md"
REFERENCE = ROOT / "docs/metrics.md"
COMMANDS = ROOT / "docs/cli.md"
# The places where commands and alerts are named.
MONITORED = {"insecure": True, "serviceMonitor.enabled": True, "prometheusRule.enabled": True, "dashboards.enabled": True}
# Labels whose values are words of the code, versions, or numbers of shards: a new one is looked at before it comes here.
FEW = {"api", "cause", "certificate", "code", "error", "evidence", "how", "listener", "method", "of", "op", "outcome", "part", "quota", "reason",
       "shard", "source", "status", "stream", "version", "why"}
# Those that grow with what users have, and the metrics that bound their series themselves.
MANY = {"group": {"geminga_group_lag_records"}, "ledger": {"geminga_repair_lost_ledger"},
        "topic": {"geminga_group_lag_records", "geminga_repair_lost_ledger"}}
# Units of the reference, and how names of counters and gauges end that have them, as Prometheus wants base units.
UNITS = {"seconds": "_seconds", "bytes": "_bytes"}


def promtool(*args):
    done = subprocess.run([PROMTOOL, *args], capture_output=True, text=True, check=False, cwd=ROOT / "tests/chart")
    return done.returncode, done.stdout + done.stderr


def anchors(markdown):
    return {re.sub(r"[^\w -]", "", title.lower()).strip().replace(" ", "-") for title in re.findall(r"^#+ (.*)$", markdown, re.M)}


def documented():
    """Rows of the reference: name, kind, unit, labels."""
    rows = {}
    for name, kind, unit, labels in re.findall(r"^\| `(\w+)` \| (\w+) \| ([^|]*) \| ([^|]*) \|", REFERENCE.read_text(), re.M):
        if name in rows:
            raise AssertionError(f"{name} is in the reference twice")
        rows[name] = (kind, unit.strip(), frozenset(re.findall(r"`([a-z_]+)`", labels)))
    return rows


class Code(unittest.TestCase):
    def setUp(self):
        self.metrics = metrics.exported()

    def test_the_code_is_read(self):
        self.assertGreater(len(self.metrics), 100)
        self.assertEqual(self.metrics["geminga_group_bytes"], metrics.Metric("gauge", {"shard", "part"}))
        self.assertEqual(self.metrics["geminga_kafka_request_seconds"], metrics.Metric("histogram", {"api"}))

    def test_names_say_what_they_are(self):
        for name, metric in self.metrics.items():
            with self.subTest(name):
                self.assertEqual(name.endswith("_total"), metric.kind == "counter")
                if metric.kind == "histogram":
                    # The exporter has buckets for these two endings only.
                    self.assertRegex(name, "_(seconds|bytes)$")

    def test_labels_have_few_values(self):
        labels = {}
        for name, metric in self.metrics.items():
            for label in metric.labels:
                labels.setdefault(label, set()).add(name)
        self.assertEqual({label: of for label, of in labels.items() if label not in FEW}, MANY)
        self.assertEqual(FEW - set(labels), set(), "a label that no metric has any more")

    def test_every_expression_names_metrics_and_labels_that_exist(self):
        for where, expression in metrics.expressions():
            with self.subTest(where):
                self.assertTrue(list(metrics.names(expression)), expression)
                self.assertEqual(list(metrics.faults(expression, self.metrics)), [], expression)

    def test_faults_are_found(self):
        wrong = {
            "geminga_nothing": "exported by nobody", "geminga_produce_seconds": "exported by nobody",
            'geminga_ready{shard="1"}': "no label shard", "sum by (api) (geminga_ready)": "no metric of it has the label api",
            "rate(geminga_ready[5m])": "is a gauge", "up{api=~\"x\"}": "no label api",
        }
        for expression, fault in wrong.items():
            self.assertIn(fault, " ".join(metrics.faults(expression, self.metrics)), expression)

    def test_the_reference_has_every_metric_and_no_other(self):
        rows = documented()
        self.assertEqual(sorted(set(self.metrics) - set(rows)), [], "not in docs/metrics.md")
        self.assertEqual(sorted(set(rows) - set(self.metrics)), [], "in docs/metrics.md, and not in the code")
        for name, metric in self.metrics.items():
            with self.subTest(name):
                kind, unit, labels = rows[name]
                self.assertNotRegex(name, "_(ms|milliseconds|minutes|mib)(_|$)")
                self.assertEqual((kind, labels), (metric.kind, metric.labels))
                if metric.kind == "histogram":
                    self.assertEqual(name.rsplit("_", 1)[1], unit)
                    continue
                for base, ending in UNITS.items():
                    self.assertEqual(name.removesuffix("_total").endswith(ending), unit == base)


class Rules(unittest.TestCase):
    def test_prometheus_understands_them(self):
        self.assertEqual(promtool("check", "rules", metrics.RULES)[0], 0, promtool("check", "rules", metrics.RULES)[1])

    def test_they_alert_when_they_should(self):
        code, said = promtool("test", "rules", "rules_test.yaml")
        self.assertEqual(code, 0, said)

    def test_every_critical_one_is_tried(self):
        tried = (ROOT / "tests/chart/rules_test.yaml").read_text()
        critical = {rule["alert"] for rule in metrics.rules() if rule["labels"]["severity"] == "critical"}
        self.assertEqual({alert for alert in critical if alert not in tried}, set(), "not in rules_test.yaml")

    def test_each_says_what_it_means_and_leads_to_the_runbook(self):
        found = anchors(RUNBOOK.read_text())
        for rule in metrics.rules():
            with self.subTest(rule["alert"]):
                self.assertIn(rule["labels"]["severity"], ("critical", "warning", "info"))
                notes = rule["annotations"]
                self.assertRegex(notes["summary"], r"^[A-Z0-9e].*\.$")
                self.assertTrue(notes["description"])
                self.assertEqual(notes["runbook_url"], f"docs/operations.md#{rule['alert'].lower()}")
                self.assertIn(rule["alert"].lower(), found)
        names = [rule["alert"] for rule in metrics.rules()]
        self.assertEqual(len(names), len(set(names)))
        told = set(re.findall(r"^### (Geminga\w+)$", RUNBOOK.read_text(), re.M))
        self.assertEqual(told - set(names), set(), "in the runbook, and no alert")

    def test_they_are_rendered_as_written_but_for_where_the_runbook_is(self):
        (rule,) = of_kind(docs(values=MONITORED), "PrometheusRule")
        self.assertEqual(rule["spec"], yaml.safe_load(metrics.RULES.read_text()))
        (moved,) = of_kind(docs(values={**MONITORED, "prometheusRule.runbookUrl": "https://example.com/ops"}), "PrometheusRule")
        for group in moved["spec"]["groups"]:
            for rule in group["rules"]:
                self.assertEqual(rule["annotations"]["runbook_url"], f"https://example.com/ops#{rule['alert'].lower()}")

    def test_jobs_are_named_as_rules_expect(self):
        """The operator names a job like the Service."""
        manifests = docs(values=MONITORED)
        for monitor in of_kind(manifests, "ServiceMonitor"):
            chosen = monitor["spec"]["selector"]["matchLabels"].items()
            (endpoint,) = monitor["spec"]["endpoints"]
            found = [service["metadata"]["name"] for service in of_kind(manifests, "Service") if chosen <= service["metadata"]["labels"].items()
                     and endpoint["port"] in [port["name"] for port in service["spec"]["ports"]]]
            self.assertEqual(len(found), 1, monitor["metadata"]["name"])
            self.assertIn("geminga", found[0])
        self.assertEqual(len(of_kind(manifests, "ServiceMonitor")), 3)


class Dashboards(unittest.TestCase):
    def setUp(self):
        self.dashboards = metrics.dashboards()

    def test_they_are_as_the_script_writes_them(self):
        with tempfile.TemporaryDirectory() as directory:
            subprocess.run([ROOT / "deploy/dashboards/write", directory], check=True)
            names = [file.name for file in metrics.DASHBOARDS]
            self.assertEqual(filecmp.cmpfiles(directory, CHART / "files/dashboards", names, shallow=False), (names, [], []), "deploy/dashboards/write")

    def test_each_is_found_by_name_and_can_be_narrowed(self):
        self.assertEqual(sorted(self.dashboards), ["cluster", "serving", "storage"])
        for name, dashboard in self.dashboards.items():
            self.assertEqual(dashboard["uid"], f"geminga-{name}")
            self.assertEqual([choice["name"] for choice in dashboard["templating"]["list"]], ["datasource", "namespace", "instance"])
            ids = [panel["id"] for panel in metrics.panels(dashboard)]
            self.assertEqual(len(ids), len(set(ids)))
            for panel in metrics.panels(dashboard):
                with self.subTest(name, panel=panel["title"]):
                    if panel["type"] == "row":
                        continue
                    self.assertTrue(panel["description"])
                    self.assertEqual(panel["datasource"]["uid"], "${datasource}")
                    place = panel["gridPos"]
                    self.assertLessEqual(place["x"] + place["w"], 24)
                    for target in panel["targets"]:
                        self.assertNotIn("HERE", target["expr"])
                        self.assertIn("$namespace", target["expr"])

    def test_panels_do_not_cover_each_other(self):
        for name, dashboard in self.dashboards.items():
            taken = {}
            for panel in dashboard["panels"]:
                place = panel["gridPos"]
                for cell in ((x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])):
                    self.assertEqual(taken.setdefault(cell, panel["title"]), panel["title"], name)

    def test_they_begin_with_whether_it_is_well(self):
        for dashboard in self.dashboards.values():
            rows = [panel["title"] for panel in dashboard["panels"] if panel["type"] == "row"]
            self.assertEqual(rows[:4], ["Is it well", "How much", "How fast", "What is full"])

    def test_they_are_config_maps_that_the_sidecar_finds(self):
        maps = [doc for doc in of_kind(docs(values=MONITORED), "ConfigMap") if "-dashboard-" in doc["metadata"]["name"]]
        self.assertEqual({name for doc in maps for name in doc["data"]}, {file.name for file in metrics.DASHBOARDS})
        for doc in maps:
            self.assertEqual(doc["metadata"]["labels"]["grafana_dashboard"], "1")
            ((name, text),) = doc["data"].items()
            self.assertEqual(yaml.safe_load(text), self.dashboards[name.removesuffix(".json")])


class Runbook(unittest.TestCase):
    def test_its_commands_exist(self):
        helps = dict(re.findall(r"^#+ (geminga.*)\n((?:(?!#).*\n)*)", COMMANDS.read_text(), re.M))
        # Without the names of groups of commands.
        known = {name for name, text in helps.items() if "\nCommands:" not in text}
        for words, rest in re.findall(r"`?\bgeminga ((?:[a-z-]+ ?){1,2})([^`\n|]*)", "\n".join(re.findall(r"`geminga [^`]*`|^geminga .*$", RUNBOOK.read_text(), re.M))):
            name = next((f"geminga {' '.join(words.split()[:n])}" for n in (2, 1) if f"geminga {' '.join(words.split()[:n])}" in known), None)
            self.assertIsNotNone(name, f"geminga {words}{rest}: no such command")
            for flag in re.findall(r"--[a-z-]+", rest):
                self.assertIn(flag, helps[name], f"geminga {words}{rest}")

    def test_its_metrics_exist(self):
        scraped = metrics.series(metrics.exported())
        for page in (RUNBOOK, ROOT / "docs/repair.md", ROOT / "docs/tiering.md", ROOT / "docs/kafka.md"):
            for name in re.findall(r"\bgeminga_\w+", page.read_text()):
                self.assertTrue(name in scraped or f"{name}_bucket" in scraped, f"{page.name}: {name}")

    def test_its_links_lead_somewhere(self):
        for page in (RUNBOOK, REFERENCE):
            for file, anchor in re.findall(r"\]\(([^)#:]*)#?([^)]*)\)", page.read_text()):
                target = page.parent / file if file else page
                self.assertTrue(target.exists(), file)
                if anchor:
                    self.assertIn(anchor, anchors(target.read_text()), f"{page.name}: {file}#{anchor}")


if __name__ == "__main__":
    unittest.main()
