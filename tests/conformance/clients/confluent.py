"""One case of confluent-kafka: `confluent.py BOOTSTRAP CASE`."""
import sys
import threading
import time
import uuid

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import (AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewPartitions, NewTopic,
                                   OffsetSpec, ResourceType)

bootstrap, case = sys.argv[1:]
SECONDS = 120  # before what does not come is given up: long, for a machine that is busy
topic = f"{case}-{uuid.uuid4()}"
group = f"group-{topic}"


def produce(values, partition=None, **config):
    failed = []
    producer = Producer({"bootstrap.servers": bootstrap, **config})
    more = {} if partition is None else {"partition": partition}
    for value in values:
        producer.produce(topic, value=value, key=value[:16], on_delivery=lambda e, _: e and failed.append(e), **more)
        producer.poll(0)
    assert producer.flush(SECONDS) == 0
    assert not failed, failed[0]


def consumer(**config):
    return Consumer({"bootstrap.servers": bootstrap, "group.id": group, "auto.offset.reset": "earliest",
                     "session.timeout.ms": 6000, **config})


def read(reader, count, seconds=SECONDS):
    got, deadline = [], time.monotonic() + seconds
    while len(got) < count and time.monotonic() < deadline:
        for message in reader.consume(500, 0.5):
            assert message.error() is None, message.error()
            got.append(message)
    return got


def case_produce():
    expected = []
    for codec in ("none", "gzip", "snappy", "lz4", "zstd"):
        for config in ({"acks": "all"}, {"acks": 1}, {"enable.idempotence": True}):
            values = [f"{codec} {config} {n}" for n in range(1000)]
            produce(values, partition=0, **{"compression.type": codec, "linger.ms": 1, **config})
            expected += values
    reader = consumer()
    reader.assign([TopicPartition(topic, 0, 0)])
    got = read(reader, len(expected))
    assert [m.value().decode() for m in got] == expected
    assert [m.offset() for m in got] == list(range(len(expected)))
    reader.close()


def case_large_messages():
    produce(["x" * 900_000] * 20, partition=0)
    reader = consumer(**{"fetch.message.max.bytes": 100_000})
    reader.assign([TopicPartition(topic, 0, 0)])
    assert len(read(reader, 20)) == 20
    reader.close()
    try:
        produce(["x" * 1_200_000], partition=0, **{"message.max.bytes": 2_000_000})
    except AssertionError as error:
        assert error.args[0].code() == KafkaError.MSG_SIZE_TOO_LARGE, error
    else:
        raise AssertionError("a message above max.message.bytes was taken")


