"""The suites, and what they have in common: where packages are kept, and how results are judged."""
import importlib
import os
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path

from servers import Servers

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
CACHE = ROOT / ".cache" / "conformance"


class NotRun(Exception):
    """What a suite needs is not here and cannot be had: it was not run, which is neither passed nor failed."""


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


def download(command, attempts=3, timeout=600, **how):
    """Runs a command that asks a package registry, more than once if it must."""
    for attempt in range(attempts):
        # A registry that does not answer may do so a little later.
        time.sleep(10 * attempt)
        try:
            done = subprocess.run([*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                  errors="replace", timeout=timeout, **how)
        except subprocess.TimeoutExpired:
            why = f"not done within {timeout} s"
            continue
        if done.returncode == 0:
            return
        why = (done.stdout.strip().splitlines() or [f"exit {done.returncode}"])[-1]
    raise NotRun(f"{' '.join(map(str, command[:3]))} ... failed {attempts} times: {why[:300]}")


def crate(name, version):
    """The source of a crate, where cargo keeps it."""
    holder = CACHE / f"fetch-{name}"
    (holder / "src").mkdir(parents=True, exist_ok=True)
    (holder / "src" / "lib.rs").touch()
    (holder / "Cargo.toml").write_text('[package]\nname = "fetch"\nversion = "0.0.0"\nedition = "2021"\n[dependencies]\n'
                                       f'{name} = "={version.partition("+")[0]}"\n[workspace]\n')
    download(["cargo", "fetch", "-q"], cwd=holder)
    home = Path(os.environ.get("CARGO_HOME", Path.home() / ".cargo"))
    return next((home / "registry" / "src").glob(f"*/{name}-{version}"))


def venv(name, *packages):
    """A Python with packages, made once."""
    path = CACHE / f"venv-{name}"
    done = path / "done"
    text = " ".join(packages)
    if not done.exists() or done.read_text() != text:
        CACHE.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-m", "venv", path], check=True)
        download([path / "bin" / "pip", "install", "-q", "--disable-pip-version-check", *packages])
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
          for name in ("kcat", "confluent", "kafka_python", "aiokafka", "old_clients", "javascript", "java", "migrate", "rdkafka", "librdkafka")}
