"""The flights, over and over to so many gigabytes, through an object store and back: `tests/bench/run cold --gigabytes 3`.

Every row is written by a Kafka client (kcat) with the number of its copy in front of it, so that no two records are alike. All segments
are closed, uploaded, and dropped by bookies; brokers are started anew; then another process of that client reads each partition from the
start, and what it prints is compared with what was written, byte for byte. It also says how much of it came from the object store, which must
be all of it.
"""
import itertools
import shutil
import subprocess
import threading
import time

import objects

PARTITIONS = 3
ADDRESS = "127.0.0.1:17092"
TIER = ["--tier-interval=200ms", "--tier-take-over=5s", "--tier-local-retention=100ms", "--gc-interval=1s"]


def copies(bench, partition, total):
    """What goes to one partition: copies of the flights, until it is so many bytes."""
    rows = (bench.ROOT / ".cache/flights.csv").read_bytes().splitlines(keepends=True)[1:]
    done = 0
    for number in itertools.count():
        front = b"%d-%d," % (partition, number)
        text = front + front.join(rows)
        yield text
        done += len(text)
        if done >= total:
            return


def write(bench, partition, total):
    """Produces them; bytes and records."""
    command = ["kcat", "-P", "-b", ADDRESS, "-t", "flights", "-p", str(partition), "-X", "acks=all", "-X",
               "enable.idempotence=true", "-X", "linger.ms=20"]
    client = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    length = records = 0
    for text in copies(bench, partition, total):
        client.stdin.write(text)
        length, records = length + len(text), records + text.count(b"\n")
    client.stdin.close()
    if client.wait() != 0:
        raise SystemExit(f"kcat: {client.stderr.read().decode()}")
    return length, records


def compare(bench, partition, total):
    """Reads them; the first byte that differs, or None, and the bytes that were read."""
    command = ["kcat", "-C", "-q", "-e", "-b", ADDRESS, "-t", "flights", "-p", str(partition), "-o", "beginning"]
    client = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    at = 0
    try:
        for wanted in copies(bench, partition, total):
            read = client.stdout.read(len(wanted))
            if read != wanted:
                differs = next((n for n, (one, other) in enumerate(zip(read, wanted)) if one != other), len(read))
                return at + differs, at + len(read)
            at += len(wanted)
        more = client.stdout.read(1)
        if client.wait() != 0:
            raise SystemExit(f"kcat: {client.stderr.read().decode()}")
        return (at if more else None), at + len(more)
    finally:
        client.kill()
        client.wait()


def run(bench):
    if not shutil.which("kcat"):
        raise SystemExit("kcat is missing: apt-get install kcat")
    for kind in bench.options.objects or ["file", "s3"]:
        there_and_back(bench, kind, int(bench.options.gigabytes * 1e9))


def there_and_back(bench, kind, total):
    objects_in = objects.named(bench, kind)
    flags = objects_in.flags()
    store, broker, bookies, servers = objects.start_cluster(bench, f"cold-{kind}", [*flags, *TIER], flags)
    bench.geminga("topic", "create", "flights", "--partitions", str(PARTITIONS), "--config",
                  f"segment.bytes={bench.options.segment_bytes}", "--config", "remote.storage.enable=true")
    began = time.monotonic()
    written = each(lambda partition: write(bench, partition, total // PARTITIONS))
    length, records = map(sum, zip(*written))
    produced = time.monotonic() - began
    bench.geminga("topic", "alter", "flights", "--config", "segment.ms=100")
    segments = objects.wait_ledgers(bench, store, "flights", "trimmed segments", lambda ledgers: ledgers.all_are("TRIMMED"))
    uploaded = time.monotonic() - began
    objects.wait("bookies to drop every copy", lambda: sum(
        b.metric("geminga_tier_trimmed_total") for b in bookies) >= len(bookies) * len(segments.closed))
    broker.stop()
    broker = servers[0] = objects.start_broker(bench, f"cold-{kind}", store, flags)
    bench.drop_caches()
    began = time.monotonic()
    compared = each(lambda partition: compare(bench, partition, total // PARTITIONS))
    took = time.monotonic() - began
    cold = broker.metric("geminga_cold_read_bytes_total")
    print(f"\n## {length / 1e9:.2f} GB of flights, {records:,} records in {len(segments.closed)} segments, to {objects_in.name} and back\n\n"
          f"Produced within {produced:.0f} s; every segment uploaded and trimmed {uploaded:.0f} s after the first record; read from the "
          f"start within {took:.0f} s; {cold / 1e9:.2f} GB of that came from the object store.\n", flush=True)
    wrong = [(partition, at) for partition, (at, _) in enumerate(compared) if at is not None]
    read = sum(bytes_read for _, bytes_read in compared)
    if wrong or cold < length:
        raise SystemExit(f"NOT identical: (partition, first byte that differs) {wrong}; {read} bytes read of {length}, "
                         f"{cold:.0f} from the object store; see {bench.work}")
    print(f"Identical: {read:,} bytes compared.", flush=True)
    for server in servers:
        server.stop()
    objects_in.stop()


def each(work):
    """Runs something for every partition at the same time; what each came to, in order."""
    results = [None] * PARTITIONS

    def of(partition):
        results[partition] = work(partition)

    threads = [threading.Thread(target=of, args=(partition,)) for partition in range(PARTITIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if None in results:
        raise SystemExit("a client failed: see above")
    return results
