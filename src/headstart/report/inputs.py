"""What the report verb is given: directories of runs or studies, and the comparison they make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from headstart.comparison.framing import with_framing
from headstart.comparison.leaderboard import build_comparison, split_finished
from headstart.comparison.records import Comparison, read_comparison
from headstart.rundir.run import Run, open_runs


def read_inputs(paths: Sequence[Path], root: Path) -> tuple[list[Run], Comparison | None]:
    """The runs, and their comparison where two or more finished; its paths are relative to `root`.

    One study's directory also brings the study's name, and how it selected under a budget or a
    limit. Raises RunError where a path is no run or study, where a file of results is damaged, or
    where runs saw different test images.
    """
    runs = open_runs(paths)
    finished, failures = split_finished(runs)
    if len(finished) < 2:
        return runs, None
    saved = read_comparison(paths[0]) if len(paths) == 1 else None
    built = build_comparison(saved.name if saved else "report", finished, failures, root)
    if saved is None:
        return runs, built
    # What a study's own comparison knows and its runs alone do not.
    whole = replace(built, selection=saved.selection, limits=saved.limits)
    return runs, with_framing(whole, paths[0])
