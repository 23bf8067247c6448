"""What readers that are behind do to those who keep up, and to producers: `tests/bench/run reads`.

Three bookies, two brokers, one etcd (or one standalone process with `--reads-on standalone`). A topic is filled, and the page
cache dropped. Then rounds of two loads, alone and with a reader of that whole topic beside them, in turn:

* a producer of a steady rate and a group that keeps up: from when a record was due to its arrival;
* a producer as fast as it is acknowledged.

The reader is a group of its own, which commits as it goes (or none, with `--reader-alone`). It checks every byte, starts again as
another group when it is through, and shares the processors with everything else: what it reads and what the servers'
processors did is printed beside the ratios.
"""
import itertools
import json
import statistics
import subprocess
import time

PARTITIONS = 12
LIVE_PARTITIONS = 4


class Behind:
    """Reads the whole topic, over and over, until told to stop."""

    # A group that has committed nothing.
    groups = itertools.count()

    def __init__(self, bench, records):
        bench.drop_caches()
        self.is_alone = bench.options.reader_alone
        self.command = ["nice", "-n", str(bench.options.reader_nice), bench.binary, "perf", "consume", "old", "--records",
                        str(records), "--size", str(bench.options.size), "--output", "json", "--server", "127.0.0.1:17070"]
        self.start()

    def start(self):
        group = [] if self.is_alone else ["--group", f"behind-{next(self.groups)}"]
        self.process = subprocess.Popen(self.command + group, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def go_on(self):
        """Whether it is well; starts it again when it is through."""
        if self.process.poll() is None:
            return
        if self.process.returncode != 0:
            raise SystemExit(f"the reader failed: {self.process.stderr.read().decode()}")
        self.start()

    def stop(self):
        self.process.kill()
        self.process.wait()


def total(servers, name):
    return sum(server.metric(name) for server in servers)


def measured(bench, brokers, servers, load, records, behind):
    """Runs a load: its report, megabytes a second that others read meanwhile, and how busy the servers were."""
    reader = Behind(bench, records) if behind else None
    if reader:
        time.sleep(1)  # it has begun
    before, cpu, began = total(brokers, "geminga_fetch_bytes_total"), sum(s.cpu_seconds() for s in servers), time.monotonic()
    process = subprocess.Popen(load, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while process.poll() is None:
        if reader:
            reader.go_on()
        time.sleep(0.02)
    took = time.monotonic() - began
    if process.returncode != 0:
        raise SystemExit(f"{load}: {process.stderr.read().decode()}")
    read = total(brokers, "geminga_fetch_bytes_total") - before
    cpu = sum(s.cpu_seconds() for s in servers) - cpu
    if reader:
        reader.stop()
    return json.loads(process.stdout.read()), read / took / 1e6, cpu / took


def start(bench):
    """Brokers, and all servers."""
    if bench.options.reads_on == "standalone":
        server = bench.start_standalone("reads")
        server.wait_ready()
        return [server], [server]
    store, _, storage = bench.start_storage("reads", 3)
    brokers = []
    for number in range(2):
        http = f"127.0.0.1:{17080 + number}"
        args = [bench.binary, "serving", *store, "--grpc", f"127.0.0.1:{17070 + number}", "--http", http]
        brokers.append(bench.Server(f"reads-broker-{number}", args, http))
    for broker in brokers:
        broker.wait_ready()
    return brokers, brokers + storage


def run(bench):
    options = bench.options
    brokers, servers = start(bench)
    bench.geminga("topic", "create", "old", "--partitions", str(PARTITIONS))
    bench.geminga("topic", "create", "live", "--partitions", str(LIVE_PARTITIONS))
    bench.geminga("topic", "create", "fast", "--partitions", str(PARTITIONS))
    records = options.catch_up_bytes // options.size
    bench.geminga("perf", "produce", "old", "--records", str(records), "--size", str(options.size))
    if options.reader_rate:
        bench.geminga("quota", "set", "geminga-cli", "--consumer-byte-rate", str(options.reader_rate))

    def tail(number, behind):
        load = [bench.load, "tail", "live", "--server", "127.0.0.1:17070", "--rate", str(options.tail_rate), "--size",
                str(options.size), "--seconds", str(options.tail_seconds), "--group", f"keeps-up-{number}-{behind}"]
        report, read, cpu = measured(bench, brokers, servers, load, records, behind)
        # The group's own bytes are not the reader's.
        own = options.tail_rate * options.size / 1e6
        return report["p50_ms"], report["p99_ms"], max(0.0, read - own), cpu

    def fast(behind):
        load = [bench.binary, "perf", "produce", "fast", "--records", str(options.records), "--size", str(options.size),
                "--output", "json", "--server", "127.0.0.1:17070"]
        report, read, cpu = measured(bench, brokers, servers, load, records, behind)
        return report["mb_per_second"], read, cpu

    print(f"\n## Readers that are behind: {options.catch_up_bytes / 1e9:.1f} GB from the start, {options.reads_on}; a group that "
          f"keeps up with {options.tail_rate} records of {options.size} bytes a second\n")
    print("| round | tail p50, p99 ms alone | with | of p99 | read MB/s | servers' CPUs alone, with | produce MB/s alone | with "
          "| ratio | read MB/s | servers' CPUs alone, with |\n|" + "---|" * 11)
    rows = []
    for number in range(options.rounds + 1):
        row = (*tail(number, False), *tail(number, True), *fast(False), *fast(True))
        if number == 0:
            continue  # opens partitions, warms up
        rows.append(row)
        print(f"| {number} {line(row)}", flush=True)
    print(f"| median {line([statistics.median(column) for column in zip(*rows)])}")
    ratios = [(row[5] / row[1], row[11] / row[8]) for row in rows]
    p99, produced = (statistics.median(column) for column in zip(*ratios))
    print(f"\nMedian of the rounds' ratios: tail p99 {p99:.2f} (aim 1.3), produce {produced:.2f} (aim 0.85).")
    for server in servers:
        server.stop()


def line(row):
    p50, p99, _, cpu, p50_with, p99_with, read, cpu_with, alone, _, fast_cpu, with_reader, read_fast, fast_cpu_with = row
    return (f"| {p50:.1f}, {p99:.1f} | {p50_with:.1f}, {p99_with:.1f} | {p99_with / p99:.2f} | {read:.0f} "
            f"| {cpu:.2f}, {cpu_with:.2f} | {alone:.0f} | {with_reader:.0f} | {with_reader / alone:.2f} | {read_fast:.0f} "
            f"| {fast_cpu:.2f}, {fast_cpu_with:.2f} |")
