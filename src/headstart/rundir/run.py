"""The run directory: all files of a run, written atomically, read without torch.

    recipe.toml                 the resolved recipe, every field present; it reproduces the run
    manifest.json               status, versions, commit, data and weights identity, preprocessing
    log.jsonl                   one line an event: phase started, epoch done, phase done
    checkpoints/last.*          what a resumed run starts from (removed when the run finishes)
    checkpoints/best.safetensors  the adapted model, backbone and head
    predictions/{val,test}.npz  ids, labels, logits; thresholds where an image may have many labels
    predictions/corrupted.npz   logits on corrupted test images, if the recipe asks for them
    pictures.npz                thumbnails the report shows: samples, answers, mistakes, heat maps
    feature_map.npz             test images laid out by their features
    golden.npz                  pixels of some test images: what an exported model is checked with
    export/                     the bundle, if the run was exported
    metrics.json  cost.json     scores, as functions of the predictions; the cost of the run
    profile.json                the time by section, with --profile
    report/report.html          the report
    error.txt                   the traceback of an unexpected error

`records` has the types of the JSON files, `history` those of the log. Nothing is pickled.
Raise FORMAT when a reader of the old files would misread the new ones.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from headstart.errors import RunError, explain_os_error
from headstart.evaluation.predictions import Predictions
from headstart.files import (
    PARTIAL,
    read_bytes,
    read_json,
    remove,
    write_atomically,
    write_json,
)
from headstart.recipe import Recipe, load_recipe
from headstart.rundir.card import run_card
from headstart.rundir.checks import (
    check_manifest,
    check_many_metrics,
    check_metrics,
    read_feature_map,
    read_pictures,
    read_predictions,
)
from headstart.rundir.folders import is_remnant, refuse_others
from headstart.rundir.history import Event, History, event_line, read_events
from headstart.rundir.records import (
    Cost,
    Manifest,
    ManyMetrics,
    Metrics,
    Provenance,
    Split,
    TimeProfile,
)
from headstart_predict.cards import Card, Shown

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
        path, stored = self.path / "manifest.json", self._record("manifest.json", _Stamp).format
        if stored != FORMAT:
            raise RunError(f"{path}: run format {stored}; this version reads {FORMAT}")
        manifest = self._record("manifest.json", Manifest)
        check_manifest(path, manifest)
        return manifest

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
        """The scores of both splits, and the further assessments. Raises RunError where images may
        have several labels."""
        if self.recipe.many_labels:
            raise RunError(f"{self.path}: its images may have several labels: this is for one")
        metrics = self._record("metrics.json", Metrics)
        check_metrics(self.path / "metrics.json", metrics, self._classes)
        return metrics

    @cached_property
    def many_metrics(self) -> ManyMetrics:
        """The scores of both splits where images may have several labels. Raises RunError where
        they have one."""
        if not self.recipe.many_labels:
            raise RunError(f"{self.path}: its images have one label each: this is for several")
        metrics = self._record("metrics.json", ManyMetrics)
        check_many_metrics(self.path / "metrics.json", metrics, self._classes)
        return metrics

    @property
    def temperature(self) -> float:
        """What the served model divides its logits by."""
        either = self.many_metrics if self.recipe.many_labels else self.metrics
        return either.temperature

    @property
    def thresholds(self) -> tuple[float, ...] | None:
        """The least probability of each label of the served model; None where images have one."""
        return self.many_metrics.thresholds if self.recipe.many_labels else None

    @cached_property
    def cost(self) -> Cost:
        return self._record("cost.json", Cost)

    @property
    def profile(self) -> TimeProfile | None:
        """The time by section; None without --profile."""
        return self._decoration("profile.json", _read_profile)[0]

    @cached_property
    def history(self) -> History:
        """The events so far, those that this object has appended included."""
        path = self.path / "log.jsonl"
        content = read_bytes(path) if path.exists() else b""
        return History.of(read_events(content, str(path)))

    @cached_property
    def pictures(self) -> dict[str, np.ndarray]:
        """Thumbnails, uint8 (n, side, side, 3), by name.

        Of train: `sample_images`, with `sample_ids` and `sample_labels`. Of test, each with `_ids`,
        `_labels`, `_predicted` and `_confidence` (float32, of the answer, calibrated):
        `prediction_images`, random; `mistake_images`, the surest first; `uncertain_images`, the
        narrowest margin first; `pair_images`, by pair of confused classes; `saliency_images`, heat
        over `saliency_plain` by `saliency_method` (a str). `saliency_*` are missing where no heat
        map can be made. {} of a run that is not finished, and of a damaged file.
        """
        return self._decoration("pictures.npz", read_pictures)[0] or {}

    @cached_property
    def feature_map(self) -> dict[str, np.ndarray]:
        """Test images laid out by their penultimate features: `ids`, `labels`, `predicted`, `xy`
        (float32 (n, 2)), `method` (a str). {} of a run that is not finished, and of a damaged
        file."""
        return self._decoration("feature_map.npz", self._read_map)[0] or {}

    @property
    def left_out(self) -> list[str]:
        """A line for each damaged file that only decorates the report, which goes without it."""
        found = (
            self._decoration("profile.json", _read_profile)[1],
            self._decoration("pictures.npz", read_pictures)[1],
            self._decoration("feature_map.npz", self._read_map)[1],
        )
        return [line for line in found if line]

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
        """Of a split; ManyPredictions where images may have several labels."""
        path = self.path / "predictions" / f"{split}.npz"
        if not path.exists():
            raise RunError(f"{self.path}: no {split} predictions: the run is {self.status}")
        try:
            return read_predictions(path, self._classes, many=self.recipe.many_labels)
        except RunError as error:
            advised = "damaged: remove this run and run its recipe again: "
            raise RunError(str(error).replace("damaged: ", advised, 1)) from error

    def verify(self) -> None:
        """Read each file of results that is there. Raises HeadstartError of the first that is
        damaged, or of another run."""
        _ = self.manifest, self.history
        results: dict[str, Callable[[], object]] = {
            "recipe.toml": lambda: self.recipe,
            "metrics.json": lambda: self.temperature,
            "cost.json": lambda: self.cost,
            "predictions/val.npz": lambda: self.predictions("val"),
            "predictions/test.npz": lambda: self.predictions("test"),
        }
        for name, read in results.items():
            if (self.path / name).exists():
                read()

    def _card(self) -> Card:
        return run_card(self)

    def update_manifest(self, **changes: Any) -> None:
        """Write the manifest with other values of some of its fields."""
        write_json(self.place("manifest.json"), replace(self.manifest, **changes))

    def place(self, name: str) -> Path:
        """The path of a file that is about to be written.

        Raises RunError where the run was removed: its folder would appear again, with files that
        no run can begin with.
        """
        if not (self.path / "manifest.json").exists():
            raise RunError(f"{self.path}: was removed while the run wrote to it: start it again")
        return self.path / name

    def append_log(self, event: Event) -> None:
        with self.place("log.jsonl").open("ab+") as log:
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
            if not self.path.exists():
                raise RunError(f"{self.path}: is not there, or was removed") from None
            raise RunError(f"{self.path}: no {name}: the run has not written it yet") from None

    def _decoration(self, name: str, read: Callable[[Path], T]) -> tuple[T | None, str | None]:
        """The content of a file that only decorates the report, and a line if it is damaged."""
        path = self.path / name
        try:
            return (read(path), None) if path.exists() else (None, None)
        except RunError as error:
            reason = str(error).removeprefix(f"{path}: ")
            return None, f"{self.path.name}/{name}: left out of the report: {reason}"

    def _read_map(self, path: Path) -> dict[str, np.ndarray]:
        return read_feature_map(path, self._classes)

    @property
    def _classes(self) -> int | None:
        """The number of classes; None until the run has read its images."""
        made = self.manifest.provenance
        return len(made.data.class_names) if made else None


def _read_profile(path: Path) -> TimeProfile:
    return read_json(path, TimeProfile)


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
        for entry in filter(is_remnant, list(path.iterdir())):
            remove(entry)
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
        refuse_others(path, None)


def require_free(path: Path, recipe: Recipe) -> None:
    """Raises RunError where a new run of `recipe` cannot begin in `path`. Changes nothing there.

    A folder is free if it does not exist, is empty, or holds only the first files of a run of this
    recipe that was killed at once (an equal recipe.toml, or a temporary file), or what a run wrote
    after its directory was removed.
    """
    if (path / "manifest.json").exists():
        raise RunError(f"{path}: holds a run that has just begun: wait for it to end")
    refuse_others(path, recipe)


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

    Raises RunError where a path is neither, a run is of another format, or one of its files is
    damaged.
    """
    runs = [open_run(run) for path in paths for run in list_runs(Path(path)) or [Path(path)]]
    for run in runs:
        run.verify()
    return runs


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
