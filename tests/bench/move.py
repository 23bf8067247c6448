"""How long a planned move keeps a partition from being written: `tests/bench/run move`.

Three brokers, three bookies, one etcd, as processes. A producer with one record on its way at a time writes to one partition,
which is moved to another broker by `geminga partition move`. The longest that a record of it waited for its acknowledgement,
from the request to a moment after its answer, is what the move cost. Before each move a key is put into the same etcd, over
one connection. What counts is the median move against ten times the median put of the same run.
"""
import base64
import http.client
import json
import random
import statistics
import threading
import time

import failover

# After the answer of a move: records that were on their way then are acknowledged.
AFTERWARDS = 0.2
# Puts before each move.
PUTS = 10


class Writer:
    """Sends records of one partition, one after the other, and remembers how long each took."""

    def __init__(self, bench, server, partition):
        self.producer = failover.Producer(bench, server, partition)
        self.stopping, self.failed = False, None
        self.took = []
        self.thread = threading.Thread(target=self.write, daemon=True)
        self.thread.start()

    def write(self):
        try:
            while not self.stopping:
                began = time.monotonic()
                self.producer.send()
                self.took.append((began, time.monotonic()))
        except OSError as error:
            self.failed = error

    def longest(self, begin, end):
        """Milliseconds, of records that were on their way between two moments."""
        return max((acked - sent) * 1000 for sent, acked in list(self.took) if acked >= begin and sent <= end)

    def end(self):
        self.stopping = True
        self.thread.join(timeout=failover.PATIENCE)
        self.producer.end()
        if self.failed:
            raise self.failed


def put(connection, number):
    """Milliseconds of one put into etcd."""
    key, value = (base64.b64encode(text.encode()).decode() for text in ("/bench/move", str(number)))
    began = time.monotonic()
    connection.request("POST", "/v3/kv/put", json.dumps({"key": key, "value": value}))
    response = connection.getresponse()
    response.read()
    if response.status != 200:
        raise OSError(f"etcd does not take a key: {response.status}")
    return (time.monotonic() - began) * 1000


def owner_of(cluster, partition):
    topic = json.loads(cluster.ask("topic", "describe", failover.TOPIC, "--output", "json"))
    return next(p["owner_address"] for p in topic["partitions"] if p["partition"] == partition)


def move(bench, cluster, partition):
    """One move; milliseconds that a record waited."""
    owner = owner_of(cluster, partition)
    others = [b["broker_id"] for b in cluster.status()["brokers"] if b["address"] != owner]
    writer = Writer(bench, next(iter(cluster.brokers)), partition)
    while len(writer.took) < 10 and not writer.failed:
        time.sleep(0.01)
    begin = time.monotonic()
    cluster.ask("partition", "move", failover.TOPIC, str(partition), "--to", str(random.choice(others)))
    end = time.monotonic()
    time.sleep(AFTERWARDS)
    writer.end()
    return writer.longest(begin, end)


def run(bench):
    cluster = failover.Cluster(bench)
    connection = http.client.HTTPConnection("127.0.0.1", 17079)
    moves, puts = [], []
    for number in range(bench.options.moves):
        puts += [put(connection, number) for _ in range(PUTS)]
        moves.append(move(bench, cluster, random.randrange(failover.PARTITIONS)))
    moves.sort()
    median, limit = statistics.median(moves), 10 * statistics.median(puts)
    print(f"\n## Planned moves: {len(moves)} of one partition of {failover.PARTITIONS}\n")
    print("| median ms | p95 ms | max ms | median put ms | median move / (10 x median put) |\n|---|---|---|---|---|")
    print(f"| {median:.1f} | {failover.percentile(moves, 0.95):.1f} | {moves[-1]:.1f} | {limit / 10:.2f} "
          f"| {median / limit:.2f} |")
    cluster.stop()
