"""History: the events of a run, as log.jsonl keeps them.

A run that is killed between an event and its checkpoint repeats the event when it is resumed: only
the last one counts. A phase that restarts at a lower rate discards its earlier epochs: they do not
count. Both rules are applied here, for all readers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from headstart.errors import RunError
from headstart.files import parse_json, to_json
from headstart.rundir.records import LabelEfficiency


@dataclass(frozen=True, slots=True)
class PhaseBegun:
    phase: int  # from 0, as in every event
    train: str
    optimizer: str
    boundary: str
    cached: bool
    epochs: int | None  # None of a solved head
    trainable_parameters: int


@dataclass(frozen=True, slots=True)
class Extract:
    """A frozen pass. seconds: spent now; entry_seconds: when the cache's entry was computed."""

    phase: int
    split: str
    images: int
    seconds: float
    cached: bool
    entry: str
    entry_seconds: float


@dataclass(frozen=True, slots=True)
class Fit:
    """The scores after an epoch, or at a penalty. Where images may have several labels, the
    accuracy of a fit is mAP on validation; every other one is the share of the yes-or-no answers
    that are right."""

    phase: int
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float


@dataclass(frozen=True, slots=True)
class Epoch(Fit):
    epoch: int  # from 0
    lr: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Solve(Fit):
    """A penalty that a solved head tried."""

    l2: float
    iterations: int


@dataclass(frozen=True, slots=True)
class Restart:
    """A fit that starts again at the lower rate `lr`. seconds: of the discarded epochs."""

    phase: int
    lr: float
    seconds: float


@dataclass(frozen=True, slots=True)
class StartingHead:
    """A flatter head from which a phase starts, in place of the head that was solved before."""

    phase: int
    l2: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a phase. improved: whether its model is better on validation than before.
    val_accuracy: mAP where images may have several labels."""

    phase: int
    improved: bool
    val_loss: float
    val_accuracy: float
    best_epoch: int | None  # the epoch that was kept; None of a solved head, or where none was
    l2: float | None  # the chosen penalty; None of a fitted phase
    start_l2: float | None  # the penalty of a later phase's starting head; None of a fitted phase


@dataclass(frozen=True, slots=True)
class PhaseDone(Outcome):
    seconds: float


@dataclass(frozen=True, slots=True)
class Refit:
    """The solved head fitted to train and validation together."""

    phase: int
    images: int
    l2: float
    seconds: float


@dataclass(frozen=True, slots=True)
class FewLabels:
    """Label efficiency on validation, where test images have no such features."""

    curve: LabelEfficiency


@dataclass(frozen=True, slots=True)
class Corrupted:
    """Predictions on corrupted images. images: number for each corruption."""

    images: int
    corruptions: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Served:
    """The saved model beside the test, on some of its images: how many answers differ, and the
    largest difference of a probability."""

    images: int
    changed: int
    largest: float


Event = (
    PhaseBegun | Extract | Epoch | Solve | Restart | StartingHead | PhaseDone | Refit
    | FewLabels | Corrupted | Served
)  # fmt: skip
E = TypeVar("E")
_KINDS: dict[str, type[Any]] = {
    "phase": PhaseBegun,
    "extract": Extract,
    "epoch": Epoch,
    "solve": Solve,
    "restart": Restart,
    "start": StartingHead,
    "phase_done": PhaseDone,
    "refit": Refit,
    "label_efficiency": FewLabels,
    "corruptions": Corrupted,
    "served": Served,
}
_BEGINS = b'{"event": "'  # every line
_NAMES = {kind: name for name, kind in _KINDS.items()}


def event_line(event: Event) -> str:
    """An event as a line of log.jsonl, without its end."""
    return json.dumps({"event": _NAMES[type(event)], **to_json(event)})


def read_events(content: bytes, where: str) -> list[Event]:
    """The events of a log. A line that a crash cut short is dropped. Any other line that is no
    event raises RunError; its text begins with `where`."""
    events: list[Event] = []
    for number, line in enumerate(content.splitlines(), start=1):
        place = f"{where}, line {number}"
        try:
            event = json.loads(line)
        except (ValueError, RecursionError) as error:
            if isinstance(error, ValueError) and _is_cut(line):
                continue
            raise RunError(f"{place}: damaged: not what a run logs") from error
        kind = _KINDS.get(str(event.get("event"))) if isinstance(event, dict) else None
        if kind is None:
            raise RunError(f"{place}: event: not one that a run logs")
        events.append(parse_json(line, kind, place))
    return events


def _is_cut(line: bytes) -> bool:
    """Whether a line is the beginning of an event. A loss of power may leave zeros behind it."""
    begun = line.rstrip(b"\0")
    return begun.isascii() and (begun.startswith(_BEGINS) or _BEGINS.startswith(begun))


@dataclass(frozen=True)
class History:
    """events: in order, without the epochs that a restart discarded."""

    events: tuple[Event, ...]

    @classmethod
    def of(cls, events: Iterable[Event]) -> History:
        kept: list[Event] = []
        for event in events:
            if isinstance(event, Restart):
                kept = [e for e in kept if not (isinstance(e, Epoch) and e.phase == event.phase)]
            kept.append(event)
        return cls(tuple(kept))

    def every(self, kind: type[E]) -> list[E]:
        """All events of a kind, repeated ones included."""
        return [event for event in self.events if isinstance(event, kind)]

    @cached_property
    def begun(self) -> dict[int, PhaseBegun]:
        """By phase."""
        return {event.phase: event for event in self.every(PhaseBegun)}

    @cached_property
    def done(self) -> dict[int, PhaseDone]:
        """By phase."""
        return {event.phase: event for event in self.every(PhaseDone)}

    @cached_property
    def epochs(self) -> tuple[Epoch, ...]:
        """Of all phases, by phase and epoch."""
        by_key = {(event.phase, event.epoch): event for event in self.every(Epoch)}
        return tuple(by_key[key] for key in sorted(by_key))

    @cached_property
    def solves(self) -> tuple[Solve, ...]:
        """Of all phases, by phase and rising penalty."""
        by_key = {(event.phase, event.l2): event for event in self.every(Solve)}
        return tuple(by_key[key] for key in sorted(by_key))

    @cached_property
    def restarts(self) -> tuple[Restart, ...]:
        return tuple({(event.phase, event.lr): event for event in self.every(Restart)}.values())

    @property
    def passes(self) -> Sequence[Extract]:
        """The frozen passes that were computed; a repeated one was computed again."""
        return [event for event in self.every(Extract) if not event.cached]

    @property
    def heads(self) -> Sequence[StartingHead | Refit]:
        """Heads that were solved beside the phases."""
        starts = {event.phase: event for event in self.every(StartingHead)}
        refits = {event.phase: event for event in self.every(Refit)}
        return [*starts.values(), *refits.values()]

    @property
    def refit(self) -> Refit | None:
        """The last fit of the head to train and validation; None where the head saw train alone."""
        return next(reversed(self.every(Refit)), None)

    @property
    def label_efficiency(self) -> LabelEfficiency | None:
        """The curve on validation; None where it was not measured."""
        noted = self.every(FewLabels)
        return noted[-1].curve if noted else None

    def epochs_of(self, phase: int) -> list[Epoch]:
        return [event for event in self.epochs if event.phase == phase]

    def solves_of(self, phase: int) -> list[Solve]:
        return [event for event in self.solves if event.phase == phase]

    def chosen(self, phase: int) -> Solve | None:
        """The chosen solution of a solved phase."""
        done = self.done.get(phase)
        return next((s for s in self.solves if done and (s.phase, s.l2) == (phase, done.l2)), None)
