"""Every expression of rules and dashboards, asked of a real Prometheus that scrapes a cluster at work and a standalone server that tiers.

No expression may be an error, every metric is there or named below with the event that brings it, and a cluster that is well alarms nobody.
Like test_start, it runs in namespaces of its own (tests/chart/run)."""
import contextlib
import json
import pathlib
import re
import signal
import subprocess
import tempfile
import time
import unittest
import urllib.parse
import urllib.request

import metrics
import pods
from helm import HELM, docs

PROMETHEUS = HELM.with_name("prometheus")
PORT, LOCAL, HTTP = 9090, "127.0.0.1:7171", "127.0.0.1:7172"
VALUES = {"insecure": True, "serving.memoryMiB": 256, "etcd.replicas": 1}
BROKER = "g-geminga-grpc.streams.svc.cluster.local:7070"
READY_SECONDS = 180
# Several scrapes, so that rates have something to go by.
SCRAPE_SECONDS, WINDOW = 1, "20s"
# What a cluster that is well and has just begun does not show, and why.
LATER = {
    "geminga_bookie_broken_ledger_requests_total": "a defect of ours", "geminga_bookie_damaged_entries_total": "rot",
    "geminga_bookie_bad_extents_total": "the scrubber's first segment", "geminga_bookie_scrubbed_bytes_total": "the scrubber's first segment",
    "geminga_bookie_damaged_segments_total": "the scrubber's first segment", "geminga_bookie_refused_reads_total": "the scrubber's first segment",
    "geminga_bookie_restored_extents_total": "rot", "geminga_bookie_refused_records": "a disk that refuses",
    "geminga_bookie_index_errors_total": "a disk that fails",
    "geminga_bookie_index_loads_total": "an index above its memory", "geminga_bookie_relocated_bytes_total": "a sparse segment",
    "geminga_bookie_streams_refused_total": "garbage", "geminga_bookie_dropped_ledgers_total": "a deleted ledger, after --gc-interval",
    "geminga_bookie_log_reads_waiting": "a read of the disk", "geminga_bookie_quarantined_ledgers": "metadata that was restored",
    "geminga_bookie_gc_stopped": "the first --gc-interval",
    "geminga_ledger_members_left_out_total": "a bookie that is lost", "geminga_ledger_ensemble_changes_total": "a bookie that is lost",
    "geminga_ledger_under_marks_total": "a bookie that is lost", "geminga_ledger_recoveries_total": "a broker that is lost",
    "geminga_ledger_recovery_seconds": "a broker that is lost", "geminga_repair_copied_bytes_total": "a repair",
    "geminga_repair_places_total": "a repair", "geminga_repair_ledgers_total": "a repair", "geminga_repair_seconds": "a repair",
    "geminga_repair_lost_ledger": "a loss",
    "geminga_repair_given_up_ledgers_total": "more copies than are named", "geminga_repair_given_up_bytes_total": "more copies than are named",
    "geminga_fetch_failures_total": "a read that fails", "geminga_fetch_paced_reads_total": "a reader that is behind",
    "geminga_broker_registrations_lost_total": "an etcd that does not answer", "geminga_coordinator_failed_decisions_total": "a race",
    "geminga_probe_revocations_total": "a broker that is lost", "geminga_probe_distrusted_total": "a process that stands still",
    "geminga_cold_disk_bytes": "--cold-cache-dir", "geminga_cold_disk_failures_total": "a disk that fails",
    "geminga_cold_failures_total": "a store that fails", "geminga_cold_retries_total": "a store that fails",
    "geminga_tier_failures_total": "a store that fails", "geminga_tier_objects_missing_total": "an object that is gone",
    "geminga_cold_lost_objects_total": "an object that is gone",
    "geminga_tier_sweep_stopped": "the first sweep, an hour after the start", "geminga_tier_swept_total": "an object of nobody",
    "geminga_tier_unfinished_removed_total": "the first sweep", "geminga_tier_folded_total": "folding",
    "geminga_kafka_hangups_total": "a client that misbehaves", "geminga_kafka_connections_refused_total": "10,000 connections",
    "geminga_quota_throttled_total": "a quota", "geminga_quota_throttled_seconds_total": "a quota",
    "geminga_tls_refused_total": "TLS", "geminga_tls_reloads_total": "TLS", "geminga_tls_certificate_expires_timestamp_seconds": "TLS",
    "geminga_fetch_dropped_reads_total": "a reader that goes away", "geminga_fetch_pace_bytes_per_second": "a reader that is behind", "geminga_partition_removed_segments_total": "retention",
    "geminga_topics_removed_total": "a deleted topic",
    "ALERTS": "an alert",
}


