"""Records at a steady rate and a group that keeps up, by librdkafka: rolling_kafka.py BOOTSTRAP TOPIC RATE SIZE GROUP MEMBERS

As `bench-load phases` (tests/bench/load/src/phases.rs), with the same words on standard input and the same report: each line
begins a phase, `end` ends sending; then what was acknowledged must arrive. An idempotent producer, and members that commit what they
read. A record that is not delivered, a message that is an error, a commit that is refused and anything fatal are errors. What
librdkafka tells of connections (`error_cb`) is counted as notices: it says itself that it needs no action of the application.

Run with the Python of .venv.
"""
import json
import struct
import sys
import threading
import time

from confluent_kafka import Consumer, KafkaException, Producer

PATIENCE = 60
MOST_ERRORS = 20
HEAD = struct.Struct(">QQI")

bootstrap, topic = sys.argv[1:3]
rate, size = map(int, sys.argv[3:5])
group, members = sys.argv[5], int(sys.argv[6])
begin = time.monotonic()


def micros():
    return int((time.monotonic() - begin) * 1e6)


class Tally:
    """Under its lock, what has happened so far."""

    def __init__(self):
        self.lock = threading.Lock()
        self.phases, self.arrivals, self.places = [], [], {}
        self.assignments = self.wrong = self.errors = self.notices = 0
        self.told, self.closed = [], False

    def phase(self, name):
        with self.lock:
            self.phases.append({"name": name, "failed": 0, "acked": [], "arrived": []})

    def error(self, who, error):
        with self.lock:
            self.errors += 1
            if len(self.told) < MOST_ERRORS:
                self.told.append(f"{micros() / 1e6:.1f} s, {who}: {error}")

    def notice(self, who, error):
        if error.fatal():
            self.error(who, error)
        with self.lock:
            self.notices += 1

    def ended(self, error, message):
        number, due, phase = HEAD.unpack_from(message.value())
        if error is not None:
            self.error("producer", error)
        with self.lock:
            if error is not None:
                self.phases[phase]["failed"] += 1
                return
            self.phases[phase]["acked"].append(micros() - due)
            self.places[number] = (message.partition(), message.offset())

    def arrived(self, message):
        with self.lock:
            number, due, phase = HEAD.unpack_from(message.value())
            self.arrivals[number] += 1
            if self.arrivals[number] == 1:
                self.phases[phase]["arrived"].append(micros() - due)
            place = (message.partition(), message.offset())
            if self.places.get(number, place) != place:
                self.wrong += 1

    def missing(self):
        return sum(not self.arrivals[number] for number in self.places)

    def is_over(self):
        with self.lock:
            return self.closed and not self.missing()

    def report(self):
        phases = [{
            "name": phase["name"], "records": len(phase["acked"]), "failed": phase["failed"],
            "acked_ms": latency(phase["acked"]), "arrived_ms": latency(phase["arrived"]),
        } for phase in self.phases]
        return {
            "phases": phases, "sent": len(self.arrivals), "acknowledged": len(self.places), "missing": self.missing(),
            "repeated": sum(max(0, n - 1) for n in self.arrivals), "wrong": self.wrong, "assignments": self.assignments,
            "errors": self.errors, "told": self.told, "notices": self.notices,
        }


def latency(taken):
    taken = sorted(taken) or [0]
    at = lambda share: taken[min(len(taken) - 1, int(len(taken) * share))] / 1000
    return {"p50": at(0.5), "p99": at(0.99), "max": taken[-1] / 1000}


tally = Tally()


class Words(threading.Thread):
    """What the caller says: the last word that was not taken yet, and whether it has ended."""

    def __init__(self):
        super().__init__(daemon=True)
        self.new, self.ended = [], False

    def run(self):
        for line in sys.stdin:
            if line.strip() == "end":
                break
            self.new.append(line.strip())
        self.ended = True


def produce(words):
    producer = Producer({
        "bootstrap.servers": bootstrap, "enable.idempotence": True, "linger.ms": 5,
        "error_cb": lambda error: tally.notice("producer", error),
    })
    while not words.new:
        if words.ended:
            sys.exit("no phase was named")
        time.sleep(0.01)
    start, number = time.monotonic(), 0
    while not words.ended:
        while words.new:
            tally.phase(words.new.pop(0))
        due = start + number / rate
        while (left := due - time.monotonic()) > 0:
            producer.poll(left)
        head = HEAD.pack(number, int((due - begin) * 1e6), len(tally.phases) - 1)
        with tally.lock:
            tally.arrivals.append(0)
        producer.produce(topic, head + b"Z" * (size - len(head)), key=str(number), on_delivery=tally.ended)
        producer.poll(0)
        number += 1
    left = producer.flush(PATIENCE * 2)
    if left:
        tally.error("producer", f"{left} records have not ended")
    with tally.lock:
        tally.closed = True


def follow(who):
    consumer = Consumer({
        "bootstrap.servers": bootstrap, "group.id": group, "auto.offset.reset": "earliest", "enable.auto.commit": False,
        "session.timeout.ms": 10000, "error_cb": lambda error: tally.notice(who, error),
    })

    def on_assign(_consumer, _partitions):
        with tally.lock:
            tally.assignments += 1

    consumer.subscribe([topic], on_assign=on_assign)
    errors, deadline = 0, None
    while errors < MOST_ERRORS and not tally.is_over() and not (deadline and time.monotonic() > deadline):
        if tally.closed and not deadline:
            deadline = time.monotonic() + PATIENCE
        messages = consumer.consume(500, 0.05)
        for message in messages:
            if message.error() is None:
                tally.arrived(message)
            else:
                errors += 1
                tally.error(who, message.error())
        if not messages:
            continue
        try:
            for place in consumer.commit(asynchronous=False) or []:
                if place.error:
                    errors += 1
                    tally.error(f"{who}, commit", place.error)
        except KafkaException as error:
            errors += 1
            tally.error(f"{who}, commit", error.args[0])
    consumer.close()


spoken = Words()
spoken.start()
threads = [threading.Thread(target=follow, args=(f"member {number}",)) for number in range(members)]
for thread in threads:
    thread.start()
produce(spoken)
for thread in threads:
    thread.join()
print(json.dumps(tally.report()))
