"""Settings: what a run was told, key by key, and which of it differs between runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from headstart.files import Json
from headstart.rundir.run import Run

# What belongs together: a change inside one group has one meaning, changes in two groups have two.
# The first prefix that fits decides; a key that none fits is a group of its own first word.
_GROUPS = (
    ("data.normalize", "scaling"),
    ("data.size", "size"),
    ("data.resize_via", "resize chain"),
    ("data.framing", "framing"),
    ("data.augment", "training"),
    ("data", "images"),
    ("backbone", "backbone"),
    ("weights", "backbone"),
    ("phases", "training"),
    ("batch_size", "training"),
    ("balance", "training"),
    ("select_by", "training"),
)
ABSENT = "–"

Settings: TypeAlias = Mapping[str, Json]  # values by dotted key


@dataclass(frozen=True)
class Change:
    """One setting that differs between two runs, as text."""

    key: str
    before: str
    after: str
    group: str

    @property
    def told(self) -> str:
        whole = self.key.removeprefix("phases.").isdigit()
        if whole and self.before == ABSENT:
            return f"{self.key} added: {self.after}"
        if whole and self.after == ABSENT:
            return f"{self.key} left out: {self.before}"
        return f"{self.key} {self.before} -> {self.after}"


def settings_of(run: Run) -> Settings:
    """The resolved recipe by dotted key, in the recipe's order, with the weights' tag.

    Name and evaluation are left out: they change no model.
    """
    plain = _flatten(run.recipe.model_dump(mode="json", exclude={"name", "evaluation"}))
    weights = run.provenance.weights
    # A file has no tag that tells it from another: its digest does.
    plain["weights.tag"] = weights.tag or (weights.sha256 or "")[:8] or None
    return plain


def differing(many: Sequence[Settings]) -> dict[str, list[str]]:
    """The keys whose values are not the same in all settings, with each one's value as text.

    A phase that some of them lack is one line, "phases.1", and not one for each of its fields.
    """
    shared = [_gather_phases(settings, many) for settings in many]
    keys = list(dict.fromkeys(key for settings in shared for key in settings))
    rows = {}
    for key in keys:
        values = [settings.get(key, _ABSENT) for settings in shared]
        if any(value != values[0] for value in values[1:]):
            rows[key] = [show(value) for value in values]
    return rows


def changes(first: Settings, second: Settings) -> tuple[Change, ...]:
    """What differs from the first settings to the second."""
    return tuple(
        Change(key, before, after, group_of(key))
        for key, (before, after) in differing([first, second]).items()
    )


def group_of(key: str) -> str:
    for prefix, group in _GROUPS:
        if f"{key}.".startswith(f"{prefix}."):
            return group
    return key.partition(".")[0]


def show(value: Json | _Absent) -> str:
    """A setting's value as one would write it, or a dash where there is none."""
    if value is None or isinstance(value, _Absent):
        return ABSENT
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return f"[{', '.join(show(item) for item in value)}]"
    if isinstance(value, dict):
        return _show_phase(value)
    return str(value)


class _Absent:
    """Stands for "this run has no such setting", which is not the value None."""


_ABSENT = _Absent()


def _flatten(value: Mapping[str, Json], prefix: str = "") -> dict[str, Json]:
    """Tables and lists of tables as dotted keys; a list of plain values is a value."""
    flat: dict[str, Json] = {}
    for key, item in value.items():
        dotted = f"{prefix}{key}"
        if isinstance(item, dict):
            flat |= _flatten(item, f"{dotted}.")
        elif isinstance(item, list) and item and isinstance(item[0], dict):
            flat |= _flatten({str(k): part for k, part in enumerate(item)}, f"{dotted}.")
        else:
            flat[dotted] = item
    return flat


def _gather_phases(settings: Settings, many: Sequence[Settings]) -> Settings:
    """The settings with each phase that not all of `many` have as one value, a dict."""
    fewest = min(_phase_count(other) for other in many)
    gathered: dict[str, Json] = {}
    phases: dict[str, dict[str, Json]] = {}
    for key, value in settings.items():
        first, _, rest = key.partition(".")
        number, _, name = rest.partition(".")
        if first == "phases" and number.isdigit() and int(number) >= fewest:
            phase = phases.setdefault(number, {})
            phase[name] = value
            gathered[f"phases.{number}"] = phase
        else:
            gathered[key] = value
    return gathered


def _phase_count(settings: Settings) -> int:
    numbers = [key.split(".")[1] for key in settings if key.startswith("phases.")]
    return max((int(number) + 1 for number in numbers if number.isdigit()), default=0)


def _show_phase(phase: Mapping[str, Json]) -> str:
    parts = [str(phase.get("train", "")), str(phase.get("optimizer", ""))]
    if phase.get("epochs"):
        parts.append(f"{phase['epochs']} epochs")
    if phase.get("lr"):
        parts.append(f"lr {phase['lr']:g}")
    return " ".join(part for part in parts if part)
