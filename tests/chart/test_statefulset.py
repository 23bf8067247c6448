"""The model of a StatefulSet's controller, and that decommissioned bookies, which are not ready any more, go by it."""
import unittest

from helm import docs, of_kind
from statefulset import next_to_go


def scaled_in(policy, ready, replicas):
    """How many pods are left when nothing goes on any more."""
    while (gone := next_to_go(policy, ready, replicas)) is not None:
        ready = ready[:gone]
    return len(ready)


class StatefulSet(unittest.TestCase):
    def test_the_model_is_that_of_kubernetes(self):
        for policy, ready, replicas, left in (
            ("OrderedReady", [True] * 6, 4, 4),
            ("OrderedReady", [True] * 5 + [False], 4, 4),
            # The last is not ready, and it is not the first that is not.
            ("OrderedReady", [True] * 4 + [False] * 2, 4, 6),
            # The last goes, then the one that is not ready.
            ("OrderedReady", [True] * 4 + [False, True], 4, 4),
            ("OrderedReady", [False] + [True] * 5, 4, 6),
            ("Parallel", [False] * 6, 4, 4),
            ("Parallel", [True] * 3, 4, 3),
        ):
            with self.subTest(policy=policy, ready=ready):
                self.assertEqual(scaled_in(policy, ready, replicas), left)

    def test_two_bookies_that_were_decommissioned_are_taken_away(self):
        (bookies,) = (doc for doc in of_kind(docs(values={"insecure": True, "bookie.replicas": 4}), "StatefulSet")
                      if doc["metadata"]["name"].endswith("-bookie"))
        self.assertEqual(scaled_in(bookies["spec"].get("podManagementPolicy"), [True] * 4 + [False] * 2, 4), 4)


if __name__ == "__main__":
    unittest.main()
