"""How fast closed segments get to an object store and come back: `tests/bench/run storage`.

Three bookies, one broker and etcd on one disk. In each round a topic is filled and its segments are closed, and then, in turn and each with
a cold page cache,

* upload, without a limit to its pace (`--tier-upload-rate=0`): fio reads the disk, the plain client (`bench-load put`) writes as many objects of that size, as many at a time as there are
  bookies, and Geminga uploads the topic, from `remote.storage.enable=true` until metadata names every object;
* read: the plain client (`bench-load get`) reads its objects from the first byte to the last in ranges of a MiB, which is what a block of
  Geminga's objects has, one at a time and then four, which is what a broker reads ahead; Geminga's topic is read from the start after
  bookies have dropped it, by a broker that was just started.

Then a producer of a steady rate and a group that keeps up, alone and beside an upload at its default pace.
"""
import json
import statistics
import time

import objects

# What a broker reads ahead beside the block that is wanted.
AT_ONCE = 4
# Looked often: what is measured is how fast an upload is, not when it begins.
TIER = ["--tier-interval=200ms", "--tier-take-over=30s", "--gc-interval=1s"]


class Topic:
    """Closed segments, uploaded when told to."""

    def __init__(self, bench, store, name, total):
        self.bench, self.store, self.name = bench, store, name
        self.records = total // bench.options.size
        bench.geminga("topic", "create", name, "--partitions", str(bench.options.tier_partitions), "--config",
                      f"segment.bytes={bench.options.segment_bytes}", "--config", "local.retention.ms=-1")
        bench.geminga("perf", "produce", name, "--records", str(self.records), "--size", str(bench.options.size))
        self.alter("segment.ms=100")
        closed = self.wait("closed segments", lambda ledgers: not ledgers.open
                           and ledgers.bytes() >= self.records * bench.options.size)
        self.objects, self.bytes = len(closed.closed), closed.bytes()

    def ledgers(self):
        return objects.Ledgers(self.bench, self.store, self.name)

    def alter(self, *configs):
        self.bench.geminga("topic", "alter", self.name, *(word for config in configs for word in ("--config", config)))

    def wait(self, what, done):
        """Until what the metadata has of it is so."""
        return objects.wait_ledgers(self.bench, self.store, self.name, what, done)

    def upload(self):
        """Megabytes a second, from the wish to the last object that metadata names."""
        began = time.monotonic()
        self.alter("remote.storage.enable=true")
        self.wait("objects", lambda ledgers: ledgers.all_are("OFFLOADED"))
        return self.bytes / 1e6 / (time.monotonic() - began)

    def trim(self):
        self.alter("local.retention.ms=0")
        self.wait("trimmed ledgers", lambda ledgers: ledgers.all_are("TRIMMED"))

    def read(self):
        """Megabytes a second from the start to the end."""
        report = self.bench.geminga("perf", "consume", self.name, "--records", str(self.records), "--size",
                                    str(self.bench.options.size), "--output", "json")
        return json.loads(report)["mb_per_second"]

    def delete(self):
        self.bench.geminga("topic", "delete", self.name)
        self.wait("deletion", lambda ledgers: not ledgers.closed)


def run(bench):
    for kind in bench.options.objects or ["file", "s3"]:
        objects_in = objects.named(bench, kind)
        if bench.options.rounds_of != "beside":
            rounds(bench, kind, objects_in)
        if bench.options.rounds_of != "alone":
            beside_an_upload(bench, kind, objects_in)
        objects_in.stop()


def rounds(bench, kind, objects_in):
    options = bench.options
    flags = objects_in.flags()
    unlimited = [*flags, *TIER, "--tier-upload-rate=0"]
    store, broker, bookies, servers = objects.start_cluster(bench, f"storage-{kind}", unlimited, flags)
    print(f"\n## Closed segments to {objects_in.name} and back: {options.tier_bytes / 1e9:.1f} GB in segments of "
          f"{options.segment_bytes / 1e6:.0f} MB, {options.tier_partitions} partition(s)\n")
    print("| round | fio reads MB/s | plain upload MB/s | upload MB/s | of the slower | plain read, one range at a time, MB/s "
          f"| {AT_ONCE} at a time | read from the start MB/s | of the first | of the second | cold bytes per byte "
          "| upload: CPU s/GB of servers | read: CPU s/GB of servers |\n|" + "---|" * 13)
    rows = []
    for number in range(options.rounds + 1):
        topic, plain = Topic(bench, store, f"up-{number}", options.tier_bytes), f"plain-{number}"
        bench.drop_caches()
        disk = bench.fio_read()
        put = objects.load(bench, "put", *objects_in.plain(plain), "--objects", str(topic.objects), "--bytes",
                           str(topic.bytes // topic.objects), "--at-once", str(len(bookies)))
        bench.drop_caches()
        cpu, gb = sum(server.cpu_seconds() for server in servers), topic.bytes / 1e9
        upload = topic.upload()
        upload_cpu = (sum(server.cpu_seconds() for server in servers) - cpu) / gb
        topic.trim()
        broker.stop()
        broker = servers[0] = objects.start_broker(bench, f"storage-{kind}", store, flags)
        gets = []
        for at_once in (1, AT_ONCE):
            bench.drop_caches()
            gets.append(objects.load(bench, "get", *objects_in.plain(plain), "--at-once", str(at_once)))
        bench.drop_caches()
        cpu = sum(server.cpu_seconds() for server in servers)
        read = topic.read()
        read_cpu = (sum(server.cpu_seconds() for server in servers) - cpu) / gb
        cold = broker.metric("geminga_cold_read_bytes_total") / topic.bytes
        topic.delete()
        objects_in.forget(plain)
        if number == 0:
            continue  # warms up
        rows.append((disk, put, upload, upload / min(disk, put), *gets, read, *(read / get for get in gets), cold, upload_cpu,
                     read_cpu))
        print(f"| {number} {line(rows[-1])}", flush=True)
    print(f"| median {line([statistics.median(column) for column in zip(*rows)])}")
    print("\nThe aims: 0.60 of the slower, 0.70 of a plain reader.")
    for server in servers:
        server.stop()


def line(row):
    disk, put, upload, of_slower, one, four, read, of_one, of_four, cold, upload_cpu, read_cpu = row
    return (f"| {disk:.0f} | {put:.0f} | {upload:.0f} | {of_slower:.2f} | {one:.0f} | {four:.0f} | {read:.0f} | {of_one:.2f} "
            f"| {of_four:.2f} | {cold:.2f} | {upload_cpu:.1f} | {read_cpu:.1f} |")


def beside_an_upload(bench, kind, objects_in):
    flags, rate = objects_in.flags(), bench.options.upload_rate
    paced = [f"--tier-upload-rate={rate}"] if rate else []
    store, _, _, servers = objects.start_cluster(bench, f"beside-{kind}", [*flags, *TIER, *paced], flags)
    bench.geminga("topic", "create", "live", "--partitions", "4")
    table = objects.Tails(bench, servers, f"an upload to {objects_in.name} at {rate or 'its default pace'}")
    for number in range(bench.options.rounds + 1):
        topic = Topic(bench, store, f"beside-{number}", bench.options.beside_bytes)
        bench.drop_caches()
        alone = table.tail(f"alone-{number}")
        topic.alter("remote.storage.enable=true")
        beside = table.tail(f"beside-{number}")
        sent = topic.ledgers().sent()
        table.add(number, alone, beside, sent, sent < topic.bytes)
        topic.wait("objects", lambda ledgers: ledgers.all_are("OFFLOADED"))
        topic.delete()
    table.close()
    for server in servers:
        server.stop()
