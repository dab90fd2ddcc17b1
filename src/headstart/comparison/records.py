"""Records: what a comparison answers and comparison.json holds, each part a frozen dataclass.

Written and read like a run's records (`rundir.records`): every field is there, and None stands for
what the comment beside it says.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import ClassVar, Literal

from headstart.errors import RunError
from headstart.files import Json, read_json, remove_partials, to_json, write_json
from headstart.rundir.records import Cost
from headstart_predict.cards import Card, Shown, interval, percent

FILE = "comparison.json"
Interval = tuple[float, float]
Criterion = Literal["time", "operations", "parameters"]


@dataclass(frozen=True, repr=False)
class Row(Shown):
    """One run of a comparison; the scores and the cost are None where it has no result.

    Here and in Standing, accuracies are mAPs where the comparison's select_by is mean_ap, that is
    where images may have several labels. balanced_accuracy is then the mean over the labels.
    """

    run: str
    status: str
    path: str | None  # relative to the comparison's folder; None of a run without a result
    error: str | None  # why there is none
    backbone: str | None  # this and the weights' provider: None where it did not get to know them
    weights: str | None
    accuracy: float | None
    interval: Interval | None
    n: int | None
    top5: float | None  # None of five classes or fewer, too
    loss: float | None
    val_accuracy: float | None  # on the validation images that all runs hold
    val_value: float | None  # on the same, of the metric that the comparison goes by
    balanced_accuracy: float | None
    balanced_interval: Interval | None
    macro_f1: float | None
    p_value: float | None  # its configuration against the best run's, corrected
    within_noise: bool  # not significantly different from the best run's
    marks: tuple[str, ...]
    cost: Cost | None

    @classmethod
    def without_result(
        cls,
        run: str,
        status: str,
        error: str | None,
        backbone: str | None = None,
        weights: str | None = None,
        path: str | None = None,
        marks: tuple[str, ...] = (),
    ) -> Row:
        """The row of a run that has no scores."""
        nothing = dict.fromkeys((f.name for f in fields(cls)), None)
        known = {"run": run, "status": status, "error": error, "backbone": backbone,
                 "weights": weights, "path": path, "marks": marks}  # fmt: skip
        return cls(**{**nothing, **known, "within_noise": False})  # type: ignore[arg-type]  # None or a value of each field

    def _card(self) -> Card:
        if self.accuracy is None or self.interval is None:
            return Card(f"Row {self.run}: {self.status}: {self.error}")
        shown = f"{percent(self.accuracy)} {interval(self.interval)}, n = {self.n:,}"
        facts = [("test accuracy", shown)]
        if self.balanced_accuracy is not None:
            facts.append(("balanced", percent(self.balanced_accuracy)))
        if self.val_accuracy is not None:
            facts.append(("val accuracy", percent(self.val_accuracy)))
        return Card(f"Row {self.run}: {self.backbone}", facts)


@dataclass(frozen=True, slots=True)
class Budget:
    """How many settings validation chose among in a run."""

    penalties: int  # that solved heads tried: the path ends once validation has turned
    epochs: int  # that fitted phases were allowed

    @property
    def kind(self) -> tuple[bool, int]:
        """What was offered: equal for runs that had the same chances."""
        return self.penalties > 1, self.epochs


@dataclass(frozen=True, slots=True)
class Standing:
    """A configuration: runs that differ by seed alone, and what their answers say together."""

    name: str
    runs: tuple[str, ...]
    seeds: tuple[int, ...]
    backbone: str
    accuracy: float
    interval: Interval
    sd: float | None  # of the accuracy, over seeds; None of one
    value: float  # of the metric that the comparison goes by
    value_interval: Interval
    balanced_accuracy: float
    balanced_interval: Interval
    macro_f1: float
    val_accuracy: float
    val_value: float
    val_loss: float
    wall_s: float
    alone_s: float
    latency_ms: float | None  # None where a run was not timed
    busy: bool  # whether a run was timed on a machine that was too busy
    budget: Budget
    marks: tuple[str, ...]
    group: (
        int | None
    )  # 1: the best on test and all not significantly lower; None where none was judged


@dataclass(frozen=True, slots=True)
class Pair:
    """Two configurations on the same test images, the second minus the first: fractions, or nats of
    a loss's negative."""

    first: str
    second: str
    change: float
    interval: Interval  # 95 %, of this pair alone
    bootstrap: Interval | None  # the same by resampling; None of another metric than accuracy
    p_value: float
    p_adjusted: float  # Holm, over all pairs
    told_apart: bool
    test: str


@dataclass(frozen=True, slots=True)
class Classes:
    """Whether the test images' classes are unequal, and what always answering the most frequent of
    them would reach."""

    unequal: bool
    majority: float
    majority_class: str


