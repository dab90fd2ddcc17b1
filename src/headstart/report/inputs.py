"""What the report verb is given: directories of runs or studies, and the comparison they make."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from headstart.comparison.leaderboard import build_comparison, split_finished
from headstart.errors import RunError
from headstart.rundir import Run, open_runs

# What a study's own comparison knows and its runs alone do not.
_STUDY_ONLY = ("selection", "limits")


def read_inputs(paths: Sequence[Path], root: Path) -> tuple[list[Run], dict[str, Any] | None]:
    """The runs, and their comparison where two or more finished; its paths are relative to `root`.

    One study's directory also brings the study's name, and how it selected under a budget or a
    limit. Raises RunError where a path is no run or study, or where runs saw different test images.
    """
    runs = open_runs(paths)
    finished, failures = split_finished(runs)
    if len(finished) < 2:
        return runs, None
    saved = _saved(paths[0]) if len(paths) == 1 else {}
    name = str(saved.get("name") or "report")
    built = build_comparison(name, finished, failures, root).to_dict()
    return runs, {**built, **{key: saved[key] for key in _STUDY_ONLY if saved.get(key)}}


def _saved(path: Path) -> dict[str, Any]:
    compared = path / "comparison.json"
    if not compared.exists():
        return {}
    try:
        content: dict[str, Any] = json.loads(compared.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise RunError(f"{compared}: damaged: {error}") from error
    return content
