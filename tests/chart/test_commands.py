"""Every container of ours, of every example and every toggle: the binary takes its arguments, variables and files as they are rendered.
A flag that does not exist, or a value that it refuses, fails here, also where no test starts the whole release."""
import os
import pathlib
import subprocess
import tempfile
import tomllib
import unittest

import pods
from helm import EXAMPLES, docs, of_kind, pod_specs
from test_render import TOGGLES

# As certificates are files that only a start reads, these hold nothing.
FILES = {"ca.crt": "", "tls.crt": "", "tls.key": ""}
# What no toggle sets.
REST = {
    "logging": {"filter": "warn,geminga_ledger=debug", "format": "text", "slowRequests": "0"},
    "objectStore": {"url": "gs://b/p", "interval": "100ms", "localRetention": "1day", "uploadRate": "0"},
    "bookie": {"autoHeal": False, "repairRate": "1GiB", "lostBookieDelay": "1h"},
    "clusterName": "other.one", "serving.kafka.autoCreateTopics": True, "serving.kafka.defaultPartitions": 12,
}


def shapes():
    """(name, manifests) of all that is to be taken."""
    for example in EXAMPLES:
        yield example.name, docs([example])
    for name, values in {"defaults": {}, "the rest": REST, **TOGGLES}.items():
        yield name, docs(values={"insecure": True, **values})


def secrets(manifests):
    """One for each that pods want."""
    names = {source["secretRef"]["name"]: {"AWS_ACCESS_KEY_ID": "x"} for _, _, spec, _ in pod_specs(manifests)
             for container in spec["containers"] for source in container.get("envFrom", [])}
    names.update({volume["secret"]["secretName"]: FILES for _, _, spec, _ in pod_specs(manifests)
                  for volume in spec.get("volumes", []) if "secret" in volume})
    return [pods.secret(name, files) for name, files in names.items()]


def said(words, values, *more):
    return subprocess.run([*words, *more], env={"PATH": os.defpath, **values}, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=60, check=False)


class Commands(unittest.TestCase):
    def cluster(self, manifests):
        temporary = tempfile.TemporaryDirectory(prefix="geminga-commands-")
        self.addCleanup(temporary.cleanup)
        return pods.Cluster([*manifests, *secrets(manifests)], pathlib.Path(temporary.name), ["a"])

    def test_servers_take_what_they_are_told(self):
        for name, manifests in shapes():
            for component in ("serving", "bookie"):
                pod = self.cluster(manifests).component(component)[0]
                words, values = pod.command(pod.spec["containers"][0])
                with self.subTest(name, component=component):
                    done = said(words, values, "--print-config")
                    self.assertEqual(done.returncode, 0, done.stderr)
                    taken = tomllib.loads(done.stdout)
                    self.assertEqual(taken["metastore"], values["GEMINGA_METASTORE"])
                    self.assertTrue(taken["advertise"].startswith(pod.name + "."), taken["advertise"])

    def test_commands_take_what_they_are_told(self):
        """Of the hook and of `helm test`: whoever is asked for help has read what is before it."""
        for name, manifests in shapes():
            cluster = self.cluster(manifests)
            for doc in of_kind(manifests, "Pod") + of_kind(manifests, "Job"):
                pod = cluster.one_shot(doc)
                for container in [*pod.spec.get("initContainers", []), *pod.spec["containers"]]:
                    with self.subTest(name, container=container["name"]):
                        done = said(*pod.command(container), "--help")
                        self.assertEqual(done.returncode, 0, done.stderr)

    def test_what_only_the_server_can_refuse_is_told_in_one_line(self):
        store = {"objectStore": {"url": "s3://b", "env": {"AWS_REGION": "r"}}}
        for component, values, sentence in (
            ("serving", {"logging.filter": "=nonsense="}, "--log-filter"),
            ("bookie", {"logging.filter": "geminga=loud"}, "--log-filter"),
            ("bookie", {**store, "objectStore.localRetention": "99999999999999999999days"}, "--tier-local-retention"),
            ("bookie", {"bookie.lostBookieDelay": "99999999999999999999h"}, "--lost-bookie-delay"),
        ):
            pod = self.cluster(docs(values={"insecure": True, **values})).component(component)[0]
            with self.subTest(values=values):
                done = said(*pod.command(pod.spec["containers"][0]))
                self.assertEqual(done.returncode, 2, done.stderr)
                (line,) = done.stderr.splitlines()
                self.assertIn(sentence, line)


if __name__ == "__main__":
    unittest.main()
