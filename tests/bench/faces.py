"""What the Kafka face costs beside the gRPC one: `tests/bench/run faces`.

Three bookies, one broker. The same batch, encoded before, goes to the same topic by gRPC and by Kafka in turn (`faces_load.py`), each time
on as many connections as there are partitions: processor seconds of the broker for a gigabyte. Before that what connections that
do nothing take, and after it what Metadata of a topic of 10,000 partitions costs.
"""
import socket
import statistics
import struct
import subprocess
import time

KAFKA = "127.0.0.1:17092"
GRPC = "127.0.0.1:17070"
PARTITIONS, BATCHES, WINDOW = 4, 8_000, 16
IDLE = 1_000
MANY = 10_000


def connect():
    host, port = KAFKA.rsplit(":", 1)
    return socket.create_connection((host, int(port)))


def ask(stream, key, version, body=b""):
    request = struct.pack(">hhih", key, version, 1, -1) + body
    stream.sendall(struct.pack(">i", len(request)) + request)
    size = struct.unpack(">i", received(stream, 4))[0]
    return received(stream, size)


def received(stream, count):
    parts = []
    while count:
        parts.append(stream.recv(min(count, 1 << 20)))
        if not parts[-1]:
            raise SystemExit("the broker closed the connection")
        count -= len(parts[-1])
    return b"".join(parts)


def produced(bench, broker, face):
    """Processor seconds of the broker for a gigabyte, and megabytes a second."""
    python = bench.ROOT / ".venv/bin/python"
    address = KAFKA if face == "kafka" else GRPC
    command = [python, bench.ROOT / "tests/bench/faces_load.py", face, address, "faces", *map(str, (PARTITIONS, BATCHES, WINDOW))]
    cpu, began = broker.cpu_seconds(), time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{face}: {done.stderr.strip()}")
    sent = int(done.stdout)
    return (broker.cpu_seconds() - cpu) / sent * 1e9, sent / (time.monotonic() - began) / 1e6


def run(bench):
    store, _, storage = bench.start_storage("faces", 3)
    http = "127.0.0.1:17080"
    broker = bench.Server("faces-broker", [bench.binary, "serving", *store, "--grpc", GRPC, "--http", http, "--kafka", KAFKA], http)
    broker.wait_ready()
    # First, while nothing has been freed that they could take.
    before = broker.resident_bytes()
    idle = [connect() for _ in range(IDLE)]
    for stream in idle:
        ask(stream, 18, 0)
    print(f"\n{IDLE} connections that asked for the versions once: {(broker.resident_bytes() - before) / 1e6:.1f} MB")
    for stream in idle:
        stream.close()

    bench.geminga("topic", "create", "faces", "--partitions", str(PARTITIONS))
    for face in ("grpc", "kafka"):  # opens partitions, fills caches
        produced(bench, broker, face)
    print(f"\n{BATCHES * 64 >> 10} MiB in batches of 64 KiB, {PARTITIONS} connections of {WINDOW} batches:\n")
    print("| round | gRPC CPU s/GB | Kafka CPU s/GB | ratio | gRPC MB/s | Kafka MB/s |\n|---|---|---|---|---|---|")
    ratios = []
    for number in range(bench.options.rounds):
        order = ("grpc", "kafka") if number % 2 == 0 else ("kafka", "grpc")
        measured = {face: produced(bench, broker, face) for face in order}
        (grpc, grpc_speed), (kafka, kafka_speed) = measured["grpc"], measured["kafka"]
        ratios.append(kafka / grpc)
        print(f"| {number + 1} | {grpc:.2f} | {kafka:.2f} | {ratios[-1]:.2f} | {grpc_speed:.0f} | {kafka_speed:.0f} |", flush=True)
    print(f"\nmedian ratio {statistics.median(ratios):.2f}")

    bench.geminga("topic", "create", "many", "--partitions", str(MANY))
    asked = struct.pack(">i", 1) + struct.pack(">h", 4) + b"many" + b"\0\0\0"
    with connect() as stream:
        took, cpu = [], broker.cpu_seconds()
        for _ in range(20):
            began = time.monotonic()
            answer = ask(stream, 3, 8, asked)
            took.append(time.monotonic() - began)
        cpu = broker.cpu_seconds() - cpu
    print(f"\nMetadata (version 8) of {MANY} partitions: {len(answer)} bytes, median {statistics.median(took) * 1e3:.1f} ms, "
          f"slowest {max(took) * 1e3:.1f} ms, {cpu / 20 * 1e3:.1f} ms of the broker's processor")
    for server in [broker, *storage]:
        server.stop()
