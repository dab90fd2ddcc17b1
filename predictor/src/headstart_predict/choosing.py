"""Which engine is the quickest here: measured in turns, and remembered by this machine.

What is the quickest for one image on every core need not be so for a series, where each core has a
batch of its own: so there are two measurements.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

import numpy as np

from headstart_predict import engines
from headstart_predict.engines import Engine
from headstart_predict.errors import BundleError

FIRST = engines.NAMES[0]
# Seconds for which each engine is measured, in so many turns, and by how much another one must be
# quicker than ONNX Runtime to be taken.
MEASURED_S, TURNS, MARGIN = 0.4, 4, 1.05
REMEMBERED = "engines.json"


def start_agreeing(
    content: bytes, threads: int, streams: int, precision: str, agrees: Callable[[Engine], bool]
) -> dict[str, Engine]:
    """The engines that are installed, take the model and answer as they should, by name, ready for
    `streams` callers of `threads` each. ONNX Runtime is the first, and never left out."""
    found = {FIRST: engines.start(FIRST, content, threads, streams, precision)}
    for name in engines.installed():
        if name == FIRST:
            continue
        try:
            engine = engines.start(name, content, threads, streams, precision)
            if agrees(engine):
                found[name] = engine
        except BundleError:
            continue
    return found


def quickest(started: Mapping[str, Engine], pixels: np.ndarray, streams: int) -> str:
    """The name of the engine that answers the most batches a second; ONNX Runtime unless another
    one is quicker by MARGIN. pixels: of a batch for each of `streams` callers."""
    if len(started) == 1:
        return next(iter(started))
    calls = {name: asking(engine, pixels, streams) for name, engine in started.items()}
    rates = {name: statistics.median(found) for name, found in in_turns(calls).items()}
    best = max(rates, key=lambda name: rates[name])
    return best if rates[best] >= MARGIN * rates[FIRST] else FIRST


def asking(engine: Engine, pixels: np.ndarray, streams: int) -> Callable[[], object]:
    """What asks an engine for the same batch on each of `streams` threads, and waits."""
    if streams == 1:
        return lambda: engine.run(pixels)

    def ask() -> list[np.ndarray]:
        with ThreadPoolExecutor(streams, "measure") as pool:
            return list(pool.map(engine.run, [pixels] * streams))

    return ask


def in_turns(
    calls: Mapping[str, Callable[[], object]], turns: int = TURNS, seconds: float = MEASURED_S
) -> dict[str, list[float]]:
    """Calls a second of each, in each of the turns: a machine that gets slower slows all. seconds:
    for which each is called, in all turns."""
    for call in calls.values():  # the first one is slower
        call()
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(turns):
        for name, call in calls.items():
            began, done, spent = time.perf_counter(), 0, 0.0
            while spent < seconds / turns:
                call()
                done, spent = done + 1, time.perf_counter() - began
            found[name].append(done / spent)
    return found


def key_of(*facts: object) -> str:
    """A key of these facts on this kind of machine, with these versions of the engines."""
    return hashlib.sha256(json.dumps([*facts, *_machine()]).encode()).hexdigest()[:24]


def _machine() -> Iterator[str]:
    yield platform.machine()
    yield engines.cpu_name()
    for name in engines.installed():
        yield f"{name} {metadata.version(name)}"


def recall(key: str) -> str | None:
    """The engine that was remembered, if it is still installed."""
    name = _recall_all().get(key)
    return name if name in engines.installed() else None


def remember(key: str, name: str) -> None:
    """It only saves time: where it cannot be written, nothing is lost."""
    try:
        path = _remembered_at()
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        partial.write_text(json.dumps({**_recall_all(), key: name}), encoding="utf-8")
        partial.replace(path)
    except (OSError, RuntimeError):
        return


def _recall_all() -> dict[str, str]:
    try:
        found = json.loads(_remembered_at().read_text(encoding="utf-8"))
    except (OSError, ValueError, RuntimeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _remembered_at() -> Path:
    root = os.environ.get("HEADSTART_CACHE") or os.environ.get("XDG_CACHE_HOME")
    if root:
        return Path(root) / REMEMBERED
    return Path.home() / ".cache" / "headstart" / REMEMBERED
