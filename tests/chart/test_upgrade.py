"""What an upgrade renders by what is there already: helm looks it up at an API server that has the former manifests."""
import copy
import unittest

from apiserver import ApiServer
from helm import Refused, docs, of_kind
from test_render import MANAGED, TLS, TOGGLES

PLAIN = {"insecure": True}


def workload(manifests, component):
    return next(doc for doc in of_kind(manifests, "StatefulSet") if doc["metadata"]["name"].endswith(f"-{component}"))


def upgraded(former, values):
    """Manifests of an upgrade of these manifests to these values."""
    with ApiServer(former) as there:
        return docs(values=values, upgrade=True, api=there.url)


class Upgrade(unittest.TestCase):
    def test_autoscaling_begins_with_the_brokers_that_are_there(self):
        former = docs(values={**PLAIN, "serving.replicas": 6})
        self.assertEqual(workload(upgraded(former, {**PLAIN, **TOGGLES["autoscaling"]}), "serving")["spec"]["replicas"], 6)
        # And goes on with as many as the autoscaler wants.
        workload(former, "serving")["spec"]["replicas"] = 5
        self.assertEqual(workload(upgraded(former, {**PLAIN, **TOGGLES["autoscaling"]}), "serving")["spec"]["replicas"], 5)

    def test_without_autoscaling_the_value_counts(self):
        former = docs(values={**PLAIN, "serving.replicas": 6})
        self.assertEqual(workload(upgraded(former, {**PLAIN, "serving.replicas": 4}), "serving")["spec"]["replicas"], 4)

    def test_etcd_keeps_its_number_of_members(self):
        former = docs(values=PLAIN)
        for wanted in (1, 5):
            with self.assertRaises(Refused) as refused:
                upgraded(former, {**PLAIN, "etcd.replicas": wanted})
            self.assertIn("etcd has 3 members", str(refused.exception))
            self.assertIn("set etcd.replicas=3", str(refused.exception))
        # It was stopped, to change all of it to TLS.
        stopped = copy.deepcopy(former)
        workload(stopped, "etcd")["spec"]["replicas"] = 0
        for there in (former, stopped):
            self.assertEqual(workload(upgraded(there, PLAIN), "etcd")["spec"]["replicas"], 3)

    def test_the_hook_shows_the_certificate_that_is_in_force(self):
        """cert-manager makes the new ones after the hook, for which the hook would wait until its time is over."""
        def secret(former):
            (job,) = of_kind(upgraded(former, MANAGED), "Job")
            (volume,) = job["spec"]["template"]["spec"]["volumes"]
            return volume["secret"]["secretName"]

        self.assertEqual(secret(docs(values=TLS)), "b")
        self.assertEqual(secret(docs(values=MANAGED)), "g-geminga-bookie-tls")
        self.assertEqual(secret(docs(values=PLAIN)), "g-geminga-bookie-tls")


if __name__ == "__main__":
    unittest.main()
