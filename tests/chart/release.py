"""A release that is started as processes, and what is done with one."""
import subprocess
import tempfile
import time
import unittest

import pods
from helm import docs, of_kind

READY_SECONDS = 180
# Two passes of the auditor, --repair-grace apart, and time on a busy machine.
DECOMMISSION_SECONDS = 400
BOOTSTRAP = "g-geminga-kafka.streams.svc.cluster.local:9092"


def kcat(*args, input=None):
    return subprocess.run(["kcat", "-m", "30", *args], input=input, capture_output=True, text=True, timeout=120, check=True).stdout


def endpoints(etcd):
    """Where `etcdctl`, which looks for etcd at 127.0.0.1 in a pod, finds these here."""
    return "--endpoints=" + ",".join(f"{pod.address}:2379" for pod in etcd)


class Release(unittest.TestCase):
    """Its pods, none of which is started yet."""

    VALUES = {}
    # What the doctor may find, in its words.
    KNOWN = ()
    # Its exit code: 1 where some of that is wrong.
    DOCTOR_CODE = 0

    def setUp(self):
        pods.loopback_up()
        temporary = tempfile.TemporaryDirectory(prefix="geminga-chart-")
        self.addCleanup(temporary.cleanup)
        self.directory = temporary.name
        manifests = docs(values=self.VALUES)
        self.cluster = pods.Cluster([*manifests, *self.secrets(manifests)], temporary.name, ["a", "b", "c"])
        self.addCleanup(self.cluster.stop)

    def secrets(self, manifests):
        """What the operator, or another controller, puts beside the manifests."""
        raise NotImplementedError

    def helm_test(self):
        (test,) = of_kind(self.cluster.manifests, "Pod")
        results = self.cluster.one_shot(test).run_to_end()
        self.assertEqual([code for code, _ in results], [0, 0, 0, 0], f"{results}\n{self.cluster.explain()}")

    def decommission(self, replicas):
        """What the hook of an upgrade to so many bookies does: exit code and output."""
        manifests = self.upgraded(**{"bookie.replicas": max(replicas, 3)})
        (job,) = of_kind(manifests, "Job")
        container = job["spec"]["template"]["spec"]["containers"][0]
        container["args"] = [arg.replace("--ordinal-from=3", f"--ordinal-from={replicas}") for arg in container["args"]]
        ((code, output),) = self.cluster.one_shot(job).run_to_end(DECOMMISSION_SECONDS)
        return code, output

    def upgraded(self, **more):
        """Manifests of an upgrade that sets these, too."""
        return docs(values={**self.VALUES, **more}, upgrade=True)

    def commands_need_no_flags(self, *doctor):
        """Those by which operators look at a release, in the pods of brokers and bookies."""
        for pod in (self.cluster.component("serving")[0], self.cluster.component("bookie")[0]):
            self.assertIn("g-geminga-bookie-2", pod.execute(pods.BINARY, "bookie", "list"))
            # A test is not about how full the developer's disk is.
            said = pod.execute(pods.BINARY, "cluster", "doctor", "--low-disk=0", *doctor, code=self.DOCTOR_CODE)
            found = [line for line in said.splitlines() if line.startswith(("WRONG", "watch"))]
            self.assertEqual([line for line in found if not any(words in line for words in self.KNOWN)], [], said)
            self.assertTrue(found or "nothing is wrong" in said, said)
            pod.execute(pods.BINARY, "meta", "backup", f"--to={self.directory}/backup")

    def ends(self, name, code, *sentences):
        """A pod ends by itself, with this exit code, and says why in one line."""
        pod = self.cluster.pods[name]
        pod.log.unlink(missing_ok=True)
        pod.start()
        self.assertEqual(pod.process.wait(timeout=60), code, pod.end_of_log())
        for sentence in sentences:
            self.assertIn(sentence, pod.end_of_log())
        self.assertEqual(len(pod.log.read_text().splitlines()), 1, pod.end_of_log())
        pod.process = None

    def waits(self, name, probe, log):
        """A pod stays up and is not ready: its probe says that and why, its log in one line. It is stopped again."""
        pod = self.cluster.pods[name]
        pod.log.unlink(missing_ok=True)
        pod.start()
        deadline = time.monotonic() + 60
        while probe not in (said := pod.probe("readinessProbe"))[1]:
            self.assertIsNone(pod.process.poll(), pod.end_of_log())
            self.assertLess(time.monotonic(), deadline, f"{said}\n{pod.end_of_log()}")
            time.sleep(0.2)
        self.assertFalse(said[0], said)
        self.assertEqual(pod.probe("livenessProbe")[0], True, pod.end_of_log())
        self.assertEqual(sum(log in line for line in pod.log.read_text().splitlines()), 1, pod.end_of_log())
        pod.process.kill()
        pod.process.wait()
        pod.process = None
