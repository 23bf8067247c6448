"""An authority, by `openssl`, that issues what Certificates ask cert-manager for."""
import pathlib
import subprocess

# Nothing of the system's own configuration gets into a certificate.
CONFIG = "[req]\ndistinguished_name = name\n[name]\n"
USES = {"server auth": "serverAuth", "client auth": "clientAuth"}


class Authority:
    """Its key is in a directory, and so is every certificate."""

    def __init__(self, directory):
        self.directory = pathlib.Path(directory)
        self.directory.mkdir()
        (self.directory / "config").write_text(CONFIG)
        self.issued = 0
        self.sign("ca", ["-subj", "/CN=authority of a test", "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=keyCertSign"])

    def sign(self, name, args):
        key, certificate = self.directory / f"{name}.key", self.directory / f"{name}.crt"
        subprocess.run(["openssl", "req", "-x509", "-config", self.directory / "config", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
                        "-nodes", "-days", "2", "-keyout", key, "-out", certificate, *args], check=True, capture_output=True)
        return certificate, key

    def issue(self, spec):
        """Files of the Secret that a Certificate with this spec asks for. Nobody has another name than those it lists."""
        self.issued += 1
        names = [f"DNS:{name}" for name in spec["dnsNames"]] + [f"IP:{address}" for address in spec.get("ipAddresses", [])]
        certificate, key = self.sign(f"certificate-{self.issued}", [
            "-CA", self.directory / "ca.crt", "-CAkey", self.directory / "ca.key", "-subj", "/",
            "-addext", "subjectAltName=critical," + ",".join(names), "-addext", "keyUsage=critical,digitalSignature",
            "-addext", "extendedKeyUsage=" + ",".join(USES[use] for use in spec["usages"] if use in USES)])
        return {"tls.crt": certificate.read_text(), "tls.key": key.read_text(), "ca.crt": (self.directory / "ca.crt").read_text()}
