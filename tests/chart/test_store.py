"""Starts a release beside an S3-compatible store: credentials that are missing, and those of a workload identity."""
import http.server
import json
import os
import pathlib
import ssl
import subprocess
import threading
import time
import unittest
import urllib.parse
import urllib.request

import pods
from authority import Authority
from helm import HELM, of_kind
from release import READY_SECONDS, Release

MOTO = HELM.with_name("venv") / "bin/moto_server"
ADDRESS, HOST = "127.3.0.1", "store.example.com:9000"
STS_ADDRESS, STS = "127.3.0.2", "sts.example.com:9001"
# A look of bookies for segments, an upload, and time on a busy machine.
UPLOADED_SECONDS = 90
KEYS = b"""<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>x</AccessKeyId>
<SecretAccessKey>x</SecretAccessKey><SessionToken>x</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration></Credentials>
</AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"""
# Where the webhook of EKS puts a token, by default.
TOKEN = "/var/run/secrets/eks.amazonaws.com/serviceaccount"
ROLE = "eks.amazonaws.com/role-arn"


class WithStore(Release):
    VALUES = {
        "insecure": True,
        "serving.replicas": 1,
        "serving.memoryMiB": 256,
        "etcd.replicas": 1,
        "objectStore": {"url": "s3://segments/prod", "endpoint": f"https://{HOST}", "pathStyle": True, "credentialsSecret": "store",
                        "caSecret": "authorities", "env": {"AWS_REGION": "us-east-1"}, "interval": "1s", "localRetention": "1s"},
    }

    def setUp(self):
        super().setUp()
        with open("/etc/hosts", "a", encoding="utf-8") as hosts:
            hosts.write(f"{ADDRESS} {HOST.split(':')[0]}\n")
        directory = pathlib.Path(self.directory) / "store"
        directory.mkdir()
        for name, content in self.authority.issue({"dnsNames": [HOST.split(":")[0]], "usages": ["server auth"]}).items():
            (directory / name).write_text(content)
        with (directory / "log").open("wb") as log:
            # The first part of its name is no bucket.
            self.store = subprocess.Popen([MOTO, "-H", ADDRESS, "-p", "9000", f"--ssl-cert={directory}/tls.crt", f"--ssl-key={directory}/tls.key"],
                                          stdout=log, stderr=log, env={"PATH": os.defpath, "S3_IGNORE_SUBDOMAIN_BUCKETNAME": "true"})
        self.addCleanup(self.store.wait)
        self.addCleanup(self.store.kill)
        self.until(lambda: self.asks("GET", "moto-api/"), "the store does not start")
        self.asks("PUT", "segments")

    def authorities(self):
        """The Secret with the authority of the store's certificate."""
        self.authority = Authority(self.directory + "/authority")
        return pods.secret("authorities", {"ca.crt": (self.authority.directory / "ca.crt").read_text()})

    def asks(self, method, path):
        """What the store answers, or nothing."""
        request = urllib.request.Request(f"https://{ADDRESS}:9000/{path}", method=method, headers={"Host": HOST})
        try:
            with urllib.request.urlopen(request, timeout=10, context=pods.UNCHECKED) as answer:
                return answer.read().decode() or "done"
        except OSError:
            return ""

    def until(self, holds, otherwise):
        deadline = time.monotonic() + UPLOADED_SECONDS
        while not holds():
            self.assertLess(time.monotonic(), deadline, f"{otherwise}\n{self.cluster.explain()}")
            self.cluster.keep()
            time.sleep(0.2)

    def segments_are_uploaded(self):
        broker = self.cluster.pods["g-geminga-serving-0"]
        server = "--server=g-geminga-grpc.streams.svc.cluster.local:7070"
        broker.execute(pods.BINARY, "topic", "create", "old", "--partitions=1", "--config=remote.storage.enable=true", "--config=segment.bytes=65536", server)
        broker.execute(pods.BINARY, "perf", "produce", "old", "--records=2000", "--size=200", server)
        self.until(lambda: ".seg" in self.asks("GET", "segments?list-type=2"), "nothing is uploaded")
        broker.execute(pods.BINARY, "perf", "consume", "old", "--records=2000", "--size=200", server)


