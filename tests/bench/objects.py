"""The object stores of `tests/bench/run storage`, `heal` and `cold`: a directory on the disk that everything is on, a directory in memory
(a store elsewhere, of which the bookies' disks notice nothing), and an S3-compatible server on this machine.

The server is s3s-fs (`.ci/install bench`), which keeps objects in files and checks signatures; without it moto, whose objects are in
memory and which is written in Python: with that, it is the server that is measured, by both sides.
"""
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

ADDRESS = "127.0.0.1:17700"
# Short: for an upload in parts s3s-fs 0.14 makes a file whose name has both, encoded, and no name of a file is longer than 255 bytes.
BUCKET, PREFIX = "seg", "t"


class Directory:
    """file://"""

    def __init__(self, bench, name="a directory", parent=None):
        self.root = pathlib.Path(tempfile.mkdtemp(prefix="objects-", dir=parent or bench.work))
        self.name, self.url = name, f"file://{self.root}/tier"
        (self.root / "tier").mkdir()

    def flags(self):
        return [f"--object-store={self.url}"]

    def plain(self, prefix):
        """Where a plain client keeps objects of its own."""
        return ["--store", f"file://{self.root}/{prefix}"]

    def forget(self, prefix):
        shutil.rmtree(self.root / prefix, ignore_errors=True)

    def stop(self):
        shutil.rmtree(self.root)


class Server:
    """s3://"""

    def __init__(self, bench):
        os.environ.update(AWS_ACCESS_KEY_ID="bench", AWS_SECRET_ACCESS_KEY="benchbench", AWS_REGION="us-east-1")
        host, port = ADDRESS.split(":")
        self.root = bench.work / "s3"
        (self.root / BUCKET).mkdir(parents=True)
        if bench.options.s3s_fs:
            self.name, command = "s3s-fs", [bench.options.s3s_fs, "--access-key", "bench", "--secret-key", "benchbench",
                                            "--host", host, "--port", port, self.root]
        else:
            if not (bench.ROOT / ".venv/bin/moto_server").exists():
                raise SystemExit("there is no S3 server: .ci/install bench, or --s3s-fs PATH")
            self.name, command = "moto", [bench.ROOT / ".venv/bin/moto_server", "-H", host, "-p", port]
        self.process = bench.Server("s3", command)
        self.wait(bench)
        self.url = f"s3://{BUCKET}/{PREFIX}"

    def wait(self, bench):
        """Until it answers, and has the bucket."""
        for _ in range(600):
            if self.process.process.poll() is not None:
                raise SystemExit(f"the S3 server ended: see {bench.work}")
            try:
                request = urllib.request.Request(f"http://{ADDRESS}/{BUCKET}", method="PUT" if self.name == "moto" else "GET")
                urllib.request.urlopen(request, timeout=5)
                return
            except urllib.error.HTTPError:
                return  # it wants a signature
            except OSError:
                time.sleep(0.1)
        raise SystemExit("the S3 server does not answer")

    def flags(self):
        return [f"--object-store={self.url}", f"--object-store-endpoint=http://{ADDRESS}"]

    def plain(self, prefix):
        return ["--store", f"s3://{BUCKET}/{prefix}", "--endpoint", f"http://{ADDRESS}"]

    def forget(self, prefix):
        shutil.rmtree(self.root / BUCKET / prefix, ignore_errors=True)

    def stop(self):
        self.process.stop()
        shutil.rmtree(self.root)


def named(bench, name):
    if name == "memory":
        return Directory(bench, "a directory in memory", "/dev/shm")
    return {"file": Directory, "s3": Server}[name](bench)


def load(bench, *args):
    """Runs the plain client: megabytes a second."""
    done = subprocess.run([bench.load, *args], capture_output=True)
    if done.returncode != 0:
        raise SystemExit(f"{args}: {done.stderr.decode()}")
    return json.loads(done.stdout)["mb_per_second"]


def start_cluster(bench, name, bookies, brokers, count=3):
    """So many bookies and one broker: the store's flags, the broker, bookies, all processes to stop in order."""
    store, storage_bookies, storage = bench.start_storage(name, count, flags=bookies)
    broker = start_broker(bench, name, store, brokers)
    return store, broker, storage_bookies, [broker, *storage]


