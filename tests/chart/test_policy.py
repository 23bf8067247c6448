"""That each rule of policy.py notices what it is there for."""
import copy
import unittest

from helm import docs, of_kind
from policy import cluster_quorum, problems


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


if __name__ == "__main__":
    unittest.main()
