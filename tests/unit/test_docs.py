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


def test_the_tree_has_a_line_for_each_folder_and_for_each_module_at_the_root() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    tree = page.split("## The tree")[1].split("## ")[0].split("    tests/")[0]
    listed: list[str] = []
    for indent, names in re.findall(r"^    (  +)((?:[\w./]+, )*[\w./]+)", tree, re.M):
        above = listed[-1] if len(indent) == 4 else ""
        above = above if above.count("/") <= 1 else above.split("/")[0] + "/"
        listed += [above + name for name in names.split(", ")]
    root = ROOT / "src" / "headstart"
    folders = {
        f"{path.relative_to(root)}/"
        for path in root.rglob("*")
        if path.is_dir() and path.name != "__pycache__" and any(p.is_file() for p in path.iterdir())
    }
    assert len(folders) >= 20
    assert sorted(listed) == sorted(folders | {path.name for path in root.glob("*.py")})


def test_files_that_pages_name_exist() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    named = {
        (page.name, name)
        for page in pages
        if page.name != "log.md"  # its entries are dated, and stay as they were
        for name in re.findall(r"`(?:python )?((?:[\w-]+/)*[\w-]+\.py)\b", page.read_text("utf-8"))
        if "NAME" not in name  # stands for a file to be written
    }
    assert len(named) >= 15
    roots = [ROOT, ROOT / "src" / "headstart"]
    assert not [each for each in sorted(named) if not any((r / each[1]).is_file() for r in roots)]


def test_no_host_and_no_path_of_a_machine() -> None:
    # Written in halves, so that this file does not hold what it looks for.
    hosts = ("python" + "hosted", "pypi" + r"\.org", "registry" + r"\.npmjs", "/ro" + "ot/")
    pattern = "|".join(hosts)
    command = ["git", "-C", str(ROOT), "grep", "-nIE", pattern, "--", "."]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == ""
