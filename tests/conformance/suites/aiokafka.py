"""aiokafka from PyPI, which speaks old versions only."""
from . import HERE, installed, steps

QUICK = True
CASES = ["produce", "idempotent", "group", "seek"]
SHORT = CASES


def run(context):
    script = HERE.parent / "clients" / "aio.py"
    return steps([installed(), script, context.bootstrap], CASES)
