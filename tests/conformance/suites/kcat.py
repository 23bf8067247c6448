"""kcat of Debian, on librdkafka 2.0.2: the shell's client, and an old one."""
import json
import shutil
import subprocess
import sys
import uuid

from . import Results, said

QUICK = True
SHORT = ["what_is_written_is_read", "codecs_and_acks", "idempotent", "keys_headers_and_tombstones", "times", "metadata", "group"]


def run(context):
    if not shutil.which("kcat"):
        sys.exit("no kcat: run .ci/install test")
    results = Results()
    for name, case in sorted(globals().items()):
        if name.startswith("case_") and (not context.short or name.removeprefix("case_") in SHORT):
            name = name.removeprefix("case_")
            try:
                case(Kcat(context.bootstrap))
                results.passed.add(name)
            except (AssertionError, subprocess.SubprocessError) as error:
                results.failed[name] = said(error)
    return results


class Kcat:
    def __init__(self, bootstrap):
        self.bootstrap = bootstrap
        self.topic = f"kcat-{uuid.uuid4()}"

    def __call__(self, *args, stdin="", timeout=120):
        command = ["kcat", "-b", self.bootstrap, *args]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}"
        return done.stdout

    def produce(self, lines, *args):
        self("-P", "-t", self.topic, *args, stdin="".join(f"{line}\n" for line in lines))

    def consume(self, *args):
        return self("-C", "-t", self.topic, "-e", "-q", *args).splitlines()


def case_what_is_written_is_read(kcat):
    lines = [f"line {n}" for n in range(1000)]
    kcat.produce(lines, "-p", "0")
    assert kcat.consume("-p", "0", "-o", "beginning") == lines
    assert kcat.consume("-p", "0", "-o", "990") == lines[990:]
    assert kcat.consume("-p", "0", "-o", "-3") == lines[-3:]


def case_codecs_and_acks(kcat):
    expected = []
    for codec in ("none", "gzip", "snappy", "lz4", "zstd"):
        for acks in ("all", "1", "0"):
            lines = [f"{codec} {acks} {n}" for n in range(50)]
            kcat.produce(lines, "-p", "1", "-z", codec, "-X", f"acks={acks}")
            expected += lines
    got = kcat.consume("-p", "1", "-o", "beginning")
    assert got == expected, f"{len(got)} of {len(expected)}"


def case_idempotent(kcat):
    lines = [str(n) for n in range(5000)]
    kcat.produce(lines, "-p", "0", "-X", "enable.idempotence=true", "-X", "batch.num.messages=10")
    assert kcat.consume("-p", "0", "-o", "beginning") == lines


def case_keys_headers_and_tombstones(kcat):
    kcat.produce(["a|1", "b|"], "-K", "|", "-Z", "-p", "0", "-H", "x=y")
    got = kcat.consume("-p", "0", "-o", "beginning", "-f", "%k %S %h\n")
    assert got == ["a 1 x=y", "b -1 x=y"], got


def case_times(kcat):
    kcat.produce(["first"], "-p", "0")
    row = json.loads(kcat("-C", "-t", kcat.topic, "-p", "0", "-o", "beginning", "-e", "-q", "-J"))
    at = row["ts"]
    assert kcat("-Q", "-t", f"{kcat.topic}:0:{at}").split()[-1] == "0"
    assert kcat("-Q", "-t", f"{kcat.topic}:0:-1").split()[-1] == "1"
    assert kcat("-Q", "-t", f"{kcat.topic}:0:{at + 100_000}").split()[-1] == "-1"


def case_metadata(kcat):
    kcat.produce(["x"], "-p", "3")
    told = json.loads(kcat("-L", "-J", "-t", kcat.topic))
    assert len(told["topics"][0]["partitions"]) == 4
    ids = {broker["id"] for broker in told["brokers"]}
    assert told["controllerid"] in ids
    assert all(partition["leader"] in ids for partition in told["topics"][0]["partitions"])


def case_group(kcat):
    lines = sorted(f"line {n}" for n in range(400))
    kcat.produce(lines, "-K", " ")
    group = f"group-{kcat.topic}"
    reset = ["-X", "auto.offset.reset=earliest", "-X", "session.timeout.ms=6000"]
    got = kcat("-G", group, kcat.topic, "-e", "-q", *reset, "-f", "%k %s\n").splitlines()
    assert sorted(got) == lines, f"{len(got)} of {len(lines)}"
    # What was committed is not read again.
    kcat.produce(["more 1"], "-K", " ")
    got = kcat("-G", group, kcat.topic, "-e", "-q", *reset, "-f", "%k %s\n").splitlines()
    assert got == ["more 1"], got[:5]
