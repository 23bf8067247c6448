"""confluent-kafka from PyPI, on a current librdkafka."""
from . import HERE, installed, steps

QUICK = True
SHORT = ["produce", "metadata_of_commits", "times", "admin", "refused_records"]
CASES = ["produce", "group", "cooperative", "static_member", "metadata_of_commits", "times", "admin", "large_messages",
         "refused_records"]


def run(context):
    return steps([installed(), HERE.parent / "clients" / "confluent.py", context.bootstrap], SHORT if context.short else CASES)
