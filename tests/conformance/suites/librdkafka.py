"""librdkafka's own tests, out of the crate rdkafka-sys: all that need a broker, a process for each number. One that says SKIPPED, or
makes no connection to our server, has not passed and needs its cause in known/librdkafka.txt like one that fails."""
import os
import queue
import re
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

from . import CACHE, Results, crate, java

QUICK = False
# It runs only some of its tests when it is asked to.
CHOOSES = True
VERSION = "4.10.0+2.12.1"
SECONDS = 900
LEAST = 65
# Their tests wait 30 s, times a third of this more, for a machine that may be busy.
PATIENCE = "-p6"
WORKERS = 3
# It takes longer than all others that one worker does: nobody is to wait for it alone.
FIRST = "0113"
# Of a test that fails as a whole, since a part of it asks for what is not built: the other parts, one by one.
PARTS = {
    "0061": ["Test consumer lag without transactions"],
    "0081": ["do_test_" + part for part in (
        "CreateTopics", "DeleteTopics", "CreatePartitions", "AlterConfigs", "IncrementalAlterConfigs", "DescribeConfigs",
        "DeleteRecords", "ListConsumerGroups", "DescribeConsumerGroups", "DescribeTopics", "DescribeCluster", "DeleteGroups",
        "DeleteConsumerGroupOffsets", "ListOffsets", "AlterConsumerGroupOffsets", "ListConsumerGroupOffsets")],
    "0137": ["do_test_consume_batch_" + part for part in (
        "with_seek", "with_pause_and_resume_different_batch", "with_pause_and_resume_same_batch", "store_offset")],
}


def build():
    source = CACHE / "librdkafka"
    if (source / "tests" / "test-runner").exists():
        return source
    shutil.copytree(crate("rdkafka-sys", VERSION) / "librdkafka", source, dirs_exist_ok=True)
    make = "./configure --disable-curl --disable-sasl && make -j2 libs && make -j2 -C tests build"
    subprocess.run(["sh", "-c", make], cwd=source, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return source


def run(context):
    if not context.servers:
        return Results(failed={"all": "it needs servers of its own, whose connections it counts"})
    # Some of its tests call Kafka's own commands.
    commands = java.home()
    tests = build() / "tests"
    results = Results()
    more = [context.start(cluster=context.servers.cluster) for _ in range(WORKERS - 1)]
    scenario(results, context, (tests, commands), "default", [context.servers, *more])
    # The topics of these ask for three copies.
    scenario(results, context, (tests, commands), "noautocreate", [context.start(cluster=True, auto_create=False)])
    if context.only is None and (whole := sum(" " not in name for name in results.passed)) < LEAST:
        results.failed["all"] = f"only {whole} passed, not {LEAST}"
    return results


def wanted(source, scenario):
    """Tests of a scenario that need a broker and nobody's hands."""
    table = source[source.index("struct test tests[]"):source.index("struct test *test_curr")]
    for name, rest in re.findall(r"_TEST\(\s*(\w+),(.*?)(?=_TEST\(|\{NULL\})", table, re.S):
        of = re.search(r'\.scenario = "(\w+)', rest)
        if "TEST_F_LOCAL" not in rest and "TEST_F_MANUAL" not in rest and (of[1] if of else "default") == scenario:
            yield name


def mentions(tests, number, pattern):
    """Whether the source of a test does so."""
    return any(re.search(pattern, path.read_text()) for path in tests.glob(f"{number}-*.c*"))


def scenario(results, context, where, name, all_servers):
    """Its tests: as many at a time as there are servers, so that each connection is known to be a test's."""
    tests, commands = where
    numbers = {}
    for test in wanted((tests / "test.c").read_text(), name):
        if context.only is None or context.only.search(test):
            numbers.setdefault(test[:4], []).append(test)
    if commands is None:
        calls = [number for number in numbers if mentions(tests, number, r"test_kafka_(topics|cmd)\(")]
        results.skipped |= {f"{number}: there is no JDK with Maven here, whose commands it calls" for number in calls}
        numbers = {number: names for number, names in numbers.items() if number not in calls}
    free = queue.SimpleQueue()
    for servers in all_servers:
        free.put(servers)

    def work(item):
        servers, began = free.get(), time.monotonic()
        try:
            one(results, where, name, servers, *item)
            print(f"   {item[0]}: {time.monotonic() - began:.0f} s", flush=True)
        finally:
            free.put(servers)

    with ThreadPoolExecutor(len(all_servers)) as pool:
        list(pool.map(work, sorted(numbers.items(), key=lambda item: item[0] != FIRST)))


def one(results, where, scenario, servers, number, names):
    tests, commands = where
    conf = servers.dir / "librdkafka.conf"
    conf.write_text(f"bootstrap.servers={servers.bootstrap}\n")
    env = {**os.environ, "TESTS": number, "TEST_KAFKA_VERSION": "4.0.0", "LD_LIBRARY_PATH": "../src:../src-cpp",
           "RDKAFKA_TEST_CONF": str(conf), "BROKERS": servers.bootstrap}
    # Under their own CI some tests do nothing.
    env.pop("CI", None)
    if commands:
        env["KAFKA_PATH"] = str(commands)
    for part in (None, *PARTS.get(number, ())):
        if part:
            env["SUBTESTS"] = part
        log = servers.dir / f"librdkafka-{scenario}-{(part or number).replace(' ', '-')}.log"
        # What has no quick form does nothing when it is asked to be quick; a part of it that has none is left out without a word.
        whole = mentions(tests, number, r"\bSUB_TEST\(")
        for quick in ([],) if whole else (["-Q"], []):
            before = servers.connections()
            text, end = runner(tests, env, ["-s", scenario, *quick], log)
            connected = servers.connections() > before
            if connected and not re.search("SKIPPING TEST.*quick mode", text):
                break
        for name in names:
            verdict(results, name, part, text, end, connected)


def runner(tests, env, args, log):
    command = ["./test-runner", PATIENCE, "-L", *args]
    try:
        done = subprocess.run(command, cwd=tests, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              timeout=SECONDS, errors="replace")
        text, end = done.stdout, f"exit {done.returncode}"
    except subprocess.TimeoutExpired as late:
        text, end = (late.stdout or b"").decode(errors="replace"), f"not done within {SECONDS} s"
    log.write_text(text)
    return text, end


def verdict(results, name, part, text, end, connected):
    found = re.search(rf"= Test {name} (PASSED|FAILED|SKIPPED) =", text)
    what = found[1] if found else end
    if part:
        name = f"{name} {part}"
        if what == "PASSED" and not re.search(rf"\[ .*{part}.*: PASS ", text):
            what = "SKIPPED"
    if what == "PASSED" and connected:
        results.passed.add(name)
    elif what == "PASSED":
        results.failed[name] = "it made no connection"
    else:
        results.failed[name] = f"{what}: {reason(name, text)}"


def reason(name, text):
    """What a test that did not pass says of itself; of one number there may be several."""
    plain = [re.sub(r"\x1b\[\d*m", "", line).strip() for line in text.splitlines()]
    lines = [line for line in plain if re.search(r"failed at|SKIPPING|SKIPPED:|Assert|FATAL", line)]
    lines = [line for line in lines if name.split()[0] in line] or lines
    return lines[0][:300] if lines else ""