class Prometheus:
    """A real one, that scrapes (job, namespace, address) each."""

    def __init__(self, directory, targets):
        self.log = (directory / "prometheus.log").open("wb")
        jobs = [{"job_name": job + "-" + address, "static_configs": [{"targets": [address], "labels": {"job": job, "namespace": namespace}}]}
                for job, namespace, address in targets]
        # Whoever comes later.
        self.more = directory / "more.json"
        self.more.write_text("[]")
        jobs.append({"job_name": "more", "file_sd_configs": [{"files": [str(self.more)], "refresh_interval": "1s"}]})
        config = {"global": {"scrape_interval": f"{SCRAPE_SECONDS}s", "evaluation_interval": "1s"}, "scrape_configs": jobs,
                  "rule_files": [str(metrics.RULES)]}
        (directory / "prometheus.yml").write_text(json.dumps(config))
        self.process = subprocess.Popen([PROMETHEUS, f"--config.file={directory}/prometheus.yml", f"--storage.tsdb.path={directory}/tsdb",
                                         f"--web.listen-address=127.0.0.1:{PORT}"], stdout=self.log, stderr=subprocess.STDOUT)

    def add(self, job, namespace, address):
        self.more.write_text(json.dumps([{"targets": [address], "labels": {"job": job, "namespace": namespace}}]))

    def ask(self, path, **query):
        with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/api/v1/{path}?{urllib.parse.urlencode(query)}", timeout=30) as answer:
            return json.load(answer)

    def value(self, expression):
        answer = self.ask("query", query=expression)
        if answer["status"] != "success" or answer.get("warnings"):
            raise AssertionError(f"{expression}: {answer}")
        return answer["data"]["result"]

    def wait(self, expression, timeout=90, meanwhile=lambda: None):
        """Until it has a result."""
        deadline = time.monotonic() + timeout
        while True:
            meanwhile()
            try:
                if found := self.value(expression):
                    return found
            except OSError:
                if self.process.poll() is not None:
                    raise
            if time.monotonic() > deadline:
                raise AssertionError(f"never: {expression}")
            time.sleep(0.3)

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.log.close()


def geminga(*args, server=BROKER, records=None):
    return subprocess.run([pods.BINARY, *args, f"--server={server}"], input=records, capture_output=True, text=True, timeout=120, check=True).stdout


def work(server, topic, kafka):
    """What brings most metrics: records in and out, by gRPC and Kafka, with a group."""
    lines = "".join(f"{n}\n" for n in range(500))
    geminga("produce", topic, server=server, records=lines)
    geminga("consume", topic, "--group", "readers", "--from-beginning", "--until-end", server=server)
    subprocess.run(["kcat", "-m", "30", "-b", kafka, "-P", "-t", topic], input=lines, capture_output=True, text=True, timeout=120, check=True)
    subprocess.run(["kcat", "-m", "30", "-b", kafka, "-C", "-t", topic, "-o", "beginning", "-e", "-q"], capture_output=True, timeout=120, check=True)


