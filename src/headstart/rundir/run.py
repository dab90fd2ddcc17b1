"""The run directory: all files of a run, written atomically, read without torch.

    recipe.toml                 the resolved recipe, every field present; it reproduces the run
    manifest.json               status, versions, commit, data and weights identity, preprocessing
    log.jsonl                   one line an event: phase started, epoch done, phase done
    checkpoints/last.*          what a resumed run starts from (removed when the run finishes)
    checkpoints/best.safetensors  the adapted model, backbone and head
    predictions/{val,test}.npz  ids, labels, logits
    predictions/corrupted.npz   logits on corrupted test images, if the recipe asks for them
    pictures.npz                thumbnails the report shows: samples, answers, mistakes, heat maps
    feature_map.npz             test images laid out by their features
    metrics.json  cost.json     scores, as functions of the predictions; the cost of the run
    profile.json                the time by section, with --profile
    report/report.html          the report
    error.txt                   the traceback of an unexpected error

`records` has the types of the JSON files, `history` those of the log. Nothing is pickled.
Raise FORMAT when a reader of the old files would misread the new ones.
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
from headstart.files import (
    LOCK,
    PARTIAL,
    read_arrays,
    read_json,
    remove,
    write_atomically,
    write_json,
)
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
        """The manifest at this moment: it is read anew each time, since it changes during a run."""
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
        """The manifest's provenance. Raises RunError if the run ended before it read its images."""
        if (made := self.manifest.provenance) is None:
            raise RunError(f"{self.path}: ended before its images were read: run its recipe again")
        return made

    @cached_property
    def metrics(self) -> Metrics:
        """The scores of both splits, and the further assessments."""
        return self._record("metrics.json", Metrics)

    @cached_property
    def cost(self) -> Cost:
        return self._record("cost.json", Cost)

    @property
    def profile(self) -> TimeProfile | None:
        """The time by section; None without --profile."""
        if not (self.path / "profile.json").exists():
            return None
        return self._record("profile.json", TimeProfile)

    @cached_property
    def history(self) -> History:
        """The events so far, those that this object has appended included."""
        path = self.path / "log.jsonl"
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        return History.of(read_events(text, str(path)))

    @cached_property
    def pictures(self) -> dict[str, np.ndarray]:
        """Thumbnails, uint8 (n, side, side, 3), by name.

        Of train: `sample_images`, with `sample_ids` and `sample_labels`. Of test, each with `_ids`,
        `_labels`, `_predicted` and `_confidence` (float32, of the answer, calibrated):
        `prediction_images`, random; `mistake_images`, the surest first; `uncertain_images`, the
        narrowest margin first; `pair_images`, by pair of confused classes; `saliency_images`, heat
        over `saliency_plain` by `saliency_method` (a str). `saliency_*` are missing where no heat
        map can be made. {} of a run that is not finished.
        """
        path = self.path / "pictures.npz"
        return read_arrays(path) if path.exists() else {}

    @cached_property
    def feature_map(self) -> dict[str, np.ndarray]:
        """Test images laid out by their penultimate features: `ids`, `labels`, `predicted`, `xy`
        (float32 (n, 2)), `method` (a str). {} of a run that is not finished."""
        path = self.path / "feature_map.npz"
        return read_arrays(path) if path.exists() else {}

    @property
    def class_names(self) -> list[str]:
        return list(self.provenance.data.class_names)

    @property
    def warnings(self) -> list[str]:
        """Warnings, one line each, most of them about the data."""
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
            raise RunError(f"{self.path}: no {name}: the run has not written it yet") from None


@dataclass(frozen=True, slots=True)
class _Stamp:
    """The part of a manifest that is read first: the rest depends on it."""

    format: int


@dataclass(frozen=True, slots=True)
class _Order:
    """The order of runs in a folder: the paths of finished runs in its comparison.json."""

    order: tuple[str, ...]


def remove_partial(run: Run) -> None:
    """Remove the temporary files that a killed process left in the run's folders."""
    for folder in (run.path, *(run.path / name for name in _FOLDERS)):
        for path in folder.glob(".*.partial"):
            if PARTIAL.fullmatch(path.name):
                remove(path)


def create_run(path: Path, recipe: Recipe, fingerprint: str) -> Run:
    """Create the run directory of a resolved recipe. fingerprint: from `Recipe.fingerprint`.

    Raises RunError where `path` holds something else.
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
    """Raises RunError where `path` holds files, and neither a run nor the first files of one."""
    if not (path / "manifest.json").exists():
        _refuse_others(path, None)


def require_free(path: Path, recipe: Recipe) -> None:
    """Raises RunError where a new run of `recipe` cannot begin in `path`. Changes nothing there.

    A folder is free if it does not exist, is empty, or holds only the first files of a run of this
    recipe that was killed at once: an equal recipe.toml, or a temporary file.
    """
    if (path / "manifest.json").exists():
        raise RunError(f"{path}: holds a run that has just begun: wait for it to end")
    _refuse_others(path, recipe)


def _refuse_others(path: Path, recipe: Recipe | None) -> None:
    """Raises RunError where a folder holds other files than a run begins with.

    recipe: the recipe of that run; None for any.
    """
    try:
        entries = sorted(path.iterdir()) if path.is_dir() else []
        foreign = [entry.name for entry in entries if not _is_first_file(entry, recipe)]
    except OSError as error:
        raise RunError(f"{path}: cannot be listed: {error.strerror}") from error
    if foreign:
        raise RunError(
            f"{path}: not empty, and not a run (it holds {foreign[0]}): choose another --out"
        )


def _is_first_file(entry: Path, recipe: Recipe | None) -> bool:
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
        study = f"; it is a study: name one of its runs, such as {runs[0]}" if runs else ""
        raise RunError(f"{path}: not a run directory (no manifest.json in it){study}")
    _ = run.manifest  # raises where it has another format
    return run


def open_runs(paths: Sequence[str | Path]) -> list[Run]:
    """Open run directories, and the runs of study directories in the study's order.

    Raises RunError where a path is neither, or a run is of another format.
    """
    return [open_run(run) for path in paths for run in list_runs(Path(path)) or [Path(path)]]


def list_runs(path: Path) -> list[Path]:
    """The run directories in the directory of a study or comparison; [] of any other directory.

    They are in the order of its comparison.json. An interrupted study has none; its runs are in
    the order of their creation.
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
