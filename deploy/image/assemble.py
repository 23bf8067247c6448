#!/usr/bin/env python3
"""Makes an OCI image of one layer out of a directory, without a container engine: assemble.py ROOT OUT --version V
--revision COMMIT --time SECONDS. The same input gives the same bytes: files belong to root, have one time and are sorted."""
import argparse
import gzip
import hashlib
import io
import json
import os
import pathlib
import tarfile
import time

OCI = "application/vnd.oci.image"
NAME = "geminga"
USER = "65532:65532"
# The only directory that is the user's: an engine gives a new volume there the same owner.
DATA = "data"
PORTS = ("7070/tcp", "7080/tcp", "9092/tcp", "3181/tcp")


def layer(root, seconds):
    """The directory as an uncompressed tar."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for path in sorted(root.rglob("*")):
            info = tarfile.TarInfo(str(path.relative_to(root)))
            info.mtime = seconds
            if path.is_dir():
                info.type, info.mode = tarfile.DIRTYPE, 0o755
                if info.name == DATA:
                    info.uid, info.gid = map(int, USER.split(":"))
                tar.addfile(info)
            else:
                info.size, info.mode = path.stat().st_size, 0o755 if os.access(path, os.X_OK) else 0o644
                with path.open("rb") as content:
                    tar.addfile(info, content)
    return out.getvalue()


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def descriptor(kind, data):
    return {"mediaType": f"{OCI}.{kind}", "digest": digest(data), "size": len(data)}


def encode(value):
    return json.dumps(value, sort_keys=True).encode()


def main():
    args = argparse.ArgumentParser()
    args.add_argument("root", type=pathlib.Path)
    args.add_argument("out", type=pathlib.Path)
    args.add_argument("--version", required=True)
    args.add_argument("--revision", required=True)
    args.add_argument("--time", type=int, required=True)
    args = args.parse_args()

    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(args.time))
    plain = layer(args.root, args.time)
    packed = gzip.compress(plain, 9, mtime=0)
    config = encode({
        "architecture": "amd64",
        "os": "linux",
        "created": created,
        "config": {
            "User": USER,
            "Env": ["PATH=/usr/bin"],
            "Entrypoint": ["/usr/bin/geminga"],
            "ExposedPorts": {port: {} for port in PORTS},
            "Labels": {
                "org.opencontainers.image.title": NAME,
                "org.opencontainers.image.description": "A streaming platform that separates compute from storage",
                "org.opencontainers.image.licenses": "Apache-2.0",
                "org.opencontainers.image.version": args.version,
                "org.opencontainers.image.revision": args.revision,
                "org.opencontainers.image.created": created,
            },
        },
        "rootfs": {"type": "layers", "diff_ids": [digest(plain)]},
        "history": [{"created": created, "created_by": "deploy/image/build"}],
    })
    manifest = encode({
        "schemaVersion": 2,
        "mediaType": f"{OCI}.manifest.v1+json",
        "config": descriptor("config.v1+json", config),
        "layers": [descriptor("layer.v1.tar+gzip", packed)],
    })
    reference = f"{NAME}:{args.version}"
    index = encode({
        "schemaVersion": 2,
        "manifests": [{**descriptor("manifest.v1+json", manifest), "platform": {"architecture": "amd64", "os": "linux"},
                       "annotations": {"io.containerd.image.name": f"docker.io/library/{reference}",
                                       "org.opencontainers.image.ref.name": args.version}}],
    })

    def blob(data):
        return "blobs/" + digest(data).replace(":", "/")

    # For engines that load only Docker's own archives, which name the same blobs.
    docker = encode([{"Config": blob(config), "RepoTags": [reference], "Layers": [blob(packed)]}])
    files = {"oci-layout": encode({"imageLayoutVersion": "1.0.0"}), "index.json": index, "manifest.json": docker,
             blob(config): config, blob(manifest): manifest, blob(packed): packed}
    with tarfile.open(args.out, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in sorted(files.items()):
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), args.time
            tar.addfile(info, io.BytesIO(data))
    print(f"{args.out}: {reference}, {len(plain) / 1e6:.1f} MB, packed {len(packed) / 1e6:.1f} MB")


main()
