"""The pages that describe the code are true of it."""

from __future__ import annotations

import re
import subprocess
import sys

from tests.conftest import ROOT


def test_generated_pages_are_current() -> None:
    command = [sys.executable, str(ROOT / "tools" / "build_docs.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_tree_names_every_module_once() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    listed: list[str] = []
    folder = ""
    for indent, name in re.findall(r"^    ( *)([\w./]+)", page.split("## The tree")[1], re.M):
        if name.endswith("/"):
            folder = name if len(indent) == 2 else ""
        elif name.endswith(".py"):
            listed.append((folder if len(indent) == 4 else "") + name)
    root = ROOT / "src" / "headstart"
    modules = {str(path.relative_to(root)) for path in root.rglob("*.py")}
    packages = {path for path in modules if path.endswith("/__init__.py")}
    assert sorted(listed) == sorted(modules - packages)


def test_no_host_and_no_path_of_a_machine() -> None:
    # Written in halves, so that this file does not hold what it looks for.
    hosts = ("python" + "hosted", "pypi" + r"\.org", "registry" + r"\.npmjs", "/ro" + "ot/")
    pattern = "|".join(hosts)
    command = ["git", "-C", str(ROOT), "grep", "-nIE", pattern, "--", "."]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == ""
