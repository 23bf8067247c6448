"""What an append takes when there is little to do: `tests/bench/run idle`, and once at the end of `ledger`.

A hundred entries of 4 KiB a second, one at a time, each from when it was due. Beside it, at the same rate: fio's write and fdatasync of as
much, and what this machine takes to wake another process and be woken by it, without any disk. An append is about ten such steps one
after the other, so that its p99 has the p99.9 of one.
"""
import os
import socket
import statistics
import time

ENTRIES = 2_000
RATE = 100


def wakes():
    """Milliseconds of a message to another process and back: 50th, 99th and 99.9th percentile."""
    here, there = socket.socketpair()
    child = os.fork()
    if child == 0:
        here.close()
        while there.recv(64):
            there.send(b"x")
        os._exit(0)
    there.close()
    begin, took = time.monotonic(), []
    for number in range(ENTRIES):
        time.sleep(max(0.0, begin + number / RATE - time.monotonic()))
        sent = time.monotonic()
        here.send(b"x")
        here.recv(64)
        took.append((time.monotonic() - sent) * 1000)
    here.close()
    os.waitpid(child, 0)
    took.sort()
    return took[ENTRIES // 2], took[ENTRIES * 99 // 100], took[ENTRIES * 999 // 1000]


def measure(bench, store, bookies, copies):
    """One round: p50, p99 of an append; p99 of the bookies' own syncs; of fio's write and sync; wakes."""
    before = [bench.sync_p99(bookie, {})[1] for bookie in bookies]
    idle, _ = bench.perf_ledger(store, "ledger", *copies, "--size", "4096", "--entries", str(ENTRIES), "--rate", str(RATE))
    own = statistics.median(bench.sync_p99(bookie, then)[0] for bookie, then in zip(bookies, before))
    latency = idle["latency_ms"]
    return latency["p50"], latency["p99"], own, bench.fio_sync_p99(len(bookies), ENTRIES, RATE), *wakes()


def show(rows):
    print("\n| 100 entries of 4 KiB a second: p50, p99 ms | own fdatasync p99 ms | in p99s of it | fio write + fdatasync p99 ms | in p99s of it "
          "| a wake and back: p50, p99, p99.9 ms |\n|" + "---|" * 6)
    for row in rows:
        print(line("", row))
    if len(rows) > 1:
        print(line("median ", [statistics.median(column) for column in zip(*rows)]))


def line(name, row):
    p50, p99, own, sync, *wake = row
    return (f"| {name}{p50:.2f}, {p99:.2f} | {own:.2f} | {p99 / own:.1f} | {sync:.2f} | {p99 / sync:.1f} "
            f"| {wake[0]:.2f}, {wake[1]:.2f}, {wake[2]:.2f} |")


def run(bench):
    for count, copies in (1, ["--write-quorum", "1", "--ack-quorum", "1"]), (3, []):
        store, bookies, processes = bench.start_storage(f"idle-{count}", count)
        print(f"\n## An append at an idle rate: {'one bookie' if count == 1 else 'three bookies on one disk, copies 3/2'}")
        # The first one makes files, and takes their place in memory.
        rows = [measure(bench, store, bookies, copies) for _ in range(bench.options.rounds + 1)]
        show(rows[1:])
        for server in processes:
            server.stop()
