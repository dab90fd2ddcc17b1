"""How much an HTTP service of an exported model answers, beside others with the same model.

    python bench/service.py [--rounds N] [--seconds S] [--peers PEER ...] [--soak MINUTES]

MobileNetV2 at 160 pixels with a head on a few photos; JPEG photos of 640 x 480 pixels in forms;
clients and service share this machine's cores, on loopback. Peers: plain FastAPI with torch, plain
FastAPI, LitServe and BentoML with ONNX Runtime on the bundle's own model. Each peer has several
settings; a first short round with 8 clients takes the best one of each. All services must give the
same classes.

Closed loop: 1, 8 and 64 clients, each of which asks again when it has its answer. Services take
turns, N rounds. Open loop, our service alone: requests come at random times at 50, 80, 120 and 300
per cent of what it answered to 64 clients; what it refuses with 429 is counted, and how long after
the overload an image is answered as usual again.

--soak: good and hostile requests, mixed, for so many minutes: statuses, and memory over time.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import PEERS, leave_serving_unmeasured, machine_line, peer_python, ratio

import headstart
from headstart.deployment.export import export
from headstart.machine.progress import Reporter
from headstart_predict.engines import usable_cores
from serving import make_photos, settings_of

NETWORK, OURS = "mobilenetv2_100", "headstart"
CLIENTS, LOADS = (1, 8, 64), (0.5, 0.8, 1.2, 3.0)
Found = list[tuple[float, float, int]]


@dataclass(frozen=True)
class Peer:
    """A command that serves at a path, with the settings to choose from, each as its arguments."""

    name: str
    path: str
    settings: tuple[str, ...]

    def command(self, bundle: Path, port: int, setting: str) -> tuple[list[str], dict[str, str]]:
        """What starts it, and its environment."""
        values = setting.split()
        if self.name == OURS:
            code = "from headstart_predict.serving.cli import main; main()"
            return [sys.executable, "-c", code, str(bundle), "--port", str(port)], {}
        if self.name == "bentoml":
            folder = peer_python("bentoml").parent
            named = dict(zip(("THREADS", "WORKERS", "BATCH"), values, strict=True))
            serve = [str(folder / "bentoml"), "serve", "serve_bentoml:Classifier"]
            return [*serve, "--port", str(port)], {"BUNDLE": str(bundle), **named}
        python = sys.executable if self.name == "torch" else str(peer_python("litserve"))
        script = str(PEERS / f"serve_{self.name}.py")
        return [python, script, str(bundle), str(port), *values], {}


CORES = usable_cores()
ALL = (
    Peer(OURS, "/v1/predict", ("",)),
    Peer("torch", "/predict", ("1", str(CORES))),
    Peer("fastapi", "/predict", ("1", str(CORES))),
    Peer("litserve", "/predict", (f"1 {CORES} 1", f"1 {CORES} 8", f"{CORES} 1 8")),
    Peer("bentoml", "/predict", (f"1 {CORES} 1", f"{CORES} 1 1")),
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--peers", nargs="*", default=[peer.name for peer in ALL[1:]])
    parser.add_argument("--soak", type=float)
    options = parser.parse_args()
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    leave_serving_unmeasured()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_photos(folder / "photos", 200)
        make_photos(folder / "few", 60)
        recipe = headstart.load_recipe("folder-probe", settings_of(NETWORK, folder))
        run = headstart.run(recipe, out=folder / "run", reporter=Reporter())
        bundle = export(run, form="torch", out=folder / "bundle", reporter=Reporter()).path
        print(machine_line(options.rounds))
        bench = Bench(bundle, folder / "photos", options.seconds)
        if options.soak:
            bench.soak(60 * options.soak)
            return
        peers = [peer for peer in ALL if peer.name in (OURS, *options.peers)]
        capacity = bench.closed(peers, options.rounds)
        bench.open(capacity)


class Bench:
    def __init__(self, bundle: Path, photos: Path, seconds: float) -> None:
        self.bundle, self.photos, self.seconds = bundle, photos, seconds

    @contextlib.contextmanager
    def serving(self, peer: Peer, setting: str) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
        """A service that answers, and its port."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command, extra = peer.command(self.bundle, port, setting)
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        if peer.name in (OURS, "torch"):
            inherited = dict(os.environ)
        process = subprocess.Popen(
            command,
            cwd=PEERS,
            env={**inherited, **extra},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            self._await(peer, port, process)
            yield port, process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def _await(self, peer: Peer, port: int, process: subprocess.Popen[bytes]) -> None:
        until = time.monotonic() + 120
        while time.monotonic() < until and process.poll() is None:
            if self.load(peer, port, seconds=0.01, clients=1)[-1][2] == 200:
                return
            time.sleep(0.3)
        sys.exit(f"{peer.name} does not answer")

    def load(self, peer: Peer, port: int, **job: Any) -> Found:
        """What a load gives: when each request was due, how long it took, its status."""
        told: dict[str, Any] = {
            "host": "127.0.0.1",
            "port": port,
            "path": peer.path,
            "photos": str(self.photos),
        }
        # LitServe takes a file in a field of its own parameter's name.
        told["field"] = "request" if peer.name == "litserve" else "image"
        done = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("load.py"))],
            input=json.dumps({**told, **job}),
            capture_output=True,
            text=True,
            check=True,
        )
        return [(due, took, status) for due, took, status in json.loads(done.stdout)]

    def best_setting(self, peer: Peer) -> str:
        """The setting with which it answers the most to 8 clients."""
        rates = {}
        for setting in peer.settings:
            with self.serving(peer, setting) as (port, _):
                self.load(peer, port, seconds=2, clients=8)
                rates[setting] = rate(self.load(peer, port, seconds=4, clients=8))
        return max(rates, key=lambda setting: rates[setting])

    def closed(self, peers: list[Peer], rounds: int) -> float:
        """Print the table of clients that wait for their answers. Returns our rate to the most."""
        chosen = {peer.name: self.best_setting(peer) for peer in peers}
        rates: dict[tuple[str, int], list[float]] = defaultdict(list)
        times: dict[tuple[str, int], list[float]] = defaultdict(list)
        for _ in range(rounds):
            for peer in peers:
                with self.serving(peer, chosen[peer.name]) as (port, _):
                    self.load(peer, port, seconds=2, clients=8)
                    for clients in CLIENTS:
                        found = self.load(peer, port, seconds=self.seconds, clients=clients)
                        rates[peer.name, clients].append(rate(found))
                        times[peer.name, clients] += [took for _, took, _ in found]
        print(f"\n{NETWORK} at 160 pixels; images/s, our rate divided by theirs, p50 and p99 in ms")
        for clients in CLIENTS:
            for peer in peers:
                ours, theirs = rates[OURS, clients], rates[peer.name, clients]
                p50, p99 = percentiles(times[peer.name, clients])
                setting = f"{peer.name} {chosen[peer.name]}".strip()
                print(
                    f"{clients:>3} clients  {setting:<18}{statistics.median(theirs):>8.0f}"
                    f"{ratio(ours, theirs):>24}{p50:>9.1f}{p99:>9.1f}",
                    flush=True,
                )
        return statistics.median(rates[OURS, CLIENTS[-1]])

    def open(self, capacity: float) -> None:
        """Print what comes of requests at a rate."""
        ours = ALL[0]
        print(f"\nrequests at a rate, for {self.seconds:g} s; capacity {capacity:.0f}/s")
        with self.serving(ours, "") as (port, process):
            self.load(ours, port, seconds=2, clients=8)
            for share in LOADS:
                before = resident(process.pid)
                found = self.load(ours, port, seconds=self.seconds, rate=share * capacity)
                after = [self.load(ours, port, seconds=0.2, clients=1)[0] for _ in range(3)]
                statuses = Counter(status for _, _, status in found)
                p50, p99 = percentiles([took for _, took, status in found if status == 200])
                answered = ", ".join(f"{n} x {status}" for status, n in sorted(statuses.items()))
                print(
                    f"{share:>5.0%}  p50 {p50:>6.1f} ms, p99 {p99:>6.1f} ms; {answered}; memory "
                    f"{before:.0f} -> {resident(process.pid):.0f} MB; the next request: "
                    f"{after[0][2]} in {1e3 * after[0][1]:.0f} ms",
                    flush=True,
                )

    def soak(self, seconds: float) -> None:
        """Print what comes of good and hostile requests for a long time."""
        chance = random.Random(0)
        photos = [path.read_bytes() for path in sorted(self.photos.rglob("*.jpg"))]
        statuses: Counter[int] = Counter()
        memory: list[tuple[float, float]] = []
        with self.serving(ALL[0], "") as (port, process):
            began = time.monotonic()
            while (now := time.monotonic() - began) < seconds:
                if not memory or now - memory[-1][0] > seconds / 20:
                    memory.append((now, resident(process.pid)))
                statuses[hostile_or_good(port, photos, chance)] += 1
            memory.append((seconds, resident(process.pid)))
        print(f"\n{sum(statuses.values()):,} requests in {seconds / 60:g} minutes: " + ", ".join(
            f"{n:,} x {status}" for status, n in sorted(statuses.items())))  # fmt: skip
        print("MB: " + ", ".join(f"{at / 60:.1f} min {found:.0f}" for at, found in memory))