def start_broker(bench, name, store, flags):
    http = "127.0.0.1:17080"
    broker = bench.Server(f"{name}-broker", [bench.binary, "serving", *store, "--grpc", "127.0.0.1:17070", "--kafka",
                                             "127.0.0.1:17092", "--http", http, *flags], http)
    broker.wait_ready()
    return broker


class Ledgers:
    """The closed ledgers with records of a topic, as the metadata has them."""

    def __init__(self, bench, store, topic):
        dump = subprocess.run([bench.binary, "meta", "dump", *store, "--prefix", "ledgers/", "--output", "json"],
                              check=True, capture_output=True).stdout
        keys = [key["value"] for key in json.loads(dump)["keys"]]
        self.open = [meta for meta in keys if meta["name"] == topic and meta["state"] != "Closed"]
        self.closed = [meta for meta in keys if meta["name"] == topic and meta["state"] == "Closed" and meta["last_entry"] != -1]

    def tiers(self):
        return [meta["tier"] if isinstance(meta["tier"], str) else meta["tier"]["state"] for meta in self.closed]

    def bytes(self):
        return sum(meta["length"] for meta in self.closed)

    def all_are(self, tier):
        """Whether all are so, and nothing is left that is not closed yet."""
        return bool(self.closed) and not self.open and set(self.tiers()) == {tier}

    def sent(self):
        """Bytes of those that are uploaded."""
        tiers = zip(self.closed, self.tiers())
        return sum(meta["length"] for meta, tier in tiers if tier in ("OFFLOADED", "TRIMMED"))


def wait(what, done, seconds=600):
    """Until it is done; what it came to."""
    deadline = time.monotonic() + seconds
    while not (result := done()):
        if time.monotonic() > deadline:
            raise SystemExit(f"no {what} within {seconds} s")
        time.sleep(0.05)
    return result


def wait_ledgers(bench, store, topic, what, done):
    """Until the ledgers of a topic are so; these."""

    def look():
        ledgers = Ledgers(bench, store, topic)
        return ledgers if done(ledgers) else None

    return wait(f"{what} of {topic}: see {bench.work}:", look)


class Tails:
    """The latency of a group that keeps up, alone and beside something, as a table."""

    def __init__(self, bench, servers, what):
        self.bench, self.servers, self.rows = bench, servers, []
        options = bench.options
        print(f"\n### A group that keeps up with {options.tail_rate} records of {options.size} bytes a second for "
              f"{options.tail_seconds} s, beside {what}\n")
        print("| round | p50, p99 ms alone | beside it | of p99 | MB/s of it meanwhile | it went on to the end "
              "| servers' CPUs alone, beside |\n|" + "---|" * 7)

    def tail(self, group):
        """p50, p99, the seconds that it took, and the CPUs that servers used."""
        options = self.bench.options
        command = [self.bench.load, "tail", "live", "--server", "127.0.0.1:17070", "--rate", str(options.tail_rate), "--size",
                   str(options.size), "--seconds", str(options.tail_seconds), "--group", group]
        cpu, began = sum(server.cpu_seconds() for server in self.servers), time.monotonic()
        done = subprocess.run(command, capture_output=True)
        if done.returncode != 0:
            raise SystemExit(f"{command}: {done.stderr.decode()}")
        took = time.monotonic() - began
        report = json.loads(done.stdout)
        return report["p50_ms"], report["p99_ms"], took, (sum(server.cpu_seconds() for server in self.servers) - cpu) / took

    def add(self, number, alone, beside, moved, to_the_end):
        """One round; the first warms up."""
        if number == 0:
            return
        self.rows.append((*alone[:2], *beside[:2], beside[1] / alone[1], moved / 1e6 / beside[2], alone[3], beside[3]))
        print(f"| {number} {self.line(self.rows[-1], 'yes' if to_the_end else 'no')}", flush=True)

    def close(self):
        medians = [statistics.median(column) for column in zip(*self.rows)]
        print(f"| median {self.line(medians, '')}\n\nThe aim: 1.3.")

    @staticmethod
    def line(row, to_the_end):
        p50, p99, p50_beside, p99_beside, ratio, moved, cpu, cpu_beside = row
        return (f"| {p50:.1f}, {p99:.1f} | {p50_beside:.1f}, {p99_beside:.1f} | {ratio:.2f} | {moved:.0f} | {to_the_end} "
                f"| {cpu:.2f}, {cpu_beside:.2f} |")
