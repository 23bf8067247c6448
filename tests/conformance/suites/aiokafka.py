"""aiokafka from PyPI, which speaks old versions only."""
from . import HERE, steps, venv

QUICK = True


def run(context):
    python = venv("aiokafka", "aiokafka==0.14.0", "lz4", "zstandard", "cramjam")
    script = HERE.parent / "clients" / "aio.py"
    return steps([python, script, context.bootstrap], ["produce", "idempotent", "group", "seek"])
