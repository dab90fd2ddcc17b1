"""Records: the contents of a run's JSON files, each file a frozen dataclass.

`files.write_json` writes a record. `files.read_json` reads it strictly, by pydantic's adapter of
the plain dataclass: its errors name the field, and a record can be built without pydantic. The
adapter is made in milliseconds, when a file of its kind is first read.

A file holds every field. The comment beside a field says what None means.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from headstart.evaluation.calibration import Calibration
from headstart.evaluation.corruptions import Corruptions
from headstart.evaluation.duplicates import WithoutDuplicates
from headstart.evaluation.many_scores import ManyScores
from headstart.evaluation.metrics import Scores

Triple = tuple[float, float, float]
Split = Literal["val", "test"]
Status = Literal["running", "interrupted", "finished", "failed"]


@dataclass(frozen=True, slots=True)
class Preprocess:
    """The preprocessing of pixels: RGB in 0..1, resized to `size`, then (x - mean) / std."""

    size: int  # pixels a side
    mean: Triple
    std: Triple
    interpolation: str  # bilinear or bicubic


@dataclass(frozen=True, slots=True)
class WeightsIdentity:
    """Identifies one set of parameters."""

    provider: str  # hub, registry, file or random
    name: str  # the backbone, without a tag
    tag: str
    sha256: str | None  # of the file the parameters are read from; None for random
    licence: str
    source: str  # to be read by people: package==version, a hub id, or a path


@dataclass(frozen=True, slots=True)
class Machine:
    """Where a run was trained, and the precision of its forward passes."""

    device: str
    precision: str
    cpu: str
    cores: int | None  # None where the system does not say
    gpu: str | None  # None where there is none
    system: str


@dataclass(frozen=True, slots=True)
class Counts:
    """Images of each split."""

    train: int
    val: int
    test: int


@dataclass(frozen=True, slots=True)
class LeftOut:
    """An image that could not be used, and why."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Data:
    """The images. side: pixels along each side before `preprocess`."""

    source: str
    fingerprint: str  # of all images
    test_fingerprint: str
    class_names: tuple[str, ...]
    counts: Counts
    side: int
    quarantined: tuple[LeftOut, ...]


@dataclass(frozen=True, slots=True)
class Provenance:
    """All that a run depends on. expects: the preprocessing that the weights were trained with.
    marks: notes for tables, where the preprocessing or precision of the scores is unusual."""

    versions: dict[str, str]
    commit: str | None  # None where the package does not run from a checkout
    machine: Machine
    data: Data
    weights: WeightsIdentity
    preprocess: Preprocess
    expects: Preprocess
    marks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    """manifest.json: the status of a run, and its provenance."""

    format: int
    status: Status
    fingerprint: str  # of the recipe
    error: str | None  # why it failed
    created: str | None  # ISO 8601; None as long as provenance is
    spent_s: float  # by interrupted attempts, up to their last checkpoint
    warnings: tuple[str, ...]  # one line each
    provenance: Provenance | None  # None until its images are read


@dataclass(frozen=True, slots=True)
class LatencyMs:
    """Milliseconds of an image on its own."""

    median: float
    low: float | None  # 95 % interval of the median; None, like high, in a first measurement
    high: float | None
    p95: float  # of all calls
    n: int


@dataclass(frozen=True, slots=True)
class Throughput:
    """Images a second in batches."""

    images_per_s: float
    low: float | None  # the least of the rounds; None, like high, in a first measurement
    high: float | None
    batch: int
    n: int


@dataclass(frozen=True, slots=True)
class Measured:
    """How serving was measured. A first measurement is of one model alone; then models take turns.
    The last four fields are None in a first measurement."""

    process: str
    warm_up: int
    precision: str
    threads: int
    cpu: str
    at: str  # ISO 8601
    session: str | None  # the process in which models took turns; its times can be compared
    rounds: int | None
    cores_left: float | None  # the share of the cores' time that other processes left
    busy: str | None  # why the times are not reliable; None where they are

    @property
    def reliable(self) -> bool:
        """Whether its times can be compared with those of its session."""
        return self.session is not None and self.busy is None


@dataclass(frozen=True, slots=True)
class OnCuda:
    """The same on the GPU. memory_mb: peak memory of the device."""

    latency_ms: LatencyMs
    throughput: Throughput
    name: str
    memory_mb: float


