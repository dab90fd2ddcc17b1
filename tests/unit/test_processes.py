"""Processes of our own: no code from the current folder, the same cache wherever they run."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import headstart
import headstart_predict
from headstart.machine.processes import python_command, python_environment

PACKAGE = Path(headstart.__file__).parent
# Where Python finds the package, and the predictor's.
PATHS = [str(Path(each.__file__).parents[1]) for each in (headstart, headstart_predict)]
ROOT = Path(__file__).parents[2]


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a module that gets in the way of one we use."""
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "typer.py").write_text("raise SystemExit('code from the current folder')")
    monkeypatch.chdir(folder)
    return folder


def test_python_finds_nothing_in_the_current_folder(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", *PATHS, "."]))
    monkeypatch.setenv("HEADSTART_CACHE", "kept")
    program = (
        "import json, os, sys, headstart.files as p; "
        "print(json.dumps([sys.path, str(p.cache_root())]))"
    )
    done = subprocess.run(
        python_command("-c", program),
        env=python_environment(),
        cwd="/",
        capture_output=True,
        check=True,
    )
    path, cache = json.loads(done.stdout)
    assert "" not in path and "/" not in path
    assert cache == str(photos / "kept")


@pytest.mark.usefixtures("photos")
def test_the_module_as_a_program_takes_nothing_from_the_current_folder() -> None:
    command = [sys.executable, "-m", "headstart", "--version"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(PATHS)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"{headstart.__version__}\n"), done.stderr


def test_every_python_is_started_with_its_path_closed() -> None:
    started = []
    for path in (*PACKAGE.rglob("*.py"), *(ROOT / "tools").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.List) and "sys.executable" in map(ast.unparse, node.elts[:1]):
                started.append(path.name)
                assert ast.unparse(node.elts[1]) == "'-P'", (path, node.lineno)
    assert started.count("processes.py") == 1 and started.count("bootstrap.py") == 2
