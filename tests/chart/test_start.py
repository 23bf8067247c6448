"""Starts what the templates would start, as processes, and lives a release's life: install, `helm test`, Kafka clients inside and
outside, a rolling update, a lost etcd member, a bookie that lost a volume, a scale-in by the hook and one that is refused. A flag that does not exist, a name that leads
nowhere, or an order in which nothing gets ready fails here."""
import json
import subprocess
import time
import unittest

import pods
from release import BOOTSTRAP, READY_SECONDS, Release, endpoints, kcat

# A ledger that is open when a member of it is gone is left to its owner for half a minute.
REPAIRED_SECONDS = 180
VALUES = {
    "insecure": True,
    "zones.enabled": True,
    "serving.memoryMiB": 256,
    "serving.drainTimeoutSeconds": 20,
    "serving.kafka.external": {"enabled": True, "host": "broker-{ordinal}.example.com"},
    "bookie.replicas": 6,
    "bookie.disks": 2,
    # Nothing listens there: bookies say so, and all else is as it should be, since no topic asks for it.
    "objectStore": {"url": "s3://bucket/prefix", "endpoint": "http://127.0.0.1:9", "credentialsSecret": "store", "caSecret": "authorities",
                    "env": {"AWS_REGION": "r"}, "uploadRate": "100MiB"},
}


