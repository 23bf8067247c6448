"""The suites, and what they have in common: where packages are kept, and how results are judged."""
import importlib
import subprocess
import sys
import traceback
from dataclasses import dataclass, field
from pathlib import Path

from servers import Servers

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
CACHE = ROOT / ".cache" / "conformance"


@dataclass
class Results:
    passed: set = field(default_factory=set)
    failed: dict = field(default_factory=dict)  # test -> one line
    skipped: set = field(default_factory=set)


@dataclass
class Context:
    bootstrap: str
    servers: object  # None when the server is not ours
    short: bool = False  # only the cases that a suite names SHORT
    only: object = None  # a regex; a suite that knows it runs only the tests it is found in
    started: list = field(default_factory=list)

    def start(self, **how):
        """Servers more, for a suite that needs other ones, or several."""
        self.started.append(Servers(**how))
        return self.started[-1]

    def connections(self):
        return sum(servers.connections() for servers in (self.servers, *self.started) if servers)

    def stop(self):
        try:
            for servers in self.started:
                servers.check()
        finally:
            for servers in self.started:
                servers.stop()


class Known:
    """known/<suite>.txt: `test: cause` a line, and known/<suite>-cluster.txt with what more there is in a cluster. A cause that
    begins with `sometimes` is that of a test that may pass as well, by luck or by the machine's speed, whoever serves it."""

    def __init__(self, suite, cluster):
        self.causes = {}
        for name in (suite, f"{suite}-cluster") if cluster else (suite,):
            path = HERE.parent / "known" / f"{name}.txt"
            for line in path.read_text().splitlines() if path.exists() else ():
                if line and not line.startswith("#"):
                    test, _, cause = line.partition(": ")
                    self.causes[test] = cause

    def judge(self, results):
        wrong = [f"failed: {test}: {why}" for test, why in sorted(results.failed.items()) if test not in self.causes]
        wrong += [f"passes now, so take it off the list: {test}" for test in sorted(results.passed)
                  if not self.causes.get(test, "sometimes").startswith("sometimes")]
        if not results.passed:
            wrong.append("nothing passed")
        return wrong


def said(error):
    """An error in one line: what it says, and where it was raised."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} {error}".strip().replace("\n", " ")[:300] + f" (line {place.lineno}: {place.line})"


def installed():
    """The Python of the repository, with the clients of .ci/requirements.txt."""
    path = ROOT / ".venv" / "bin" / "python"
    if not path.exists():
        sys.exit("no .venv: run .ci/install test")
    return path


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
