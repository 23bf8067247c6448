"""Pods of rendered manifests as processes of this machine.

Each pod has a loopback address of its own and the names that Kubernetes would give it, in a hosts file of a private mount
namespace (`run` makes both). A container's command, arguments and variables are taken as they are written, with three
substitutions: "all addresses" is the pod's own, paths of volumes are directories below a temporary one, and the entrypoint
of the image is the binary under test. Nothing of the tester's environment is passed on.
"""
import base64
import fcntl
import os
import pathlib
import re
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
import uuid

from helm import of_kind
from statefulset import next_to_go

BINARY = os.environ["GEMINGA_BIN"]
# Between an exit and the next start, as kubelets wait; they wait longer each time.
RESTART_SECONDS = 0.5
# More are no start that waits for others.
MOST_EXITS = 40
# Probes of kubelets believe every certificate.
UNCHECKED = ssl._create_unverified_context()
# Of <linux/sockios.h> and <linux/if.h>.
SIOCSIFFLAGS, IFF_UP, IFF_RUNNING = 0x8914, 0x1, 0x40


def encoded(files):
    """The data of a Secret."""
    return {name: base64.b64encode(content.encode()).decode() for name, content in files.items()}


def secret(name, files):
    return {"kind": "Secret", "metadata": {"name": name}, "data": encoded(files)}


