"""From a folder of photos to a tested model: data, candidates, fine-tuning, bundle and report."""

from __future__ import annotations

import contextlib
import re
import time
from dataclasses import dataclass, replace
from pathlib import Path

from headstart import studies
from headstart.comparison.framing import FILE as FRAMING
from headstart.comparison.framing import FramingChoice, write_framing
from headstart.comparison.leaderboard import headline_scores
from headstart.comparison.records import Comparison
from headstart.data import describe, list_sources
from headstart.data.inspection import data_table
from headstart.data.loading import Description
from headstart.data.sources.places import FOLDER, MANIFEST, is_photos, place_of
from headstart.deployment.export import export
from headstart.deployment.finished import holds_model
from headstart.errors import BudgetError, RunError, did_you_mean
from headstart.files import write_atomically
from headstart.machine.notebook import default_reporter
from headstart.machine.progress import Reporter
from headstart.machine.runtime import create_runtime
from headstart.recipe import Study
from headstart.rundir.run import Run, open_run
from headstart.selection.drafting import (
    PRESETS,
    Photos,
    draft_probes,
    draft_tuned,
    epochs_that_fit,
    to_toml,
)
from headstart.selection.evidence import EvidenceSource
from headstart.selection.framing import CUT, choose_framing
from headstart.selection.preference import Preferred, prefer
from headstart.selection.shortlist import CORE_RATE, GPU_RATE, OFFERED, Shortlist, make_shortlist
from headstart.specs import DataSpec
from headstart_predict.cards import Card, Shown, interval, percent
from headstart_predict.engines import usable_cores
from headstart_predict.framing import CROP

# Shares of the time: for trying framings; for these and probes; for these and all runs. The rest is
# for the bundle.
FRAMED, PROBES, RUNS = 0.1, 0.5, 0.85
TUNED = {"auto": 2, "best": 3}  # backbones that are fine-tuned
BUNDLE, STUDY, RECIPE = "bundle", "study.toml", "recipe.toml"


@dataclass(frozen=True, repr=False)
class Fitted(Shown):
    """What `fit` hands over. chosen: the run to take, and why. study: the TOML that repeats all
    runs. left_out: a line for each backbone that was not tried. framing: how it was chosen; None
    where photos are nearly square, or there was no time. seconds: of the whole call."""

    chosen: Preferred
    bundle: Path
    study: Path
    comparison: Comparison
    description: Description
    left_out: tuple[str, ...]
    framing: FramingChoice | None
    seconds: float

    @property
    def run(self) -> Run:
        """The chosen run."""
        return self.chosen.run

    @property
    def why(self) -> str:
        """Why this run, as words after "chosen"."""
        runs = f"of {len(self.comparison.rows)} runs"
        if self.chosen.over is None:
            return f"by validation, {runs}"
        return (
            f"{runs}: {self.chosen.images:,} validation images do not tell it from "
            f"{self.chosen.over}; {self.chosen.why}"
        )

    @property
    def report(self) -> Path:
        """The page that compares the runs."""
        return self.bundle.parent / "report.html"

    @property
    def recipe(self) -> Path:
        """The resolved recipe of the chosen run."""
        return self.run.path / RECIPE

    @property
    def warnings(self) -> list[str]:
        """What may be wrong with the data and the runs, one line each."""
        return list(dict.fromkeys([*self.run.warnings, *self.comparison.warnings]))

    def _card(self) -> Card:
        test = headline_scores(self.run, "test")
        shown = f"{percent(test.accuracy)} {interval(test.interval)}, n = {test.n:,}"
        facts = [
            ("chosen", f"{self.run.name}, {self.why}"),
            (f"test {self.run.recipe.headline}", shown),
            ("macro F1", percent(test.macro_f1)),
            ("bundle", str(self.bundle)),
            ("report", str(self.report)),
        ]
        if self.framing is not None:
            facts.append(("framing", self.framing.text))
        facts += [("warning", line) for line in self.warnings[:3]]
        return Card(f"Fitted {self.description.source}", facts)