@dataclass(frozen=True, slots=True)
class Cheapest:
    """names: the cheapest, several where nothing decides. by: the criterion that decided
    last; None where all cost the same. text: a clause without a full stop."""

    DERIVED: ClassVar = ("beyond_noise",)

    names: tuple[str, ...]
    by: Criterion | None
    text: str

    @property
    def name(self) -> str | None:
        """The only one, if there is one."""
        return self.names[0] if len(self.names) == 1 else None

    @property
    def beyond_noise(self) -> bool:
        """Whether one was timed to be quicker than each other one."""
        return self.by == "time" and len(self.names) == 1


@dataclass(frozen=True, slots=True)
class Limits:
    """The best run that answers and weighs no more than was asked for."""

    max_ms: float | None  # None where that was not limited, as max_mb
    max_mb: float | None
    best: str | None  # None where no run fits
    uncertain: tuple[str, ...]  # runs that noise does not tell from max_ms
    text: str


@dataclass(frozen=True, slots=True)
class CandidateScore:
    """A candidate in a round. score: held-out accuracy of its probe, or published accuracy, in
    percent; None where none was published. logme: None where nothing was computed."""

    name: str
    score: float | None
    seconds: float
    kept: bool
    logme: float | None


@dataclass(frozen=True, slots=True)
class Round:
    name: str
    evidence: str
    candidates: tuple[CandidateScore, ...]


@dataclass(frozen=True, slots=True)
class Dropped:
    name: str
    round: str
    why: str


@dataclass(frozen=True, slots=True)
class Regret:
    """What a choice gave away: the value that the full comparison's best has more."""

    value: float
    interval: Interval
    best: str
    text: str


@dataclass(frozen=True, slots=True)
class Baseline:
    """What published accuracies alone would choose."""

    order: tuple[str, ...]
    pick: str
    regret: Regret | None  # None until every candidate's run is finished


@dataclass(frozen=True, slots=True)
class Selected:
    """How the runs were selected under a budget; seconds by candidate."""

    budget_s: float
    balanced: bool  # whether evidence goes by balanced accuracy
    spent_s: float
    full_cost_s: float  # of all candidates, estimated
    rounds: tuple[Round, ...]
    dropped: tuple[Dropped, ...]
    failed: dict[str, str]
    carried_out: dict[str, float]
    estimates: dict[str, float]
    baseline: Baseline
    regret: Regret | None  # as that of the baseline


@dataclass(frozen=True, repr=False)
class Comparison(Shown):
    """What `compare` answers: rows by the metric on test, the run that validation chose, and what
    test says of the configurations (runs that differ by seed alone)."""

    name: str
    best: str
    winner: str | None  # one that differs significantly from every other one
    verdict: str  # "" where runs are set side by side and nothing was judged
    select_by: str  # the metric that rows, pairs and validation's choice go by
    classes: Classes | None  # None where no run has a result, or images may have several labels
    tie: str  # how a tie on validation was broken; "" without one
    detectable: float | None  # the difference that would be shown with 80 % power, if there is one
    cheapest: Cheapest | None  # of the chosen and all not significantly different; None of one
    rows: tuple[Row, ...]
    configurations: tuple[Standing, ...]  # best first
    pairs: tuple[Pair, ...]
    protocol: dict[str, str]
    warnings: tuple[str, ...]  # of the runs, each once
    order: tuple[str, ...]  # the finished runs' paths in the order given: the study's
    selection: Selected | None  # None without a budget
    limits: Limits | None  # None where none was asked for
    # Of this machine, so the file does without them; None of a comparison that was not written.
    path: Path | None = field(default=None, metadata={"saved": False})
    report: Path | None = field(default=None, metadata={"saved": False})

    def to_json(self) -> dict[str, Json]:
        """As plain JSON values, without the paths of this machine."""
        return dict(to_json(self))

    def _card(self) -> Card:
        facts = [("chosen", f"{self.best} (by validation)"), ("verdict", self.verdict)]
        facts += [("report", str(self.report))] if self.report else []
        rows = [
            [
                str(c.group),
                c.name,
                percent(c.accuracy),
                interval(c.interval),
                percent(c.val_accuracy),
            ]
            for c in self.configurations
        ]
        rows += [["-", row.run, "failed", "-", "-"] for row in self.rows if row.accuracy is None]
        header = ("group", "configuration", f"test {self.headline}", "95 % interval", "val")
        return Card(f"Comparison {self.name}: {len(self.rows)} runs", facts, header, rows)

    @property
    def headline(self) -> str:
        """What `accuracy` of its rows is."""
        return "mAP" if self.select_by == "mean_ap" else "accuracy"

    @property
    def judged(self) -> bool:
        """Whether test was asked; else runs are only set side by side."""
        return bool(self.verdict)

    @property
    def best_row(self) -> Row:
        return next(row for row in self.rows if row.run == self.best)


def write_comparison(comparison: Comparison, folder: Path) -> None:
    remove_partials(folder)
    write_json(folder / FILE, comparison)


def read_comparison(folder: Path) -> Comparison | None:
    """A study's comparison; None where there is none. Raises RunError of a damaged file."""
    path = folder / FILE
    if not path.exists():
        return None
    read = read_json(path, Comparison)
    if read.selection is not None and not read.selection.rounds:
        raise RunError(f"{path}: selection.rounds: is empty")
    return read
