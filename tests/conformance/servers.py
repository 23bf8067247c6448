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
# As suites expect it of a Kafka that is set up for tests.
KAFKA = ["--auto-create-topics=true", "--default-partitions", "4"]


def binary():
    for profile in ("release", "debug"):
        found = ROOT / "target" / profile / "geminga"
        if "GEMINGA_BIN" not in os.environ and found.exists():
            return found
    return Path(os.environ.get("GEMINGA_BIN") or sys.exit("no binary: cargo build, or set GEMINGA_BIN"))


def port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Servers:
    def __init__(self, cluster):
        self.dir = Path(tempfile.mkdtemp(prefix="geminga-conformance-"))
        self.processes, self.https = [], []
        if cluster:
            self._cluster()
        else:
            kafka = port()
            self.bootstrap = f"127.0.0.1:{kafka}"
            self._start("standalone", ["standalone", "--data-dir", self.dir / "data", "--grpc", f"127.0.0.1:{port()}",
                                       "--kafka", self.bootstrap, *KAFKA])

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
            self._start(f"broker-{n}", ["serving", *metastore, "--grpc", f"127.0.0.1:{port()}", "--kafka", brokers[-1], *KAFKA])
        self.bootstrap = brokers[0]

    def _spawn(self, name, command):
        log = open(self.dir / f"{name}.log", "w")
        process = subprocess.Popen([str(part) for part in command], stdout=log, stderr=subprocess.STDOUT)
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

    def stop(self):
        for _, process in reversed(self.processes):
            process.kill()
            process.wait()
        if "GEMINGA_KEEP" not in os.environ:
            shutil.rmtree(self.dir, ignore_errors=True)


def wait(is_there, what):
    deadline = time.monotonic() + 30
    while True:
        try:
            if is_there():
                return
        except OSError:
            pass
        if time.monotonic() > deadline:
            sys.exit(f"{what} did not get ready in time")
        time.sleep(0.05)
