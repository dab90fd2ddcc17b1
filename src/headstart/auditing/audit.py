"""The audit: all findings about a folder of photos, from one frozen pass over its pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from headstart.auditing import fixing, page
from headstart.auditing.facts import Facts, read_facts, wrong_suffix
from headstart.auditing.folder import (
    MOST_COMPARED,
    at_side,
    find_same,
    folder_of,
    open_pictures,
    useful_side,
)
from headstart.auditing.foreign import find_foreign
from headstart.auditing.labels import Ranking, grouped_folds, rank_labels
from headstart.auditing.quality import find_flaws
from headstart.auditing.records import Audit, Fault, Foreign, Pair, Picture, Shortcut, Suspect
from headstart.auditing.shortcuts import find_shortcuts
from headstart.data.images import ImageSet
from headstart.data.sources.places import place_of
from headstart.data.splits import BadImage
from headstart.errors import HeadstartError, WeightsError
from headstart.features.cache import BoundaryCache
from headstart.machine.notebook import default_reporter
from headstart.machine.progress import Reporter
from headstart.machine.runtime import Runtime, create_runtime, within_device_memory
from headstart.models.backbones import load_backbone
from headstart.models.identity import Weights
from headstart.models.names import canonical_name
from headstart.models.weights import locate_weights
from headstart.views.transforms import Transform

BACKBONE = "mobilenetv2_100"  # one of the cheapest with weights wherever there is a package index
SURE = 0.05  # suspicion below which a label is not listed
ENOUGH = 20  # pictures from which labels and metadata are judged


def audit(
    photos: str | Path,
    *,
    backbone: str = BACKBONE,
    weights: str = "auto",
    device: str = "auto",
    out: str | Path | None = None,
    fix: str | Path | None = None,
    decisions: str | Path | None = None,
    overwrite: bool = False,
    reporter: Reporter | None = None,
) -> Audit:
    """Find what is wrong with a folder of photos before anything is trained on them.

    out: a page to write, with the suspicious pictures. fix: a CSV manifest to write, without
    unreadable files, and without training pictures that are also in another split; decisions: the
    CSV that the page gives, applied to it. overwrite: whether an existing `fix` may be replaced.
    backbone, weights: the network whose features judge labels and foreign pictures.

    Raises HeadstartError where the folder has no clear layout, where a name or a decision makes no
    sense, and where no weights can be found.
    """
    reporter = reporter or default_reporter()
    page_path, manifest = (None if path is None else Path(path) for path in (out, fix))
    if page_path is not None:
        page.require_page(page_path)
    if manifest is not None:
        fixing.require_csv(manifest)
        fixing.require_new(manifest, overwrite)
    elif decisions is not None:
        raise HeadstartError("--decisions changes a manifest: name it with --fix MANIFEST.csv")
    name = place_of(photos)
    root = folder_of(name)
    if decisions is not None and not Path(decisions).is_file():
        raise HeadstartError(f"{decisions}: no such file")
    result = _examine(name, root, backbone, weights, device, reporter)
    if manifest is not None:
        chosen = None if decisions is None else fixing.read_decisions(Path(decisions), result)
        kept = fixing.write_manifest(result, manifest, chosen)
        reporter.say(f"{manifest}: {kept:,} of {len(result.pictures):,} pictures")
    if page_path is not None:
        reporter.say(str(page.write_page(result, page_path)))
    return result


def _examine(
    name: str, root: Path, backbone: str, provider: str, device: str, reporter: Reporter
) -> Audit:
    runtime = create_runtime(device)
    found = locate_weights(canonical_name(backbone), provider, say=reporter.say)
    if found.path is None:
        raise WeightsError(
            f"{backbone}: random weights see nothing: an audit needs pretrained ones"
        )
    side = found.preprocess.size
    source, images, pictures = open_pictures(name, side, reporter.transfer)
    facts = read_facts(images, reporter.transfer)
    reporter.transfer("looking for duplicates", 0, None)
    pairs, groups = find_same(images, pictures)
    features = look(images, found, runtime, reporter)
    evidence = _judge(features, images, groups, facts, source.class_names)
    notes = [*source.notes, *evidence.notes]
    if len(images) > MOST_COMPARED:
        notes.append("too many pictures to compare them: only byte-identical duplicates are found")
    return Audit(
        folder=str(root),
        backbone=found.identity.name,
        class_names=source.class_names,
        pictures=tuple(pictures),
        labels=tuple(_suspects(evidence.ranking, pictures, source.class_names)),
        duplicates=tuple(pairs),
        unreadable=tuple(_faults(source.quarantined, pictures, facts)),
        foreign=tuple(
            Foreign(pictures[row].path, pictures[row].label, round(score, 4))
            for row, score in find_foreign(features, images.labels, groups)
        ),
        shortcuts=tuple(evidence.shortcuts),
        quality=tuple(find_flaws(pictures, facts, min(useful_side(images), side))),
        wrong=tuple(wrong_lines(pairs, evidence.shortcuts)),
        notes=tuple(notes),
    )


def look(images: ImageSet, weights: Weights, runtime: Runtime, reporter: Reporter) -> np.ndarray:
    """float32 (n, d): pooled features of the frozen network, through the boundary cache.

    Where most pictures are small, they are enlarged to a smaller input than the network's own: what
    is not in the pixels costs time and tells nothing.
    """
    side = min(useful_side(images), weights.preprocess.size)
    network = load_backbone(weights, size=side)
    images = at_side(images, side)
    top, transform = len(network.stages()), Transform(replace(weights.preprocess, size=side))
    cache = BoundaryCache(network, top, transform, runtime, reporter, images)
    label = f"{weights.identity.name}: a look at {len(images):,} pictures"
    with within_device_memory():
        rows = cache.rows(images, label=label).array
    return np.array(rows, np.float32).reshape(len(images), -1)  # in memory, and writable


class _Evidence(NamedTuple):
    ranking: Ranking | None
    shortcuts: list[Shortcut]
    notes: list[str]


def _judge(
    features: np.ndarray,
    images: ImageSet,
    groups: np.ndarray,
    facts: Sequence[Facts],
    names: Sequence[str],
) -> _Evidence:
    """What held-out answers say: of features about labels, of metadata about shortcuts."""
    if len(images) < ENOUGH:
        note = f"labels and metadata are not judged of fewer than {ENOUGH} pictures"
        return _Evidence(None, [], [note])
    folds = grouped_folds(images.labels, images.keys, groups)
    ranking = rank_labels(features, images.labels, folds, groups, len(names))
    return _Evidence(ranking, find_shortcuts(facts, images.labels, folds, names), [])


def _suspects(
    ranking: Ranking | None, pictures: Sequence[Picture], names: Sequence[str]
) -> list[Suspect]:
    """The pictures whose label is not nearly sure, the most suspicious first."""
    if ranking is None:
        return []
    return [
        Suspect(
            pictures[row].path,
            pictures[row].label,
            names[ranking.suggested[row]],
            round(float(ranking.score[row]), 4),
            bool(ranking.likely[row]),
        )
        for row in ranking.order.tolist()
        if ranking.score[row] >= SURE
    ]


def _faults(
    bad: Sequence[BadImage], pictures: Sequence[Picture], facts: Sequence[Facts]
) -> list[Fault]:
    faults = [Fault(each.path, each.reason, False) for each in bad]
    for picture, fact in zip(pictures, facts, strict=True):
        if reason := wrong_suffix(picture.path, fact.format):
            faults.append(Fault(picture.path, reason, True))
    return faults


def wrong_lines(pairs: Sequence[Pair], shortcuts: Sequence[Shortcut]) -> list[str]:
    """A line for each kind of finding that would make a result wrong."""
    lines = []
    across = [pair for pair in pairs if pair.across]
    if across:
        lines.append(
            f"{_pairs(across)} in two splits, such as {across[0].first} = {across[0].second}: "
            "test scores would look better than they are"
        )
    # Of two pictures that are alike one can have the scratch that decides: the same one counts.
    torn = [pair for pair in pairs if pair.contradicting and pair.kind == "exact"]
    if torn:
        first = torn[0]
        lines.append(
            f"{_pairs(torn)} in two classes, such as {first.first} ({first.labels[0]}) = "
            f"{first.second} ({first.labels[1]}): one of the labels is wrong"
        )
    lines += [
        f"{cut.field} predicts the class of {cut.accuracy:.1%} of held-out pictures (chance "
        f"{cut.chance:.1%}), {cut.example}: a network may learn that instead of the picture"
        for cut in shortcuts
        if cut.level == "alarm"
    ]
    return lines


def _pairs(pairs: Sequence[Pair]) -> str:
    return "1 picture is" if len(pairs) == 1 else f"{len(pairs):,} pairs of one picture are"