@dataclass(frozen=True, slots=True)
class Serving:
    """The measured cost of serving a run's model. The fields are those of `Cost`."""

    latency_ms: LatencyMs
    throughput: Throughput
    serving_rss_mb: float
    measured: Measured
    cuda: OnCuda | None


@dataclass(frozen=True, slots=True)
class PhaseCost:
    """Seconds of a phase, counted from 1."""

    phase: int
    train: str
    extract_s: float
    train_s: float


@dataclass(frozen=True, slots=True)
class Cost:
    """cost.json: the cost of a run, and of serving its model.

    wall_s, extract_s, train_s: seconds spent, interrupted attempts included. spared_s: seconds of
    frozen passes that were in the cache already, from another run. alone_s: seconds of frozen
    passes and training with an empty cache; runs are compared by it.
    """

    wall_s: float
    extract_s: float
    train_s: float
    spared_s: float
    alone_s: float
    phases: tuple[PhaseCost, ...]
    images_per_s: float | None  # through the whole backbone; None where no image passed it
    peak_rss_mb: float
    parameters: int
    macs: int  # of one image
    size_mb: float  # of the parameters in float32
    file_mb: float
    trainable_parameters: int
    device: str
    threads: int
    # On the CPU, from stored pixels to probabilities; None until measured, all four together.
    latency_ms: LatencyMs | None
    throughput: Throughput | None
    serving_rss_mb: float | None
    measured: Measured | None
    cuda: OnCuda | None  # None where the run was not measured on one
    not_measured: str | None  # why the last attempt to measure failed

    @property
    def busy(self) -> str | None:
        """Why its times are not reliable, or None."""
        return self.measured.busy if self.measured else None


@dataclass(frozen=True, repr=False)
class SplitScores(Scores):
    """Scores of the served model. calibration: without the temperature; calibrated: with it."""

    calibration: Calibration
    calibrated: Calibration
    without_duplicates: WithoutDuplicates | None  # None where no duplicates are known


@dataclass(frozen=True, slots=True)
class EfficiencyPoint:
    """per_class: labelled images of each class, None for all. low, high: range over the draws."""

    per_class: int | None
    images: int
    draws: int
    accuracy: float
    low: float
    high: float
    balanced_accuracy: float


@dataclass(frozen=True, slots=True)
class LabelEfficiency:
    """What a linear head on frozen features reaches with few labelled images."""

    split: Split
    n: int
    l2_from: str
    points: tuple[EfficiencyPoint, ...]
    note: str


@dataclass(frozen=True, slots=True)
class RepeatedFolds:
    """Scores of all labelled images, each by heads that did not see it.

    low, high: 95 % interval of the accuracy. least, most: of the accuracies of the repeats. The
    other scores are means over the repeats.
    """

    folds: int
    repeats: int
    n: int
    accuracy: float
    low: float
    high: float
    least: float
    most: float
    balanced_accuracy: float
    macro_f1: float
    l2: float


@dataclass(frozen=True, slots=True)
class Metrics:
    """metrics.json. temperature: logits are divided by it before they become probabilities.
    further: results of assessments without a field of their own, as plain JSON values by name."""

    val: SplitScores
    test: SplitScores
    temperature: float
    temperature_note: str | None  # why no temperature was fitted
    corruptions: Corruptions | None  # None where the recipe asks for none
    label_efficiency: LabelEfficiency | None  # None where it does not, or no head was frozen first
    further: dict[str, Any]
    folds: RepeatedFolds | None = None  # None where the recipe asks for none, or trains a backbone


@dataclass(frozen=True, slots=True)
class ManyMetrics:
    """metrics.json where images may have several labels. temperature: as in Metrics."""

    val: ManyScores
    test: ManyScores
    temperature: float
    temperature_note: str | None  # why no temperature was fitted

    @property
    def thresholds(self) -> tuple[float, ...]:
        """The least calibrated probability of each label that an image of it has."""
        return tuple(row.threshold for row in self.test.per_label)


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a run's time, without the sections inside it."""

    name: str
    seconds: float
    share: float
    entries: int


@dataclass(frozen=True, slots=True)
class TimeProfile:
    """profile.json: a run's time by section, the longest first."""

    total_s: float
    sections: tuple[Section, ...]
