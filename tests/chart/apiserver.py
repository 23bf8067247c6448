"""As much of a Kubernetes API server as helm asks when it renders an upgrade: who it is, which kinds there are, and objects by name."""
import http.server
import json
import threading

VERSION = {"major": "1", "minor": "37", "gitVersion": "v1.37.0"}
KINDS = {
    "v1": {"configmaps": "ConfigMap", "pods": "Pod", "secrets": "Secret", "serviceaccounts": "ServiceAccount", "services": "Service"},
    "apps/v1": {"statefulsets": "StatefulSet"},
    "autoscaling/v2": {"horizontalpodautoscalers": "HorizontalPodAutoscaler"},
    "batch/v1": {"jobs": "Job"},
    "cert-manager.io/v1": {"certificates": "Certificate"},
    "networking.k8s.io/v1": {"networkpolicies": "NetworkPolicy"},
    "policy/v1": {"poddisruptionbudgets": "PodDisruptionBudget"},
}


def root(version):
    return f"/apis/{version}" if "/" in version else f"/api/{version}"


def resources(version):
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": [
        {"name": plural, "singularName": kind.lower(), "namespaced": True, "kind": kind, "verbs": ["get", "list"]}
        for plural, kind in KINDS[version].items()]}


def groups():
    named = [version for version in KINDS if "/" in version]
    one = [{"groupVersion": version, "version": version.split("/")[1]} for version in named]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [
        {"name": version.split("/")[0], "versions": [which], "preferredVersion": which} for version, which in zip(named, one)]}


class ApiServer:
    """Serves these manifests, in one namespace, until it is closed."""

    def __init__(self, manifests, namespace="streams"):
        self.answers = {"/version": VERSION, "/api": {"kind": "APIVersions", "versions": ["v1"]}, "/apis": groups()}
        for version, kinds in KINDS.items():
            self.answers[root(version)] = resources(version)
            for plural, kind in kinds.items():
                for doc in manifests:
                    if (doc["apiVersion"], doc["kind"]) == (version, kind):
                        self.answers[f"{root(version)}/namespaces/{namespace}/{plural}/{doc['metadata']['name']}"] = doc
        answers = self.answers

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                found = answers.get(self.path.split("?")[0])
                missing = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
                body = json.dumps(missing if found is None else found).encode()
                self.send_response(404 if found is None else 200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()
