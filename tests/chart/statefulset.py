"""What the controller of a StatefulSet does with pods that are too many: Kubernetes' rules, on what is known of the pods only."""


def next_to_go(policy, ready, replicas):
    """The ordinal of the pod that it deletes next so that `replicas` are left, or None where it waits, or has nothing to do.

    `ready`: of each pod, by its ordinal, whether it is. Ordered, those that stay have to be ready, and the last pod has to be ready, too,
    or to be the only one that is not. In parallel nothing is waited for.
    """
    last = len(ready) - 1
    if last < replicas:
        return None
    unready = [ordinal for ordinal, well in enumerate(ready) if not well]
    if policy == "Parallel" or not unready or unready == [last]:
        return last
    # Only pods that go are not ready, and of them not the last.
    return last if unready[0] >= replicas and ready[last] else None
