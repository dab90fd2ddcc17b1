"""A run directory in MLflow's terms: parameters, tags, curves, final scores, files."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from headstart.files import to_json
from headstart.rundir.history import Epoch, Extract, History, PhaseDone, Solve
from headstart.rundir.run import Run
from headstart_predict.plain import visible, without_home

KEY = "headstart.key"
ARTEFACTS = (
    *(
        "recipe.toml",
        "*.json",
        "log.jsonl",
        "error.txt",
        "pictures.npz",
        "feature_map.npz",
        "golden.npz",
    ),
    *("predictions/*.npz", "report/*.html", "checkpoints/best.safetensors"),
)
EPOCH_METRICS = ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "lr", "l2")
STATUS = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}


class Point(NamedTuple):
    key: str
    value: float
    step: int
    timestamp: int  # milliseconds since 1970


@dataclass(frozen=True)
class Record:
    """A run directory in MLflow's terms. Its texts have the home folder as ~."""

    root: Path
    status: str
    started: int  # milliseconds since 1970, as `ended`
    ended: int
    params: dict[str, str]
    tags: dict[str, str]
    points: list[Point]
    files: list[Path]
    seal: str  # changes whenever the run has changed


def read_record(run: Run) -> Record:
    manifest, path = run.manifest, run.path.resolve()
    files = [file for pattern in ARTEFACTS for file in sorted(path.glob(pattern))]
    recipe = run.recipe.model_dump(mode="json", exclude_none=True)
    made = manifest.provenance
    prints = {"fingerprint": made.data.fingerprint,
              "test_fingerprint": made.data.test_fingerprint} if made else {}  # fmt: skip
    tags = {
        "headstart": {
            "status": manifest.status,
            "error": manifest.error,
            "fingerprint": manifest.fingerprint,
            "marks": list(made.marks) if made else [],
            "path": str(path),
        },
        "versions": made.versions if made else {},
        "machine": to_json(made.machine) if made else {},
        "mlflow.source.name": "headstart",
        "mlflow.source.git.commit": made.commit if made else None,
        KEY: _digest(f"{manifest.fingerprint} {path}".encode()),
    }
    ended = int((path / "manifest.json").stat().st_mtime * 1000)
    created = manifest.created
    weights = to_json(made.weights) if made else {}
    started = int(datetime.fromisoformat(created).timestamp() * 1000) if created else ended
    changing = ("manifest.json", "log.jsonl", "cost.json")
    state = [file.read_bytes() for file in files if file.name in changing]
    return Record(
        root=path,
        status=STATUS.get(run.status, "RUNNING"),
        started=started,
        ended=ended,
        params={**_flat(recipe), **_flat({"weights": weights, "data": prints})},
        tags=_flat(tags),
        points=[*epoch_points(run.history, started), *_finals(run, ended)],
        files=files,
        seal=_digest(b"\0".join(state)),
    )


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


def epoch_points(history: History, started: int) -> list[Point]:
    """The curves. A step is an epoch, counted over all phases; a solved head is one step.

    The log has durations and no clock, so the time of a point is the sum of the durations before
    it. Epochs that a resumed run repeated replace the first ones.
    """
    last, seconds = 0, 0.0
    before: dict[int, int] = {}  # by phase, the steps of earlier phases
    points: dict[tuple[str, int], Point] = {}
    for event in history.events:
        values: Epoch | Solve | None = None
        offset = before.setdefault(getattr(event, "phase", 0), last)
        if isinstance(event, Extract | Epoch):
            seconds += event.seconds
        if isinstance(event, Epoch):
            last, values = offset + event.epoch + 1, event
        elif isinstance(event, PhaseDone) and event.l2 is not None:
            last, values = offset + 1, history.chosen(event.phase)
            seconds += event.seconds
        for name in EPOCH_METRICS:
            value = getattr(values, name, None)
            if value is not None:
                key, stamp = f"epoch/{name}", started + int(seconds * 1000)
                points[key, last] = Point(key, float(value), last, stamp)
    return list(points.values())


def _finals(run: Run, ended: int) -> Iterator[Point]:
    """The scores and the cost of a finished run, without those of single classes and bins."""
    if not run.finished:
        return
    numbers = {"cost": to_json(run.cost), "temperature": run.temperature}
    made = run.many_metrics if run.recipe.many_labels else run.metrics
    for split, scores in (("val", made.val), ("test", made.test)):
        low, high = scores.interval
        numbers[split] = {**to_json(scores), "interval_low": low, "interval_high": high}
    for key, value in _leaves(numbers, "/"):
        if isinstance(value, int | float) and not re.search(
            r"/(per_class|per_label|mistaken|bins)/", key
        ):
            yield Point(key, float(value), 0, ended)


def _flat(nested: Mapping[str, Any]) -> dict[str, str]:
    """Text by dotted key: strings made harmless, other values as JSON; None is left out."""
    return {
        key: without_home(visible(value if isinstance(value, str) else json.dumps(value)))
        for key, value in _leaves(nested, ".")
        if value is not None
    }


def _leaves(node: Any, separator: str, prefix: str = "") -> Iterator[tuple[str, Any]]:
    tables = isinstance(node, list) and any(isinstance(part, dict) for part in node)
    if not isinstance(node, dict) and not tables:
        yield prefix, node
        return
    for key, value in enumerate(node) if tables else node.items():
        yield from _leaves(value, separator, f"{prefix}{separator}{key}" if prefix else str(key))
