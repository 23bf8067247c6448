"""The compose file and the systemd units: what they start has the flags, the variables and the files that it is given."""
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import tomllib
import unittest

import yaml

from helm import HELM, ROOT

BINARY = os.environ["GEMINGA_BIN"]
COMPOSE = ROOT / "deploy/compose.yaml"
SYSTEMD = ROOT / "deploy/systemd"
PROMTOOL = HELM.with_name("promtool")


def accepted(words, env):
    """What the server makes of its arguments and variables, without starting."""
    done = subprocess.run([BINARY, *words, "--print-config"], env={"PATH": os.defpath, **env}, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(words)}: {done.stderr}")
    return tomllib.loads(done.stdout)


class Compose(unittest.TestCase):
    def setUp(self):
        self.compose = yaml.safe_load(COMPOSE.read_text())
        self.services = self.compose["services"]
        self.ours = {name: service for name, service in self.services.items() if service["image"].startswith("geminga:")}

    def test_it_has_the_parts_of_a_cluster(self):
        kinds = sorted(service["command"][0] for service in self.ours.values())
        self.assertEqual(kinds, ["bookie"] * 3 + ["serving"] * 2)
        self.assertEqual(set(self.services) - set(self.ours), {"etcd", "store", "prometheus", "grafana"})
        for service in self.services.values():
            self.assertRegex(service["image"], r":[^:]*\d[^:]*$")

    def test_our_servers_accept_what_they_are_told(self):
        for name, service in self.ours.items():
            config = accepted(service["command"], service["environment"])
            self.assertEqual(config["advertise"].split(":")[0], name)
            self.assertTrue(service["read_only"])
            for volume in service.get("volumes", []):
                self.assertTrue(config["data-dir"][0].startswith(volume.split(":")[1]))

    def test_the_image_is_of_the_version_that_is_built(self):
        cargo = tomllib.loads((ROOT / "Cargo.toml").read_text())
        self.assertEqual({service["image"] for service in self.ours.values()}, {"geminga:" + cargo["workspace"]["package"]["version"]})
        chart = yaml.safe_load((ROOT / "helm/geminga/Chart.yaml").read_text())
        self.assertEqual(chart["appVersion"], cargo["workspace"]["package"]["version"])

    def test_ports_are_for_this_machine_only(self):
        for service in self.services.values():
            for port in service.get("ports", []):
                self.assertTrue(port.startswith("127.0.0.1:"), port)

    def test_a_port_is_published_once_and_listened_on(self):
        published = [port.rsplit(":", 1)[0] for service in self.services.values() for port in service.get("ports", [])]
        self.assertEqual(len(published), len(set(published)))
        for service in self.ours.values():
            text = " ".join(service["command"])
            for port in service.get("ports", []):
                self.assertIn("0.0.0.0:" + port.rsplit(":", 1)[1], text)

    def test_prometheus_asks_all_of_ours(self):
        config = yaml.safe_load(self.compose["configs"]["prometheus"]["content"])
        ours, etcd = config["scrape_configs"]
        self.assertEqual({t.split(":")[0] for t in ours["static_configs"][0]["targets"]}, set(self.ours))
        self.assertEqual([t.split(":")[0] for t in etcd["static_configs"][0]["targets"]], ["etcd"])
        for job in (ours, etcd):
            # As rules and dashboards choose it.
            self.assertIn("geminga", job["job_name"])

    def test_prometheus_takes_its_configuration(self):
        config = yaml.safe_load(self.compose["configs"]["prometheus"]["content"])
        mounted = {there: here for here, there, *_ in (volume.split(":") for volume in self.services["prometheus"]["volumes"])}
        config["rule_files"] = [str((COMPOSE.parent / mounted[there]).resolve()) for there in config["rule_files"]]
        with tempfile.TemporaryDirectory() as directory:
            file = pathlib.Path(directory) / "prometheus.yml"
            file.write_text(yaml.safe_dump(config))
            done = subprocess.run([PROMTOOL, "check", "config", file], capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        # It looked at the rules, too.
        self.assertRegex(done.stdout, r"SUCCESS: \d+ rules found")

    def test_rules_and_dashboards_are_where_they_are_looked_for(self):
        config = yaml.safe_load(self.compose["configs"]["prometheus"]["content"])
        provider = yaml.safe_load(self.compose["configs"]["dashboards"]["content"])["providers"][0]
        for service, looked_for in (("prometheus", config["rule_files"][0]), ("grafana", provider["options"]["path"])):
            mounted = {there: here for here, there, *_ in (volume.split(":") for volume in self.services[service]["volumes"])}
            self.assertTrue((COMPOSE.parent / mounted[looked_for]).exists(), service)


class Systemd(unittest.TestCase):
    def test_units_start_servers_with_their_example_files(self):
        for unit in SYSTEMD.glob("*.service"):
            (command,) = re.findall(r"^ExecStart=/usr/bin/geminga (.*)$", unit.read_text(), re.M)
            words = command.replace("/etc/geminga", str(SYSTEMD)).split()
            config = accepted(words, {})
            timeout = int(re.search(r"^TimeoutStopSec=(\d+)$", unit.read_text(), re.M).group(1))
            self.assertGreaterEqual(timeout, config.get("drain-timeout", 0) + 40, unit.name)

    @unittest.skipUnless(shutil.which("systemd-analyze"), "no systemd here")
    def test_systemd_understands_them(self):
        with tempfile.TemporaryDirectory() as directory:
            for unit in SYSTEMD.glob("*.service"):
                copy = pathlib.Path(directory) / unit.name
                # The binary need not be installed for that.
                copy.write_text(unit.read_text().replace("/usr/bin/geminga", "/bin/true"))
                done = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True, check=False)
                self.assertEqual((done.returncode, done.stderr), (0, ""), unit.name)


if __name__ == "__main__":
    unittest.main()
