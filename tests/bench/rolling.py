"""What clients notice while every server is restarted, one after the other: `tests/bench/run rolling`.

Three bookies, three brokers, one etcd, as processes. Two loads at a steady rate, each a producer and a group of two members: one by
gRPC (`bench-load phases`), one by librdkafka (`rolling_kafka.py`), both idempotent. After a time alone each bookie and then each
broker is told to stop (SIGTERM) and started again, the next when this one is ready, every server is registered and nothing is short
of a copy, as the operations page has it for an upgrade, and after a pause. With `--rolling-order chart` bookies and brokers are restarted beside each
other, each the next of its kind as soon as this one is ready, as an upgrade of the chart does it. Clients must see no error, and what was produced must
be consumed.

Needs `cargo build --release --bin geminga --bin bench-load`, and `.ci/install test` for librdkafka. Exits with 1 when a client saw an
error, or a record is missing, repeated or not where its acknowledgement said.
"""
import atexit
import json
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

PARTITIONS = 12
MEMBERS = 2
SIZE = 1024
BOOKIES, BROKERS = 3, 3
# Before loads are measured: partitions open, groups form.
WARM_UP = 5
PATIENCE = 120
GRPC, KAFKA, HTTP = 17070, 17092, 17080


class Load:
    """A client that is told of phases, and reports."""

    def __init__(self, bench, name, command):
        self.name = name
        # To a file: nobody reads a pipe meanwhile.
        self.complaints = open(bench.work / f"load-{name}.err", "w+b")
        self.process = subprocess.Popen([str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=self.complaints)
        atexit.register(self.process.kill)

    def say(self, word):
        self.process.stdin.write(f"{word}\n".encode())
        self.process.stdin.flush()

    def report(self):
        """After its end: what was acknowledged has to arrive."""
        output, _ = self.process.communicate(timeout=4 * PATIENCE)
        if self.process.returncode:
            self.complaints.seek(0)
            raise SystemExit(f"the {self.name} load failed: {self.complaints.read().decode()}")
        return json.loads(output)


class Cluster:
    """The servers, each to be started again as it was."""

    def __init__(self, bench):
        self.bench = bench
        self.store, bookies, storage = bench.start_storage("rolling", BOOKIES)
        self.etcd = storage[-1]
        self.servers = {f"bookie {n}": bookie for n, bookie in enumerate(bookies)}
        for number in range(BROKERS):
            http = f"127.0.0.1:{HTTP + number}"
            listen = ["--grpc", f"127.0.0.1:{GRPC + number}", "--kafka", f"127.0.0.1:{KAFKA + number}", "--http", http]
            broker = bench.Server(f"rolling-broker-{number}", [bench.binary, "serving", *self.store, *listen], http)
            broker.wait_ready()
            self.servers[f"broker {number}"] = broker
        self.wait("brokers to share", lambda status: all(broker["partitions"] for broker in status["brokers"]))

    def status(self):
        # Whichever is there.
        servers = ",".join(f"127.0.0.1:{GRPC + number}" for number in range(BROKERS))
        return json.loads(self.bench.geminga("cluster", "status", "--output", "json", server=servers))

    def is_whole(self, status):
        live = sum(bookie["live"] for bookie in status["bookies"])
        repair = status["repair"]
        short = repair is None or repair["ledgers"] or repair["lost"]
        return live == BOOKIES and len(status["brokers"]) == BROKERS and not short

    def wait(self, what, is_so):
        end = time.monotonic() + PATIENCE
        while True:
            try:
                if is_so(self.status()):
                    return
            except subprocess.CalledProcessError:
                pass
            if time.monotonic() > end:
                raise SystemExit(f"{what}: not in {PATIENCE} s, see {self.bench.work}")
            time.sleep(0.1)

    def restart(self, name, waits=True):
        """Seconds that it took to stop, to get ready, and until all was well, if that is waited for."""
        old = self.servers[name]
        began = time.monotonic()
        old.stop()
        stopped = time.monotonic()
        if old.process.returncode:
            raise SystemExit(f"{name} ended with {old.process.returncode}: see {self.bench.work}")
        new = self.bench.Server(old.name, old.process.args, old.http)
        self.servers[name] = new
        new.wait_ready()
        ready = time.monotonic()
        if waits:
            self.wait("all servers, and copies", self.is_whole)
        return stopped - began, ready - stopped, time.monotonic() - ready

    def stop(self):
        for server in [*reversed(self.servers.values()), self.etcd]:
            server.stop()


def loads(bench):
    grpc = ",".join(f"127.0.0.1:{GRPC + number}" for number in range(BROKERS))
    kafka = ",".join(f"127.0.0.1:{KAFKA + number}" for number in range(BROKERS))
    rate = bench.options.rolling_rate
    python, script = bench.ROOT / ".venv/bin/python", bench.ROOT / "tests/bench/rolling_kafka.py"
    return [
        Load(bench, "gRPC", [bench.load, "phases", "grpc", "--server", grpc, "--rate", rate, "--size", SIZE, "--group", "grpc",
                             "--members", MEMBERS]),
        Load(bench, "Kafka", [python, script, kafka, "kafka", rate, SIZE, "kafka", MEMBERS]),
    ]


def phase(clients, name):
    for client in clients:
        client.say(name)


def one_by_one(bench, cluster, clients):
    kind = None
    for name in list(cluster.servers):
        if kind != (kind := name.split()[0]):
            phase(clients, f"{kind}s restart")
        tell(name, cluster.restart(name))
        time.sleep(bench.options.rolling_pause)


def as_the_chart_does(bench, cluster, clients):
    """Two StatefulSets, each from its last member down to the first."""
    phase(clients, "both restart")

    def all_of(kind):
        for name in [name for name in reversed(cluster.servers) if name.startswith(kind)]:
            tell(name, cluster.restart(name, waits=False))
            time.sleep(bench.options.rolling_pause)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(all_of, ("bookie", "broker")))
    cluster.wait("all servers, and copies", cluster.is_whole)


