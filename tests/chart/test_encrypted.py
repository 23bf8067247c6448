"""Starts a release with TLS as processes: certificates as cert-manager would make them, which clients have to show, too. Names
that a certificate is not for, a file that is not where it is looked for, or a plain way between two pods fail here."""
import pathlib
import socket
import ssl
import subprocess
import time
import unittest
import urllib.request

import pods
from authority import Authority
from helm import docs, of_kind
from pods import BINARY, secret
from release import BOOTSTRAP, READY_SECONDS, Release, endpoints, kcat
from sealed import scraped

OUTSIDE = "g-geminga-kafka.streams.svc.cluster.local:9094"
LINES = "".join(f"{n}\n" for n in range(100))
# Two looks at the files, two seconds apart, on a busy machine.
RENEWED_SECONDS = 60
# Who listens on all addresses is found by its name. Here each listens on its own, so others are told that, and no certificate is for it.
BY_NAME = ["--metadata-only"]
# Where etcd tells probes its health, without TLS.
PLAIN = "metrics"


class Encrypted(Release):
    VALUES = {
        "tls.enabled": True,
        "tls.clientAuth": "required",
        "tls.certManager.enabled": True,
        "tls.certManager.issuerRef.name": "authority",
        "serving.memoryMiB": 256,
        "serving.kafka.external": {"enabled": True, "host": "broker-{ordinal}.example.com"},
        "serviceMonitor.enabled": True,
    }

    def secrets(self, manifests):
        self.authority = Authority(self.directory + "/authority")
        self.certificates = {doc["spec"]["secretName"]: doc["spec"] for doc in of_kind(manifests, "Certificate")}
        return [secret(name, self.authority.issue(spec)) for name, spec in self.certificates.items()]

    def client(self, secret="g-geminga-monitoring-tls"):
        """Paths of what Prometheus, or any client, has; or a component."""
        directory = pathlib.Path(self.directory) / "client" / secret
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in self.cluster.secret(secret).items():
            (directory / name).write_text(content)
        return {name: str(directory / name) for name in ("ca.crt", "tls.crt", "tls.key")}

    def context(self, certified, **which):
        files = self.client(**which)
        context = ssl.create_default_context(cafile=files["ca.crt"])
        if certified:
            context.load_cert_chain(files["tls.crt"], files["tls.key"])
        return context

    def kcat(self, *args, certified=True, input=None):
        files = self.client()
        flags = ["security.protocol=ssl", f"ssl.ca.location={files['ca.crt']}"]
        if certified:
            flags += [f"ssl.certificate.location={files['tls.crt']}", f"ssl.key.location={files['tls.key']}"]
        return kcat(*(word for flag in flags for word in ("-X", flag)), *args, input=input)

    def geminga(self, *args):
        tls = (f"--tls-{flag}={path}" for flag, path in zip(("ca", "cert", "key"), self.client().values()))
        subprocess.run([BINARY, *args, "--server=g-geminga-grpc.streams.svc.cluster.local:7070", *tls], capture_output=True, timeout=120, check=True)

    def reads_all(self):
        read = self.kcat("-b", BOOTSTRAP, "-C", "-t", "orders", "-o", "beginning", "-e", "-q")
        self.assertEqual(sorted(map(int, read.split())), list(range(100)))

    def shown(self):
        """The certificate at each port of each pod, which must be for the pod itself: as `127.0.0.1`."""
        found = {}
        for pod in self.cluster.pods.values():
            for port in pod.spec["containers"][0]["ports"]:
                if port["name"] != PLAIN:
                    with socket.create_connection((pod.address, port["containerPort"]), timeout=10) as plain:
                        with self.context(True).wrap_socket(plain, server_hostname="127.0.0.1") as encrypted:
                            found[pod.name, port["name"]] = ssl.DER_cert_to_PEM_cert(encrypted.getpeercert(True))
        return found

    def until(self, holds, otherwise):
        deadline = time.monotonic() + RENEWED_SECONDS
        while not holds():
            self.assertLess(time.monotonic(), deadline, f"{otherwise}\n{self.cluster.explain()}")
            time.sleep(0.2)

    def held(self):
        """The certificate in each pod's Secret, in the same form."""
        return {pod.name: self.cluster.secret(f"{pod.name.rsplit('-', 1)[0]}-tls")["tls.crt"] for pod in self.cluster.pods.values()}

    def metrics(self, monitor, certified):
        """What Prometheus is answered by the first pod of a ServiceMonitor: status and text."""
        (endpoint,) = monitor["spec"]["endpoints"]
        pod = next(self.cluster.of(monitor["spec"]["selector"]["matchLabels"]))
        port = next(port["containerPort"] for port in pod.spec["containers"][0]["ports"] if port["name"] == endpoint["port"])
        # A name in the certificate, at an address that is in none.
        handler = urllib.request.HTTPSHandler(context=Named(self.context(certified), endpoint["tlsConfig"]["serverName"]))
        try:
            with urllib.request.build_opener(handler).open(f"https://{pod.address}:{port}{endpoint['path']}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def member_from(self, address):
        """What etcd answers, or does not, to who comes from this address with the certificate of a member."""
        context = self.context(True, secret="g-geminga-etcd-tls")
        listener = (self.cluster.pods["g-geminga-etcd-0"].address, 2380)
        try:
            with socket.create_connection(listener, timeout=10, source_address=(address, 0)) as plain:
                with context.wrap_socket(plain, server_hostname="127.0.0.1") as encrypted:
                    encrypted.sendall(b"GET /version HTTP/1.0\r\n\r\n")
                    return encrypted.recv(100)
        except OSError:
            return b""

    def test_a_release_with_tls_lives(self):
        cluster = self.cluster
        with self.subTest("what cannot be used is told in one line, and used once it is repaired"):
            strangers = Authority(self.directory + "/strangers")
            name, good = "g-geminga-bookie-tls", cluster.secret("g-geminga-bookie-tls")
            cluster.change_secret(name, {**strangers.issue(self.certificates[name]), "ca.crt": good["ca.crt"]})
            self.ends("g-geminga-bookie-0", 2, "tls.crt is not signed by an authority in the file of --tls-ca")
            cluster.change_secret(name, good)
            name, good = "g-geminga-serving-tls", cluster.secret("g-geminga-serving-tls")
            cluster.change_secret(name, {key: value for key, value in good.items() if key != "ca.crt"})
            self.ends("g-geminga-serving-0", 2, "ca.crt cannot be read")
            cluster.change_secret(name, good)

        cluster.start(READY_SECONDS)
        for pod in cluster.pods.values():
            self.assertEqual(pod.probe("livenessProbe")[0], True, pod.name)
        for (pod, port), certificate in self.shown().items():
            self.assertEqual(certificate.strip(), self.held()[pod].strip(), f"{pod} {port}")

        with self.subTest("helm test"):
            self.helm_test()

        with self.subTest("commands in pods need no flags"):
            broker = "g-geminga-serving-0.g-geminga-serving.streams.svc.cluster.local:7070"
            self.assertIn("g-geminga-bookie-2", cluster.pods["g-geminga-serving-0"].execute(BINARY, "cluster", "status", f"--server={broker}", "--output=json"))
            etcd = "g-geminga-etcd-1.g-geminga-etcd.streams.svc.cluster.local:2379"
            members = cluster.pods["g-geminga-etcd-0"].execute("etcdctl", f"--endpoints={etcd}", "member", "list")
            self.assertEqual(members.count("https://"), 6, members)
            self.commands_need_no_flags(*BY_NAME)

        with self.subTest("etcd lets in who comes from the address of a member, as it looks up by the names in the certificate"):
            self.assertIn(b" 200 ", self.member_from(cluster.pods["g-geminga-etcd-2"].address))
            self.assertEqual(self.member_from("127.9.9.9"), b"")

        with self.subTest("Kafka clients with a certificate are served, others are not"):
            self.geminga("topic", "create", "orders", "--partitions=2")
            self.kcat("-b", BOOTSTRAP, "-P", "-t", "orders", input=LINES)
            self.assertIn("broker-1.example.com:32092", self.kcat("-b", OUTSIDE, "-L"))
            for address in (BOOTSTRAP, OUTSIDE):
                with self.assertRaises(subprocess.CalledProcessError):
                    self.kcat("-m", "3", "-b", address, "-L", certified=False)

        with self.subTest("Prometheus is answered, who has no certificate is not"):
            monitors = [doc for doc in of_kind(cluster.manifests, "ServiceMonitor") if scraped(doc)]
            serving, bookie = sorted(monitors, key=lambda doc: doc["metadata"]["name"], reverse=True)
            for monitor in (serving, bookie):
                self.assertEqual(self.metrics(monitor, certified=False)[0], 401)
                status, text = self.metrics(monitor, certified=True)
                self.assertEqual(status, 200, text)
                self.assertIn("geminga_tls_certificate_expires_timestamp_seconds", text)
            self.assertRegex(self.metrics(serving, certified=True)[1], r'geminga_tls_refused_total\{.*why="no-certificate"')

        with self.subTest("the hook reaches etcd"):
            code, output = self.decommission(3)
            self.assertEqual(code, 0, output)
            self.assertIn("no such bookie", output)
            code, output = self.decommission(2)
            self.assertNotEqual(code, 0, output)
            self.assertIn("TOO_FEW_BOOKIES", output)

        with self.subTest("renewed certificates are used without a restart"):
            running = {pod.name: pod.process.pid for pod in cluster.pods.values()}
            former, broker = self.held(), cluster.pods["g-geminga-serving-0"]
            name = "g-geminga-serving-tls"
            cluster.change_secret(name, {**strangers.issue(self.certificates[name]), "ca.crt": cluster.secret(name)["ca.crt"]})
            self.until(lambda: "the former ones stay in force" in broker.log.read_text(), "a stranger's certificate is not told of")
            self.assertEqual(self.shown()[broker.name, "grpc"].strip(), former[broker.name].strip())
            for name, spec in self.certificates.items():
                cluster.change_secret(name, self.authority.issue(spec))
            self.assertFalse(set(former.values()) & set(self.held().values()))
            self.until(lambda: all(shown.strip() == self.held()[pod].strip() for (pod, _), shown in self.shown().items()), "not renewed")
            self.helm_test()
            self.reads_all()
            self.assertEqual({pod.name: pod.process.pid for pod in cluster.pods.values() if pod.process.poll() is None}, running)

    def test_a_plain_release_becomes_one_with_tls(self):
        """As docs/kubernetes.md tells: all but etcd stops, etcd is told the new addresses of its members, and stops."""
        values = {name: value for name, value in self.VALUES.items() if not name.startswith("tls.")}
        plain = pods.Cluster(docs(values={**values, "insecure": True}), self.directory, ["a"])
        self.addCleanup(plain.stop)
        plain.start(READY_SECONDS)
        plain.pods["g-geminga-serving-0"].execute(BINARY, "topic", "create", "orders", "--partitions=2", "--server=g-geminga-grpc.streams.svc.cluster.local:7070")
        kcat("-b", BOOTSTRAP, "-P", "-t", "orders", input=LINES)
        for pod in [*plain.component("serving"), *plain.component("bookie")]:
            self.assertEqual(pod.terminate(), 0, pod.end_of_log())
        etcd = plain.component("etcd")
        members = etcd[0].execute("etcdctl", endpoints(etcd), "member", "list").splitlines()
        for member in members:
            number, _, name, peer = member.split(", ")[:4]
            etcd[0].execute("etcdctl", endpoints(etcd), "member", "update", number, "--peer-urls=" + peer.replace("http:", "https:"))
        for pod in etcd:
            pod.terminate()
        self.cluster.start(READY_SECONDS)
        self.reads_all()
        self.helm_test()


@unittest.skipUnless("--etcd-ca" in subprocess.run([BINARY, "bookie", "--help"], capture_output=True, text=True, check=False).stdout,
                     "this binary knows one authority only")
class TheirEtcd(Release):
    """An etcd that is there already, and believes who shows a certificate of another authority than that of brokers and bookies."""

    VALUES = {
        "tls.enabled": True,
        "tls.secrets": {"serving": "ours", "bookie": "ours"},
        "etcd.enabled": False,
        "externalEtcd.endpoints": ["etcd.example.com:2379"],
        "externalEtcd.tls": {"enabled": True, "secret": "theirs"},
        "serving.memoryMiB": 256,
    }

    def secrets(self, manifests):
        both = ["server auth", "client auth"]
        names = ["*.g-geminga-serving.streams.svc.cluster.local", "*.g-geminga-bookie.streams.svc.cluster.local", "g-geminga-grpc.streams.svc.cluster.local"]
        self.theirs = Authority(self.directory + "/theirs")
        return [secret("ours", Authority(self.directory + "/ours").issue({"dnsNames": names, "usages": both})),
                secret("theirs", self.theirs.issue({"dnsNames": ["geminga"], "usages": ["client auth"]}))]

    def setUp(self):
        super().setUp()
        with open("/etc/hosts", "a", encoding="utf-8") as hosts:
            hosts.write("127.2.0.1 etcd.example.com\n")
        directory = pathlib.Path(self.directory) / "etcd.example.com"
        directory.mkdir()
        for name, content in self.theirs.issue({"dnsNames": ["etcd.example.com"], "usages": ["server auth", "client auth"]}).items():
            (directory / name).write_text(content)
        url = "https://etcd.example.com:2379"
        with open(directory / "log", "wb") as log:
            etcd = subprocess.Popen(
                ["etcd", f"--data-dir={directory}/data", "--listen-client-urls=https://127.2.0.1:2379", f"--advertise-client-urls={url}",
                 "--listen-peer-urls=http://127.2.0.1:2380", f"--cert-file={directory}/tls.crt", f"--key-file={directory}/tls.key",
                 f"--trusted-ca-file={directory}/ca.crt", "--client-cert-auth"], stdout=log, stderr=log)
        self.addCleanup(etcd.wait)
        self.addCleanup(etcd.kill)

    def test_each_is_shown_the_certificate_that_it_knows(self):
        self.cluster.start(READY_SECONDS)
        self.helm_test()
        self.commands_need_no_flags(*BY_NAME)
        code, output = self.decommission(3)
        self.assertEqual(code, 0, output)
        self.assertIn("no such bookie", output)


class Named:
    """A context by which a server is taken for who has this name, whatever it is reached by."""

    def __init__(self, context, name):
        self.context, self.name = context, name

    def __getattr__(self, attribute):
        return getattr(self.context, attribute)

    def wrap_socket(self, plain, server_hostname):
        return self.context.wrap_socket(plain, server_hostname=self.name)


if __name__ == "__main__":
    unittest.main()