class Missing(WithStore):
    def secrets(self, manifests):
        return [pods.secret("store", {"AWS_SECRET_KEY": "misspelt"}), self.authorities()]

    def test_missing_credentials_keep_nobody_from_starting_and_are_told_once(self):
        self.cluster.start(READY_SECONDS)
        for pod in [*self.cluster.component("serving"), *self.cluster.component("bookie")]:
            told = [line for line in map(json.loads, pod.log.read_text().splitlines()) if "object store" in line["message"]]
            self.assertTrue(told, pod.end_of_log())
            # Each thing once, and with what was asked for credentials: the node.
            self.assertEqual(len({line["message"] for line in told}), len(told), told)
            for line in told:
                self.assertEqual((line["level"], "169.254.169.254" in line["error"]), ("WARN", True), line)
        # A container reads a Secret that it has as variables when it starts.
        self.cluster.change_secret("store", {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"})
        for pod in [*self.cluster.component("serving"), *self.cluster.component("bookie")]:
            pod.terminate()
            pod.start()
            self.cluster.wait_ready(pod)
        self.segments_are_uploaded()

        # One that goes away later keeps nobody from being ready either: records are taken, and segments wait.
        def failed():
            return sum(pod.log.read_text().count("trying again later") for pod in self.cluster.component("bookie"))

        before = failed()
        self.store.kill()
        self.store.wait()
        broker = self.cluster.pods["g-geminga-serving-0"]
        server = "--server=g-geminga-grpc.streams.svc.cluster.local:7070"
        broker.execute(pods.BINARY, "perf", "produce", "old", "--records=2000", "--size=200", server)
        self.until(lambda: failed() > before, "nobody misses the store")
        for pod in [*self.cluster.component("serving"), *self.cluster.component("bookie")]:
            ready, said = pod.probe("readinessProbe")
            self.assertEqual((ready, said.partition("\n")[0]), (True, "ready"), pod.end_of_log())
            without = lambda: pod.probe("readinessProbe")[1].startswith("ready\nbut the object store ")
            self.until(without, f"{pod.name} does not say what it does without")


class Identity(WithStore):
    """A role for the ServiceAccounts, and what the webhook of EKS makes of it: two variables and a token for the pods of these."""

    VALUES = {
        **WithStore.VALUES,
        "serving.serviceAccountAnnotations": {ROLE: "arn:aws:iam::123456789012:role/geminga-read"},
        "bookie.serviceAccountAnnotations": {ROLE: "arn:aws:iam::123456789012:role/geminga-write"},
        "objectStore": {**WithStore.VALUES["objectStore"], "credentialsSecret": "",
                        "env": {"AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL_STS": f"https://{STS}"}},
    }

    def secrets(self, manifests):
        roles = {doc["metadata"]["name"]: doc["metadata"].get("annotations", {}).get(ROLE) for doc in of_kind(manifests, "ServiceAccount")}
        for doc in of_kind(manifests, "StatefulSet"):
            spec = doc["spec"]["template"]["spec"]
            if role := roles[spec["serviceAccountName"]]:
                container = spec["containers"][0]
                container["env"] += [{"name": "AWS_ROLE_ARN", "value": role}, {"name": "AWS_WEB_IDENTITY_TOKEN_FILE", "value": f"{TOKEN}/token"}]
                container["volumeMounts"] = container.get("volumeMounts", []) + [{"name": "aws-iam-token", "mountPath": TOKEN}]
                spec["volumes"] = spec.get("volumes", []) + [{"name": "aws-iam-token", "secret": {"secretName": "token"}}]
        return [pods.secret("token", {"token": "a.token.of-kubernetes"}), self.authorities()]

    def setUp(self):
        super().setUp()
        with open("/etc/hosts", "a", encoding="utf-8") as hosts:
            hosts.write(f"{STS_ADDRESS} {STS.split(':')[0]}\n")
        directory = pathlib.Path(self.directory) / "sts"
        directory.mkdir()
        for name, content in self.authority.issue({"dnsNames": [STS.split(":")[0]], "usages": ["server auth"]}).items():
            (directory / name).write_text(content)
        self.assumed = assumed = []

        class Sts(http.server.BaseHTTPRequestHandler):
            """The one call that a token is changed for keys by."""

            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
                asked = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query or body))
                assumed.append((asked["Action"], asked["RoleArn"], asked["WebIdentityToken"]))
                self.send_response(200)
                self.send_header("Content-Length", str(len(KEYS)))
                self.end_headers()
                self.wfile.write(KEYS)

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer((STS_ADDRESS, int(STS.split(":")[1])), Sts)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(directory / "tls.crt", directory / "tls.key")
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        self.addCleanup(server.server_close)
        self.addCleanup(thread.join)
        self.addCleanup(server.shutdown)

    def test_a_workload_identity_is_enough(self):
        self.cluster.start(READY_SECONDS)
        self.segments_are_uploaded()
        roles = {self.VALUES[f"{component}.serviceAccountAnnotations"][ROLE] for component in ("serving", "bookie")}
        self.assertEqual(set(self.assumed), {("AssumeRoleWithWebIdentity", role, "a.token.of-kubernetes") for role in roles})
        for pod in self.cluster.component("bookie"):
            self.assertNotIn("object store", "".join(line for line in pod.log.read_text().splitlines() if '"WARN"' in line))


if __name__ == "__main__":
    unittest.main()
