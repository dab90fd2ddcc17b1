"""Records: what a run's JSON files hold, each file a frozen dataclass.

`files.write_json` writes a record and `files.read_json` reads it strictly, by pydantic's adapter of
the plain dataclass. That is one line where a reader by hand would be one for each field, its errors
name the field, and a record can be built without pydantic. Pydantic is loaded for the recipe
anyway; an adapter is made when a file of its kind is first read, in milliseconds.

A file holds every field. None stands for what the comment beside the field says, and nothing else
is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from headstart.evaluation.calibration import Calibration
from headstart.evaluation.corruptions import Corruptions
from headstart.evaluation.duplicates import WithoutDuplicates
from headstart.evaluation.metrics import Scores

Triple = tuple[float, float, float]
Split = Literal["val", "test"]
Status = Literal["running", "interrupted", "finished", "failed"]


@dataclass(frozen=True, slots=True)
class Preprocess:
    """How pixels reach the backbone: RGB in 0..1, resized to `size`, then (x - mean) / std."""

    size: int  # pixels a side
    mean: Triple
    std: Triple
    interpolation: str  # bilinear or bicubic


@dataclass(frozen=True, slots=True)
class WeightsIdentity:
    """One set of parameters, told apart from every other."""

    provider: str  # hub, registry, file or random
    name: str  # the backbone, without a tag
    tag: str
    sha256: str | None  # of the file the parameters are read from; None for random
    licence: str
    source: str  # for people: package==version, a hub id, or a path


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
    """The images. side: pixels along each side, as they are stored and before `preprocess`."""

    source: str
    fingerprint: str  # of all of them
    test_fingerprint: str
    class_names: tuple[str, ...]
    counts: Counts
    side: int
    quarantined: tuple[LeftOut, ...]


@dataclass(frozen=True, slots=True)
class Provenance:
    """What a run is made of. expects: the preprocessing that the weights were trained with. marks:
    what a table says beside a run whose scores are not of what its weights expect, or of what it
    hands over."""

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
    """manifest.json: where a run stands, and what it is made of."""

    format: int
    status: Status
    fingerprint: str  # of the recipe
    error: str | None  # why it failed
    created: str | None  # ISO 8601; as provenance
    spent_s: float  # by the parts that were cut off, and kept in a checkpoint
    warnings: tuple[str, ...]  # what its user may not have meant: a line each
    provenance: Provenance | None  # None until its images are read


@dataclass(frozen=True, slots=True)
class LatencyMs:
    """Milliseconds of an image on its own."""

    median: float
    low: float | None  # 95 % interval of the median; None of a first look, as high
    high: float | None
    p95: float  # of all calls
    n: int


@dataclass(frozen=True, slots=True)
class Throughput:
    """Images a second in batches."""

    images_per_s: float
    low: float | None  # the least of the rounds; None of a first look, as high
    high: float | None
    batch: int
    n: int


@dataclass(frozen=True, slots=True)
class Measured:
    """How serving was measured. What is told by turns alone is None of a first look."""

    process: str
    warm_up: int
    precision: str
    threads: int
    cpu: str
    at: str  # ISO 8601
    session: str | None  # the process that took the turns: times of one can be compared
    rounds: int | None
    cores_left: float | None  # the share of the cores' time that others left
    busy: str | None  # why the times are not to be relied on; None where they are

    @property
    def reliable(self) -> bool:
        """Whether its times can be compared with those of its session."""
        return self.session is not None and self.busy is None


@dataclass(frozen=True, slots=True)
class OnCuda:
    """The same on the GPU; memory_mb: the device's, at its peak."""

    latency_ms: LatencyMs
    throughput: Throughput
    name: str
    memory_mb: float


@dataclass(frozen=True, slots=True)
class Serving:
    """What the measuring process finds of a run; the fields are those of its `Cost`."""

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
    """cost.json: what a run cost, and what its model costs to serve.

    wall_s, extract_s and train_s were really spent, interrupted parts included. spared_s: of frozen
    passes that another run had left in the cache. alone_s: frozen passes and training as they would
    be with an empty cache, by which runs can be compared.
    """

    wall_s: float
    extract_s: float
    train_s: float
    spared_s: float
    alone_s: float
    phases: tuple[PhaseCost, ...]
    images_per_s: float | None  # through the backbone from pixels; None where none went
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
    not_measured: str | None  # why it could not be, in the last attempt

    @property
    def busy(self) -> str | None:
        """Why its times are not to be relied on, or None."""
        return self.measured.busy if self.measured else None


@dataclass(frozen=True, repr=False)
class SplitScores(Scores):
    """Scores as the model is served. calibration: as it was trained; calibrated: as served."""

    calibration: Calibration
    calibrated: Calibration
    without_duplicates: WithoutDuplicates | None  # None where none are known


@dataclass(frozen=True, slots=True)
class EfficiencyPoint:
    """per_class: labelled images of each class, None for all. low, high: of the draws."""

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
class Metrics:
    """metrics.json. temperature: what logits are divided by where probabilities are told. further:
    of assessments that have no field of their own, as plain JSON values by name."""

    val: SplitScores
    test: SplitScores
    temperature: float
    temperature_note: str | None  # why none was fitted
    corruptions: Corruptions | None  # None where the recipe asks for none
    label_efficiency: LabelEfficiency | None  # None where it does not, or no head was frozen first
    further: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a run's time, without the parts inside it."""

    name: str
    seconds: float
    share: float
    entries: int


@dataclass(frozen=True, slots=True)
class TimeProfile:
    """profile.json: where a run's time went, the longest section first."""

    total_s: float
    sections: tuple[Section, ...]
