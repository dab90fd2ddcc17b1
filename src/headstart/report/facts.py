"""The frame of the page: what was run on what, and the first sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from headstart.comparison.choice import Metric
from headstart.comparison.protocol import gather_warnings
from headstart.report import formats
from headstart.report.contenders import (
    Contender,
    latency_ms,
    manifest_of,
    metrics_of,
    recipe_of,
)
from headstart.report.pictures import class_names
from headstart.rundir import Run


def describe_answer(
    compared: Mapping[str, Any], contenders: Sequence[Contender]
) -> dict[str, Any] | None:
    """What the page's first sentences say, or None where nothing finished.

    The comparison's own verdict goes first: it crowns nobody by noise. Without one, the choice of
    validation is named, with all that are within noise of it.
    """
    best = next((c for c in contenders if c.chosen), None)
    if best is None:
        return None
    others = [c for c in contenders if c is not best]
    near = [c for c in others if c.near]
    higher = [c.name for c in others if c.accuracy > best.accuracy]
    verdict, stop, more = str(compared.get("verdict") or "").partition(". ")
    return {
        "verdict": verdict + stop.rstrip() or None,
        "more": more,
        "winner": compared.get("winner"),
        "best": best,
        "n": best.rows[0].get("n"),
        "alone": not others,
        "near": [c.name for c in near],
        "higher": formats.join_words(higher),
        "detectable": _size(compared),
        "latency": best.mean(latency_ms),
    }


def _size(compared: Mapping[str, Any]) -> str | None:
    """The difference that would show, in the unit of the metric compared by."""
    least = compared.get("detectable")
    return None if least is None else Metric(compared.get("select_by", "accuracy")).size(least)


def describe_facts(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """The header's facts; where runs differ, every value they have."""
    images, machines = [], []
    for run in runs:
        manifest = manifest_of(run)
        counts = (manifest.get("data") or {}).get("counts") or {}
        images.append(" / ".join(f"{n:,} {split}" for split, n in counts.items()))
        machine = manifest.get("machine") or {}
        cores = f"{machine['cores']} cores" if machine.get("cores") else ""
        parts = (machine.get("cpu"), cores, machine.get("device"))
        machines.append(", ".join(str(part) for part in parts if part))
    classes = sorted({len(names) for run in runs if (names := class_names(run))})
    seeds = sorted({recipe.seed for recipe in map(recipe_of, runs) if recipe})
    dates = sorted({str(date)[:10] for date in distinct(runs, "created")})
    facts = [
        ("Data", sorted(distinct(runs, "data", "source"))),
        ("Classes", [f"{n:,}" for n in classes]),
        ("Images", _unique(images)),
        ("Seeds", [", ".join(str(seed) for seed in seeds)] if seeds else []),
        ("Machine", _unique(machines)),
        ("Date", [" to ".join(dict.fromkeys((dates[0], dates[-1])))] if dates else []),
    ]
    return [(label, values) for label, values in facts if values]


def describe_warnings(runs: Sequence[Run]) -> list[str]:
    """What the runs warned of, each line once."""
    known = [run for run in runs if manifest_of(run)]
    labels = [recipe.name if (recipe := recipe_of(run)) else run.path.name for run in known]
    return list(gather_warnings(known, labels))


def quarantined(runs: Sequence[Run]) -> list[dict[str, str]]:
    """Images that were left out, each once."""
    found: dict[str, dict[str, str]] = {}
    for run in runs:
        data = manifest_of(run).get("data") or {}
        found.update({str(bad["path"]): bad for bad in data.get("quarantined") or []})
    return [found[path] for path in sorted(found)]


def distinct(runs: Sequence[Run], *keys: str) -> set[Any]:
    """The values that the manifests hold under a path of keys."""
    values = set()
    for run in runs:
        node: Any = manifest_of(run)
        for key in keys:
            node = (node or {}).get(key)
        if node is not None:
            values.add(node)
    return values


def describe_duplicates(contenders: Sequence[Contender]) -> dict[str, Any] | None:
    """Accuracies with and without the known duplicates; None where nobody looked for any."""
    known = [(c, block) for c in contenders if (block := c.metric("test", "without_duplicates"))]
    if not known:
        return None
    rows = []
    for c, block in known:
        tests = [metrics_of(run).get("test") or {} for run in c.runs]
        blocks = [each for test in tests if (each := test.get("without_duplicates"))]
        kept = sum(each["accuracy"] for each in blocks) / len(blocks)
        rows.append({"name": c.name, "raw": c.accuracy, "raw_interval": c.interval, "kept": kept,
                     "interval": block["interval"] if len(blocks) == 1 else None,
                     "balanced": _mean_balanced(blocks),
                     "change": formats.points(kept - c.accuracy)})  # fmt: skip
    first = known[0][1]
    return {"rows": rows, "n": first["n"], "left_out": first["left_out"],
            "source": first.get("source", "")}  # fmt: skip


def _mean_balanced(blocks: Sequence[Mapping[str, Any]]) -> float | None:
    known = [block["balanced_accuracy"] for block in blocks if "balanced_accuracy" in block]
    return sum(known) / len(known) if known else None


def _unique(texts: Sequence[str]) -> list[str]:
    return [text for text in dict.fromkeys(texts) if text]
