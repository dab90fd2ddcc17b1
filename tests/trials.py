"""Trials of every moment of a run: the default part takes seconds, $HEADSTART_TRIALS the whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from headstart import files
from headstart.models import tensor_files
from headstart.specs import BackboneSpec
from tests.conftest import Outcome
from tests.recipes import FROM_SCRATCH, recipe_text, write_recipe

T = TypeVar("T")

WHOLE = bool(os.environ.get("HEADSTART_TRIALS"))
WRITTEN = ("checkpoints/best.safetensors", "predictions/val.npz", "predictions/test.npz")


def some_of(items: Sequence[T], few: int) -> list[T]:
    """All items in the whole trial, else a few, spread over them."""
    if WHOLE or len(items) <= few:
        return list(items)
    return [items[round(k * (len(items) - 1) / (few - 1))] for k in range(few)]


def scratch_recipe(folder: Path) -> Path:
    """From random weights: no cache."""
    text = recipe_text("tiny", {"train": "from_scratch", "epochs": 2}, train=60, test=20)
    return write_recipe(folder, text)


def frozen_recipe(folder: Path, backbone: BackboneSpec) -> Path:
    """Two phases on cached rows."""
    phases = ({"train": "head", "epochs": 2, "lr": 1e-3}, {"train": "last_stage", "epochs": 1})
    assert backbone != FROM_SCRATCH
    return write_recipe(folder, recipe_text("tiny", *phases, backbone=backbone, train=60, test=20))


@contextmanager
def at_each_publish(act: Callable[[int, Path], None]) -> Iterator[None]:
    """Within the block `act` is called before and after a whole file moves to its place, with the
    number of the moment and the place."""
    publish, moments = files.publish, iter(range(10**6))

    def between(made: Path, path: Path) -> None:
        act(next(moments), path)
        publish(made, path)
        act(next(moments), path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "publish", between)
        patch.setattr(tensor_files, "publish", between)
        yield


def assert_same_results(run: Path, whole: Path) -> None:
    """Equal weights and predictions, bit for bit, and no temporary file."""
    for name in WRITTEN:
        assert (run / name).read_bytes() == (whole / name).read_bytes(), name
    assert leftovers(run) == []


def one_error(outcome: Outcome) -> bool:
    """Whether a command ended in one line of an error."""
    said = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
    return outcome.code == 2 and len(said) == 1 and "Traceback" not in outcome.err


def leftovers(*folders: Path) -> list[Path]:
    return [p for folder in folders for p in folder.rglob("*") if ".partial" in p.name]


def copy(folder: Path, to: Path) -> None:
    if folder.exists():
        shutil.copytree(folder, to, symlinks=True)
