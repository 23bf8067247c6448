"""confluent-kafka from PyPI, on a current librdkafka."""
from . import HERE, steps, venv

QUICK = True
CASES = ["produce", "group", "cooperative", "static_member", "metadata_of_commits", "times", "admin", "large_messages"]


def run(context):
    python = venv("confluent", "confluent-kafka==2.16.1")
    return steps([python, HERE.parent / "clients" / "confluent.py", context.bootstrap], CASES)
