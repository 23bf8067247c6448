"""librdkafka's own tests, out of the crate rdkafka-sys: those that need a broker, one process each, by a list that only grows.
A test that says SKIPPED, or makes no connection to our server, has not passed."""
import os
import shutil
import subprocess
from pathlib import Path

from . import CACHE, HERE, Results

QUICK = False
CRATE = "rdkafka-sys-4.10.0+2.12.1"
SECONDS = 240


def build():
    source = CACHE / "librdkafka"
    if (source / "tests" / "test-runner").exists():
        return source
    holder = CACHE / "fetch-librdkafka"
    (holder / "src").mkdir(parents=True, exist_ok=True)
    (holder / "src" / "lib.rs").touch()
    (holder / "Cargo.toml").write_text('[package]\nname = "fetch"\nversion = "0.0.0"\nedition = "2021"\n[dependencies]\n'
                                       'rdkafka-sys = "=4.10.0"\n[workspace]\n')
    subprocess.run(["cargo", "fetch", "-q"], cwd=holder, check=True)
    home = Path(os.environ.get("CARGO_HOME", Path.home() / ".cargo"))
    found = next((home / "registry" / "src").glob(f"*/{CRATE}"))
    shutil.copytree(found / "librdkafka", source, dirs_exist_ok=True)
    make = "./configure --disable-curl --disable-sasl && make -j2 libs && make -C tests build"
    subprocess.run(["sh", "-c", make], cwd=source, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return source


def run(context):
    tests = build() / "tests"
    (tests / "test.conf").write_text(f"bootstrap.servers={context.bootstrap}\n")
    results = Results()
    for test in (HERE.parent / "librdkafka.txt").read_text().split():
        before = context.connections()
        env = {**os.environ, "TESTS": test, "TEST_KAFKA_VERSION": "3.9.0", "LD_LIBRARY_PATH": "../src:../src-cpp"}
        try:
            done = subprocess.run(["./test-runner", "-p1", "-Q", "-E"], cwd=tests, env=env, capture_output=True, text=True,
                                  timeout=SECONDS, errors="replace")
        except subprocess.TimeoutExpired:
            results.failed[test] = f"not done within {SECONDS} s"
            continue
        text = done.stdout + done.stderr
        if "SKIPPED" in text and "PASSED" not in text:
            results.skipped.add(test)
        elif done.returncode != 0:
            lines = [line for line in text.splitlines() if "FAILED" in line or "rror" in line or "ssert" in line]
            results.failed[test] = lines[0].strip()[:200] if lines else f"exit {done.returncode}"
        elif context.servers and context.connections() == before:
            results.skipped.add(test)
        else:
            results.passed.add(test)
    return results
