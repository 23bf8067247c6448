"""The tests of the crate rdkafka, out of its source, on the librdkafka that it brings."""
import os
import re
import shutil
import subprocess
from pathlib import Path

from . import CACHE, Results

QUICK = False
CRATE = "rdkafka-0.39.0"


def run(context):
    source = CACHE / CRATE
    if not source.exists():
        holder = CACHE / "fetch-rdkafka"
        (holder / "src").mkdir(parents=True, exist_ok=True)
        (holder / "src" / "lib.rs").touch()
        (holder / "Cargo.toml").write_text(
            '[package]\nname = "fetch"\nversion = "0.0.0"\nedition = "2021"\n[dependencies]\nrdkafka = "=0.39.0"\n[workspace]\n')
        subprocess.run(["cargo", "fetch", "-q"], cwd=holder, check=True)
        home = Path(os.environ.get("CARGO_HOME", Path.home() / ".cargo"))
        found = next((home / "registry" / "src").glob(f"*/{CRATE}"))
        shutil.copytree(found, source)
        (source / "Cargo.toml").write_text((source / "Cargo.toml").read_text() + "\n[workspace]\n")
    env = {**os.environ, "KAFKA_HOST": context.bootstrap, "KAFKA_VERSION": "3.9.0",
           "CARGO_TARGET_DIR": str(CACHE / "rdkafka-target")}
    command = ["cargo", "test", "--no-fail-fast", "--tests", "--", "--test-threads=2"]
    done = subprocess.run(command, cwd=source, env=env, capture_output=True, text=True, timeout=1500)
    results = Results()
    for test, verdict in re.findall(r"^test (\S+)(?: - should panic)? \.\.\. (\w+)", done.stdout, re.M):
        if verdict == "ok":
            results.passed.add(test)
        elif verdict == "ignored":
            results.skipped.add(test)
        else:
            results.failed[test] = verdict
    if not results.passed:
        results.failed["build"] = done.stderr.strip().splitlines()[-1]
    return results
