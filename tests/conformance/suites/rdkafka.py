"""The tests of the crate rdkafka, out of its source, on the librdkafka that it brings."""
import os
import re
import shutil
import subprocess

from . import CACHE, Results, crate, download

QUICK = False
VERSION = "0.39.0"


def run(context):
    if not context.servers:
        return Results(failed={"all": "it needs a server of its own"})
    source = CACHE / f"rdkafka-{VERSION}"
    if not source.exists():
        shutil.copytree(crate("rdkafka", VERSION), source)
        (source / "Cargo.toml").write_text((source / "Cargo.toml").read_text() + "\n[workspace]\n")
    # One file of them goes to port 9092, which may be another's here, whatever they are told.
    fixed = source / "tests" / "test_high_producers.rs"
    text = fixed.read_text()
    asked = text.replace('"bootstrap.servers", "localhost"', '"bootstrap.servers", get_bootstrap_server()')
    if asked != text:
        fixed.write_text(asked)
    download(["cargo", "fetch", "-q"], cwd=source)
    # They count on as many partitions as the broker of their own has.
    servers = context.start(cluster=context.servers.cluster, partitions=3)
    env = {**os.environ, "KAFKA_HOST": servers.bootstrap, "KAFKA_VERSION": "3.9.0",
           "CARGO_TARGET_DIR": str(CACHE / "rdkafka-target"), "CARGO_PROFILE_TEST_DEBUG": "0"}
    command = ["cargo", "test", "--offline", "--no-fail-fast", "--test", "test_*"]
    # It builds a librdkafka of its own, which takes long on a busy machine.
    done = subprocess.run([*command, "--no-run"], cwd=source, env=env, capture_output=True, text=True, timeout=2400)
    if done.returncode != 0:
        return Results(failed={"build": done.stderr.strip().splitlines()[-1]})
    done = subprocess.run([*command, "--", "--test-threads=2"], cwd=source, env=env, capture_output=True, text=True, timeout=900)
    results = Results()
    for test, verdict in re.findall(r"^test (\S+)(?: - should panic)? \.\.\. (\w+)", done.stdout, re.M):
        if verdict == "ok":
            results.passed.add(test)
        elif verdict == "ignored":
            results.skipped.add(test)
        else:
            why = re.search(rf"^---- {test} stdout ----\n\n?(?:thread .* panicked at .*\n)?(.*(?:\n +(?:left|right): .*)*)", done.stdout, re.M)
            results.failed[test] = why[1].replace("\n", " ")[:300] if why else verdict
    # Two files have tests of one name.
    results.passed -= set(results.failed)
    return results
