"""One case of aiokafka: `aio.py BOOTSTRAP CASE`."""
import asyncio
import sys
import uuid

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

bootstrap, case = sys.argv[1:]
SECONDS = 120  # before what does not come is given up: long, for a machine that is busy
topic = f"aio-{case}-{uuid.uuid4()}"


async def produce(values, **config):
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, **config)
    await producer.start()
    try:
        pending = [await producer.send(topic, value.encode(), partition=0) for value in values]
        return [(await each).offset for each in pending]
    finally:
        await producer.stop()


async def read(count, offset=None, **config):
    reader = AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest", **config)
    if "group_id" in config:
        reader.subscribe([topic])
    await reader.start()
    try:
        if "group_id" not in config:
            reader.assign([TopicPartition(topic, 0)])
            if offset is not None:
                reader.seek(TopicPartition(topic, 0), offset)
        got = []
        while len(got) < count:
            batch = await asyncio.wait_for(reader.getmany(timeout_ms=1000), SECONDS)
            got += [message.value.decode() for messages in batch.values() for message in messages]
        return got
    finally:
        await reader.stop()


async def case_produce():
    expected = []
    for codec in (None, "gzip", "snappy", "lz4", "zstd"):
        values = [f"{codec} {n}" for n in range(500)]
        assert await produce(values, compression_type=codec) == list(range(len(expected), len(expected) + 500))
        expected += values
    assert await read(len(expected)) == expected


async def case_idempotent():
    values = [str(n) for n in range(2000)]
    await produce(values, enable_idempotence=True)
    assert await read(len(values)) == values


async def case_group():
    values = [str(n) for n in range(1000)]
    await produce(values)
    group = f"group-{topic}"
    assert await read(1000, group_id=group) == values
    await produce(["more"])
    assert await read(1, group_id=group) == ["more"]


async def case_seek():
    await produce([str(n) for n in range(100)])
    assert (await read(1, offset=57))[0] == "57"


asyncio.run(globals()[f"case_{case}"]())
