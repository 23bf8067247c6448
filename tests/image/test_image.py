"""What the image is, and that its files are enough: it runs read-only and not as root, resolves a name of a hosts file and one of
a name server, and keeps segments in an https store that a test's own authority vouches for."""
import fcntl
import json
import os
import pathlib
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.error
import urllib.request

from image import Container, Image
from names import NameServer

MOST_BYTES = 40_000_000
STORE, NAME_SERVER = "127.0.0.9", "127.0.0.53"
NAME = "store.streams.svc.cluster.local"
SERVER = ["--data-dir=/data", "--grpc=127.0.0.1:7070", "--http=127.0.0.1:7080", "--kafka=none", "--object-store=s3://bucket/prefix",
          "--object-store-endpoint=https://store:8443", "--tier-interval=1s"]
KEYS = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_REGION": "us-east-1"}
# As the chart gives them with objectStore.caSecret.
AUTHORITIES = {"SSL_CERT_FILE": "/etc/ssl/certs/ca-certificates.crt", "SSL_CERT_DIR": "/authorities"}
WAIT_SECONDS = 120


def openssl(*args):
    subprocess.run(["openssl", *map(str, args)], check=True, capture_output=True)


def certificates(directory):
    """An authority, and a certificate of the store that it signed."""
    ca, key, request, signed, names = (directory / n for n in ("ca.pem", "key.pem", "request.pem", "store.pem", "names"))
    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", directory / "ca-key.pem", "-out", ca, "-days", 2, "-subj", "/CN=test authority")
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", request, "-subj", "/CN=store")
    names.write_text("subjectAltName=DNS:store,DNS:bucket.store\nbasicConstraints=CA:FALSE\n")
    openssl("x509", "-req", "-in", request, "-CA", ca, "-CAkey", directory / "ca-key.pem", "-CAcreateserial", "-days", 2, "-extfile", names, "-out", signed)
    return ca, key, signed


def wait(what, check):
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            result = check()
        except OSError:
            result = None
        if result:
            return result
        if time.monotonic() > deadline:
            raise AssertionError(f"waited in vain: {what}")
        time.sleep(0.1)


def get(url, context=None):
    with urllib.request.urlopen(url, timeout=5, context=context) as answer:
        return answer.read().decode()


class ImageTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            # SIOCSIFFLAGS, IFF_UP | IFF_RUNNING: a new network namespace has its loopback down.
            fcntl.ioctl(any_socket, 0x8914, struct.pack("16sH14s", b"lo", 0x1 | 0x40, b""))
        cls.image = Image(os.environ["GEMINGA_IMAGE"])

    def setUp(self):
        temporary = tempfile.TemporaryDirectory(prefix="geminga-image-")
        self.addCleanup(temporary.cleanup)
        self.directory = pathlib.Path(temporary.name)
        self.directory.chmod(0o755)

    def container(self, **kwargs):
        directory = pathlib.Path(tempfile.mkdtemp(dir=self.directory))
        directory.chmod(0o755)
        container = Container(self.image, directory, **kwargs)
        self.addCleanup(container.close)
        return container

    def test_it_is_small_and_holds_what_it_should(self):
        self.assertLess(len(self.image.layer), MOST_BYTES)
        files = {member.name for member in self.image.members() if member.isfile()}
        self.assertEqual(files, {"usr/bin/geminga", "etc/ssl/certs/ca-certificates.crt", "usr/share/geminga/LICENSE", "usr/share/geminga/sbom.cdx.json"})
        for member in self.image.members():
            owner = 65532 if member.name == "data" else 0
            self.assertEqual((member.uid, member.mode & 0o7022), (owner, 0), member.name)

    def test_it_says_what_it_is_and_runs_as_nobody(self):
        config = self.image.config["config"]
        self.assertEqual(config["User"], "65532:65532")
        self.assertEqual(config["Entrypoint"], ["/usr/bin/geminga"])
        labels = {label.removeprefix("org.opencontainers.image.") for label in config["Labels"]}
        self.assertEqual(labels, {"title", "description", "licenses", "version", "revision", "created"})
        (docker,) = self.image.docker
        self.assertEqual(docker["RepoTags"], ["geminga:" + config["Labels"]["org.opencontainers.image.version"]])
        dockerfile = (pathlib.Path(__file__).parents[2] / "deploy/image/Dockerfile").read_text()
        for line in (f"USER {config['User']}", f"ENV {config['Env'][0]}", f"ENTRYPOINT {json.dumps(config['Entrypoint'])}",
                     "EXPOSE " + " ".join(sorted(config["ExposedPorts"]))):
            self.assertIn(line, dockerfile)

    def test_the_list_of_contents_names_what_is_linked(self):
        container = self.container()
        bom = json.loads((container.root / "usr/share/geminga/sbom.cdx.json").read_text())
        names = {entry["name"] for entry in bom["components"]}
        self.assertEqual(bom["bomFormat"], "CycloneDX")
        self.assertLessEqual({"tokio", "rustls", "tonic", "object_store"}, names)
        self.assertTrue(all("licenses" in entry for entry in bom["components"]))
        self.assertEqual(names & {"proptest", "tempfile", "stateright"}, set(), "only tests have these")

    def test_the_binary_needs_no_library(self):
        container = self.container()
        code, output = container.run("--version")
        self.assertEqual((code, output.split()[0]), (0, "geminga"))

    def test_the_root_file_system_cannot_be_written(self):
        code, output = self.container().run("standalone", "--data-dir=/elsewhere", "--kafka=none")
        self.assertNotEqual(code, 0)
        self.assertIn("/elsewhere", output)

    def store(self):
        """An S3 server that speaks https, with a bucket: the context that trusts it."""
        ca, key, signed = certificates(self.directory)
        server = subprocess.Popen([pathlib.Path(sys.executable).parent / "moto_server", "-H", STORE, "-p", "8443", "-s", "-c", signed, "-k", key],
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.addCleanup(server.wait)
        self.addCleanup(server.kill)
        context = ssl.create_default_context(cafile=ca)
        context.check_hostname = False
        bucket = urllib.request.Request(f"https://{STORE}:8443/bucket", method="PUT")
        wait("the S3 server", lambda: urllib.request.urlopen(bucket, timeout=5, context=context).status == 200)
        return ca.read_text(), context

    def keeps_segments(self, ca, context, **names):
        container = self.container(files={"authorities/ca.crt": ca}, **names)
        log = (container.root.parent / "log").open("w+")
        self.addCleanup(log.close)
        server = container.start("standalone", *SERVER, env={**KEYS, **AUTHORITIES}, stdout=log, stderr=log)
        self.addCleanup(server.wait)
        self.addCleanup(server.kill)
        wait("ready", lambda: get("http://127.0.0.1:7080/readyz"))
        topic = ["t", "--partitions=1", "--config=remote.storage.enable=true", "--config=segment.bytes=65536"]
        self.assertEqual(container.run("topic", "create", *topic)[0], 0)
        # A segment that is full is closed by the write after it.
        for command in ("produce", "produce", "consume"):
            code, output = container.run("perf", command, "t", "--records=3000", "--size=100")
            self.assertEqual(code, 0, output)
        wait("an object in the store", lambda: "<Key>" in get(f"https://{STORE}:8443/bucket?list-type=2", context))
        server.terminate()
        self.assertEqual(server.wait(timeout=60), 0)

    def test_a_name_of_the_hosts_file_leads_to_an_https_store(self):
        ca, context = self.store()
        self.keeps_segments(ca, context, hosts=f"127.0.0.1 localhost\n{STORE} store\n")

    def test_a_name_of_the_name_server_leads_to_an_https_store(self):
        ca, context = self.store()
        resolver = f"nameserver {NAME_SERVER}\nsearch streams.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n"
        with NameServer(NAME_SERVER, NAME, STORE) as server:
            self.keeps_segments(ca, context, hosts="127.0.0.1 localhost\n", resolver=resolver)
        self.assertIn(NAME, server.asked)

    def test_public_authorities_are_inside_and_others_are_not_trusted(self):
        bundle = (self.container().root / "etc/ssl/certs/ca-certificates.crt").read_text()
        self.assertGreater(bundle.count("BEGIN CERTIFICATE"), 100)
        self.store()
        container = self.container(hosts=f"127.0.0.1 localhost\n{STORE} store\n")
        log = (container.root.parent / "log").open("w+")
        self.addCleanup(log.close)
        server = container.start("standalone", *SERVER, env=KEYS, stdout=log, stderr=log)
        self.addCleanup(server.wait)
        self.addCleanup(server.kill)
        wait("ready", lambda: get("http://127.0.0.1:7080/readyz"))
        topic = ["t", "--partitions=1", "--config=remote.storage.enable=true", "--config=segment.bytes=65536"]
        self.assertEqual(container.run("topic", "create", *topic)[0], 0)
        for _ in range(2):
            self.assertEqual(container.run("perf", "produce", "t", "--records=3000", "--size=100")[0], 0)
        # The sentence of rustls for an authority that it has not got; without any roots it would say something else.
        wait("a refusal", lambda: "UnknownIssuer" in (container.root.parent / "log").read_text())


if __name__ == "__main__":
    unittest.main()
