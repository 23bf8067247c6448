"""One case of kafka-python 2.0.2: `old_python.py BOOTSTRAP CASE`."""
import sys
import types
import uuid

# Its copy of six is older than this Python's way of importing.
import six
import six.moves

for name in [n for n in list(sys.modules) if n == "six" or n.startswith("six.")]:
    sys.modules["kafka.vendor." + name] = sys.modules[name]
vendor = types.ModuleType("kafka.vendor")

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition  # noqa: E402
from kafka.admin import NewTopic  # noqa: E402

bootstrap, case = sys.argv[1:]
topic = f"old-{case}-{uuid.uuid4()}"


def produce(values, **config):
    producer = KafkaProducer(bootstrap_servers=bootstrap, **config)
    pending = [producer.send(topic, value.encode(), partition=0) for value in values]
    producer.flush(30)
    return [each.get(30).offset for each in pending]


def read(count, **config):
    reader = KafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest", consumer_timeout_ms=15000, **config)
    if "group_id" in config:
        reader.subscribe([topic])
    else:
        reader.assign([TopicPartition(topic, 0)])
    got = []
    for message in reader:
        got.append(message.value.decode())
        if len(got) == count:
            break
    reader.close()
    return got


def case_produce():
    expected = []
    for codec in (None, "gzip", "snappy", "lz4"):
        values = [f"{codec} {n}" for n in range(200)]
        assert produce(values, compression_type=codec) == list(range(len(expected), len(expected) + 200))
        expected += values
    assert read(len(expected)) == expected


def case_group():
    values = [str(n) for n in range(500)]
    produce(values)
    group = f"group-{topic}"
    assert read(500, group_id=group) == values
    produce(["more"])
    assert read(1, group_id=group) == ["more"]


def case_admin():
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    admin.create_topics([NewTopic(topic, 2, 1)])
    assert topic in admin.list_topics()
    [described] = admin.describe_topics([topic])
    assert len(described["partitions"]) == 2
    admin.delete_topics([topic])
    assert topic not in admin.list_topics()


globals()[f"case_{case}"]()
