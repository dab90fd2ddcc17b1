"""The run directory: everything a run leaves behind, written atomically, read without torch.

    recipe.toml                 the resolved recipe, every field present; running it reproduces
    manifest.json               status, versions, commit, data and weights identity, preprocessing
    log.jsonl                   one line an event: phase started, epoch done, phase done
    checkpoints/last.*          what a resumed run starts from (removed when the run finishes)
    checkpoints/best.safetensors  the adapted model, backbone and head
    predictions/{val,test}.npz  ids, labels, logits
    pictures.npz                thumbnails the report shows: samples, answers, mistakes, heat maps
    feature_map.npz             test images laid out by their features
    metrics.json  cost.json     functions of the predictions; what the run cost
    profile.json                where the time went, if that was asked for

`records` has the types of the JSON files, `history` those of the log.
No pickle anywhere. FORMAT is raised when a reader of the old files would misread the new ones.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from headstart.errors import RunError, explain_os_error
from headstart.evaluation.predictions import Predictions
from headstart.files import LOCK, PARTIAL, read_arrays, read_json, write_atomically, write_json
from headstart.recipe import Recipe, load_recipe
from headstart.rundir.history import Event, History, event_line, read_events
from headstart.rundir.records import Cost, Manifest, Metrics, Provenance, Split, TimeProfile
from headstart.text.cards import Card, Shown, interval, percent

FORMAT = 2
_FOLDERS = ("checkpoints", "predictions", "report")
T = TypeVar("T")


@dataclass(frozen=True, repr=False)
class Run(Shown):
    """A run directory opened for reading. Files are read when first asked for."""

    path: Path

    @property
    def name(self) -> str:
        return self.recipe.name

    @cached_property
    def recipe(self) -> Recipe:
        return load_recipe(self.path / "recipe.toml")

    @property
    def manifest(self) -> Manifest:
        """As it is now: it changes while the run goes on."""
        stored = self._record("manifest.json", _Stamp).format
        if stored != FORMAT:
            raise RunError(f"{self.path}: run format {stored}; this version reads {FORMAT}")
        return self._record("manifest.json", Manifest)

    @property
    def status(self) -> str:
        """running, interrupted, finished or failed."""
        return self.manifest.status

    @property
    def finished(self) -> bool:
        return self.status == "finished"

    @property
    def provenance(self) -> Provenance:
        """What it is made of. Raises RunError of a run that ended before its images were read."""
        if (made := self.manifest.provenance) is None:
            raise RunError(f"{self.path}: ended before its images were read: run its recipe again")
        return made

    @cached_property
    def metrics(self) -> Metrics:
        """The scores of both splits, and what is said of the model beside."""
        return self._record("metrics.json", Metrics)

    @cached_property
    def cost(self) -> Cost:
        return self._record("cost.json", Cost)

    @property
    def profile(self) -> TimeProfile | None:
        """Where the time went; None where that was not asked for."""
        if not (self.path / "profile.json").exists():
            return None
        return self._record("profile.json", TimeProfile)

    @cached_property
    def history(self) -> History:
        """The events so far, with those that this object has appended since it read them."""
        path = self.path / "log.jsonl"
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        return History.of(read_events(text, str(path)))

    @cached_property
    def pictures(self) -> dict[str, np.ndarray]:
        """Thumbnails, uint8 (n, side, side, 3): `sample_images` of train with `sample_ids` and
        `sample_labels`; and of test, each with `_ids`, `_labels`, `_predicted` and `_confidence`
        (float32, of the answer, calibrated), `prediction_images` at random, `mistake_images` surest
        first, `uncertain_images` the narrowest margin first, `pair_images` pair by pair of confused
        classes, and `saliency_images` with heat over `saliency_plain` by `saliency_method` (a str).
        A network without places has no `saliency_*`; a run that did not finish has none of all."""
        path = self.path / "pictures.npz"
        return read_arrays(path) if path.exists() else {}

    @cached_property
    def feature_map(self) -> dict[str, np.ndarray]:
        """Test images laid out by their penultimate features: `ids`, `labels`, `predicted`, `xy`
        (float32 (n, 2)), `method` (a str). {} of a run that did not finish."""
        path = self.path / "feature_map.npz"
        return read_arrays(path) if path.exists() else {}

    @property
    def class_names(self) -> list[str]:
        return list(self.provenance.data.class_names)

    @property
    def warnings(self) -> list[str]:
        """What its user may not have meant, in its data above all: a line each."""
        return list(self.manifest.warnings)

    def add_warning(self, line: str) -> None:
        self.update_manifest(warnings=(*self.warnings, line))

    def predictions(self, split: Split) -> Predictions:
        path = self.path / "predictions" / f"{split}.npz"
        if not path.exists():
            raise RunError(f"{self.path}: no {split} predictions: the run is {self.status}")
        try:
            return Predictions(**read_arrays(path))
        except (ValueError, TypeError, EOFError, OSError, zipfile.BadZipFile) as error:
            raise RunError(
                f"{path}: damaged: remove {self.path} and run its recipe again"
            ) from error

    def _card(self) -> Card:
        facts = [("directory", str(self.path)), ("backbone", self.recipe.backbone.name)]
        if self.finished:
            test, val = self.metrics.test, self.metrics.val
            shown = f"{percent(test.accuracy)} {interval(test.interval)}, n = {test.n:,}"
            balanced = f"{percent(test.macro_recall)} {interval(test.balanced_interval)}"
            facts += [
                ("test accuracy", shown),
                ("balanced", balanced),
                ("val accuracy", f"{percent(val.accuracy)}, n = {val.n:,}"),
                ("time", f"{self.cost.wall_s:.1f} s"),
                ("report", str(self.path / "report" / "report.html")),
            ]
        if warned := self.warnings:
            facts.append(("warnings", f"{len(warned)}: {warned[0]}"))
        return Card(f"Run {self.name}: {self.status}", facts)

    def update_manifest(self, **changes: Any) -> None:
        """Write the manifest with other values of some of its fields."""
        write_json(self.path / "manifest.json", replace(self.manifest, **changes))

    def append_log(self, event: Event) -> None:
        with (self.path / "log.jsonl").open("ab+") as log:
            if log.tell():
                log.seek(-1, os.SEEK_END)
                if log.read(1) != b"\n":  # a crash cut the last line short
                    log.write(b"\n")
            log.write(event_line(event).encode() + b"\n")
        self.__dict__.pop("history", None)

    def _record(self, name: str, kind: type[T]) -> T:
        try:
            return read_json(self.path / name, kind)
        except FileNotFoundError:
            raise RunError(f"{self.path}: no {name} here: the run has not got that far") from None


@dataclass(frozen=True, slots=True)
class _Stamp:
    """What is read of a manifest before the rest, which depends on it."""

    format: int


@dataclass(frozen=True, slots=True)
class _Order:
    """What a folder of runs is ordered by: its comparison.json's paths of finished runs."""

    order: tuple[str, ...]