class Pod:
    """One pod: its template, its name, its address and where its volumes are."""

    def __init__(self, cluster, name, spec, labels, address):
        self.cluster, self.name, self.spec, self.labels, self.address = cluster, name, spec, labels, address
        self.uid = str(uuid.uuid4())
        self.directory = cluster.directory / name
        self.directory.mkdir(exist_ok=True)
        self.process, self.exits, self.log = None, [], self.directory / "log"
        # Where each Secret is.
        self.secrets = []
        self.restart_at = 0.0

    def paths(self, container):
        """Where the container's volumes are mounted, and where they are here."""
        volumes = {volume["name"]: volume for volume in self.spec.get("volumes", [])}
        for mount in container.get("volumeMounts", []):
            here = self.directory / mount["name"]
            here.mkdir(exist_ok=True)
            volume = volumes.get(mount["name"], {})
            if "configMap" in volume:
                for name, content in self.cluster.config_map(volume["configMap"]["name"]).items():
                    (here / name).write_text(self.at_own_address(content))
            if "secret" in volume:
                self.secrets.append((here, volume["secret"]))
                self.project(here, volume["secret"])
            yield mount["mountPath"], str(here)

    def project(self, here, volume):
        """Writes what a Secret holds now, all at once, as kubelets do: by switching the one link that others go through."""
        found = self.cluster.secret(volume["secretName"])
        files = {item["path"]: found[item["key"]] for item in volume["items"]} if "items" in volume else found
        new = pathlib.Path(tempfile.mkdtemp(prefix="..", dir=here))
        for name, content in files.items():
            (new / name).write_text(content)
        switch = here / "..switch"
        switch.symlink_to(new.name)
        switch.rename(here / "..data")
        for old in here.iterdir():
            if not old.name.startswith("..") and old.name not in files:
                old.unlink()
        for name in files:
            if not (here / name).is_symlink():
                (here / name).symlink_to(f"..data/{name}")

    def at_own_address(self, value):
        return value.replace("0.0.0.0:", self.address + ":")

    def variables(self, container):
        values = {}
        for source in container.get("envFrom", []):
            values.update(self.cluster.secret(source["secretRef"]["name"]))
        for variable in container.get("env", []):
            values[variable["name"]] = variable["value"] if "value" in variable else self.value_from(variable["valueFrom"])
        return values

    def value_from(self, source):
        if "configMapKeyRef" in source:
            return self.cluster.config_map(source["configMapKeyRef"]["name"])[source["configMapKeyRef"]["key"]]
        return self.field(source["fieldRef"]["fieldPath"])

    def field(self, path):
        label = re.fullmatch(r"metadata\.labels\['(.*)'\]", path)
        if label:
            return self.labels.get(label.group(1), "")
        return {"metadata.name": self.name, "metadata.uid": self.uid}[path]

    def command(self, container):
        """Arguments and variables of a container, expanded as Kubernetes does."""
        values = self.variables(container)
        words = container.get("command", [BINARY]) + container.get("args", [])
        words = [re.sub(r"\$\((\w+)\)", lambda found: values[found.group(1)], word) for word in words]
        for mount, here in self.paths(container):
            # Not a directory whose name only begins like this one's.
            path = re.compile(re.escape(mount) + r"(?![\w.-])")
            words = [path.sub(here, word) for word in words]
            values = {name: path.sub(here, value) for name, value in values.items()}
        return [self.at_own_address(word) for word in words], values

    def start(self):
        (container,) = self.spec["containers"]
        words, values = self.command(container)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(words, env={"PATH": os.defpath, **values}, stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=subprocess.STDOUT)

    def keep(self):
        """Starts it again when it ended, as a kubelet would."""
        if self.process is None or self.process.poll() is None:
            return
        if self.restart_at == 0.0:
            self.exits.append(self.process.returncode)
            if len(self.exits) > MOST_EXITS:
                raise AssertionError(f"{self.name} ends again and again\n{self.end_of_log()}")
            self.restart_at = time.monotonic() + RESTART_SECONDS
        elif time.monotonic() >= self.restart_at:
            self.restart_at = 0.0
            self.start()

    def probe(self, name):
        """Whether a probe succeeds, and what it says."""
        (container,) = self.spec["containers"]
        get = container[name]["httpGet"]
        port = next(port["containerPort"] for port in container["ports"] if port["name"] == get["port"])
        url = f"{get.get('scheme', 'HTTP').lower()}://{self.address}:{port}{get['path']}"
        try:
            with urllib.request.urlopen(url, timeout=5, context=UNCHECKED) as answer:
                return True, answer.read(200).decode()
        except urllib.error.HTTPError as error:
            return False, error.read(200).decode()
        except OSError as error:
            return False, str(error)

    def execute(self, *words, code=0):
        """Runs a command in the container, as `kubectl exec` does, which ends with this exit code: what it printed."""
        (container,) = self.spec["containers"]
        _, values = self.command(container)
        done = subprocess.run(words, env={"PATH": os.defpath, **values}, stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, timeout=120, check=False)
        if done.returncode != code:
            raise AssertionError(f"{self.name}: {' '.join(words)}: {done.returncode}: {done.stderr}")
        return done.stdout

    def run_to_end(self, timeout=120):
        """Runs the containers of a Pod or Job, one after the other: (exit code, output) of each, up to the first that fails."""
        results = []
        for container in self.spec.get("initContainers", []) + self.spec["containers"]:
            words, values = self.command(container)
            done = subprocess.run(words, env={"PATH": os.defpath, **values}, stdin=subprocess.DEVNULL, capture_output=True,
                                  text=True, timeout=timeout, check=False)
            results.append((done.returncode, done.stdout + done.stderr))
            if done.returncode != 0:
                break
        return results

    def terminate(self):
        """preStop, SIGTERM, and SIGKILL when the grace period is over: the exit code."""
        stopping = time.monotonic() + self.spec["terminationGracePeriodSeconds"]
        hook = self.spec["containers"][0].get("lifecycle", {}).get("preStop", {})
        time.sleep(hook.get("sleep", {}).get("seconds", 0))
        process, self.process = self.process, None
        process.send_signal(signal.SIGTERM)
        try:
            return process.wait(timeout=max(0.0, stopping - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return None

    def lose(self, volume):
        """The node and the disk below it are gone: the process, and what was on the volume."""
        self.process.kill()
        self.process.wait()
        self.process = None
        shutil.rmtree(self.directory / volume)

    def end_of_log(self):
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return f"--- {self.name}, {len(self.exits)} exits, the last {self.exits[-3:]}\n" + "\n".join(lines[-12:])


class Cluster:
    """All pods of a release, and names for them."""

    def __init__(self, manifests, directory, zones):
        self.manifests, self.directory = manifests, pathlib.Path(directory)
        self.pods, self.once = {}, 0
        hosts = {"localhost": "127.0.0.1"}
        for number, doc in enumerate(of_kind(manifests, "StatefulSet"), start=1):
            template = doc["spec"]["template"]
            for ordinal in range(doc["spec"].get("replicas", 1)):
                name = f"{doc['metadata']['name']}-{ordinal}"
                labels = {**template["metadata"]["labels"], "topology.kubernetes.io/zone": zones[ordinal % len(zones)],
                          "statefulset.kubernetes.io/pod-name": name}
                pod = Pod(self, name, template["spec"], labels, f"127.1.{number}.{ordinal + 1}")
                self.pods[name] = pod
                hosts[f"{name}.{self.domain(doc['spec']['serviceName'])}"] = pod.address
        for doc in of_kind(manifests, "Service"):
            # None is there of those that an autoscaler may add.
            for first in list(self.of(doc["spec"]["selector"]))[:1]:
                hosts[self.domain(doc["metadata"]["name"])] = first.address
        pathlib.Path("/etc/hosts").write_text("".join(f"{address} {name}\n" for name, address in hosts.items()))

    @staticmethod
    def domain(service):
        return f"{service}.streams.svc.cluster.local"

    def of(self, selector):
        return (pod for pod in self.pods.values() if selector.items() <= pod.labels.items())

    def named(self, kind, name):
        return next(doc for doc in of_kind(self.manifests, kind) if doc["metadata"]["name"] == name)

    def config_map(self, name):
        return self.named("ConfigMap", name)["data"]

    def secret(self, name):
        return {key: base64.b64decode(value).decode() for key, value in self.named("Secret", name)["data"].items()}

    def change_secret(self, name, files):
        """Gives a Secret other contents, in the pods that have it, too."""
        self.named("Secret", name)["data"] = encoded(files)
        for pod in self.pods.values():
            for here, volume in pod.secrets:
                if volume["secretName"] == name:
                    pod.project(here, volume)

    def component(self, component):
        return list(self.of({"app.kubernetes.io/component": component}))

    def start(self, timeout):
        """Creates everything at once, as Helm does, and waits until all of it is ready."""
        deadline = time.monotonic() + timeout
        waiting = []
        for doc in of_kind(self.manifests, "StatefulSet"):
            pods = self.component(doc["spec"]["selector"]["matchLabels"]["app.kubernetes.io/component"])
            if doc["spec"].get("podManagementPolicy") == "Parallel":
                for pod in pods:
                    pod.start()
            else:
                waiting.append(pods)
        while time.monotonic() < deadline:
            for pods in waiting:
                started = [pod for pod in pods if pod.process]
                if len(started) < len(pods) and all(pod.probe("readinessProbe")[0] for pod in started):
                    pods[len(started)].start()
            self.keep()
            if all(pod.process and pod.probe("readinessProbe")[0] for pod in self.pods.values()):
                return
            time.sleep(0.2)
        raise AssertionError("not ready in time:\n" + self.explain())

    def keep(self):
        for pod in self.pods.values():
            pod.keep()

    def apply(self, manifests):
        """Manifests of an upgrade in the place of the former ones, beside which Secrets stay. Pods are left as they are."""
        kept = {doc["metadata"]["name"]: doc for doc in of_kind(self.manifests, "Secret")}
        self.manifests = [*manifests, *kept.values()]

    def scale_in(self, component, timeout=60):
        """Takes away pods that the StatefulSet of a component has too many, as its controller does, and goes on starting those that end."""
        doc = next(doc for doc in of_kind(self.manifests, "StatefulSet") if doc["metadata"]["name"].endswith(f"-{component}"))
        deadline = time.monotonic() + timeout
        while len(pods := self.component(component)) > doc["spec"]["replicas"]:
            ready = [pod.probe("readinessProbe")[0] for pod in pods]
            gone = next_to_go(doc["spec"].get("podManagementPolicy"), ready, doc["spec"]["replicas"])
            if gone is not None:
                pods[gone].terminate()
                del self.pods[pods[gone].name]
                continue
            if time.monotonic() > deadline:
                raise AssertionError(f"{component}: no pod is taken away of these, by whether they are ready: {ready}\n{self.explain()}")
            self.keep()
            time.sleep(0.2)

    def wait_ready(self, pod, timeout=60):
        deadline = time.monotonic() + timeout
        while not pod.probe("readinessProbe")[0]:
            self.keep()
            if time.monotonic() > deadline:
                raise AssertionError(f"{pod.name} is not ready again: {pod.probe('readinessProbe')[1]}\n" + pod.end_of_log())
            time.sleep(0.2)

    def one_shot(self, doc):
        """A Pod or Job that runs to its end."""
        self.once += 1
        spec = doc["spec"]["template"]["spec"] if doc["kind"] == "Job" else doc["spec"]
        return Pod(self, f"{doc['metadata']['name']}-{self.once}", spec, {}, "127.0.0.1")

    def explain(self):
        return "\n".join(f"{pod.end_of_log()}\nready: {pod.probe('readinessProbe')}" for pod in self.pods.values() if pod.process)

    def stop(self):
        running = [pod for pod in self.pods.values() if pod.process]
        for pod in running:
            pod.process.kill()
        for pod in running:
            pod.process.wait()


def loopback_up():
    """A new network namespace has its loopback down."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH14s", b"lo", IFF_UP | IFF_RUNNING, b""))
