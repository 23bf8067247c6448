"""An image in an OCI archive, and processes that see nothing but it."""
import gzip
import hashlib
import io
import json
import os
import pathlib
import subprocess
import tarfile


class Image:
    """The parts of an archive, each checked against its digest."""

    def __init__(self, path):
        with tarfile.open(path) as archive:
            self.files = {member.name: archive.extractfile(member).read() for member in archive.getmembers()}
        index = json.loads(self.files["index.json"])
        (entry,) = index["manifests"]
        manifest = json.loads(self.blob(entry))
        self.config = json.loads(self.blob(manifest["config"]))
        (layer,) = manifest["layers"]
        self.layer = gzip.decompress(self.blob(layer))
        assert self.config["rootfs"]["diff_ids"] == [digest(self.layer)], "the layer is not the one that the configuration names"
        self.docker = json.loads(self.files["manifest.json"])

    def blob(self, descriptor):
        data = self.files["blobs/" + descriptor["digest"].replace(":", "/")]
        assert digest(data) == descriptor["digest"] and len(data) == descriptor["size"], descriptor
        return data

    def members(self):
        with tarfile.open(fileobj=io.BytesIO(self.layer)) as layer:
            return layer.getmembers()

    def unpack(self, directory):
        with tarfile.open(fileobj=io.BytesIO(self.layer)) as layer:
            layer.extractall(directory)


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Container:
    """The image's files, read-only, and what an engine puts beside them: names, a volume, other files."""

    def __init__(self, image, directory, hosts="", resolver="", files=None):
        self.config, self.root = image.config["config"], pathlib.Path(directory) / "root"
        beside = pathlib.Path(directory) / "beside"
        self.root.mkdir()
        beside.mkdir()
        image.unpack(self.root)
        self.user = int(self.config["User"].split(":")[0])
        volume = beside / "data"
        volume.mkdir()
        os.chown(volume, self.user, self.user)
        mount("--bind", self.root, self.root)
        mount("--bind", volume, self.root / "data")
        for name, content in {"etc/hosts": hosts, "etc/resolv.conf": resolver, **(files or {})}.items():
            (beside / name.replace("/", "-")).write_text(content)
            (self.root / name).parent.mkdir(exist_ok=True)
            (self.root / name).touch()
            mount("--bind", beside / name.replace("/", "-"), self.root / name)
        mount("-o", "remount,ro,bind", self.root)

    def start(self, *args, env=None, **kwargs):
        return subprocess.Popen([*self.config["Entrypoint"], *args], env={**dict(e.split("=", 1) for e in self.config["Env"]), **(env or {})},
                                stdin=subprocess.DEVNULL, preexec_fn=self.enter, text=True, **kwargs)

    def run(self, *args, **kwargs):
        process = self.start(*args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **kwargs)
        output, _ = process.communicate(timeout=120)
        return process.returncode, output

    def enter(self):
        os.chroot(self.root)
        os.chdir("/")
        os.setgroups([])
        os.setgid(self.user)
        os.setuid(self.user)

    def close(self):
        subprocess.run(["umount", "--recursive", self.root], check=True)


def mount(*args):
    subprocess.run(["mount", *map(str, args)], check=True)