def case_refused_records():
    """Of a batch in which some records have no key, in a compacted topic, just these fail for that; the others may be sent again."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.create_topics([NewTopic(topic, 1, config={"cleanup.policy": "compact"})])[topic].result(SECONDS)
    for codec in ("none", "gzip", "snappy", "lz4", "zstd"):
        expected = {n: KafkaError.INVALID_RECORD if n % 10 == 0 else KafkaError._INVALID_DIFFERENT_RECORD for n in range(30)}
        for _ in range(5):
            codes = {}
            producer = Producer({"bootstrap.servers": bootstrap, "compression.type": codec, "linger.ms": 1000})
            for n in range(30):
                said = lambda error, _, n=n: codes.update({n: error and error.code()})
                producer.produce(topic, value=f"{n}", key=None if n % 10 == 0 else f"{n}", partition=0, on_delivery=said)
            assert producer.flush(SECONDS) == 0
            # A busy client may make more than one batch of them: those in one without a record that has no key are written.
            assert all(code in (expected[n], None if n % 10 else expected[n]) for n, code in codes.items()), (codec, codes)
            if codes == expected:
                break
        assert codes == expected, (codec, codes)
    produce(["a key"], partition=0)


def members(strategy, instance=False):
    """One member reads, a second joins, the first leaves: nothing is missed, nothing is read twice."""
    values = [f"{n:06}" for n in range(2000)]
    produce(values)
    seen, lock, assigned, refused = [], threading.Lock(), [set(), set()], []
    stop = [threading.Event(), threading.Event()]

    def run(n):
        config = {"partition.assignment.strategy": strategy, "enable.auto.commit": False}
        if instance:
            config["group.instance.id"] = f"member-{n}"
        reader = consumer(**config)
        reader.subscribe([topic], on_assign=lambda _, ps: assigned[n].update(p.partition for p in ps),
                         on_revoke=lambda _, ps: assigned[n].difference_update(p.partition for p in ps))
        while not stop[n].is_set():
            message = reader.poll(0.2)
            if message is None or message.error() is not None:
                continue
            with lock:
                seen.append((message.partition(), message.offset()))
            try:
                reader.commit(message, asynchronous=False)
            except KafkaException as error:
                # A member that reads on while its group changes may be told so when it commits; what it read is read again.
                assert error.args[0].code() in (KafkaError.ILLEGAL_GENERATION, KafkaError.REBALANCE_IN_PROGRESS), error
                refused.append(message)
        reader.close()

    threads = [threading.Thread(target=run, args=(n,), daemon=True) for n in (0, 1)]
    threads[0].start()
    until(lambda: len(assigned[0]) == 4, "the first has all")
    threads[1].start()
    until(lambda: len(assigned[0]) == 2 and len(assigned[1]) == 2, "they share")
    # Kept: what it was asked is forgotten with it.
    admin = AdminClient({"bootstrap.servers": bootstrap})
    described = admin.describe_consumer_groups([group])[group].result()
    assert len(described.members) == 2 and described.state.name == "STABLE", described.state
    stop[0].set()
    threads[0].join()
    if not instance:
        until(lambda: len(assigned[1]) == 4, "the second has all")
        until(lambda: len(set(seen)) == len(values), "all is read")
    stop[1].set()
    threads[1].join()
    if not instance:
        assert refused or len(seen) == len(set(seen)), "something was read twice, though all was committed"


def until(true, what, seconds=SECONDS):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.05)


def case_group():
    members("range")


def case_cooperative():
    members("cooperative-sticky")


def case_static_member():
    members("range", instance=True)


def case_metadata_of_commits():
    produce(["x"], partition=1)
    reader = consumer()
    reader.commit(offsets=[TopicPartition(topic, 1, 1, "my words")], asynchronous=False)
    [found] = reader.committed([TopicPartition(topic, 1)], timeout=SECONDS)
    assert (found.offset, found.metadata) == (1, "my words"), found
    [none] = reader.committed([TopicPartition(topic, 2)], timeout=SECONDS)
    assert none.offset == -1001
    try:
        reader.commit(offsets=[TopicPartition(topic, 1, 1, "x" * 5000)], asynchronous=False)
    except KafkaException as error:
        assert error.args[0].code() == KafkaError.OFFSET_METADATA_TOO_LARGE, error
    else:
        raise AssertionError("5000 bytes of metadata were taken")
    reader.close()


def case_times():
    producer = Producer({"bootstrap.servers": bootstrap})
    now = int(time.time() * 1000)
    for n in range(100):
        producer.produce(topic, str(n), partition=0, timestamp=now - 100_000 + n * 1000)
    assert producer.flush(SECONDS) == 0
    reader = consumer()
    [found] = reader.offsets_for_times([TopicPartition(topic, 0, now - 100_000 + 41_500)], timeout=SECONDS)
    assert found.offset == 42, found
    [found] = reader.offsets_for_times([TopicPartition(topic, 0, now + 100_000)], timeout=SECONDS)
    assert found.offset == -1, found
    assert reader.get_watermark_offsets(TopicPartition(topic, 0), timeout=SECONDS) == (0, 100)
    reader.close()
    admin = AdminClient({"bootstrap.servers": bootstrap})
    asked = admin.list_offsets({TopicPartition(topic, 0): OffsetSpec.max_timestamp()})
    assert asked[TopicPartition(topic, 0)].result().offset == 99


def case_admin():
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.create_topics([NewTopic(topic, 3, config={"retention.ms": "3600000"})])[topic].result()
    try:
        admin.create_topics([NewTopic(topic, 3)])[topic].result()
    except KafkaException as error:
        assert error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS, error
    else:
        raise AssertionError("it was created twice")
    described = admin.list_topics(topic, timeout=SECONDS).topics[topic]
    assert len(described.partitions) == 3 and all(p.leader > 0 for p in described.partitions.values())
    resource = ConfigResource(ResourceType.TOPIC, topic)
    configs = admin.describe_configs([resource])[resource].result()
    assert configs["retention.ms"].value == "3600000" and not configs["retention.ms"].is_default
    assert configs["cleanup.policy"].value == "delete"
    change = ConfigEntry("retention.ms", "7200000", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[change])
    admin.incremental_alter_configs([resource])[resource].result()
    resource = ConfigResource(ResourceType.TOPIC, topic)
    assert admin.describe_configs([resource])[resource].result()["retention.ms"].value == "7200000"
    admin.create_partitions([NewPartitions(topic, 5)])[topic].result()
    assert len(admin.list_topics(topic, timeout=SECONDS).topics[topic].partitions) == 5
    produce([str(n) for n in range(10)], partition=4)
    asked = [TopicPartition(topic, 4, 6)]
    low = admin.delete_records(asked)[asked[0]].result()
    assert low.low_watermark == 6, low.low_watermark
    reader = consumer()
    assert reader.get_watermark_offsets(TopicPartition(topic, 4), timeout=SECONDS) == (6, 10)
    reader.commit(offsets=[TopicPartition(topic, 4, 7)], asynchronous=False)
    reader.close()
    listed = [g.group_id for g in admin.list_consumer_groups().result().valid]
    assert group in listed
    admin.delete_consumer_groups([group])[group].result()
    assert admin.describe_cluster().result().nodes
    admin.delete_topics([topic])[topic].result()
    assert topic not in admin.list_topics(timeout=SECONDS).topics


globals()[f"case_{case}"]()
