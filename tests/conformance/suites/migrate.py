"""The bridge, `geminga migrate`, out of an Apache Kafka of Maven Central, where there is a JDK: tests/conformance/migrate."""
import subprocess

from . import HERE, NotRun, Results, installed

QUICK = False
# It says so where it cannot have an Apache Kafka.
NOT_RUN = 3
CASE = "every_record_once_and_groups_go_on"


def run(context):
    if not context.servers:
        return Results(failed={CASE: "it needs a server of its own"})
    servers = context.start(cluster=False, auto_create=False)
    command = [installed(), HERE.parent / "migrate", "--to", servers.grpc, servers.bootstrap]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", timeout=600)
    lines = done.stdout.strip().splitlines() or [f"exit {done.returncode}"]
    if done.returncode == NOT_RUN:
        raise NotRun(lines[-1])
    if done.returncode == 0:
        return Results(passed={CASE})
    # The seed is in the first line.
    return Results(failed={CASE: f"{lines[0]}: {lines[-1]}"})
