"""kafkajs and @platformatic/kafka from npm: one is years old, the other speaks new versions only."""
import shutil

from . import CACHE, HERE, NotRun, Results, download, steps

QUICK = False
PACKAGES = ["kafkajs@2.2.4", "@platformatic/kafka@2.12.0"]


def run(context):
    if not shutil.which("npm"):
        raise NotRun("npm is not here")
    modules = CACHE / "javascript"
    done = modules / "done"
    if not done.exists() or done.read_text() != " ".join(PACKAGES):
        modules.mkdir(parents=True, exist_ok=True)
        download(["npm", "install", "--no-fund", "--no-audit", "--prefix", modules, *PACKAGES])
        done.write_text(" ".join(PACKAGES))
    results = Results()
    for script, cases in (("kafkajs.js", ["produce", "group", "admin"]), ("platformatic.mjs", ["produce", "group", "admin"])):
        copy = modules / script
        copy.write_text((HERE.parent / "clients" / script).read_text())
        part = steps(["node", copy, context.bootstrap], cases)
        name = script.split(".")[0]
        results.passed |= {f"{name} {case}" for case in part.passed}
        results.failed |= {f"{name} {case}": why for case, why in part.failed.items()}
    return results
