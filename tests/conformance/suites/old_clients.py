"""Clients of years ago that are still in use: kafka-python 2.0.2 of Debian. (kcat stands on an old librdkafka, too.)"""
from . import HERE, steps, venv

QUICK = True


def run(context):
    python = venv("kafka-python-old", "kafka-python==2.0.2", "six", "lz4", "python-snappy")
    script = HERE.parent / "clients" / "old_python.py"
    return steps([python, script, context.bootstrap], ["produce", "group", "admin"])
