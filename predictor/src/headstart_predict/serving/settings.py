"""What a service is told when it starts. Worker processes get it as JSON in the environment."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field

VARIABLE = "HEADSTART_SERVE"
TOKEN = "HEADSTART_TOKEN"
# A picture may have so many pixels, unless HEADSTART_MAX_PIXELS says otherwise. Other formats than
# PNG have a share of it (`limits.py`): a HEIC of 26 million pixels passes, and a JPEG of 160.
MAX_PIXELS = "40000000"


# What each option of the command line means.
HELP = {
    "host": "The address to listen at; 0.0.0.0 is every address of this machine.",
    "port": "The port; 0 takes a free one.",
    "workers": "Processes. One uses every core; more of them survive a crash of one.",
    "threads": "Cores of each process; by default all, shared out among the processes.",
    "engine": "What runs the model.",
    "token_file": "A file with a token that requests must send; $HEADSTART_TOKEN is read, too.",
    "origin": "A web page's address that may ask, such as https://example.org. May be repeated.",
    "name": "A name that the service may be called by. May be repeated. By default this machine's "
    "own if it listens to this machine alone, else any.",
    "log": "Add each decision to this SQLite file, without the picture.",
    "max_mb": "Megabytes of a request.",
    "max_images": "Images in a request.",
    "queue_ms": "Milliseconds that an image may be expected to wait; above, requests get 429.",
    "batch_ms": "Milliseconds that images may be computed together.",
    "arrival_s": "Seconds until a whole request must have arrived.",
}


@dataclass(frozen=True)
class Limits:
    """What one request, and all of them together, may cost.

    body: bytes of a request. images: in a request. arrival: seconds until a whole request has
    arrived. queue: seconds that an image may be expected to wait for its turn. batch: seconds that
    a batch of several images may take. held: bytes of all requests that are in memory. idle:
    seconds that a connection may be open without a request. connections: how many may be idle.
    """

    body: int = 32 * 2**20
    images: int = 64
    arrival: float = 20.0
    queue: float = 1.0
    batch: float = 0.05
    held: int = 256 * 2**20
    idle: float = 10.0
    connections: int = 2000

    @classmethod
    def of(
        cls, max_mb: float, max_images: int, queue_ms: float, batch_ms: float, arrival_s: float
    ) -> Limits:
        """From the units of the command line."""
        body = int(max_mb * 2**20)
        return cls(
            body=body,
            images=max_images,
            arrival=arrival_s,
            queue=queue_ms / 1e3,
            batch=batch_ms / 1e3,
            held=max(cls.held, 4 * body),
        )


@dataclass(frozen=True)
class Settings:
    """bundles: their folders. origins: web pages of other addresses that may ask. hosts: names by
    which the service may be called; empty: any. log: the file of decisions. threads: cores of
    this process. token: what a client must send; None: nothing."""

    bundles: tuple[str, ...]
    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    threads: int | None = None
    engine: str = "auto"
    origins: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    log: str | None = None
    limits: Limits = field(default_factory=Limits)
    token: str | None = field(default=None, repr=False)

    def to_environment(self) -> None:
        """For worker processes."""
        values = {key: value for key, value in asdict(self).items() if key != "token"}
        os.environ[VARIABLE] = json.dumps(values)
        if self.token is not None:
            os.environ[TOKEN] = self.token

    @classmethod
    def from_environment(cls) -> Settings:
        values = json.loads(os.environ[VARIABLE])
        limits = Limits(**values.pop("limits"))
        for key in ("bundles", "origins", "hosts"):
            values[key] = tuple(values[key])
        return cls(**values, limits=limits, token=os.environ.get(TOKEN))