def fit(
    photos: str | Path,
    *,
    minutes: float = 10.0,
    out: str | Path | None = None,
    preset: str = "auto",
    label_from: str | None = None,
    labels: str = "one",
    group: str | None = None,
    max_ms: float | None = None,
    max_mb: float | None = None,
    device: str = "auto",
    cache_limit_gb: float | None = None,
    reporter: Reporter | None = None,
) -> Fitted:
    """Choose, adapt and export the best reachable backbone for a folder of photos.

    Where photos are not square, held-out answers choose whether they are cropped, padded or
    squashed. The time goes to probes of every backbone of the shortlist, then to fine-tuning the
    best of them. Validation chooses; where it does not tell runs apart, `selection.preference` says
    what decides. Each run opens test once, at its end. The same call continues where it was
    interrupted.

    photos: a folder, a table that lists photos, or the name of a data set. label_from, labels,
    group: as in a recipe's data: an expression for labels in file names; "many" where a photo may
    have several labels; what keeps photos together. minutes: for everything; what has begun is not
    cut off. out: by default runs/NAME-FINGERPRINT. preset: auto; quick, probes alone; best, more
    backbones are fine-tuned. max_ms, max_mb: limits of latency and file size that the chosen run
    keeps. Raises HeadstartError for anything that the user can fix.
    """
    began = time.perf_counter()
    reporter = reporter or default_reporter()
    if preset not in PRESETS:
        raise RunError(f"--preset {preset}: there is no such preset{did_you_mean(preset, PRESETS)}")
    data = data_table(source_of(photos), label_from, labels, group)
    description = describe(DataSpec.model_validate(data), progress=reporter.transfer)
    images = description.images
    shortlist = _shortlist(images["train"] + images["val"], minutes, device, reporter)
    name = _name(photos)
    root = Path(out or f"runs/{name}-{description.fingerprint[:8]}")
    drafted = Photos(data, tuple(description.counts["train"]), images["test"])
    compare = _Compare(root, minutes, max_ms, max_mb, device, cache_limit_gb, reporter)
    framing = _choose_framing(name, drafted, description.cut, shortlist, compare)
    if framing is not None:
        drafted, compare = _framed(drafted, framing), replace(compare, spent_s=framing.seconds)
    study = draft_probes(name, drafted, [info.name for info in shortlist.chosen])
    comparison = _run_study(study, compare, preset)
    chosen = _chosen(comparison, root)
    bundle = root / BUNDLE
    if not holds_model(bundle, chosen.run):
        export(chosen.run, out=bundle, reporter=reporter)
    left_out, seconds = shortlist.left_out, time.perf_counter() - began
    study_file = root / STUDY
    return Fitted(chosen, bundle, study_file, comparison, description, left_out, framing, seconds)


@dataclass(frozen=True)
class _Compare:
    """Carries out a study in `root` within a share of the time, and leaves it there as a file.
    spent_s: seconds of the time that are gone already."""

    root: Path
    minutes: float
    max_ms: float | None
    max_mb: float | None
    device: str
    cache_limit_gb: float | None
    reporter: Reporter
    spent_s: float = 0.0

    def seconds(self, share: float) -> float:
        """What is left of a share of the time."""
        return 60 * share * self.minutes - self.spent_s

    def __call__(self, study: Study, share: float, *, measure: bool = False) -> Comparison:
        """measure: what the runs cost to serve, for the limits."""
        try:
            compared = studies.compare(
                study,
                out=self.root,
                device=self.device,
                cache_limit_gb=self.cache_limit_gb,
                budget_s=self.seconds(share),
                max_ms=self.max_ms if measure else None,
                max_mb=self.max_mb if measure else None,
                measure=measure,
                reporter=self.reporter,
            )
        except BudgetError as error:
            enough = f"{error.enough} or more for the runs"
            raise RunError(f"--minutes: {self.minutes:g} minutes are too few: {enough}") from error
        write_atomically(self.root / STUDY, to_toml(study))
        return compared


def _shortlist(images: int, minutes: float, device: str, reporter: Reporter) -> Shortlist:
    shortlist = make_shortlist(
        images, 60 * minutes, rate=_rate(device), offered=OFFERED, say=reporter.say
    )
    for line in shortlist.left_out:
        reporter.say(f"not tried: {line}")
    return shortlist


