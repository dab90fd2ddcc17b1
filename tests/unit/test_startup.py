"""Start-up: help is instant, and what needs no tensor loads no torch."""

from __future__ import annotations

import json
import os
import pkgutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import headstart

# Whole packages, and modules of the root or of packages that have others.
LIGHT = (
    *("text", "files", "machine", "specs", "recipe", "evaluation", "rundir", "data"),
    *("comparison", "report", "cli", "errors", "tracking"),
    *("models.catalogue", "deployment.measuring", "selection.halving"),
)
# Of those, the ones that are about tensors.
TENSORS = ("headstart.machine.profiling", "headstart.machine.runtime")

# Nothing heavy can be imported here; who tries is noted, and whoever needs it as well.
PROGRAM = """\
import importlib, importlib.abc, json, sys

class Refusal(importlib.abc.MetaPathFinder):
    asked = set()
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "timm", "openvino"):
            self.asked.add(name.partition(".")[0])
            raise ImportError(f"{name} is heavy")

sys.meta_path.insert(0, Refusal())

def attempt(action):
    Refusal.asked.clear()
    try:
        action()
    except ImportError as error:
        if not Refusal.asked:
            raise
    except SystemExit as stop:
        assert not stop.code
    return sorted(Refusal.asked)

def show_help():
    from headstart.cli.app import main
    sys.argv[1:] = ["--help"]
    main()

found = {"--help": attempt(show_help)}
for module in MODULES:
    found[module] = attempt(lambda: importlib.import_module(module))
print(json.dumps(found))
"""


def modules_of(name: str) -> list[str]:
    """A module, or a package with all that is in it."""
    module = import_module(f"headstart.{name}")
    inside = pkgutil.walk_packages(getattr(module, "__path__", ()), f"{module.__name__}.")
    return [module.__name__, *(found.name for found in inside)]


@pytest.fixture(scope="module")
def asked_for() -> dict[str, list[str]]:
    """The heavy packages that the help, and each light module by its name, would load."""
    names = [module for name in LIGHT for module in modules_of(name)]
    program = PROGRAM.replace("MODULES", repr(["headstart", *names]))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_what_needs_no_tensor_loads_no_torch(asked_for: dict[str, list[str]]) -> None:
    assert len(asked_for) > 80
    heavy = {name: asked for name, asked in asked_for.items() if asked}
    assert heavy == {name: ["torch"] for name in TENSORS}


def test_help_loads_no_torch(asked_for: dict[str, list[str]]) -> None:
    assert asked_for["--help"] == []


HEAVY = ("torch", "timm", "openvino")


def printed(code: str, **environment: str) -> list[str]:
    program = f"import sys\n{code}\nprint(*[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def called(*words: str, **environment: str) -> list[str]:
    """What the command prints, and a last line of what it has loaded that is heavy."""
    return printed(
        f"from headstart.cli.app import main\nsys.argv = ['headstart', *{words!r}]\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code, stop.code",
        **environment,
    )


def test_help_tells_of_completion() -> None:
    *help_lines, heavy = called("--help")
    assert any("--install-completion" in line for line in help_lines)
    assert not heavy


def test_completion_is_shown_and_installed(tmp_path: Path) -> None:
    environment = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1", "HOME": str(tmp_path)}
    shown = called("--show-completion", "bash", **environment)
    assert "complete -o default -F _headstart_completion headstart" in shown
    called("--install-completion", "bash", **environment)
    (script,) = tmp_path.rglob("headstart.sh")
    assert script.read_text().split() == "\n".join(shown).split()
    assert str(script) in (tmp_path / ".bashrc").read_text()


def test_verbs_and_options_are_completed_without_torch() -> None:
    def completed(words: str) -> list[str]:
        where = str(len(words.split(" ")) - 1)
        asked = {"_HEADSTART_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": where}
        return called(**asked)

    assert completed("headstart re") == ["report", "recipes", ""]
    assert "--device" in completed("headstart run --de")


def test_public_names_resolve() -> None:
    assert len(headstart.__all__) >= 20
    for name in headstart.__all__:
        assert callable(getattr(headstart, name)), name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = headstart.nothing
