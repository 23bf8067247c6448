"""The suites, and what they have in common: where packages are kept, and how results are judged."""
import importlib
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
CACHE = HERE.parents[2] / ".cache" / "conformance"


@dataclass
class Results:
    passed: set = field(default_factory=set)
    failed: dict = field(default_factory=dict)  # test -> one line
    skipped: set = field(default_factory=set)


class Context:
    def __init__(self, bootstrap, servers):
        self.bootstrap, self.servers = bootstrap, servers

    def connections(self):
        return int(self.servers.metric("geminga_kafka_connections_total")) if self.servers else 0


class Known:
    """known/<suite>.txt: `test: cause` a line."""

    def __init__(self, suite):
        self.causes = {}
        path = HERE.parent / "known" / f"{suite}.txt"
        if path.exists():
            for line in path.read_text().splitlines():
                if line and not line.startswith("#"):
                    test, _, cause = line.partition(": ")
                    self.causes[test] = cause

    def judge(self, results):
        wrong = [f"failed: {test}: {why}" for test, why in sorted(results.failed.items()) if test not in self.causes]
        wrong += [f"passes now, so take it off the list: {test}" for test in sorted(results.passed) if test in self.causes]
        if not results.passed:
            wrong.append("nothing passed")
        return wrong


def venv(name, *packages):
    """A Python with packages, made once."""
    path = CACHE / f"venv-{name}"
    done = path / "done"
    text = " ".join(packages)
    if not done.exists() or done.read_text() != text:
        CACHE.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-m", "venv", path], check=True)
        subprocess.run([path / "bin" / "pip", "install", "-q", "--disable-pip-version-check", *packages], check=True)
        done.write_text(text)
    return path / "bin" / "python"


def steps(command, cases, timeout=300):
    """Runs cases of a script of ours, one process each: its name passes or fails."""
    results = Results()
    for case in cases:
        try:
            run = subprocess.run([*map(str, command), case], capture_output=True, text=True, timeout=timeout)
        except subprocess.TimeoutExpired:
            results.failed[case] = f"not done within {timeout} s"
            continue
        if run.returncode == 0:
            results.passed.add(case)
        else:
            lines = (run.stderr or run.stdout).strip().splitlines()
            results.failed[case] = lines[-1] if lines else f"exit {run.returncode}"
    return results


SUITES = {name.replace("_", "-"): importlib.import_module(f"suites.{name}")
          for name in ("kcat", "confluent", "kafka_python", "aiokafka", "old_clients", "javascript", "java", "rdkafka", "librdkafka")}