class Start(Release):
    VALUES = VALUES
    KNOWN = ("met failures of the object store", "the object store s3://bucket/prefix does not answer")
    DOCTOR_CODE = 1

    def secrets(self, manifests):
        return [pods.secret("store", {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}), pods.secret("authorities", {"ca.crt": ""})]

    def geminga(self, *args):
        server = "--server=g-geminga-grpc.streams.svc.cluster.local:7070"
        return subprocess.run([pods.BINARY, *args, server], capture_output=True, text=True, timeout=120, check=True).stdout

    def test_a_release_lives(self):
        cluster = self.cluster
        for name in ("g-geminga-serving-0", "g-geminga-bookie-0"):
            self.waits(name, "the metadata store at ", "does not answer")
        cluster.start(READY_SECONDS)
        for pod in cluster.pods.values():
            self.assertEqual(pod.probe("livenessProbe")[0], True, pod.name)

        with self.subTest("helm test"):
            self.helm_test()

        with self.subTest("commands in pods need no flags"):
            self.commands_need_no_flags()

        with self.subTest("zones arrive"):
            status = self.geminga("cluster", "status", "--output", "json")
            for zone in ("a", "b", "c"):
                self.assertIn(f'"zone": "{zone}"', status)

        with self.subTest("Kafka clients inside are sent to brokers by name, those outside to what they can reach"):
            self.geminga("topic", "create", "orders", "--partitions", "4")
            kcat("-b", BOOTSTRAP, "-P", "-t", "orders", input="".join(f"{n}\n" for n in range(100)))
            self.reads_all()
            outside = kcat("-b", cluster.pods["g-geminga-serving-0"].address + ":9094", "-L")
            self.assertIn("broker-0.example.com:32091", outside)
            self.assertIn("broker-1.example.com:32092", outside)

        with self.subTest("an update of brokers, one after the other"):
            for pod in reversed(cluster.component("serving")):
                self.assertEqual(pod.terminate(), 0, pod.end_of_log())
                pod.start()
                cluster.wait_ready(pod)
            self.helm_test()

        with self.subTest("an update of bookies, one after the other"):
            for pod in reversed(cluster.component("bookie")):
                self.assertEqual(pod.terminate(), 0, pod.end_of_log())
                pod.start()
                cluster.wait_ready(pod)
            self.helm_test()

        with self.subTest("an etcd member that lost its volume comes back as docs/kubernetes.md tells"):
            self.etcd_member_comes_back()
            self.helm_test()

        with self.subTest("a bookie that lost a volume comes back by itself, and others restore what was there"):
            self.bookie_comes_back()
            self.helm_test()

        with self.subTest("an upgrade that takes no bookie out"):
            code, output = self.decommission(6)
            self.assertEqual(code, 0, output)

        with self.subTest("an upgrade to fewer bookies than copies is refused, and changes nothing"):
            code, output = self.decommission(2)
            self.assertNotEqual(code, 0, output)
            self.assertIn("TOO_FEW_BOOKIES", output)
            self.helm_test()

        with self.subTest("an upgrade to four bookies hands over what two others hold"):
            code, output = self.decommission(4)
            self.assertEqual(code, 0, f"{output}\n{cluster.explain()}")
            self.reads_all()
            # They have stopped by themselves. Kubernetes starts them again until the upgrade takes them away: they must stay out.
            for ordinal in (4, 5):
                gone = cluster.pods[f"g-geminga-bookie-{ordinal}"]
                self.assertIsNotNone(gone.process.wait(timeout=60))
                gone.start()
                self.assertNotEqual(gone.process.wait(timeout=60), 0, gone.end_of_log())
                self.assertIn("DATA_DIR_REFUSED", gone.end_of_log())
                self.assertNotIn(gone.name, self.geminga("cluster", "status", "--output", "json"))
            cluster.apply(self.upgraded(**{"bookie.replicas": 4}))
            cluster.scale_in("bookie")
            self.helm_test()

    def reads_all(self):
        read = kcat("-b", BOOTSTRAP, "-C", "-t", "orders", "-o", "beginning", "-e", "-q")
        self.assertEqual(sorted(map(int, read.split())), list(range(100)))

    def etcd_member_comes_back(self):
        first, lost, last = self.cluster.component("etcd")
        lost.lose("data")

        def etcdctl(*words, at=(first, last)):
            # Was the lost one the leader, another is elected first.
            return first.execute("etcdctl", endpoints(at), "--command-timeout=60s", *words)

        # A read is tried again until there is one; what changes members is not.
        etcdctl("get", "any")
        (member,) = (line.split(", ") for line in etcdctl("member", "list").splitlines() if f", {lost.name}, " in line)
        etcdctl("member", "remove", member[0])
        etcdctl("member", "add", lost.name, f"--peer-urls={member[3]}")
        self.cluster.apply(self.upgraded(**{"etcd.initialClusterState": "existing"}))
        lost.start()
        self.cluster.wait_ready(lost)
        self.assertEqual(etcdctl("member", "list").count("started"), 3)
        # What it answers by itself, asking no other member.
        self.assertIn("/geminga/default/cluster", etcdctl("get", "/geminga/", "--prefix", "--keys-only", "--consistency=s", at=[lost]).split())
        # A member with data asks for nothing of that: the value may go back, and it starts.
        self.cluster.apply(self.upgraded())
        lost.terminate()
        lost.start()
        self.cluster.wait_ready(lost)

    def bookie_comes_back(self):
        broker = self.cluster.component("serving")[0]

        def listed(*words):
            return json.loads(broker.execute(pods.BINARY, *words, "--output=json"))

        def holders():
            """The disks that are to have the records, each by its bookie and its life. Brokers were restarted since, so their ledgers are closed."""
            return {(member["bookie_id"], member["incarnation"]) for ledger in listed("ledger", "list", "--topic=orders", "--state=closed")
                    if ledger["payload_bytes"] for fragment in ledger["fragments"] for member in fragment["members"]}

        def disks():
            """The lives of each bookie's disks, in their order."""
            return {bookie["bookie_id"]: bookie["incarnations"] for bookie in listed("bookie", "list")}

        name, life = min(holders())
        disk = disks()[name].index(life)
        pod = self.cluster.pods[name]
        pod.lose(f"disk-{disk}")
        pod.start()
        self.cluster.wait_ready(pod)
        self.assertNotIn(life, disks()[name])

        def whole():
            status = json.loads(self.geminga("cluster", "status", "--output=json"))
            bookies = status["bookies"]
            return (name, life) not in holders() and status["repair"]["ledgers"] == 0 and all(bookie["live"] and bookie["writable"] for bookie in bookies)

        deadline = time.monotonic() + REPAIRED_SECONDS
        while not whole():
            self.assertLess(time.monotonic(), deadline, self.geminga("cluster", "status") + self.cluster.explain())
            time.sleep(0.5)
        self.reads_all()


if __name__ == "__main__":
    unittest.main()