def remove_partial(run: Run) -> None:
    """Remove what a killed process left half written, in the folders that a run writes to."""
    for folder in (run.path, *(run.path / name for name in _FOLDERS)):
        for path in folder.glob(".*.partial"):
            if PARTIAL.fullmatch(path.name) and path.is_file():
                path.unlink(missing_ok=True)


def create_run(path: Path, recipe: Recipe, fingerprint: str) -> Run:
    """Create the run directory for a resolved recipe; fingerprint: what `Recipe.fingerprint` gave.

    Raises RunError where `path` is taken.
    """
    require_free(path, recipe)
    run = Run(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        write_atomically(path / "recipe.toml", recipe.to_toml())
        begun = Manifest(
            format=FORMAT,
            status="running",
            fingerprint=fingerprint,
            error=None,
            created=None,
            spent_s=0.0,
            warnings=(),
            provenance=None,
        )
        write_json(path / "manifest.json", begun)
    except OSError as error:
        reason = explain_os_error(error) or f"{path}: {error.strerror}: choose another place"
        raise RunError(f"the run cannot be written: {reason}") from error
    return run


def require_free_or_run(path: Path) -> None:
    """Raises RunError where `path` holds neither a run nor what one may have begun with."""
    if not (path / "manifest.json").exists():
        _refuse_others(path, None)


def require_free(path: Path, recipe: Recipe) -> None:
    """Raises RunError where a new run of `recipe` cannot be in `path`. Changes nothing there.

    A folder is free that is not there, is empty, or holds what a run of this recipe leaves that
    was killed as it began: a recipe.toml with the same words, or a half written file.
    """
    if (path / "manifest.json").exists():
        raise RunError(f"{path}: holds a run already, begun a moment ago: wait for it to end")
    _refuse_others(path, recipe)


def _refuse_others(path: Path, recipe: Recipe | None) -> None:
    """Raises RunError where a folder holds what no run begins with; recipe: None for any."""
    try:
        entries = sorted(path.iterdir()) if path.is_dir() else []
        foreign = [entry.name for entry in entries if not _of_a_beginning(entry, recipe)]
    except OSError as error:
        raise RunError(f"{path}: cannot be listed: {error.strerror}") from error
    if foreign:
        raise RunError(
            f"{path}: not empty, and not a run (it holds {foreign[0]}): choose another --out"
        )


def _of_a_beginning(entry: Path, recipe: Recipe | None) -> bool:
    if entry.name == LOCK:
        return True
    if entry.name == "recipe.toml" and entry.is_file():
        return recipe is None or entry.read_bytes() == recipe.to_toml().encode()
    partial = PARTIAL.fullmatch(entry.name)
    return partial is not None and partial[1] in ("recipe.toml", "manifest.json")


def open_run(path: str | Path) -> Run:
    """Open a run directory. Raises RunError where there is none, or one of another format."""
    run = Run(Path(path))
    if not (run.path / "manifest.json").exists():
        runs = list_runs(run.path)
        study = f"; it is a study's: name one of its runs, such as {runs[0]}" if runs else ""
        raise RunError(f"{path}: not a run directory (no manifest.json in it){study}")
    _ = run.manifest  # which is refused where it is of another format
    return run


def open_runs(paths: Sequence[str | Path]) -> list[Run]:
    """Open run directories, and the runs of study directories in the study's order.

    Raises RunError where a path is neither, or a run is of another format.
    """
    return [open_run(run) for path in paths for run in list_runs(Path(path)) or [Path(path)]]


def list_runs(path: Path) -> list[Path]:
    """The run directories of a study's or comparison's directory, in its order; [] of any other.

    The order is the one that its comparison.json notes. Without it, which is how a study that was
    interrupted looks, runs come by the time they were made.
    """
    if (path / "manifest.json").exists() or not path.is_dir():
        return []
    folders = [entry for entry in path.iterdir() if (entry / "manifest.json").exists()]
    folders.sort(key=lambda run: (Run(run).manifest.created or "~", run.name))
    compared = path / "comparison.json"
    if not compared.exists():
        return folders
    order = read_json(compared, _Order).order
    noted = [Path(os.path.normpath(path / place)) for place in order]
    known = [run for run in noted if (run / "manifest.json").exists()]
    # Runs that failed are in the folder but not in the order; they come last.
    return [*known, *(run for run in folders if run not in known)] if known else folders
