"""What many partitions cost, and what brokers that come and go do: `tests/bench/run scale`.

Three bookies, one broker, one etcd. 10,000 partitions in one topic, and as many in topics of 50; what the broker's resident memory
grew by for each, and how long it takes to describe them. Then, under a load, two more brokers start, one after the other, and are
stopped again with SIGTERM: how long until each has its share, whether the load saw an error, and what the bookies stored
compared with what was produced, with one broker and while others come and go: nothing is copied for it, or this fails.

At last one of two brokers is killed with -9 that has about 10,000 partitions, 500 of them with an open ledger: how long until
records to every one of these are acknowledged again, and then until records are to some of the others, which nobody ever used.
"""
import json
import subprocess
import time

PARTITIONS = 10_000
SMALL = 50
LOAD_PARTITIONS = 30
# Half of them are the victim's.
OPEN_PARTITIONS = 1_000
# Records to the topic of 10,000, with a key each: about half of them to partitions of the victim.
FIRST_USES = 400
PATIENCE = 120
# What bookies count when stored data goes elsewhere.
COPIES = ["geminga_repair_copied_bytes_total", "geminga_repair_places_total", "geminga_bookie_relocated_bytes_total"]


def timed(bench, *args, stdin=None):
    """Seconds that a command takes, and its output."""
    began = time.monotonic()
    output = bench.geminga(*args, stdin=stdin)
    return time.monotonic() - began, output


def wait(what, ask):
    """Seconds until it is so."""
    began = time.monotonic()
    while not ask():
        if time.monotonic() - began > PATIENCE:
            raise SystemExit(f"{what}: not in {PATIENCE} s")
        time.sleep(0.1)
    return time.monotonic() - began


def owned(bench):
    """How many partitions each broker that takes some has."""
    brokers = json.loads(bench.geminga("broker", "list", "--output", "json"))["brokers"]
    return [broker["partitions"] for broker in brokers]


