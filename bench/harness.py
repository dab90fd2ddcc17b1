"""Shared by the benchmarks: peers in separate environments, and the format of ratios."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from headstart.machine.runtime import machine

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / "bench" / "peers"
sys.path.insert(0, str(ROOT / "tools"))

from bootstrap import find_uv  # noqa: E402 - a script, not a package


def peer_python(name: str) -> Path:
    """The interpreter of bench/peers/requirements-NAME.txt, installed when it is first needed."""
    requirements = PEERS / f"requirements-{name}.txt"
    environment = ROOT / ".cache" / "peers" / name
    python, stamp = environment / "bin" / "python", environment / "installed.txt"
    wanted = requirements.read_text(encoding="utf-8")
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted:
        uv = find_uv()
        subprocess.run(
            [*uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(environment)],
            check=True,
        )
        install = [*uv, "pip", "install", "--quiet", "--require-hashes", "--python", str(python)]
        subprocess.run([*install, "--requirement", str(requirements)], check=True)
        stamp.write_text(wanted, encoding="utf-8")
    return python


def run_peer(environment: str, script: str, job: Path, *, cuda: bool = False) -> dict[str, Any]:
    """A peer's answer to a job: the last line of its output, as JSON."""
    # Nothing of ours reaches a peer but the job.
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("HEADSTART", "PYTHON"))}
    if not cuda:  # a peer that found a GPU would be measured on another machine
        inherited["CUDA_VISIBLE_DEVICES"] = ""
    done = subprocess.run(
        [str(peer_python(environment)), str(PEERS / script), str(job)],
        env=inherited,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode or not done.stdout.strip():
        sys.exit(f"{script} failed:\n{done.stderr[-2000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def leave_serving_unmeasured() -> None:
    """Skip the measurement of serving costs at the end of runs: eleven seconds each."""
    mock.patch("headstart.deployment.measuring.measure_runs", lambda runs, **_: runs).start()


def machine_line(repeats: int) -> str:
    host = machine()
    gpu = f", {host['gpu']}" if host["gpu"] else ""
    return f"machine: {host['cpu']}, {host['cores']} cores{gpu}; n = {repeats}, seed 0"


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> str:
    """Their time divided by ours: the median over the pairs, and the range."""
    ratios = sorted(a / b for a, b in zip(theirs, ours, strict=True))
    return f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"


def spread(values: list[float], digits: int) -> str:
    """The median and the range."""
    low, high = min(values), max(values)
    middle = statistics.median(values)
    return f"{middle:,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"
