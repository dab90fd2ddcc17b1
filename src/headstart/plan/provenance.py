"""Provenance for the manifest: versions, machine, data, weights and preprocessing."""

from __future__ import annotations

from headstart.machine.runtime import machine, source_commit, versions
from headstart.plan.plan import Plan
from headstart.recipe import Recipe
from headstart.rundir.records import Counts, Data, LeftOut, Machine, Provenance


def provenance(plan: Plan) -> Provenance:
    splits, weights, runtime = plan.splits, plan.weights, plan.runtime
    return Provenance(
        versions=versions(),
        commit=source_commit(),
        machine=Machine(device=runtime.device.type, precision=runtime.precision, **machine()),
        data=Data(
            source=splits.source,
            fingerprint=splits.fingerprint,
            test_fingerprint=splits.test.fingerprint,
            class_names=tuple(splits.class_names),
            counts=Counts(**plan.counts),
            side=splits.train.side,
            quarantined=tuple(LeftOut(bad.path, bad.reason) for bad in splits.quarantined),
        ),
        weights=weights.identity,
        preprocess=plan.transform.preprocess,
        expects=weights.preprocess,
        marks=_marks(plan.recipe),
    )


def differences(begun: Provenance, now: Provenance) -> str:
    """The versions and the machine of a resumed run that are not those it began with, or ""."""
    pairs = {name: (begun.versions.get(name), version) for name, version in now.versions.items()}
    for name in ("cpu", "gpu", "device", "system"):
        pairs[name] = getattr(begun.machine, name), getattr(now.machine, name)
    changed = {name: both for name, both in pairs.items() if both[0] != both[1]}
    return ", ".join(f"{name} {new} instead of {old}" for name, (old, new) in changed.items())


def _marks(recipe: Recipe) -> tuple[str, ...]:
    """Notes for tables, where the preprocessing or precision of the scores is unusual."""
    marks = ["unit scaling"] if recipe.data.normalize == "unit" else []
    if recipe.precision == "int8":
        marks.append("scored in int8")
    if recipe.data.resize_via:
        marks.append("resized via " + ", ".join(map(str, recipe.data.resize_via)))
    return tuple(marks)