def _run_study(study: Study, compare: _Compare, preset: str) -> Comparison:
    """The probes and, unless the preset is quick, fine-tuned runs; measured for limits."""
    comparison = compare(study, PROBES)
    if preset != "quick":
        study, comparison = _fine_tune(study, comparison, compare, TUNED[preset])
    if compare.max_ms is not None or compare.max_mb is not None:
        comparison = compare(study, RUNS, measure=True)
    return comparison


def _framed(drafted: Photos, framing: FramingChoice) -> Photos:
    """With the framing in the recipes' data; crop is what a recipe means that says nothing."""
    if framing.chosen == CROP:
        return drafted
    return replace(drafted, data={**drafted.data, "framing": framing.chosen})


def _choose_framing(
    name: str, drafted: Photos, cut: float, shortlist: Shortlist, compare: _Compare
) -> FramingChoice | None:
    """How photos that are not square become squares, chosen with the cheapest backbone, and kept in
    the study's directory; None where nothing is to choose."""
    with contextlib.suppress(OSError):  # what is wrong with the folder is said by the study
        (compare.root / FRAMING).unlink()
    if not is_photos(drafted.data["source"]) or cut < CUT:
        return None
    cheapest = min(shortlist.chosen, key=lambda info: info.macs)
    probe = draft_probes(name, drafted, [cheapest.name]).recipes()[0]
    source = EvidenceSource(probe, compare.device, compare.cache_limit_gb, compare.reporter)
    images = int(compare.seconds(FRAMED) * _rate(compare.device) / cheapest.macs)
    choice = choose_framing(source, probe, cut, images)
    if choice is None:
        compare.reporter.say("framing crop: there is no time to try pad and squash")
        return None
    compare.reporter.say(f"framing {choice.text}")
    write_framing(choice, compare.root)
    return choice


def _fine_tune(
    study: Study, probes: Comparison, compare: _Compare, most: int
) -> tuple[Study, Comparison]:
    """The probes, and up to `most` of their backbones fine-tuned, for as many epochs as the time
    left allows; the probes alone where it allows none."""
    preferred = _chosen(probes, compare.root).run.name
    ranked = sorted(
        probes.configurations, key=lambda c: (preferred not in c.runs, -c.val_value, c.val_loss)
    )
    backbones = list(dict.fromkeys(c.backbone for c in ranked))[:most]
    spent = probes.selection.spent_s if probes.selection else 0.0
    left = compare.seconds(RUNS) - spent
    passes = {c.backbone: c.alone_s for c in ranked}
    while backbones:
        share = left / len(backbones)
        epochs = {name: epochs_that_fit(share, passes[name]) for name in backbones}
        if all(epochs.values()):
            tuned = draft_tuned(study, epochs)
            return tuned, compare(tuned, RUNS)
        backbones.pop()
    return study, probes


def _chosen(comparison: Comparison, root: Path) -> Preferred:
    """The run to take: validation's choice within the limits where there are some, else what
    `prefer` says."""
    rows = {row.run: row for row in comparison.rows if row.path is not None}
    runs = {name: open_run(root / str(row.path)) for name, row in rows.items()}
    if (limits := comparison.limits) is not None:
        if limits.best is None:
            raise RunError(limits.text)
        return Preferred(runs[limits.best], None, 0)
    return prefer(runs[comparison.best], [run for run in runs.values() if run.finished])


def source_of(photos: str | Path) -> str:
    """The source of a folder, of a table, or of the data set of that name."""
    given = str(photos)
    return given if given in {info.name for info in list_sources()} else place_of(given)


def _name(photos: str | Path) -> str:
    """A name for the study: that of the folder, as far as names of runs allow."""
    given = str(photos).removeprefix(FOLDER).removeprefix(MANIFEST)
    last = Path(given).absolute().stem
    return re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip("-._")[:80] or "photos"


def _rate(device: str) -> float:
    """Multiply-accumulates a second that may be expected here."""
    on_cpu = create_runtime(device).device.type == "cpu"
    return CORE_RATE * usable_cores() if on_cpu else GPU_RATE
