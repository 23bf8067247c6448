"""A static member of a Kafka group (`group.instance.id`), for one life: the next process of the same instance is the same member.

It is told what to do by words on its standard input, and writes into the history of the run as all clients do: a line is one write
to a file that is open for appending. It writes what it is given before it commits.
"""
import argparse
import json
import os
import random
import sys
import threading
import time
import zlib

from confluent_kafka import Consumer, KafkaException, TopicPartition

# As the Rust members.
SESSION_MS = 6000
# A member that gets nothing for so long commits.
IDLE = 0.3
# As the Rust clients.
GAVE_UP = 3
# A request of librdkafka ends after its socket's timeout whatever a broker does, and is sent three times at most: what takes longer
# than this was lost in the client, as a commit was that met the end of the session and another coordinator.
STUCK = 50


class History:
    def __init__(self, path, name, before):
        self.file, self.name = os.open(path, os.O_WRONLY | os.O_APPEND), name
        self.before, self.start = before, time.monotonic()

    def write(self, event, **fields):
        t = self.before + int((time.monotonic() - self.start) * 1e6)
        line = json.dumps({"t": t, "client": self.name, "event": event, **fields}, separators=(",", ":"))
        os.write(self.file, line.encode() + b"\n")


class Orders(threading.Thread):
    """The last word on standard input; whoever gave them is gone when it ends."""

    def __init__(self):
        super().__init__(daemon=True)
        self.leave = False

    def run(self):
        for line in sys.stdin:
            self.leave |= line.strip() == "leave"
        if not self.leave:
            os._exit(0)


class Member:
    def __init__(self, options):
        self.history = History(options.history, options.name, options.before)
        self.group, self.topic, self.dice = options.group, options.topic, random.Random(options.seed)
        self.done, self.until_commit = {}, 1
        self.consumer = Consumer({
            "bootstrap.servers": options.servers, "client.id": options.name, "group.id": options.group,
            "group.instance.id": options.instance, "session.timeout.ms": SESSION_MS, "heartbeat.interval.ms": 1000,
            "enable.auto.commit": False, "auto.offset.reset": "earliest", "check.crcs": True,
            "partition.assignment.strategy": options.assignor, "socket.timeout.ms": 10000, "log_level": 3,
        })

    def bounded(self, call, **arguments):
        """Calls what waits without an end of its own."""
        watch = threading.Timer(STUCK, self.give_up, [f"{call.__name__} does not return"])
        watch.daemon = True
        watch.start()
        try:
            return call(**arguments)
        finally:
            watch.cancel()

    def give_up(self, why):
        self.history.write("fault", what=f"{self.history.name} failed: {why}")
        os._exit(GAVE_UP)

    def place(self, partition):
        return {"group": self.group, "topic": self.topic, "partition": partition}

    def on_assign(self, consumer, partitions):
        for one in partitions:
            self.done.pop(one.partition, None)
            self.history.write("assign", **self.place(one.partition))

    def on_revoke(self, consumer, partitions):
        # Some are slow to say what they have done, so that it is done again.
        if self.dice.random() < 0.8:
            self.commit()
        self.on_lost(consumer, partitions)

    def on_lost(self, consumer, partitions):
        for one in partitions:
            self.done.pop(one.partition, None)
            self.history.write("revoke", **self.place(one.partition))

    def live(self, orders):
        self.history.write("join", group=self.group)
        self.consumer.subscribe([self.topic], on_assign=self.on_assign, on_revoke=self.on_revoke, on_lost=self.on_lost)
        while not orders.leave:
            message = self.consumer.poll(IDLE)
            if message is None:
                self.commit()
            elif message.error() and message.error().fatal():
                # Another process came as this member: what a killed one had sent can arrive late.
                self.give_up(message.error().str())
            elif message.error() is None:
                self.given(message)
                self.until_commit -= 1
                if self.until_commit == 0:
                    self.commit()
        self.commit()
        # A static member does not leave: its place is kept for as long as its session.
        self.bounded(self.consumer.close)

    def given(self, message):
        value = message.value()
        producer, seq, _ = value.decode().split(" ")
        content = {"producer": producer, "seq": int(seq), "hash": f"{zlib.crc32(value):08x}"}
        self.history.write("fetch", **self.place(message.partition()), offset=message.offset(), **content)
        self.done[message.partition()] = message.offset() + 1

    def commit(self):
        """Commits what is done. That the group has moved on is no failure: somebody does it again."""
        self.until_commit = self.dice.randrange(1, 400)
        done, self.done = self.done, {}
        if not done:
            return
        for partition, offset in done.items():
            self.history.write("commit", **self.place(partition), offset=offset)
        try:
            offsets = [TopicPartition(self.topic, p, o) for p, o in done.items()]
            answers = self.bounded(self.consumer.commit, offsets=offsets, asynchronous=False)
        except KafkaException as error:
            print(f"{self.history.name}: {error}", flush=True)
            return
        for answer in answers:
            if answer.error is None:
                self.history.write("committed", **self.place(answer.partition))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--name", "--servers", "--history", "--group", "--instance", "--topic", "--assignor"):
        parser.add_argument(name, required=True)
    for name in ("--before", "--seed"):
        parser.add_argument(name, type=int, required=True)
    options = parser.parse_args()
    orders = Orders()
    orders.start()
    Member(options).live(orders)


if __name__ == "__main__":
    main()
