"""A run that was cut off and then damaged, or its cache: the same answers, or one line."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from headstart import workbench
from headstart.features import cache
from headstart.features.rows_file import RowsFile
from headstart.machine.progress import Reporter
from headstart.recipe import load_recipe
from headstart.specs import BackboneSpec
from headstart.training import loop
from tests.conftest import Outcome
from tests.recipes import recipe_text, write_recipe
from tests.trials import (
    WHOLE,
    assert_same_results,
    at_each_publish,
    copy,
    one_error,
    some_of,
)
from tests.unit.test_damaged_weights import DAMAGES, Damage, instead

Command = Callable[..., Outcome]
HIDDEN = re.compile(r"/\.")

KEPT = ("cut at 0.0", "cut at 0.5", "flipped at 0.125", "flipped at 0.5", "flipped at 1.0", "zeros")
FOREIGN = ("text", "longer", "a folder", "a named pipe")
DAMAGE: dict[str, Damage] = {
    **{name: DAMAGES[name] for name in (*KEPT, *FOREIGN)},
    "removed": instead(lambda path: None),
}


@dataclass(frozen=True)
class CutOff:
    """What a kill left of a run and of its cache, and the run that nothing cut off."""

    recipe: Path
    whole: Path
    left: Path

    @property
    def files(self) -> list[Path]:
        """Those of the run and of the largest entry of the cache, without temporary files."""
        run = (path for path in (self.left / "run").rglob("*") if path.is_file())
        largest = max((self.left / "cache").rglob("rows.bin"), key=lambda rows: rows.stat().st_size)
        found = [path.relative_to(self.left) for path in (*run, *largest.parent.iterdir())]
        return sorted(p for p in found if not HIDDEN.search(str(p)))


@contextmanager
def after_each_batch(act: Callable[[], None]) -> Iterator[None]:
    """Within the block `act` is called after each batch that a cache entry takes."""
    append = RowsFile.append

    def appended(file: RowsFile, batch: bytes) -> None:
        append(file, batch)
        act()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RowsFile, "append", appended)
        yield


@pytest.fixture(scope="module")
def cut_offs(
    tmp_path_factory: pytest.TempPathFactory, small_backbone: BackboneSpec
) -> dict[str, CutOff]:
    """By moment: a head that is solved, and a stage that is trained on it, both on cached rows."""
    folder, made = tmp_path_factory.mktemp("cut_off"), {}
    solved, trained = {"train": "head"}, {"train": "last_stage", "epochs": 2}
    recipes = {"trained": (solved, trained), "solved": (solved,)}
    for name, phases in recipes.items() if WHOLE else [("trained", (solved, trained))]:
        (own := folder / name).mkdir()
        text = recipe_text("tiny", *phases, backbone=small_backbone, train=100, test=20)
        recipe, whole = write_recipe(own, text), own / "whole"
        batches, saves = iter(range(1, 10**6)), iter(range(1, 10**6))

        def keep(moment: str, own: Path = own, recipe: Path = recipe, whole: Path = whole) -> None:
            copy(whole, own / moment / "run")
            copy(own / "cache", own / moment / "cache")
            made[moment] = CutOff(recipe, whole, own / moment)

        def on_batch(batches: Iterator[int] = batches, name: str = name) -> None:
            if next(batches) == 2 and name == "trained":  # of those of the first entry
                keep("extraction")

        def on_publish(
            number: int, path: Path, saves: Iterator[int] = saves, name: str = name
        ) -> None:
            if path.name == "last.safetensors":  # before and after it moves to its place
                moment = {("trained", 4): "training", ("solved", 2): "hand-over"}
                if found := moment.get((name, next(saves))):
                    keep(found)

        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HEADSTART_CACHE", str(own / "cache"))
            patch.setattr(loop, "CHECKPOINT_S", 0.0)
            with after_each_batch(on_batch), at_each_publish(on_publish):
                workbench.run(load_recipe(recipe), out=whole, measure=False, reporter=Reporter())
    return made


def test_damage_to_what_a_kill_left_is_made_good_or_named(
    cut_offs: dict[str, CutOff],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    headstart: Command,
) -> None:
    trials = [(m, f, d) for m, cut in cut_offs.items() for f in cut.files for d in DAMAGE]
    wrong, ends = [], Counter[int]()
    for moment, file, damage in some_of(trials, 6):
        cut, place = cut_offs[moment], tmp_path / "trial"
        shutil.copytree(cut.left, place)
        monkeypatch.setenv("HEADSTART_CACHE", str(place / "cache"))
        monkeypatch.setattr(cache, "_right", set())  # as in another process
        DAMAGE[damage](place / file)
        outcome = headstart("run", cut.recipe, "--out", place / "run")
        ends[outcome.code] += 1
        try:
            if outcome.code == 0:
                assert_same_results(place / "run", cut.whole)
            else:
                assert one_error(outcome)
                # Without its manifest, or with another's, the run is the one that is named.
                named = "run" if file.name == "manifest.json" else file.name
                assert named in outcome.err.rpartition("error: ")[2]
        except AssertionError as error:
            wrong.append((moment, str(file), damage, outcome, str(error)[:200]))
        shutil.rmtree(place)
    assert not wrong, "\n".join(map(str, wrong))
    assert len(ends) == 2  # both outcomes are met
