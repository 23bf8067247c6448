"""How long a partition, or a group, is not served when its broker is killed: `tests/bench/run failover`.

Three brokers, three bookies, one etcd, as processes. Before each kill a producer with one record on its way at a time is
connected to a broker that will live; the broker that is killed (kill -9) owns its partition. From the kill to the
acknowledgement of the record that is sent next: that is what is printed. Meanwhile 5 MB a second are produced to another topic by
all brokers, and others produce to all of them with one record on its way at a time. The victim
is started again, and the next kill waits until all three own partitions. For groups, the time is from the kill to the answer of
`geminga group describe`, which a coordinator gives only after a write under its own term; a process starts within it.

`tests/bench/run vanish`: the same where the victim's machine vanishes. It runs in a network namespace of its own, to and from
which all packets are dropped. Needs root.
"""
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import threading
import time

PARTITIONS = 12
TOPIC = "failover"
# What is produced beside, to all brokers: 5 MB a second.
LOAD_TOPIC, LOAD_BYTES, LOAD_RATE = "failover-load", 1000, 5000
# No kill may keep anybody waiting for longer.
PATIENCE = 60


class Producer:
    """One `geminga produce` with one record on its way at a time."""

    count = 0

    def __init__(self, bench, server, partition=None):
        Producer.count += 1
        fifo = bench.work / f"acks-{Producer.count}"
        os.mkfifo(fifo)
        command = [bench.binary, "produce", TOPIC, "--key-separator", "|", "--report", fifo, "--server", server]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.acks = open(fifo, "rb", buffering=0)
        fifo.unlink()
        self.key, self.sent = 0, 0
        # Keys are tried until one lands in the partition.
        while partition is not None and self.send()["partition"] != partition:
            self.key += 1

    def send(self):
        """Sends a record; its acknowledgement."""
        self.sent += 1
        self.process.stdin.write(f"{self.key}|{self.sent}\n".encode())
        self.process.stdin.flush()
        line = b""
        while not line.endswith(b"\n"):
            more = self.acks.readline()
            if not more:
                raise OSError("the producer ended")
            line += more
        ack = json.loads(line)
        if "offset" not in ack:
            raise OSError(f"not acknowledged: {ack}")
        return ack

    def end(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.acks.close()


class Cluster:
    """The processes, and what they say of themselves."""

    def __init__(self, bench, host="127.0.0.1", elsewhere=None):
        """`elsewhere`: a namespace, and the address in it, for the first broker."""
        self.bench, self.elsewhere = bench, elsewhere
        self.flags = ["--insecure"] if elsewhere else []
        self.store, self.bookies, self.storage = bench.start_storage("failover", 3, host, self.flags)
        self.brokers = {}
        for number in reversed(range(3)):
            self.start(f"{elsewhere[1] if elsewhere and number == 0 else host}:{17070 + number}")
        self.wait_spread()
        for topic in (TOPIC, LOAD_TOPIC):
            self.ask("topic", "create", topic, "--partitions", str(PARTITIONS))
        self.wait_spread()

    def start(self, address):
        number = int(address.rsplit(":", 1)[1]) - 17070
        host = address.rsplit(":", 1)[0]
        http = f"{host}:{17080 + number}"
        args = [self.bench.binary, "serving", *self.store, "--grpc", address, "--http", http, *self.flags]
        if self.elsewhere and self.elsewhere[1] == host:
            args = ["ip", "netns", "exec", self.elsewhere[0], *args]
        self.brokers[address] = self.bench.Server(f"broker-{number}", args, http)
        self.brokers[address].wait_ready()

    def ask(self, *args, server=None):
        return self.bench.geminga(*args, server=server or next(iter(self.brokers)))

    def status(self, server=None):
        return json.loads(self.ask("cluster", "status", "--output", "json", server=server))

    def wait_spread(self):
        """Until three brokers own something, and nobody else is registered."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            brokers = self.status()["brokers"]
            if len(brokers) == 3 and all(b["partitions"] > 0 for b in brokers):
                return
            time.sleep(0.05)
        sys.exit(f"partitions are not spread over three brokers: see {self.bench.work}")

    def partition_of(self, address, server):
        """A partition that the broker at this address owns."""
        topic = json.loads(self.ask("topic", "describe", TOPIC, "--output", "json", server=server))
        owned = [p["partition"] for p in topic["partitions"] if p["owner_address"] == address]
        return random.choice(owned) if owned else None

    def stop(self):
        for server in [*self.brokers.values(), *self.storage]:
            server.stop()


class Load:
    """Producers at every broker, one record of each on its way, and 5 MB a second beside, for as long as it lives."""

    def __init__(self, bench, cluster):
        self.bench, self.stopping, self.acked = bench, False, 0
        self.began = time.monotonic()
        self.threads = [threading.Thread(target=self.produce, args=[server], daemon=True) for server in cluster.brokers]
        for thread in self.threads:
            thread.start()
        # More than it will come to.
        command = [bench.binary, "perf", "produce", LOAD_TOPIC, "--records", "1000000000", "--size", str(LOAD_BYTES),
                   "--rate", str(LOAD_RATE), "--output", "json", "--server", ",".join(cluster.brokers)]
        self.perf = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def produce(self, server):
        while not self.stopping:
            producer = None
            try:
                producer = Producer(self.bench, server)
                while not self.stopping:
                    producer.key = random.randrange(1000)
                    producer.send()
                    self.acked += 1
            except OSError:
                time.sleep(0.1)
            finally:
                if producer:
                    producer.end()

    def stop(self):
        """Ends all; what there was of it, in words."""
        if self.perf.poll() is not None:
            sys.exit(f"the load ended by itself: see {self.bench.work}")
        written = self.written()
        seconds = time.monotonic() - self.began
        self.perf.kill()
        self.perf.wait()
        self.stopping = True
        for thread in self.threads:
            thread.join(timeout=5)
        return (f"Meanwhile {written * LOAD_BYTES / seconds / 1e6:.1f} MB/s ({written / seconds:.0f} records/s) were produced to another topic, "
                f"and {self.acked} records one at a time, {self.acked / seconds:.0f} a second.")

    def written(self):
        """Records in the topic beside."""
        while True:
            topic = json.loads(self.bench.geminga("topic", "describe", LOAD_TOPIC, "--output", "json"))
            ends = [partition["high_watermark"] for partition in topic["partitions"]]
            if None not in ends:
                return sum(ends)
            time.sleep(0.1)  # an owner has not opened its partition yet


def victim_of(kind, cluster):
    """The address of a broker to kill."""
    status = cluster.status()
    addresses = {b["broker_id"]: b["address"] for b in status["brokers"]}
    coordinator = addresses[status["coordinator_broker"]]
    if kind == "coordinator":
        return coordinator
    if kind == "shard":
        group = json.loads(cluster.ask("group", "describe", "g", "--output", "json"))
        return group["coordinator_address"]
    return random.choice([a for a in addresses.values() if a != coordinator])


def kill(kind, bench, cluster):
    """One kill; milliseconds until served again."""
    victim = victim_of(kind, cluster)
    entry = random.choice([a for a in cluster.brokers if a != victim])
    producer = None
    if kind != "shard":
        partition = cluster.partition_of(victim, entry)
        producer = Producer(bench, entry, partition)
        for _ in range(3):
            producer.send()
    time.sleep(random.random() * 0.2)
    process = cluster.brokers.pop(victim).process
    process.kill()
    began = time.monotonic()
    if producer:
        producer.send()
    else:
        cluster.ask("group", "describe", "g", "--output", "json", server=entry)
    took = (time.monotonic() - began) * 1000
    process.wait()
    if producer:
        producer.end()
    cluster.start(victim)
    cluster.wait_spread()
    return took


def percentile(sorted_times, share):
    return sorted_times[min(len(sorted_times) - 1, int(len(sorted_times) * share))]


def run(bench):
    cluster = Cluster(bench)
    server = next(iter(cluster.brokers))
    bench.geminga("produce", TOPIC, server=server, stdin=b"first\n")
    bench.geminga("consume", TOPIC, "--group", "g", "--from-beginning", "--until-end", server=server)
    load = Load(bench, cluster)
    print(f"\n## Failover: {bench.options.kills} kills of each kind, {PARTITIONS} partitions\n")
    print("| victim | kills | median ms | p95 ms | p99 ms | max ms |\n|---|---|---|---|---|---|")
    for kind in ("owner", "coordinator", "shard"):
        times = sorted(kill(kind, bench, cluster) for _ in range(bench.options.kills))
        print(f"| {kind} | {len(times)} | {statistics.median(times):.0f} | {percentile(times, 0.95):.0f} "
              f"| {percentile(times, 0.99):.0f} | {times[-1]:.0f} |", flush=True)
    print(f"\n{load.stop()}")
    cluster.stop()


NAMESPACE = "geminga-bench"
HERE, THERE = "10.213.77.1", "10.213.77.2"


def sh(*command, check=True):
    subprocess.run(command, check=check, capture_output=not check)


def vanish(bench, cluster):
    """One machine that vanishes; milliseconds until its partition is served again."""
    victim = f"{THERE}:17070"
    entry = random.choice([a for a in cluster.brokers if a != victim])
    producer = Producer(bench, entry, cluster.partition_of(victim, entry))
    for _ in range(3):
        producer.send()
    rules = [["INPUT", "-s", THERE, "-j", "DROP"], ["OUTPUT", "-d", THERE, "-j", "DROP"]]
    for rule in rules:
        sh("iptables", "-A", *rule)
    try:
        began = time.monotonic()
        producer.send()
        took = (time.monotonic() - began) * 1000
    finally:
        for rule in rules:
            sh("iptables", "-D", *rule)
    producer.end()
    process = cluster.brokers.pop(victim).process
    process.kill()
    process.wait()
    cluster.start(victim)
    cluster.wait_spread()
    return took


def run_vanish(bench):
    missing = [tool for tool in ("ip", "iptables") if not shutil.which(tool)]
    if os.geteuid() != 0 or missing:
        sys.exit(f"vanish needs root, ip and iptables (apt-get install iproute2 iptables); missing: {missing or 'root'}")
    sh("ip", "netns", "del", NAMESPACE, check=False)
    sh("ip", "netns", "add", NAMESPACE)
    try:
        sh("ip", "link", "add", "geminga0", "type", "veth", "peer", "name", "eth0", "netns", NAMESPACE)
        sh("ip", "addr", "add", f"{HERE}/30", "dev", "geminga0")
        sh("ip", "link", "set", "geminga0", "up")
        for command in (["addr", "add", f"{THERE}/30", "dev", "eth0"], ["link", "set", "eth0", "up"],
                        ["link", "set", "lo", "up"]):
            sh("ip", "-n", NAMESPACE, *command)
        cluster = Cluster(bench, HERE, (NAMESPACE, THERE))
        print(f"\n## A machine vanishes, {bench.options.vanishes} times\n")
        times = sorted(vanish(bench, cluster) for _ in range(bench.options.vanishes))
        print("| times | median ms | p95 ms | max ms |\n|---|---|---|---|")
        print(f"| {len(times)} | {statistics.median(times):.0f} | {percentile(times, 0.95):.0f} | {times[-1]:.0f} |")
        cluster.stop()
    finally:
        sh("ip", "netns", "del", NAMESPACE, check=False)
