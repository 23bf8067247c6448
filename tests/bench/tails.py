"""What readers that keep up cost, and what bookies take of memory: `tests/bench/run tails`.

Three bookies, one broker. Rounds with no reader, one, two and four, each of which reads all that is produced at a steady rate, from the
broker's memory: the broker's processor seconds for a GB that was produced; what each reader adds follows. After each round the most that the
broker and the bookies had in memory.
"""
import pathlib
import statistics
import subprocess
import time

READERS = (0, 1, 2, 4)
PARTITIONS = 12
GB = 1e9
# What readers got, bytes; at least what was in their records.
READ = "geminga_fetch_bytes_total"


def peak_mb(server):
    """The most that a process had in memory at one time."""
    status = pathlib.Path(f"/proc/{server.process.pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) * 1024 / 1e6


def measured(bench, broker, topic, readers):
    """Processor seconds of the broker for a GB produced, with so many readers."""
    options = bench.options
    size, rate = str(options.size), options.keep_up_rate // options.size
    records = str(rate * options.keep_up_seconds)
    bench.geminga("topic", "create", topic, "--partitions", str(PARTITIONS))
    load = [bench.binary, "consume", topic, "--from-beginning", "--server", "127.0.0.1:17070"]
    keep_up = [subprocess.Popen(load, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for _ in range(readers)]
    before, read = broker.cpu_seconds(), broker.metric(READ)
    bench.geminga("perf", "produce", topic, "--records", records, "--size", size, "--rate", str(rate))
    produced = int(records) * options.size
    deadline = time.monotonic() + 60
    while broker.metric(READ) - read < readers * produced:
        if time.monotonic() > deadline or any(reader.poll() is not None for reader in keep_up):
            raise SystemExit(f"{readers} readers do not get all that was produced")
        time.sleep(0.02)
    used = broker.cpu_seconds() - before
    for reader in keep_up:
        reader.kill()
        reader.wait()
    bench.geminga("topic", "delete", topic)
    return used / (produced / GB)


def run(bench):
    options = bench.options
    store, bookies, storage = bench.start_storage("tails", 3)
    http = "127.0.0.1:17080"
    args = [bench.binary, "serving", *store, "--grpc", "127.0.0.1:17070", "--http", http, "--kafka", "none"]
    broker = bench.Server("tails-broker", args, http)
    broker.wait_ready()
    print(f"\n## Readers that keep up: {options.keep_up_rate / 1e6:.0f} MB/s for {options.keep_up_seconds} s, records of {options.size} bytes\n")
    print("| round | " + " | ".join(f"broker CPU s/GB, {count} readers" for count in READERS)
          + " | s/GB each reader adds | broker MB at most | bookies MB at most |\n|" + "---|" * (len(READERS) + 4))
    rows = []
    for number in range(options.rounds + 1):
        costs = [measured(bench, broker, f"tails-{number}-{count}", count) for count in READERS]
        if number == 0:
            continue  # opens partitions, warms up
        each = (costs[-1] - costs[0]) / READERS[-1]
        rows.append((*costs, each, peak_mb(broker), max(peak_mb(bookie) for bookie in bookies)))
        print(f"| {number} {line(rows[-1])}", flush=True)
    print(f"| median {line([statistics.median(column) for column in zip(*rows)])}")
    for server in [broker, *storage]:
        server.stop()


def line(row):
    *costs, each, broker, bookie = row
    return "".join(f"| {cost:.2f} " for cost in costs) + f"| {each:.2f} | {broker:.0f} | {bookie:.0f} |"