def hostile_or_good(port: int, photos: list[bytes], chance: random.Random) -> int:
    """The status of one request; 0 where the connection is closed."""
    photo = bytearray(chance.choice(photos))
    kind = chance.random()
    headers = {"content-type": "image/jpeg"}
    if kind < 0.2:
        for _ in range(30):
            photo[chance.randrange(len(photo))] = chance.randrange(256)
    elif kind < 0.3:
        photo = photo[: chance.randrange(1, len(photo))]
    elif kind < 0.4:
        photo = bytearray(chance.randbytes(chance.randrange(1, 100_000)))
        headers = {"content-type": chance.choice(
            ["multipart/form-data; boundary=x", "application/json", "text/html", "image/png"]
        )}  # fmt: skip
    elif kind < 0.43:
        headers["content-length"] = "1000000000"
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST", "/v1/predict", bytes(photo), headers)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def rate(found: Found) -> float:
    """Answers a second."""
    good = [due + took for due, took, status in found if status == 200]
    return len(good) / max(good) if good else 0.0


def percentiles(taken: list[float]) -> tuple[float, float]:
    """Median and 99th percentile, in milliseconds."""
    if not taken:
        return float("nan"), float("nan")
    ordered = sorted(taken)
    return 1e3 * ordered[len(ordered) // 2], 1e3 * ordered[int(0.99 * (len(ordered) - 1))]


def resident(pid: int) -> float:
    """MB in memory."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


if __name__ == "__main__":
    main()
