"""That each rule of policy.py notices what it is there for."""
import copy
import unittest

from helm import NEWEST, docs, of_kind
from policy import cluster_quorum, problems
from test_render import MANAGED, invalid


def named(manifests, kind, end):
    return next(doc for doc in of_kind(manifests, kind) if doc["metadata"]["name"].endswith(end))


def container(manifests, end):
    return named(manifests, "StatefulSet", end)["spec"]["template"]["spec"]["containers"][0]


BROKEN = {
    "may run as root": lambda m: named(m, "StatefulSet", "-bookie")["spec"]["template"]["spec"].pop("securityContext"),
    "can write to its image": lambda m: container(m, "-serving").pop("securityContext"),
    "is given a token": lambda m: named(m, "Job", "-decommission")["spec"]["template"]["spec"].pop("automountServiceAccountToken"),
    "variables of Services": lambda m: named(m, "Pod", "-test")["spec"].pop("enableServiceLinks"),
    "no limit of memory": lambda m: container(m, "-etcd")["resources"].pop("limits"),
    "beside --memory": lambda m: container(m, "-serving")["resources"].update(limits={"memory": "1Gi"}, requests={"memory": "1Gi", "cpu": 1}),
    "too little for 1 disks": lambda m: container(m, "-bookie")["resources"].update(limits={"memory": "512Mi"}, requests={"memory": "512Mi", "cpu": 1}),
    "may be another one tomorrow": lambda m: container(m, "-serving").update(image="geminga:latest"),
    "has no readinessProbe": lambda m: container(m, "-bookie").pop("readinessProbe"),
    "ready whenever it lives": lambda m: container(m, "-serving")["readinessProbe"]["httpGet"].update(path="/livez"),
    "is killed before": lambda m: named(m, "StatefulSet", "-serving")["spec"]["template"]["spec"].update(terminationGracePeriodSeconds=30),
    "of 3 copies fewer than 2": lambda m: named(m, "PodDisruptionBudget", "-bookie")["spec"].update(maxUnavailable=2),
    "no majority": lambda m: named(m, "PodDisruptionBudget", "-etcd")["spec"].update(maxUnavailable=2),
    "has no PodDisruptionBudget": lambda m: m.remove(named(m, "PodDisruptionBudget", "-serving")),
    "can never be drained": lambda m: named(m, "PodDisruptionBudget", "-bookie")["spec"].update(maxUnavailable=0),
    "cannot hold 3 copies": lambda m: named(m, "StatefulSet", "-bookie")["spec"].update(replicas=2),
    "go with their pods": lambda m: named(m, "StatefulSet", "-bookie")["spec"]["persistentVolumeClaimRetentionPolicy"].update(whenScaled="Delete"),
    "not replaced one after the other": lambda m: named(m, "StatefulSet", "-bookie")["spec"].update(updateStrategy={"type": "OnDelete"}),
    "no pod has the port": lambda m: named(m, "Service", "-grpc")["spec"]["ports"][0].update(targetPort="web"),
    "nobody reaches": lambda m: named(m, "NetworkPolicy", "-bookie")["spec"]["ingress"].pop(0),
    "its ServiceAccount is not there": lambda m: m.remove(named(m, "ServiceAccount", "-etcd")),
    "and mounts": lambda m: container(m, "-bookie")["volumeMounts"].pop(),
}


def certificate(manifests, end):
    return named(manifests, "Certificate", end)["spec"]


def volume(manifests, end):
    return named(manifests, "StatefulSet", end)["spec"]["template"]["spec"]["volumes"][0]


SEALED_BROKEN = {
    "may be reached without TLS": lambda m: container(m, "-bookie")["args"].append("--insecure"),
    "0:2379 is plain": lambda m: container(m, "-etcd")["args"].append("--listen-client-urls=http://0.0.0.0:2379"),
    "its readinessProbe is plain": lambda m: container(m, "-serving")["readinessProbe"]["httpGet"].pop("scheme"),
    "decommission knows no authority": lambda m: named(m, "Job", "-decommission")["spec"]["template"]["spec"]["containers"][0].pop("env"),
    "is said to be plain": lambda m: named(m, "Service", "-grpc")["spec"]["ports"][0].update(appProtocol="kubernetes.io/h2c"),
    "has a plain listener": lambda m: named(m, "ConfigMap", "-serving")["data"].update(x="[kafka]\nadvertise = []\nlisten = ['external=plaintext://0.0.0.0:9094']"),
    "asks in plain text": lambda m: named(m, "ServiceMonitor", "-bookie")["spec"]["endpoints"][0].pop("scheme"),
    "has no /etc/geminga-tls/tls.key": lambda m: container(m, "-bookie")["volumeMounts"].pop(),
    "would keep an old": lambda m: container(m, "-serving")["volumeMounts"][-1].update(subPath="tls.crt"),
    "anybody can read": lambda m: volume(m, "-etcd")["secret"].pop("defaultMode"),
    "nobody makes the Secret": lambda m: m.remove(named(m, "Certificate", "-bookie")),
    "is not for both uses": lambda m: certificate(m, "-bookie")["usages"].remove("client auth"),
    "is not for g-geminga-bookie-0.": lambda m: certificate(m, "-bookie")["dnsNames"].pop(0),
    "is not for 127.0.0.1": lambda m: certificate(m, "-serving")["ipAddresses"].remove("127.0.0.1"),
    "is not for g-geminga-kafka.streams": lambda m: certificate(m, "-serving")["dnsNames"].remove("g-geminga-kafka.streams"),
    "is not for k-1.example.com": lambda m: certificate(m, "-serving")["dnsNames"].remove("k-1.example.com"),
    "is not for g-geminga-serving.streams.svc": lambda m: certificate(m, "-serving")["dnsNames"].remove("g-geminga-serving.streams.svc.cluster.local"),
}


class Policy(unittest.TestCase):
    def test_the_quorum_is_that_of_the_code(self):
        self.assertEqual(cluster_quorum(), (3, 2))

    def test_each_rule_notices(self):
        good = docs(values={"insecure": True})
        self.assertEqual(problems(good), [])
        for sentence, harm in BROKEN.items():
            with self.subTest(sentence):
                bad = copy.deepcopy(good)
                harm(bad)
                self.assertIn(sentence, " ".join(problems(bad)))

    def test_each_rule_of_tls_notices(self):
        good = docs(values={**MANAGED, "tls.clientAuth": "required", "serviceMonitor.enabled": True,
                            "serving.kafka.external": {"enabled": True, "type": "LoadBalancer", "host": "k-{ordinal}.example.com"}})
        self.assertEqual(problems(good, tls=True), [])
        for sentence, harm in SEALED_BROKEN.items():
            with self.subTest(sentence):
                bad = copy.deepcopy(good)
                harm(bad)
                self.assertIn(sentence, " ".join(problems(bad, tls=True)))

    def test_a_field_that_a_custom_resource_does_not_have_is_noticed(self):
        good = docs(values={**MANAGED, "serviceMonitor.enabled": True})
        for kind, field in (("Certificate", "renewbefore"), ("ServiceMonitor", "endpoint")):
            bad = copy.deepcopy(good)
            named(bad, kind, "-bookie")["spec"][field] = "1h"
            self.assertIn(field, " ".join(invalid(bad, NEWEST)))


if __name__ == "__main__":
    unittest.main()
