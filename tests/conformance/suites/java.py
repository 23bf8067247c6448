"""Kafka's own tools with Kafka's own clients, from Maven, where there is a JDK: verifiable producer and consumer, the
performance tools, and the commands that administrators type."""
import json
import shutil
import subprocess
import uuid

from . import CACHE, NotRun, Results, download, said

QUICK = False
VERSION = "4.1.0"
POM = f'''<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>conformance</groupId><artifactId>java</artifactId><version>1</version>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>{VERSION}</version></dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-nop</artifactId><version>1.7.36</version></dependency>
  </dependencies>
</project>
'''


def home():
    """A directory with what Kafka's tools need in lib, and those in bin that other suites call; none without a JDK and Maven."""
    if not (shutil.which("java") and shutil.which("mvn")):
        return None
    java = CACHE / "java"
    pom = java / "pom.xml"
    done = java / "done"
    if not done.exists() or done.read_text() != POM:
        java.mkdir(parents=True, exist_ok=True)
        pom.write_text(POM)
        fetch = ["mvn", "-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory=lib"]
        download(fetch, cwd=java)
        done.write_text(POM)
    topics = java / "bin" / "kafka-topics.sh"
    if not topics.exists():
        topics.parent.mkdir(exist_ok=True)
        topics.write_text(f'#!/bin/sh\nexec java -Xmx256m -cp "{java}/lib/*" org.apache.kafka.tools.TopicCommand "$@"\n')
        topics.chmod(0o755)
    return java


def run(context):
    java = home()
    if java is None:
        raise NotRun("there is no JDK with Maven here")
    results = Results()
    for name, case in sorted(globals().items()):
        if name.startswith("case_"):
            name = name.removeprefix("case_")
            try:
                case(Java(context.bootstrap, java / "lib"))
                results.passed.add(name)
            except (AssertionError, subprocess.SubprocessError, ValueError) as error:
                results.failed[name] = said(error)
    return results


class Java:
    def __init__(self, bootstrap, lib):
        self.bootstrap, self.lib = bootstrap, lib
        self.topic = f"java-{uuid.uuid4()}"

    def __call__(self, tool, *args, bootstrap=True, timeout=120):
        command = ["java", "-Xmx256m", "-cp", f"{self.lib}/*", f"org.apache.kafka.tools.{tool}"]
        if bootstrap:
            command += ["--bootstrap-server", self.bootstrap]
        done = subprocess.run([*command, *map(str, args)], capture_output=True, text=True, timeout=timeout)
        assert done.returncode == 0, f"{tool} {args}: {(done.stderr or done.stdout).strip()[-300:]}"
        return done.stdout

    def produce(self, count, *args):
        text = self("VerifiableProducer", "--topic", self.topic, "--max-messages", count, "--throughput", "-1", *args)
        acked = [json.loads(line) for line in text.splitlines() if '"producer_send_success"' in line]
        assert len(acked) == count, f"{len(acked)} of {count} acknowledged"
        return {(row["partition"], row["offset"]) for row in acked}

    def consume(self, count, *args):
        text = self("VerifiableConsumer", "--topic", self.topic, "--group-id", f"group-{self.topic}", "--max-messages",
                    count, "--verbose", "--reset-policy", "earliest", *args)
        rows = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
        assert any(row["name"] == "offsets_committed" and row["success"] for row in rows)
        return [(row["partition"], row["offset"]) for row in rows if row["name"] == "record_data"]


def case_what_is_acknowledged_is_read_once(java):
    acked = java.produce(20_000)
    got = java.consume(len(acked))
    assert len(got) == len(set(got)) and set(got) == acked, f"{len(got)} read, {len(acked)} acknowledged"


def case_cooperative_consumer(java):
    acked = java.produce(1_000)
    strategy = "org.apache.kafka.clients.consumer.CooperativeStickyAssignor"
    got = java.consume(len(acked), "--assignment-strategy", strategy)
    assert set(got) == acked


def case_performance_tools(java):
    text = java("ProducerPerformance", "--topic", java.topic, "--num-records", 50_000, "--record-size", 1000, "--throughput", -1,
                "--producer-props", f"bootstrap.servers={java.bootstrap}", "linger.ms=5", bootstrap=False)
    assert "50000 records sent" in text, text[-300:]
    text = java("ConsumerPerformance", "--topic", java.topic, "--messages", 50_000, "--group", f"group-{java.topic}",
                "--timeout", 30_000)
    assert int(text.splitlines()[-1].split(",")[4]) >= 50_000, text


def case_topics_command(java):
    java("TopicCommand", "--create", "--topic", java.topic, "--partitions", 3, "--config", "retention.ms=3600000")
    text = java("TopicCommand", "--describe", "--topic", java.topic)
    assert "PartitionCount: 3" in text and "retention.ms=3600000" in text, text
    java("TopicCommand", "--alter", "--topic", java.topic, "--partitions", 5)
    assert "PartitionCount: 5" in java("TopicCommand", "--describe", "--topic", java.topic)
    assert java.topic in java("TopicCommand", "--list").split()
    java("TopicCommand", "--delete", "--topic", java.topic)
    assert java.topic not in java("TopicCommand", "--list").split()


def case_groups_command(java):
    java.produce(100)
    java.consume(100)
    group = f"group-{java.topic}"
    assert group in java("consumer.group.ConsumerGroupCommand", "--list").split()
    text = java("consumer.group.ConsumerGroupCommand", "--describe", "--group", group)
    lags = [line.split()[5] for line in text.splitlines() if java.topic in line.split()[1:2]]
    assert lags and set(lags) == {"0"}, text
    java("consumer.group.ConsumerGroupCommand", "--reset-offsets", "--to-earliest", "--group", group, "--topic", java.topic,
         "--execute")
    text = java("consumer.group.ConsumerGroupCommand", "--describe", "--group", group)
    lags = [int(line.split()[5]) for line in text.splitlines() if java.topic in line.split()[1:2]]
    assert sum(lags) == 100, text
    java("consumer.group.ConsumerGroupCommand", "--delete", "--group", group)


def case_offsets_tool(java):
    java.produce(100)
    text = java("GetOffsetShell", "--topic", java.topic, "--time", "latest")
    assert sum(int(line.rsplit(":", 1)[1]) for line in text.split()) == 100, text