def tell(name, seconds):
    print(f"| {name} | {' | '.join(f'{one:.1f}' for one in seconds)} |", flush=True)


def milliseconds(latency):
    return f"{latency['p50']:.1f} | {latency['p99']:.1f} | {latency['max']:.0f}"


def run(bench):
    cluster = Cluster(bench)
    for topic in ("grpc", "kafka"):
        bench.geminga("topic", "create", topic, "--partitions", str(PARTITIONS))
    clients = loads(bench)

    phase(clients, "warm-up")
    time.sleep(WARM_UP)
    phase(clients, "alone")
    time.sleep(bench.options.rolling_seconds)
    print(f"\n## Rolling restart: {bench.options.rolling_rate} records of {SIZE} bytes a second by gRPC, and as many by Kafka\n")
    print("| restarted | to its end s | to ready s | until all is whole s |\n|---|---|---|---|")
    order = as_the_chart_does if bench.options.rolling_order == "chart" else one_by_one
    order(bench, cluster, clients)
    phase(clients, "end")
    reports = {client.name: client.report() for client in clients}
    print("\n| load | while | acknowledged | failed | ack p50 ms | p99 | max | arrival p50 ms | p99 | max |\n|" + "---|" * 10)
    for name, report in reports.items():
        for part in report["phases"][1:]:
            print(f"| {name} | {part['name']} | {part['records']} | {part['failed']} | {milliseconds(part['acked_ms'])} "
                  f"| {milliseconds(part['arrived_ms'])} |")
    print("\n| load | sent | acknowledged | arrived not | repeated | wrong | assignments | errors |\n|" + "---|" * 8)
    bad = []
    for name, report in reports.items():
        counts = [report[key] for key in ("sent", "acknowledged", "missing", "repeated", "wrong", "assignments", "errors")]
        print(f"| {name} | {' | '.join(map(str, counts))} |")
        if report["errors"] or report["missing"] or report["repeated"] or report["wrong"] or counts[0] != counts[1]:
            bad.append(name)
    print(f"\nlibrdkafka told of {reports['Kafka']['notices']} lost connections, which it mends itself.")
    for name, report in reports.items():
        for told in report["told"]:
            print(f"\n{name}: {told}")
    cluster.stop()
    if bad:
        raise SystemExit(f"clients noticed the restarts: {', '.join(bad)}; logs are in {bench.work}")
