"""Structure: layers, no circles, short files; and that the tool sees what breaks it."""

from __future__ import annotations

from pathlib import Path

import pytest
from tools import structure

MOST_AT_THE_ROOT = 12


@pytest.fixture(scope="module")
def known() -> dict[str, Path]:
    return structure.modules()


@pytest.fixture(scope="module")
def edges(known: dict[str, Path]) -> dict[str, set[str]]:
    found = {name: structure.imports(name, known) for name in known}
    assert len(found) > 100
    assert sum(map(len, found.values())) > 400
    return found


def test_no_modules_import_one_another(edges: dict[str, set[str]]) -> None:
    assert structure.circles(edges) == []


def test_no_import_runs_back_up(edges: dict[str, set[str]]) -> None:
    assert structure.climbing(edges) == []


def test_every_layer_is_there(known: dict[str, Path]) -> None:
    rooms = {structure.room(name) for name in known} - {structure.ROOT}
    assert rooms == {part for parts in structure.LAYERS for part in parts}


def test_few_modules_are_at_the_root(known: dict[str, Path]) -> None:
    root = [name for name, path in known.items() if path.parent == structure.PACKAGE]
    assert 1 < len(root) <= MOST_AT_THE_ROOT


def test_no_file_is_long(known: dict[str, Path]) -> None:
    assert structure.long_files(known) == []


def test_no_function_is_long(known: dict[str, Path]) -> None:
    assert structure.long_functions(known) == []


def written(folder: Path, **sources: str) -> dict[str, Path]:
    """Modules of a package, by their names: `data_a` is headstart.data.a."""
    found = {}
    for name, source in sources.items():
        found[f"headstart.{name.replace('_', '.')}"] = folder / f"{name}.py"
        (folder / f"{name}.py").write_text(source)
    return found


def test_imports_are_seen_wherever_they_run(tmp_path: Path) -> None:
    source = (
        "from typing import TYPE_CHECKING\nimport headstart.files\nfrom headstart.data import b\n"
        "from headstart.recipe import Recipe\nif TYPE_CHECKING:\n    from headstart import plan\n"
        "def f():\n    from headstart import workbench\n"
    )
    names = ("files", "recipe", "data", "data_b", "plan", "workbench")
    known = written(tmp_path, data_a=source, **dict.fromkeys(names, ""))
    assert structure.imports("headstart.data.a", known) == {
        *("headstart.files", "headstart.data.b", "headstart.recipe", "headstart.workbench"),
    }


def test_a_circle_and_a_climb_are_reported() -> None:
    edges = {
        "headstart": {"headstart.cli.app"},  # its names are resolved when they are asked for
        "headstart.data.a": {"headstart.data.b"},
        "headstart.data.b": {"headstart.data.c", "headstart.files"},
        "headstart.data.c": {"headstart.data.a"},
        "headstart.files": {"headstart.recipe"},
    }
    assert structure.circles(edges) == [
        ["headstart.data.a", "headstart.data.b", "headstart.data.c"]
    ]
    assert structure.climbing(edges) == ["headstart.files imports headstart.recipe"]
    with pytest.raises(KeyError):
        structure.climbing({"headstart.attic": {"headstart.files"}})


def test_long_files_and_functions_are_reported(tmp_path: Path) -> None:
    def function(lines: int) -> str:
        return "def f():\n" + "    pass\n" * (lines - 1)

    known = written(tmp_path, a="\n" * 401, b="\n" * 400, c=function(61), d=function(60))
    assert structure.long_files(known) == ["headstart.a: 401 lines"]
    assert structure.long_functions(known) == ["headstart.c.f: 61 lines"]
