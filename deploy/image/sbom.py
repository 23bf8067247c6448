#!/usr/bin/env python3
"""Writes what the binary is made of as CycloneDX 1.5, from Cargo.lock and cargo's metadata: sbom.py TARGET.

Crates that are linked in, not those that only build or test. A feature that another package of the workspace asks for counts
as well, so that the list may hold a crate too many, and none too few."""
import json
import os
import subprocess
import sys
import tomllib

ROOT = "geminga"


def linked(metadata):
    """Ids of packages that the binary links, and what each depends on."""
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    (root,) = [package["id"] for package in metadata["packages"] if package["name"] == ROOT]
    found, waiting = {}, [root]
    while waiting:
        this = waiting.pop()
        if this in found:
            continue
        found[this] = [dep["pkg"] for dep in nodes[this]["deps"] if any(kind["kind"] is None for kind in dep["dep_kinds"])]
        waiting += found[this]
    return root, found


def component(package, checksums):
    reference = f"pkg:cargo/{package['name']}@{package['version']}"
    entry = {"type": "library", "bom-ref": reference, "name": package["name"], "version": package["version"], "purl": reference}
    if package["license"]:
        entry["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
    checksum = checksums.get((package["name"], package["version"]))
    if checksum:
        entry["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    return entry


def main(target):
    cargo = os.environ.get("CARGO", "cargo")
    metadata = json.loads(subprocess.run([cargo, "metadata", "--format-version=1", "--locked", "--filter-platform", target],
                                         check=True, capture_output=True).stdout)
    with open("Cargo.lock", "rb") as lock:
        checksums = {(p["name"], p["version"]): p.get("checksum") for p in tomllib.load(lock)["package"]}
    packages = {package["id"]: package for package in metadata["packages"]}
    root, found = linked(metadata)
    components = {this: component(packages[this], checksums) for this in found}
    bom = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {**components.pop(root), "type": "application"}},
        "components": sorted(components.values(), key=lambda entry: entry["bom-ref"]),
        "dependencies": sorted(
            ({"ref": component(packages[this], {})["bom-ref"],
              "dependsOn": sorted({component(packages[dep], {})["bom-ref"] for dep in deps})} for this, deps in found.items()),
            key=lambda entry: entry["ref"]),
    }
    json.dump(bom, sys.stdout, indent=1)
    print()


main(sys.argv[1])
