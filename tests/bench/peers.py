"""The same load on NATS JetStream and on Geminga: `tests/bench/run peers --nats PATH_OF_NATS_SERVER`.

Three NATS servers with streams of three copies, each write on stable storage before it is acknowledged (`sync_interval: always`),
and three bookies with one broker and topics of one partition with copies 3/2; all on this machine and one disk. One load generator
(`tests/bench/load`) holds so many records unacknowledged on so many streams, each on a connection of its own, on the one and
then on the other, in turn; records are not consumed. Medians of the rounds are compared.

Processor time and resident memory are those of all servers, etcd included. Syncs: of Geminga its bookies' group commits, by
their metric, of which each is one fdatasync; of NATS those per record that `strace -f -c -e fsync,fdatasync`, attached to its three
processes, counts in a short load of its own after the rounds, since it slows them down: times the records a second without it they are
syncs a second. Its files of messages are not opened with O_SYNC.
"""
import itertools
import json
import shutil
import signal
import statistics
import subprocess
import time

STREAMS = (1, 8)
WINDOWS = (1, 100, 1000)
SIZES = (100, 1024)
STRACE_SECONDS = 4


class LoadFailed(Exception):
    """What the load generator says."""


class Side:
    """One of the two systems."""

    def __init__(self, name, servers, processes):
        self.name, self.servers, self.processes = name, servers, processes

    def load(self, bench, *args):
        command = [bench.load, "window", self.name, "--servers", ",".join(self.servers), *args]
        done = subprocess.run(command, capture_output=True)
        if done.returncode != 0:
            raise LoadFailed(f"{command}: {done.stderr.decode()}")
        return json.loads(done.stdout)

    def create(self, bench, name, streams):
        self.load(bench, "--name", name, "--streams", str(streams), "--create", "3")

    def measure(self, bench, name, streams, window, size, seconds):
        """Records a second, p50, p99, servers' CPU seconds for a million records, their resident megabytes, and seconds taken."""
        cpu = sum(process.cpu_seconds() for process in self.processes)
        began = time.monotonic()
        report = self.load(bench, "--name", name, "--streams", str(streams), "--window", str(window), "--size", str(size),
                           "--seconds", str(seconds))
        took = time.monotonic() - began
        cpu = sum(process.cpu_seconds() for process in self.processes) - cpu
        resident = sum(process.resident_bytes() for process in self.processes) / 1e6
        # All that was acknowledged while the processors were counted, not only what was measured.
        acknowledged = report["records_per_second"] * took
        return report["records_per_second"], report["p50_ms"], report["p99_ms"], cpu / acknowledged * 1e6, resident, took


def start_nats(bench):
    """Three servers that are one cluster."""
    servers, routes = [], [f"nats://127.0.0.1:{17500 + n}" for n in range(3)]
    for n in range(3):
        http = f"127.0.0.1:{17600 + n}"
        config = bench.work / f"nats-{n}.conf"
        config.write_text(f"""
            server_name: nats-{n}
            listen: 127.0.0.1:{17400 + n}
            http: {http}
            jetstream {{ store_dir: "{bench.work}/nats-{n}", sync_interval: always, max_file_store: 100GB }}
            cluster {{ name: bench, listen: 127.0.0.1:{17500 + n}, routes: {json.dumps(routes)} }}
        """)
        servers.append(bench.Server(f"nats-{n}", [bench.options.nats, "-c", config], http, ready="/healthz"))
    for server in servers:
        server.wait_ready()
    return Side("nats", [f"127.0.0.1:{17400 + n}" for n in range(3)], servers)


def start_geminga(bench):
    store, bookies, storage = bench.start_storage("peers", 3)
    http = "127.0.0.1:17080"
    broker = bench.Server("peers-broker", [bench.binary, "serving", *store, "--grpc", "127.0.0.1:17070", "--http", http], http)
    broker.wait_ready()
    side = Side("geminga", ["127.0.0.1:17070"], [broker, *storage])
    side.bookies = bookies
    return side


