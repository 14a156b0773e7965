"""A copy of the tree that may be changed and built, beside the tree itself."""
import os
import pathlib
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
COPY = TARGET / "mutations" / "tree"
# Cargo takes copies of one workspace for the same, and what was changed must never pass for what was not.
BUILT = TARGET / "mutations" / "built"
STAGES = ["keepwell-ingest", "keepwell-aggregate", "keepwell-score", "keepwell-sink"]


class Broken(Exception):
    """No verdict: it does not compile, what it replaces is not there, or it does not end, as happens beside other work."""


def copy():
    """The committed and uncommitted tree, without what is built. What is the same is left alone: Cargo goes by times."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, check=True, text=True, capture_output=True)
    names = {name for name in listed.stdout.splitlines() if (ROOT / name).is_file()}
    for path in [path for path in COPY.rglob("*") if path.is_file() and str(path.relative_to(COPY)) not in names]:
        path.unlink()
    for name in names:
        path, content = COPY / name, (ROOT / name).read_bytes()
        if not path.is_file() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        path.chmod((ROOT / name).stat().st_mode)


def replaced(file, before, after):
    """Replaces one text of a file of the copy by another. Returns what the file held."""
    original = (COPY / file).read_text()
    if original.count(before) != 1:
        raise Broken(f"{file} holds the text to be replaced {original.count(before)} times: {before}")
    (COPY / file).write_text(original.replace(before, after))
    return original


def build(*programs):
    """Builds programs of the copy."""
    command = ["cargo", "build", "--workspace", "--locked"] + [word for program in programs for word in ("--bin", program)]
    built = subprocess.run(command, cwd=COPY, env=os.environ | {"CARGO_TARGET_DIR": str(BUILT)}, text=True, capture_output=True)
    if built.returncode != 0:
        raise Broken(f"it does not compile:\n{built.stderr[-3000:]}")
