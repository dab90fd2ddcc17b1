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

No pickle anywhere. FORMAT is raised when a reader of the old files would misread the new ones.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from headstart.errors import RunError, explain_os_error
from headstart.evaluation.predictions import Predictions
from headstart.recipe import Recipe, load_recipe
from headstart.shown import Card, Shown, interval, percent

FORMAT = 1
_FOLDERS = ("checkpoints", "predictions", "report")
_PARTIAL = re.compile(r"\.(.+)\.\d+\.partial")  # as atomic_path names them
Split = Literal["val", "test"]


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that replaces it on success and is removed on failure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def remove_partial(run: Run) -> None:
    """Remove what a killed process left half written, in the folders that a run writes to."""
    for folder in (run.path, *(run.path / name for name in _FOLDERS)):
        for path in folder.glob(".*.partial"):
            if _PARTIAL.fullmatch(path.name) and path.is_file():
                path.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a whole file or nothing."""
    with atomic_path(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


def write_json(path: Path, value: Any) -> None:
    write_atomically(path, json.dumps(value, indent=2) + "\n")


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write named arrays as a compressed npz that loads with allow_pickle=False."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    write_atomically(path, buffer.getvalue())


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


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
    def manifest(self) -> dict[str, Any]:
        return self._json("manifest.json")

    @property
    def status(self) -> str:
        """running, interrupted, finished or failed."""
        return str(self.manifest["status"])

    @property
    def finished(self) -> bool:
        return self.status == "finished"

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """Scores by split, {"val": {...}, "test": {...}}, and what is said of the run beside."""
        return self._json("metrics.json")

    @property
    def temperature(self) -> float:
        """What logits are divided by where probabilities are told; 1 for runs of before."""
        return float(self.metrics.get("temperature", 1.0))

    @cached_property
    def cost(self) -> dict[str, Any]:
        """What the run cost, those parts that were measured; {} before any was."""
        return self._json("cost.json") if (self.path / "cost.json").exists() else {}

    @property
    def profile(self) -> dict[str, Any]:
        """Where the time went, as Profile.as_dict has it; a run without a profile has none."""
        return self._json("profile.json") if (self.path / "profile.json").exists() else {}

    @property
    def log(self) -> list[dict[str, Any]]:
        """The events of the run in order; a line cut short by a crash is dropped."""
        path = self.path / "log.jsonl"
        events = []
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
            with contextlib.suppress(json.JSONDecodeError):
                events.append(json.loads(line))
        return events

    @property
    def kept_log(self) -> list[dict[str, Any]]:
        """The events without the epochs of attempts that a restart at a lower rate gave up."""
        kept: list[dict[str, Any]] = []
        for event in self.log:
            if event["event"] == "restart":
                phase = event["phase"]
                kept = [e for e in kept if (e["event"], e.get("phase")) != ("epoch", phase)]
            kept.append(event)
        return kept

    @cached_property
    def pictures(self) -> dict[str, np.ndarray]:
        """Thumbnails, uint8 (n, side, side, 3): `sample_images` of train with `sample_ids` and
        `sample_labels`; and of test, each with `_ids`, `_labels`, `_predicted` and `_confidence`
        (float32, of the answer, calibrated), `prediction_images` at random, `mistake_images` surest
        first, `uncertain_images` the narrowest margin first, `pair_images` pair by pair of confused
        classes, and `saliency_images` with heat over `saliency_plain` by `saliency_method` (a str).
        Older runs lack some, with confidences as the model gave them, and a network without places
        has no `saliency_*`."""
        path = self.path / "pictures.npz"
        return read_arrays(path) if path.exists() else {}

    @cached_property
    def feature_map(self) -> dict[str, np.ndarray]:
        """Test images laid out by their penultimate features: `ids`, `labels`, `predicted`, `xy`
        (float32 (n, 2)), `method` (a str). {} of an older run."""
        path = self.path / "feature_map.npz"
        return read_arrays(path) if path.exists() else {}

    @property
    def class_names(self) -> list[str]:
        return list(self.manifest["data"]["class_names"])

    @property
    def warnings(self) -> list[str]:
        """What its user may not have meant, in its data above all: a line each."""
        return list(self.manifest.get("warnings", []))

    def add_warning(self, line: str) -> None:
        self.update_manifest(warnings=[*self.warnings, line])

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
            test, val = self.metrics["test"], self.metrics["val"]
            shown = f"{percent(test['accuracy'])} {interval(test['interval'])}, n = {test['n']:,}"
            balanced = f"{percent(test['macro_recall'])} {interval(test['balanced_interval'])}"
            facts += [
                ("test accuracy", shown),
                ("balanced", balanced),
                ("val accuracy", f"{percent(val['accuracy'])}, n = {val['n']:,}"),
                ("time", f"{self.cost['wall_s']:.1f} s"),
                ("report", str(self.path / "report" / "report.html")),
            ]
        if warned := self.warnings:
            facts.append(("warnings", f"{len(warned)}: {warned[0]}"))
        return Card(f"Run {self.name}: {self.status}", facts)

    def update_manifest(self, **changes: Any) -> None:
        path = self.path / "manifest.json"
        write_json(path, {**(self.manifest if path.exists() else {}), **changes})

    def append_log(self, event: Mapping[str, Any]) -> None:
        with (self.path / "log.jsonl").open("ab+") as log:
            if log.tell():
                log.seek(-1, os.SEEK_END)
                if log.read(1) != b"\n":  # a crash cut the last line short
                    log.write(b"\n")
            log.write(json.dumps(event).encode() + b"\n")

    def _json(self, name: str) -> dict[str, Any]:
        try:
            content: dict[str, Any] = json.loads((self.path / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RunError(f"{self.path}: no {name} here: the run has not got that far") from None
        except json.JSONDecodeError as error:
            raise RunError(f"{self.path / name}: damaged: {error}") from error
        return content


def create_run(path: Path, recipe: Recipe) -> Run:
    """Create the run directory for a resolved recipe. Raises RunError where `path` is taken."""
    require_free(path, recipe)
    run = Run(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        write_atomically(path / "recipe.toml", recipe.to_toml())
        run.update_manifest(format=FORMAT, status="running", fingerprint=recipe.fingerprint)
    except OSError as error:
        reason = explain_os_error(error) or f"{path}: {error.strerror}: choose another place"
        raise RunError(f"the run cannot be written: {reason}") from error
    return run


def require_free(path: Path, recipe: Recipe) -> None:
    """Raises RunError where a new run of `recipe` cannot be in `path`. Changes nothing there.

    A folder is free that is not there, is empty, or holds what a run of this recipe leaves that
    was killed as it began: a recipe.toml with the same words, or a half written file.
    """
    if (path / "manifest.json").exists():
        raise RunError(f"{path}: holds a run already, begun a moment ago: wait for it to end")
    try:
        entries = sorted(path.iterdir()) if path.is_dir() else []
        foreign = [entry.name for entry in entries if not _of_a_beginning(entry, recipe)]
    except OSError as error:
        raise RunError(f"{path}: cannot be listed: {error.strerror}") from error
    if foreign:
        raise RunError(
            f"{path}: not empty, and not a run (it holds {foreign[0]}): choose another --out"
        )


def _of_a_beginning(entry: Path, recipe: Recipe) -> bool:
    if entry.name == "recipe.toml" and entry.is_file():
        return entry.read_bytes() == recipe.to_toml().encode()
    partial = _PARTIAL.fullmatch(entry.name)
    return partial is not None and partial[1] in ("recipe.toml", "manifest.json")


def open_run(path: str | Path) -> Run:
    """Open a run directory. Raises RunError where there is none, or a newer format."""
    run = Run(Path(path))
    if not (run.path / "manifest.json").exists():
        runs = list_runs(run.path)
        study = f"; it is a study's: name one of its runs, such as {runs[0]}" if runs else ""
        raise RunError(f"{path}: not a run directory (no manifest.json in it){study}")
    if run.manifest.get("format") != FORMAT:
        raise RunError(
            f"{path}: run format {run.manifest.get('format')}; this version reads {FORMAT}"
        )
    return run


def open_runs(paths: Sequence[str | Path]) -> list[Run]:
    """Open run directories, and the runs of study directories in the study's order.

    Raises RunError where a path is neither, or a run's format is newer.
    """
    return [open_run(run) for path in paths for run in list_runs(Path(path)) or [Path(path)]]


def list_runs(path: Path) -> list[Path]:
    """The run directories of a study's or comparison's directory, in its order; [] of any other.

    The order is the one that its comparison.json notes. Without it, which is how a study that was
    interrupted looks, runs come by the time they were made.
    """
    if (path / "manifest.json").exists() or not path.is_dir():
        return []
    found = [entry for entry in path.iterdir() if (entry / "manifest.json").exists()]
    found.sort(key=lambda run: (str(Run(run).manifest.get("created", "~")), run.name))
    compared = path / "comparison.json"
    if not compared.exists():
        return found
    try:
        content = json.loads(compared.read_text(encoding="utf-8"))
        order = content.get("order") or [row["path"] for row in content["rows"] if row["path"]]
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{compared}: damaged: {error}") from error
    noted = [Path(os.path.normpath(path / place)) for place in order]
    known = [run for run in noted if (run / "manifest.json").exists()]
    # Runs that failed are in the folder but not in the order; they come last.
    return [*known, *(run for run in found if run not in known)] if known else found
