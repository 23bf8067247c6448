"""kafka-python's own integration tests, out of its source distribution: 67, of which LEFT_OUT are not for a broker that runs."""
import os
import subprocess
import tarfile
import xml.etree.ElementTree as xml

from . import CACHE, Results, download, venv

QUICK = True
VERSION = "3.0.12"
# Files whose tests are not run, how many that are, and why.
LEFT_OUT = {
    "test_sasl_integration.py": (9, "each starts a Kafka of its own that speaks SASL, and all skip themselves when a broker is given: there is no SASL here yet"),
    "test_ssl_integration.py": (2, "each starts a Kafka of its own with certificates that it makes; TLS with Kafka clients is tested by tests/e2e/tls.rs"),
}
# What the distribution leaves out: a service that runs already.
SERVICE = '''class ExternalService:
    def __init__(self, host, port):
        self.host, self.port = host, port

    def open(self):
        pass

    def close(self):
        pass


class SpawnedService(ExternalService):
    pass
'''


def run(context):
    python = venv("kafka-python", f"kafka-python=={VERSION}", "pytest", "pytest-timeout", "pytest-mock", "lz4",
                  "zstandard", "python-snappy", "crc32c")
    source = CACHE / f"kafka_python-{VERSION}"
    if not (source / "test" / "service.py").exists():
        download([python, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", "-d", CACHE,
                  f"kafka-python=={VERSION}"])
        with tarfile.open(CACHE / f"kafka_python-{VERSION}.tar.gz") as archive:
            archive.extractall(CACHE, filter="data")
        (source / "test" / "__init__.py").touch()
        # It looks for a Kafka to start, and never does.
        (source / "servers" / "4.0.0" / "kafka-bin").mkdir(parents=True, exist_ok=True)
        (source / "test" / "service.py").write_text(SERVICE)
    report = CACHE / "kafka-python.xml"
    report.unlink(missing_ok=True)
    command = [python, "-m", "pytest", "test/integration", "-q", "--timeout", "60", f"--junitxml={report}",
               *(f"--ignore=test/integration/{name}" for name in LEFT_OUT)]
    env = {**os.environ, "KAFKA_VERSION": "4.0.0", "KAFKA_URI": f"kafka://{context.bootstrap}"}
    subprocess.run(command, cwd=source, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=1200)
    for name, (count, why) in LEFT_OUT.items():
        print(f"kafka-python: {count} tests of {name} are left out: {why}")
    return read(report)


def read(report):
    results = Results()
    for case in xml.parse(report).iter("testcase"):
        name = f"{case.get('classname').rsplit('.', 1)[-1]}::{case.get('name')}"
        wrong = [*case.iter("failure"), *case.iter("error")]
        if wrong:
            results.failed[name] = (wrong[0].get("message") or "failed").splitlines()[0][:200]
        elif list(case.iter("skipped")):
            results.skipped.add(name)
        else:
            results.passed.add(name)
    # A test that fails when it is torn down is reported twice.
    results.passed -= set(results.failed)
    return results
