"""Recipes of the tests, as the text that a user would write: small, on the images shipped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from headstart.rundir.run import Run
from headstart.specs import BackboneSpec

FROM_SCRATCH = BackboneSpec(name="small_cnn", weights="random")
Table = dict[str, Any]


def recipe_text(
    name: str = "tiny",
    *phases: Table,
    backbone: BackboneSpec = FROM_SCRATCH,
    train: int | None = 100,
    test: int | None = 40,
    size: int | None = 32,
    more: str = "",
    **tables: Table,
) -> str:
    """A recipe's TOML: by default a network from scratch, for one epoch.

    tables: further keys of `data`, and other tables by their names. more: text before the tables.
    """
    counts = {"train_limit": train, "test_limit": test, "size": size}
    data = {"source": "cifar10-mini", **counts, **tables.pop("data", {})}
    whole = {"data": data, "backbone": {"name": backbone.name, "weights": backbone.weights}}
    lines = [f"name = {json.dumps(name)}", *more.splitlines()]
    for title, table in (whole | tables).items():
        lines += [f"[{title}]", *_keys(table)]
    for phase in phases or ({"train": "from_scratch", "epochs": 1},):
        lines += ["[[phases]]", *_keys(phase)]
    return "\n".join(lines) + "\n"


def _keys(table: Table) -> list[str]:
    return [f"{_name(key)} = {_value(value)}" for key, value in table.items() if value is not None]


def _name(key: str) -> str:
    return json.dumps(key) if "." in key else key


def _value(value: Any) -> str:
    """An inline table for a dictionary; TOML writes all else here as JSON does."""
    if isinstance(value, dict):
        return "{ " + ", ".join(_keys(value)) + " }"
    return json.dumps(value)


def write_recipe(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return path


def log_of(run: Run) -> list[Table]:
    """The lines of a run's log, as they are in the file."""
    return [json.loads(line) for line in (run.path / "log.jsonl").read_text().splitlines()]