class Live(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        pods.loopback_up()
        temporary = tempfile.TemporaryDirectory(prefix="geminga-live-")
        cls.addClassCleanup(temporary.cleanup)
        directory = pathlib.Path(temporary.name)
        cls.cluster = pods.Cluster(docs(values=VALUES), directory, ["a"])
        cls.addClassCleanup(cls.cluster.stop)
        cls.cluster.start(READY_SECONDS)
        cls.alone = cls.standalone(directory)
        cls.addClassCleanup(lambda: cls.alone.kill())
        cls.prometheus = Prometheus(directory, [
            *((f"g-geminga-{component}", "streams", f"{pod.address}:{port}")
              for component, port in (("serving", 7080), ("bookie", 7080), ("etcd", 2381)) for pod in cls.cluster.component(component)),
            ("geminga", "alone", HTTP)])
        cls.addClassCleanup(cls.prometheus.stop)
        geminga("topic", "create", "orders", "--partitions", "4")
        geminga("topic", "create", "old", "--partitions", "1", "--config", "remote.storage.enable=true", "--config", "segment.bytes=65536",
                "--config", "local.retention.ms=1", server=LOCAL)
        geminga("topic", "create", "recent", "--partitions", "1", server=LOCAL)
        # Enough for closed segments. Afterwards nothing is in memory, so that old records come from bookies and objects.
        for topic in ("old", "recent"):
            geminga("produce", topic, server=LOCAL, records="".join(f"{n:0900}\n" for n in range(600)))
        cls.prometheus.wait('geminga_tier_trimmed_total{namespace="alone"} > 0')
        cls.alone.kill()
        cls.alone.wait()
        cls.alone = cls.standalone(directory)
        for topic in ("old", "recent"):
            geminga("consume", topic, "--from-beginning", "--until-end", server=LOCAL)
        geminga("produce", "old", server=LOCAL, records="".join(f"{n:0900}\n" for n in range(600)))
        cls.prometheus.wait('geminga_tier_trimmed_total{namespace="alone"} > 0')
        for _ in range(3):
            work(BROKER, "orders", "g-geminga-kafka.streams.svc.cluster.local:9092")
            work(LOCAL, "old", "127.0.0.1:9192")
        # Rates need two scrapes behind the last event.
        cls.prometheus.wait(f'min(count_over_time(geminga_ready[{WINDOW}])) >= {int(WINDOW[:-1]) - 4}')
        work(BROKER, "orders", "g-geminga-kafka.streams.svc.cluster.local:9092")
        cls.prometheus.wait(f'rate(geminga_produce_seconds_count{{namespace="streams"}}[{WINDOW}]) > 0')

    @classmethod
    def standalone(cls, directory):
        (directory / "objects").mkdir(exist_ok=True)
        with (directory / "standalone.log").open("ab") as log:
            process = subprocess.Popen(
                [pods.BINARY, "standalone", f"--data-dir={directory}/alone", f"--grpc={LOCAL}", f"--http={HTTP}", "--kafka=127.0.0.1:9192",
                 "--memory=256MiB", f"--object-store=file://{directory}/objects", "--tier-interval=1s", "--tier-local-retention=1s"],
                stdout=log, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + READY_SECONDS
        while True:
            try:
                urllib.request.urlopen(f"http://{HTTP}/readyz", timeout=5).close()
                return process
            except OSError:
                if time.monotonic() > deadline or process.poll() is not None:
                    process.kill()
                    raise AssertionError((directory / "standalone.log").read_text()) from None
                time.sleep(0.2)

    def scraped(self):
        return set(self.prometheus.ask("label/__name__/values")["data"])

    def test_every_metric_is_there_or_comes_later(self):
        scraped, known = self.scraped(), metrics.exported()
        for name, metric in known.items():
            with self.subTest(name):
                wanted = [name + suffix for suffix in metrics.SUFFIXES] if metric.kind == "histogram" else [name]
                if name in LATER:
                    continue
                self.assertEqual([one for one in wanted if one not in scraped], [], "never scraped")
        self.assertEqual(set(LATER) - set(known) - set(metrics.OTHERS), set(), "no such metric any more")
        ours = {name for name in scraped if name.startswith("geminga_")}
        self.assertEqual(ours - set(metrics.series(known)), set(), "the code was not read in full")

    def test_labels_are_those_of_the_code(self):
        known = metrics.series(metrics.exported())
        for found in self.prometheus.ask("series", **{"match[]": '{__name__=~"geminga_.*"}'})["data"]:
            name = found.pop("__name__")
            self.assertEqual(set(found) - metrics.TARGET, known[name], name)

    def test_every_expression_is_answered(self):
        scraped = self.scraped()
        for name, dashboard in metrics.dashboards().items():
            for panel in metrics.panels(dashboard):
                for target in panel.get("targets", []):
                    expression = metrics.filled(target["expr"], WINDOW)
                    with self.subTest(name, panel=panel["title"]):
                        found = self.prometheus.value(expression)
                        named = {one for one, _ in metrics.names(expression)}
                        later = {one for one in named if re.sub("_(bucket|sum|count)$", "", one) in LATER}
                        self.assertEqual(named - scraped - later, set(), expression)
                        # Whatever is there is shown, but for what is chosen by a value that has not been met.
                        if not later and not any(rare in expression for rare in ('!="ok"', '!="NONE"', 'outcome="failed"', "[6h]", "ALERTS")):
                            self.assertTrue(found, expression)

    def test_a_cluster_that_is_well_alarms_nobody(self):
        for rule in metrics.rules():
            with self.subTest(rule["alert"]):
                # A standalone has one bookie and one copy.
                found = [one["metric"] for one in self.prometheus.value(metrics.filled(rule["expr"])) if one["metric"].get("namespace") != "alone"]
                # A cluster that has just begun reads what it just wrote, and starts more than once while others are not there.
                if rule["labels"]["severity"] != "info" and rule["alert"] != "GemingaRestarting":
                    self.assertEqual(found, [], rule["expr"])

    def test_what_is_ready_says_so(self):
        ready = self.prometheus.value("geminga_ready")
        self.assertEqual([one["value"][1] for one in ready], ["1"] * 6)
        (partitions,) = self.prometheus.value('sum(geminga_coordinator_partitions{namespace="streams"})')
        (opened,) = self.prometheus.value('sum(geminga_partitions_open{namespace="streams"})')
        (shards,) = self.prometheus.value('sum(geminga_group_shard_served{namespace="streams"})')
        self.assertEqual(int(opened["value"][1]), 4)
        self.assertEqual(int(partitions["value"][1]), int(opened["value"][1]) + int(shards["value"][1]))

    # The last one by its name: the cluster is not well any more.

    @contextlib.contextmanager
    def bookie(self, http):
        (one, *_) = self.cluster.component("bookie")
        metastore = "--metastore=" + one.command(one.spec["containers"][0])[1]["GEMINGA_METASTORE"]
        with tempfile.TemporaryDirectory() as data:
            words = [pods.BINARY, "bookie", "--id=extra", metastore, f"--data-dir={data}", "--listen=127.0.0.1:3999", f"--http={http}"]
            running = []

            def keep():
                """It ends when etcd has not answered for a while, and is started again, as a kubelet would."""
                if not running or running[-1].poll() is not None:
                    running.append(subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))

            try:
                yield keep
            finally:
                running[-1].kill()
                running[-1].wait()

    def test_when_etcd_stands_still_it_is_told(self):
        (etcd,) = self.cluster.component("etcd")
        etcd.process.send_signal(signal.SIGSTOP)
        try:
            # One that starts now is up, and is not ready.
            with self.bookie("127.0.0.1:7999") as keep:
                self.prometheus.add("g-geminga-bookie", "streams", "127.0.0.1:7999")
                self.prometheus.wait('geminga_ready{instance="127.0.0.1:7999"} == 0', meanwhile=keep)
            self.prometheus.wait('rate(geminga_metadata_keep_alives_total{namespace="streams",job="g-geminga-serving",outcome="unanswered"}[5m]) > 0')
            self.prometheus.wait('rate(geminga_metadata_keep_alives_total{namespace="streams",job="g-geminga-bookie",outcome="unanswered"}[5m]) > 0')
            self.prometheus.wait('ALERTS{alertname="GemingaMetadataUnreachable",namespace="streams"}', timeout=240)
        finally:
            etcd.process.send_signal(signal.SIGCONT)
        self.prometheus.wait('absent(ALERTS{alertname="GemingaMetadataUnreachable",namespace="streams"})')
        self.prometheus.wait('min(geminga_ready{namespace="streams",job=~"g-geminga-(serving|bookie)"}) == 1')


if __name__ == "__main__":
    unittest.main()
