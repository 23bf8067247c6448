"""The servers that the suites run against: a standalone, or etcd with three bookies and two brokers."""
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def binary():
    if "GEMINGA_BIN" in os.environ:
        return Path(os.environ["GEMINGA_BIN"])
    for profile in ("release", "debug"):
        found = ROOT / "target" / profile / "geminga"
        if found.exists():
            return found
    sys.exit("no binary: cargo build, or set GEMINGA_BIN")


def port(given=set()):
    """One that is free, and that was not said before."""
    while True:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            found = s.getsockname()[1]
        if found not in given:
            given.add(found)
            return found


# A suite is not about how full the developer's disk is.
ENVIRONMENT = os.environ | {"GEMINGA_DISK_WARN": "97", "GEMINGA_DISK_READ_ONLY": "98", "GEMINGA_DISK_HARD": "99"}


class Servers:
    def __init__(self, cluster, auto_create=True, partitions=4):
        # As suites expect it of a Kafka that is set up for tests.
        self.settings = [f"--auto-create-topics={str(auto_create).lower()}", "--default-partitions", partitions]
        self.cluster = cluster
        self.dir = Path(tempfile.mkdtemp(prefix="geminga-conformance-"))
        self.processes, self.https = [], []
        if cluster:
            self._cluster()
        else:
            self.bootstrap, self.grpc = f"127.0.0.1:{port()}", f"127.0.0.1:{port()}"
            self._start("standalone", ["standalone", "--data-dir", self.dir / "data", "--grpc", self.grpc,
                                       "--kafka", self.bootstrap, *self.settings])

    def _cluster(self):
        client, peer = port(), port()
        etcd = f"http://127.0.0.1:{client}"
        command = ["etcd", "--data-dir", self.dir / "etcd", "--listen-client-urls", etcd, "--advertise-client-urls", etcd,
                   "--listen-peer-urls", f"http://127.0.0.1:{peer}"]
        self._spawn("etcd", command)
        metastore = ["--metastore", f"etcd://127.0.0.1:{client}"]
        wait(lambda: socket.create_connection(("127.0.0.1", client), 1).close() or True, "etcd")
        subprocess.run([binary(), "cluster", "init", *metastore], check=True, stdout=subprocess.DEVNULL)
        for n in range(3):
            self._start(f"bookie-{n}", ["bookie", *metastore, "--data-dir", self.dir / f"bookie-{n}",
                                        "--listen", f"127.0.0.1:{port()}", "--id", f"bookie-{n}"])
        brokers = []
        for n in range(2):
            brokers.append(f"127.0.0.1:{port()}")
            self._start(f"broker-{n}", ["serving", *metastore, "--grpc", f"127.0.0.1:{port()}", "--kafka", brokers[-1], *self.settings])
        self.bootstrap = brokers[0]

    def _spawn(self, name, command):
        log = open(self.dir / f"{name}.log", "w")
        process = subprocess.Popen([str(part) for part in command], env=ENVIRONMENT, stdout=log, stderr=subprocess.STDOUT)
        self.processes.append((name, process))
        return process

    def _start(self, name, args):
        http = f"127.0.0.1:{port()}"
        process = self._spawn(name, [binary(), *args, "--http", http])
        self.https.append(http)

        def ready():
            if process.poll() is not None:
                sys.exit(f"{name} ended:\n" + (self.dir / f"{name}.log").read_text()[-2000:])
            return urllib.request.urlopen(f"http://{http}/readyz", timeout=1).status == 200

        wait(ready, name)

    def connections(self):
        """How many Kafka connections there have been."""
        return int(self.metric("geminga_kafka_connections_total"))

    def metric(self, name):
        """The sum of a metric over all servers."""
        total = 0
        for http in self.https:
            text = urllib.request.urlopen(f"http://{http}/metrics", timeout=5).read().decode()
            total += sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines()
                         if line.split("{")[0].split(" ")[0] == name)
        return total

    def check(self):
        """All still run, and none met a defect of its own."""
        for name, process in self.processes:
            if process.poll() is not None:
                sys.exit(f"{name} ended:\n" + (self.dir / f"{name}.log").read_text()[-2000:])
            text = (self.dir / f"{name}.log").read_text(errors="replace")
            for defect in ("panicked", "cannot be said in the version"):
                if defect in text:
                    line = next(line for line in text.splitlines() if defect in line)
                    sys.exit(f"{name}: {line}")

    def show(self):
        """The end of every log, for whoever asks why."""
        for name, _ in self.processes:
            print(f"-- {name}\n" + (self.dir / f"{name}.log").read_text(errors="replace")[-2000:], flush=True)

    def stop(self):
        for _, process in reversed(self.processes):
            process.kill()
            process.wait()
        if "GEMINGA_KEEP" not in os.environ:
            shutil.rmtree(self.dir, ignore_errors=True)


def wait(is_there, what):
    deadline = time.monotonic() + 120
    while True:
        try:
            if is_there():
                return
        except OSError:
            pass
        if time.monotonic() > deadline:
            sys.exit(f"{what} did not get ready in time")
        time.sleep(0.05)
