"""A run that is killed, whose disk is full, or whose folder is removed, at each of its writes."""

from __future__ import annotations

import errno
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from headstart import files, workbench
from headstart.features import cache
from headstart.features.rows_file import RowsFile
from headstart.machine.progress import Reporter
from headstart.recipe import load_recipe
from headstart.rundir.history import Event
from headstart.rundir.run import Run
from headstart.specs import BackboneSpec
from tests.conftest import Outcome
from tests.trials import (
    WHOLE,
    assert_same_results,
    at_each_publish,
    copy,
    frozen_recipe,
    leftovers,
    one_error,
    scratch_recipe,
    some_of,
)

Command = Callable[..., Outcome]


SCRATCH, CACHED = "from scratch", "on cached rows"


def both_or(kind: str) -> pytest.MarkDecorator:
    """The recipes of a trial: both in the whole one."""
    kinds = [SCRATCH, CACHED] if WHOLE else [kind]
    return pytest.mark.parametrize("recipe", kinds, indirect=True)


@pytest.fixture
def recipe(request: pytest.FixtureRequest, tmp_path: Path, small_backbone: BackboneSpec) -> Path:
    if request.param == SCRATCH:
        return scratch_recipe(tmp_path)
    return frozen_recipe(tmp_path, small_backbone)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@both_or(CACHED)
def test_a_kill_at_any_write_is_made_good(
    recipe: Path, tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a kill leaves at a moment is what is on the disk at that moment."""
    whole, left = tmp_path / "whole", tmp_path / "left"
    moments: list[Path] = []

    def keep(number: int, path: Path) -> None:
        moments.append(path)
        copy(whole, left / str(number) / "run")
        copy(own_cache, left / str(number) / "cache")

    with at_each_publish(keep):
        workbench.run(load_recipe(recipe), out=whole, measure=False, reporter=Reporter())
    assert len(moments) > 30
    for number in some_of(range(len(moments)), 3):
        killed = left / str(number)
        monkeypatch.setenv("HEADSTART_CACHE", str(killed / "cache"))
        workbench.run(load_recipe(recipe), out=killed / "run", measure=False, reporter=Reporter())
        assert_same_results(killed / "run", whole)
        assert leftovers(killed / "cache") == []


@both_or(SCRATCH)
def test_a_run_that_is_removed_ends_in_a_line_and_begins_again(
    recipe: Path, tmp_path: Path, own_cache: Path, headstart: Command
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    moments: list[Path] = []
    with at_each_publish(lambda number, path: moments.append(path)):
        assert headstart("run", recipe, "--out", whole).code == 0
    within = [n for n, path in enumerate(moments) if whole in path.parents]
    within = within[2:-1]  # until it begins nothing is there, and at the end it is finished
    if not WHOLE:
        names = ("last.safetensors", "metrics.json", "best.safetensors", "cost.json")
        within = [max(n for n in within if moments[n].name == name) for name in names]
    for moment in within:

        def remove(number: int, path: Path, moment: int = moment) -> None:
            if number == moment:
                shutil.rmtree(out)

        shutil.rmtree(own_cache, ignore_errors=True)
        with at_each_publish(remove):
            outcome = headstart("run", recipe, "--out", out)
        assert one_error(outcome), (moments[moment], outcome)
        assert headstart("run", recipe, "--out", out).code == 0, (moments[moment], outcome)
        assert_same_results(out, whole)
        shutil.rmtree(out)


KINDS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def full_disk(moment: int) -> Iterator[list[int]]:
    """The disk takes nothing at one write, of whole files, rows, their sums, and lines of logs;
    what came before stays. Yields a list that counts the writes."""
    seen = [0]

    def fails() -> bool:
        seen[0] += 1
        return seen[0] - 1 == moment

    def error(path: Path) -> OSError:
        kind = KINDS[moment % len(KINDS)]
        return OSError(kind, os.strerror(kind), str(path))

    write, sync, append, log = Path.write_bytes, files.sync, RowsFile.append, Run.append_log

    def write_bytes(path: Path, content: bytes) -> int:
        if fails():
            write(path, content[: len(content) // 2])
            raise error(path)
        return write(path, content)

    def synced(path: Path) -> None:
        if fails():
            raise error(path)
        sync(path)

    def appended(file: RowsFile, rows: object) -> None:
        if fails():
            raise error(Path("rows"))
        append(file, rows)  # type: ignore[arg-type]

    def logged(run: Run, event: Event) -> None:
        if fails():
            raise error(run.path / "log.jsonl")
        log(run, event)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "write_bytes", write_bytes)
        patch.setattr(files, "sync", synced)
        patch.setattr(cache, "sync", synced)
        patch.setattr(RowsFile, "append", appended)
        patch.setattr(Run, "append_log", logged)
        yield seen


@both_or(CACHED)
def test_a_full_disk_at_any_write_ends_in_a_line_and_the_run_goes_on(
    recipe: Path, tmp_path: Path, own_cache: Path, headstart: Command
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    with full_disk(-1) as seen:
        assert headstart("run", recipe, "--out", whole).code == 0
    for moment in some_of(range(seen[0]), 3):
        shutil.rmtree(own_cache, ignore_errors=True)
        with full_disk(moment):
            outcome = headstart("run", recipe, "--out", out)
        assert outcome.code == 0 or one_error(outcome), (moment, outcome)
        assert leftovers(out, own_cache) == []
        again = headstart("run", recipe, "--out", out)
        assert again.code == 0, (moment, again)
        assert_same_results(out, whole)
        shutil.rmtree(out)


@contextmanager
def size_limit(most: int) -> Iterator[None]:
    """No file may grow beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@both_or(SCRATCH)
def test_a_limit_on_the_size_of_files_is_a_line(
    recipe: Path, tmp_path: Path, own_cache: Path, headstart: Command
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert headstart("run", recipe, "--out", whole).code == 0
    sizes = sorted({p.stat().st_size for p in whole.rglob("*") if p.is_file()})
    refused = 0
    for size in some_of([size for size in sizes if size > 4096], 2):
        shutil.rmtree(own_cache, ignore_errors=True)
        with size_limit(size - 1):
            outcome = headstart("run", recipe, "--out", out)
        assert outcome.code == 0 or one_error(outcome), (size, outcome)
        refused += outcome.code == 2
        assert leftovers(out, own_cache) == []
        assert headstart("run", recipe, "--out", out).code == 0
        assert_same_results(out, whole)
        shutil.rmtree(out)
    assert refused  # the smallest of them is in the way
