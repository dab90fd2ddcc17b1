"""Numbers for Prometheus, of this process or of all workers."""

from __future__ import annotations

import os
from pathlib import Path

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    multiprocess,
)

SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
SEVERAL = "PROMETHEUS_MULTIPROC_DIR"  # the library's own name: a folder that the workers share


class Metrics:
    """requests: by route and status. seconds: of whole requests. images: answered, by model and
    version. waiting: images that are not answered yet. batch: images of one pass. models: 1 for
    each version that answers. swaps: of models, by outcome. unlogged: decisions that could not be
    written."""

    def __init__(self) -> None:
        # With several workers the library itself keeps the values, in files.
        self.registry = CollectorRegistry()
        here = self.registry
        self.requests = Counter(
            "headstart_requests", "Requests", ["route", "status"], registry=here
        )
        self.seconds = Histogram(
            "headstart_request_seconds", "Seconds of requests", ["route"], registry=here,
            buckets=SECONDS,
        )  # fmt: skip
        self.images = Counter(
            "headstart_images", "Images answered", ["model", "version"], registry=here
        )
        self.waiting = Gauge(
            "headstart_images_waiting", "Images not answered yet", registry=here,
            multiprocess_mode="livesum",
        )  # fmt: skip
        self.held = Gauge(
            "headstart_held_bytes", "Bytes of requests in memory", registry=here,
            multiprocess_mode="livesum",
        )  # fmt: skip
        self.batch = Histogram(
            "headstart_batch_images", "Images of one pass", registry=here, buckets=(1, 2, 4, 8, 16)
        )
        self.models = Gauge(
            "headstart_model", "Versions that answer", ["model", "version"], registry=here,
            multiprocess_mode="livemax",
        )  # fmt: skip
        self.swaps = Counter("headstart_swaps", "New versions", ["model", "outcome"], registry=here)
        self.unlogged = Counter(
            "headstart_decisions_unlogged", "Decisions that could not be written", registry=here
        )

    def page(self) -> tuple[bytes, str]:
        """The numbers as text, and its media type."""
        registry = self.registry
        if SEVERAL in os.environ:
            _forget_the_dead(Path(os.environ[SEVERAL]))
            registry = CollectorRegistry()
            multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry), CONTENT_TYPE_LATEST


def _forget_the_dead(folder: Path) -> None:
    """Gauges of workers that have ended count no more."""
    for number in {path.stem.rpartition("_")[2] for path in folder.glob("gauge_live*.db")}:
        try:
            os.kill(int(number), 0)
        except ProcessLookupError:
            multiprocess.mark_process_dead(number)  # type: ignore[no-untyped-call]
        except (OSError, ValueError):
            continue
