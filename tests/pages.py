"""A page whose tables a script makes of files: that script's check, and files with other values."""

import json
import subprocess
import sys


def checked(tree, script):
    """Exit code and words of ``script --check`` in a copy of the repository, in which it changes nothing."""
    beside = [path for path in (tree / script).parent.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    before = {path: path.read_bytes() for path in [*beside, *tree.glob("*.md"), *tree.glob("docs/*.md")]}
    command = [sys.executable, str(tree / script), "--check"]
    ended = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)
    assert ended.stderr == ""
    assert all(path.read_bytes() == there for path, there in before.items())
    return ended.returncode, ended.stdout


def changed(path, **values):
    """Put other values into a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **values}), "utf-8")
