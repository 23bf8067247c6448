"""How fast copies are made anew: `tests/bench/run heal`.

Three bookies, one broker and etcd on one disk, copies 3/2. A topic is filled and its segments are closed. In each round a bookie is killed
with -9, its disk wiped, and it is started again with `--auto-heal`: all that it held is copied to it by the other two. That is
measured from the first byte copied to the last, without a limit to the pace (`--repair-rate 0`), and held against fio in the same
minutes: sequential writes and an fdatasync after each, of as many bytes as that bookie's own group commits had, and sequential reads.

Then a producer of a steady rate and a group that keeps up, alone and beside a repair at its default pace.
"""
import shutil
import statistics
import time

import objects
from storage import Topic


class Victim:
    """A bookie whose disk is lost, and the repair of it."""

    def __init__(self, bench, bookies, processes, number):
        self.bookies = bookies
        old = bookies[number]
        args = old.process.args
        old.process.kill()
        old.process.wait()
        shutil.rmtree(args[args.index("--data-dir") + 1])
        self.before = self.copied()
        fresh = bench.Server(f"wiped-{number}", args, old.http)
        processes[processes.index(old)] = bookies[number] = self.bookie = fresh
        fresh.wait_ready()
        self.flushes = bench.Flushes([fresh])

    def copied(self):
        """What the bookies that live have copied."""
        return sum(b.metric("geminga_repair_copied_bytes_total") for b in self.bookies if b.process.poll() is None)

    def wait_begun(self):
        """Until something was copied: when, and how much then."""
        deadline = time.monotonic() + 120
        while (copied := self.copied() - self.before) == 0:
            if time.monotonic() > deadline:
                raise SystemExit("nothing is copied")
            time.sleep(0.01)
        return time.monotonic(), copied

    def wait_whole(self, bytes_wanted):
        """Until so much was copied and nothing more comes: when the last of it came, and how much it is."""
        last, seen = time.monotonic(), 0
        while True:
            copied, now = self.copied() - self.before, time.monotonic()
            if copied != seen:
                last, seen = now, copied
            elif copied >= bytes_wanted and now - last > 2:
                return last, copied
            elif now - last > 120:
                raise SystemExit(f"{copied} of {bytes_wanted} bytes were copied, and nothing for two minutes")
            time.sleep(0.01)


def run(bench):
    if bench.options.rounds_of != "beside":
        unlimited(bench)
    if bench.options.rounds_of != "alone":
        beside(bench)


def start(bench, name, flags):
    flags = ["--auto-heal", "--lost-bookie-delay=2s", "--repair-grace=1s", *flags]
    return objects.start_cluster(bench, name, flags, [])


def unlimited(bench):
    options = bench.options
    store, _, bookies, servers = start(bench, "heal", ["--repair-rate=0"])
    topic = Topic(bench, store, "healing", options.tier_bytes)
    print(f"\n## A wiped bookie of three: {topic.bytes / 1e9:.1f} GB in {topic.objects} ledgers copied to it, as fast as it goes\n")
    print("| round | copied MB/s | fio writes MB/s | fio reads MB/s | of the slower | mean flush KiB | copied per byte | CPU s/GB "
          "of servers |\n|" + "---|" * 8)
    rows = []
    for number in range(options.rounds + 1):
        victim = Victim(bench, bookies, servers, number % len(bookies))
        bench.drop_caches()
        cpu = sum(server.cpu_seconds() for server in servers)
        began, first = victim.wait_begun()
        ended, copied = victim.wait_whole(topic.bytes)
        cpu = (sum(server.cpu_seconds() for server in servers) - cpu) / (copied / 1e9)
        _, block = victim.flushes.bytes_and_mean_block()
        writes = bench.fio(block, 1)
        bench.drop_caches()
        reads = bench.fio_read()
        if number == 0:
            continue  # warms up
        speed = (copied - first) / 1e6 / (ended - began)
        rows.append((speed, writes, reads, speed / min(writes, reads), block / 1024, copied / topic.bytes, cpu))
        print(f"| {number} {line(rows[-1])}", flush=True)
    print(f"| median {line([statistics.median(column) for column in zip(*rows)])}\n\nThe aim: 0.60 of the slower.")
    for server in servers:
        server.stop()


def line(row):
    speed, writes, reads, ratio, block, copied, cpu = row
    return f"| {speed:.0f} | {writes:.0f} | {reads:.0f} | {ratio:.2f} | {block:.0f} | {copied:.2f} | {cpu:.1f} |"


def beside(bench):
    store, _, bookies, servers = start(bench, "beside", [])
    topic = Topic(bench, store, "healing", bench.options.beside_bytes)
    bench.geminga("topic", "create", "live", "--partitions", "4")
    table = objects.Tails(bench, servers, "a repair at its default pace")
    for number in range(bench.options.rounds + 1):
        bench.drop_caches()
        alone = table.tail(f"alone-{number}")
        victim = Victim(bench, bookies, servers, number % len(bookies))
        _, first = victim.wait_begun()
        with_repair = table.tail(f"beside-{number}")
        copied = victim.copied() - victim.before
        table.add(number, alone, with_repair, copied - first, copied < topic.bytes)
        victim.wait_whole(topic.bytes)
    table.close()
    for server in servers:
        server.stop()