def idle_partitions(bench, broker):
    print("\n## Many partitions\n\n| what | measured |\n|---|---|")
    before = broker.resident_bytes()
    seconds, _ = timed(bench, "topic", "create", "big", "--partitions", str(PARTITIONS))
    took = seconds + wait("owners", lambda: sum(owned(bench)) >= PARTITIONS)
    time.sleep(2)
    grown = (broker.resident_bytes() - before) / PARTITIONS
    print(f"| {PARTITIONS} partitions in one topic, until all have an owner | {took:.1f} s |")
    print(f"| broker memory for each | {grown:.0f} bytes |")
    seconds, _ = timed(bench, "topic", "describe", "big")
    print(f"| `geminga topic describe` of it, the client's start included | {seconds:.1f} s |")
    began = time.monotonic()
    for number in range(PARTITIONS // SMALL):
        bench.geminga("topic", "create", f"small-{number}", "--partitions", str(SMALL))
    each = (time.monotonic() - began) / (PARTITIONS // SMALL)
    print(f"| a topic of {SMALL} partitions, {PARTITIONS // SMALL} of them one after the other | {each * 1000:.0f} ms each |")


def stored(bookies):
    return sum(bookie.metric("geminga_bookie_appended_bytes_total") for bookie in bookies)


def moved(bookies):
    """What bookies copied or moved since they began, in all."""
    return sum(bookie.metric(name) for bookie in bookies for name in COPIES)


def load_command(bench, records):
    return [bench.binary, "perf", "produce", "load", "--records", str(records), "--size", "1024", "--rate", "10000",
            "--output", "json", "--server", "127.0.0.1:17070"]


def what_a_byte_becomes(bench, broker, bookies):
    """Of each byte produced, with one broker: as batches, as entries, and as bookies store these."""
    def counted():
        names = ("geminga_produce_bytes_total", "geminga_ledger_appended_bytes_total")
        return [*(broker.metric(name) for name in names), stored(bookies)]

    before = counted()
    report = json.loads(subprocess.run(load_command(bench, 100_000), check=True, capture_output=True).stdout)
    time.sleep(2)  # the third copies come after the acknowledgement
    batches, entries, copies = ((now - then) / report["bytes"] for now, then in zip(counted(), before))
    print("\n## What a byte becomes, with one broker and three copies\n\n| what, for each byte produced | bytes |\n|---|---|")
    print(f"| batches: the values, with headers of records and batches | {batches:.4f} |")
    print(f"| entries: the batches, with indexes of their producers, snapshots and barriers | {entries:.4f} |")
    print(f"| stored by all bookies | {copies:.4f} |")
    print(f"| of that three copies of the entries | {3 * entries:.4f} |")
    print(f"| and the rest: frames around entries, records of ledgers, footers of files | {copies - 3 * entries:.4f} |", flush=True)


def come_and_go(bench, store, bookies):
    print("\n## Brokers that come and go\n\n| what | measured |\n|---|---|")
    before, moved_before = stored(bookies), moved(bookies)
    load = subprocess.Popen(load_command(bench, 600_000), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    brokers = []
    for number in (1, 2):
        broker = start_broker(bench, store, number)
        share = sum(owned(bench)) / (number + 1)
        took = wait("its share", lambda: owned(bench)[-1] >= 0.9 * share)
        print(f"| broker {number + 1}: ready to 90 % of its share ({share:.0f} partitions) | {took:.1f} s |", flush=True)
        brokers.append(broker)
    for broker in reversed(brokers):
        began = time.monotonic()
        broker.stop()
        print(f"| a broker is told to stop, to its end | {time.monotonic() - began:.1f} s |", flush=True)
    output, errors = load.communicate(timeout=PATIENCE)
    if load.returncode != 0:
        raise SystemExit(f"the load failed: {errors.decode()}")
    report = json.loads(output)
    copies = (stored(bookies) - before) / report["bytes"]
    print(f"| records of the load that were acknowledged, and not | {report['records']}, {report['failed']} |")
    print(f"| its p50, p99 and longest latency | {report['latency_ms']['p50']:.1f}, {report['latency_ms']['p99']:.1f}, "
          f"{report['latency_ms']['max']:.1f} ms |")
    print(f"| bytes that bookies stored meanwhile for each byte produced, with three copies | {copies:.4f} |")
    print(f"| of that copied or moved, as bookies count it | {moved(bookies) - moved_before:.0f} |", flush=True)
    if moved(bookies) != moved_before:
        raise SystemExit("stored data was copied while brokers came and went")


def start_broker(bench, store, number):
    http = f"127.0.0.1:{17080 + number}"
    args = [bench.binary, "serving", *store, "--grpc", f"127.0.0.1:{17070 + number}", "--http", http]
    broker = bench.Server(f"scale-broker-{number}", args, http)
    broker.wait_ready()
    return broker


def described(bench, topic):
    return json.loads(bench.geminga("topic", "describe", topic, "--output", "json"))["partitions"]


def first_use(bench, unused):
    """Seconds until records to partitions that nobody used are acknowledged, and to how many of `unused` there were some."""
    report = bench.work / "first-use.report"
    records = "".join(f"{key}|record\n" for key in range(FIRST_USES)).encode()
    seconds, _ = timed(bench, "produce", "big", "--key-separator", "|", "--report", str(report), stdin=records)
    acks = [json.loads(line) for line in report.read_text().splitlines()]
    if len(acks) != FIRST_USES or not all("offset" in ack for ack in acks):
        raise SystemExit(f"not all records were acknowledged: see {report}")
    return seconds, len({ack["partition"] for ack in acks} & unused)


def dies(bench, store):
    print("\n## A broker with many partitions is killed\n\n| what | measured |\n|---|---|")
    victim = start_broker(bench, store, 1)
    share = sum(owned(bench)) / 2
    wait("its share", lambda: owned(bench)[-1] >= 0.9 * share)
    bench.geminga("topic", "create", "open", "--partitions", str(OPEN_PARTITIONS))
    # Keys enough to hit nearly every partition.
    records = "".join(f"{key}|record\n" for key in range(10 * OPEN_PARTITIONS)).encode()
    write_to_all = ["produce", "open", "--key-separator", "|"]
    bench.geminga(*write_to_all, stdin=records)
    seconds, _ = timed(bench, *write_to_all, stdin=records)
    name = json.loads(bench.geminga("broker", "list", "--output", "json"))["brokers"][-1]["broker_id"]
    opened = [partition for partition in described(bench, "open") if partition["segments"]]
    unused = {p["partition"] for p in described(bench, "big") if p["owner_broker"] == name and not p["segments"]}
    mine = sum(partition["owner_broker"] == name for partition in opened)
    print(f"| partitions of the victim, and those with an open ledger | {owned(bench)[-1]}, {mine} |")
    print(f"| {10 * OPEN_PARTITIONS} keyed records to {len(opened)} open partitions, until all are acknowledged, before | {seconds:.1f} s |")
    victim.process.kill()
    victim.process.wait()
    seconds, _ = timed(bench, *write_to_all, stdin=records)
    print(f"| the same from the kill on | {seconds:.1f} s |")
    seconds, used = first_use(bench, unused)
    print(f"| then {FIRST_USES} records to partitions that nobody ever used, {used} of them of {len(unused)} that the victim had, "
          f"each opened for its record | {seconds:.1f} s |")


def run(bench):
    store, bookies, storage = bench.start_storage("scale", 3)
    first = start_broker(bench, store, 0)
    idle_partitions(bench, first)
    bench.geminga("topic", "create", "load", "--partitions", str(LOAD_PARTITIONS))
    what_a_byte_becomes(bench, first, bookies)
    come_and_go(bench, store, bookies)
    dies(bench, store)
    for server in [first, *storage]:
        server.stop()