def retry(what, do):
    """JetStream elects a leader some time after its servers are ready."""
    for _ in range(50):
        try:
            return do()
        except LoadFailed as error:
            last = error
            time.sleep(0.2)
    raise SystemExit(f"{what}: {last}")


def nats_syncs(bench, side, name, streams, window, size):
    """Syncs per record while strace counts them."""
    if not shutil.which("strace"):
        return None
    traces = []
    for process in side.processes:
        out = bench.work / f"strace-{process.process.pid}"
        command = ["strace", "-f", "-c", "-o", out, "-e", "trace=fsync,fdatasync", "-p", str(process.process.pid)]
        traces.append((subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL), out))
    time.sleep(0.5)
    began = time.monotonic()
    report = side.load(bench, "--name", name, "--streams", str(streams), "--window", str(window), "--size", str(size),
                       "--seconds", str(STRACE_SECONDS))
    acknowledged = report["records_per_second"] * (time.monotonic() - began)
    syncs = 0
    for trace, out in traces:
        trace.send_signal(signal.SIGINT)
        trace.wait()
        # Columns: % time, seconds, usecs/call, calls, errors (often none), syscall.
        rows = [line.split() for line in out.read_text().splitlines()]
        syncs += sum(int(row[3]) for row in rows if row and row[-1] in ("fsync", "fdatasync"))
    return syncs / max(1, acknowledged)


def run(bench):
    options = bench.options
    nats, geminga = start_nats(bench), start_geminga(bench)
    print("\n## NATS JetStream (N: three servers, three copies, `sync_interval: always`) and Geminga (G: three bookies, copies "
          f"3/2, one broker): medians of {options.rounds} rounds of {options.peer_seconds} s\n")
    print("| streams | window | bytes | records/s N | G | ratio | p50 ms N, G | p99 ms N, G | ratio "
          "| CPU s/M records N, G | resident MB N, G | syncs/s N, G | syncs per record N, G |\n|" + "---|" * 13)
    for streams, window, size in itertools.product(STREAMS, WINDOWS, SIZES):
        rows = {side.name: [] for side in (nats, geminga)}
        syncs = []
        for number in range(options.rounds):
            for side in (nats, geminga):
                name = f"s{streams}-w{window}-b{size}-{number}"
                retry(side.name, lambda: side.create(bench, name, streams))
                before = flushes(geminga)
                rows[side.name].append(side.measure(bench, name, streams, window, size, options.peer_seconds))
                if side is geminga:
                    rate, took = rows[side.name][-1][0], rows[side.name][-1][-1]
                    syncs.append(((flushes(geminga) - before) / took, (flushes(geminga) - before) / took / rate))
        n, g = ([statistics.median(column) for column in zip(*rows[side.name])] for side in (nats, geminga))
        a_second, a_record = (statistics.median(column) for column in zip(*syncs))
        name = f"strace-{streams}-{window}-{size}"
        retry(nats.name, lambda: nats.create(bench, name, streams))
        of_nats = nats_syncs(bench, nats, name, streams, window, size)
        nats_second = "strace is missing" if of_nats is None else f"{of_nats * n[0]:.0f}"
        nats_record = "strace is missing" if of_nats is None else f"{of_nats:.3f}"
        print(f"| {streams} | {window} | {size} | {n[0]:.0f} | {g[0]:.0f} | **{g[0] / n[0]:.2f}** | {n[1]:.2f}, {g[1]:.2f} "
              f"| {n[2]:.2f}, {g[2]:.2f} | {g[2] / n[2]:.2f} | {n[3]:.0f}, {g[3]:.0f} | {n[4]:.0f}, {g[4]:.0f} "
              f"| {nats_second}, {a_second:.0f} | {nats_record}, {a_record:.3f} |", flush=True)
    for server in nats.processes + geminga.processes:
        server.stop()


def flushes(side):
    return sum(bookie.metric("geminga_bookie_flush_seconds_count") for bookie in side.bookies)
