"""The models that answer: loaded, verified against their golden images, and swapped."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from headstart_predict.bundle import RECORD, open_bundle, read_golden
from headstart_predict.choosing import in_turns
from headstart_predict.errors import BundleError
from headstart_predict.predictor import BundlePredictor, load
from headstart_predict.serving.settings import Limits

CARD = "README.md"
_FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n\s*", re.DOTALL)  # for model hubs
WATCHED_S = 1.0  # how often a folder is looked at
_BATCHES = (1, 2, 4, 8)
_WORTH = 1.05  # a larger batch must be quicker by so much
# So must one image on every core: its threads wait for each other, and take time from others.
_WORTH_EVERY_CORE = 1.2
_SPREAD = "every core"


@dataclass(frozen=True)
class Hosted:
    """A version of a model, ready to answer.

    sha256: of bundle.json, which has those of all other files. batch: images that are worth
    computing together on one core, within the latency that is allowed. spread: whether one image
    alone is quicker on every core than on one. card: the model card, in Markdown.
    """

    predictor: BundlePredictor
    sha256: str
    batch: int
    spread: bool
    card: str

    @property
    def name(self) -> str:
        return self.predictor.bundle.name

    @property
    def version(self) -> str:
        return self.sha256[:12]


def host(path: Path, threads: int, engine: str, limits: Limits) -> Hosted:
    """Load a bundle: check every file's SHA-256, and that it answers its golden images as the run
    did. Raises BundleError."""
    sha256 = _record_sha256(path)
    bundle = open_bundle(path)
    for name in bundle.files:
        bundle.read(name)
    predictor = load(bundle, engine=engine, threads=threads)
    predictor.prepare_for_one()
    predictor.prepare_for_many()
    golden = read_golden(bundle)
    predictor.verify(golden)
    batch, spread = _measure(predictor, golden.pixels, limits.batch)
    card = bundle.read(CARD).decode("utf-8", "replace") if CARD in bundle.files else ""
    card = _FRONT_MATTER.sub("", card)
    if _record_sha256(path) != sha256:
        raise BundleError(f"{path}: it was changed while it was read")
    return Hosted(predictor, sha256, batch, spread, card)


def _record_sha256(path: Path) -> str:
    try:
        return hashlib.sha256((path / RECORD).read_bytes()).hexdigest()
    except OSError:
        open_bundle(path)  # it says what is wrong
        raise


def _measure(predictor: BundlePredictor, golden: np.ndarray, longest: float) -> tuple[int, bool]:
    """The smallest batch that is as good as the quickest, on one of all cores; and whether every
    core is quicker for one image. longest: seconds that a batch may take."""
    pixels = np.concatenate([golden] * (1 + _BATCHES[-1] // len(golden)))
    calls = {str(size): partial(predictor.logits_of_many, pixels[:size]) for size in _BATCHES} | {
        _SPREAD: partial(predictor.logits, pixels[:1])
    }
    rates = {name: max(found) for name, found in in_turns(calls, turns=2, seconds=0.06).items()}
    seconds = {size: 1 / (size * rates[str(size)]) for size in _BATCHES}
    allowed = [size for size in _BATCHES if size == 1 or size * seconds[size] <= longest]
    best = min(seconds[size] for size in allowed)
    chosen = next(size for size in allowed if seconds[size] <= _WORTH * best)
    return chosen, rates[_SPREAD] >= _WORTH_EVERY_CORE * rates["1"]


class Models:
    """The models of a service, by name. Reading is free of locks: a swap replaces one entry.

    A request that has begun keeps the version that it began with.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        threads: int,
        engine: str,
        limits: Limits,
        on_swap: Callable[[Hosted | None, Hosted | None, str], None],
    ) -> None:
        self._threads, self._engine, self._limits = threads, engine, limits
        self._on_swap = on_swap
        self._at: dict[Path, Hosted] = {}
        self._seen: dict[Path, object] = {}
        for path in paths:
            self._seen[path] = _stamp(path)
            self._at[path] = self._load(path)
        for hosted in self._at.values():
            on_swap(None, hosted, "loaded")
        self._stop = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="watch", daemon=True)

    def all(self) -> list[Hosted]:
        """In the order of the command line."""
        return list(self._at.values())

    def get(self, name: str | None) -> Hosted | None:
        """The model of this name; the first one without a name."""
        return next((m for m in self._at.values() if name in (None, m.name)), None)

    def _load(self, path: Path) -> Hosted:
        return host(path, self._threads, self._engine, self._limits)

    def start_watching(self) -> None:
        self._watcher.start()

    def stop_watching(self) -> None:
        self._stop.set()

    def _watch(self) -> None:
        while not self._stop.wait(WATCHED_S):
            for path in self._at:
                self.look(path)

    def look(self, path: Path) -> None:
        """Swap a model whose folder has changed; where the new one is not sound, keep the old."""
        stamp = _stamp(path)
        if stamp is None or stamp == self._seen[path]:
            return
        before = self._at[path]
        try:
            if _record_sha256(path) == before.sha256:
                self._seen[path] = stamp
                return
            after = self._load(path)
            if after.name != before.name:
                raise BundleError(f"{path}: it is called {after.name}, not {before.name}")
        except (BundleError, OSError) as error:
            self._on_swap(before, None, str(error))
        else:
            self._at[path] = after
            self._on_swap(before, after, "swapped")
        self._seen[path] = stamp


def _stamp(path: Path) -> object:
    """What changes when a bundle is replaced; None while there is none."""
    try:
        found = (path / RECORD).stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
