"""Serving costs of finished runs, measured one by one in a process with nothing else to do.

A run's own process is no place to measure: compiled prefixes and their threads live on in it, and
its memory is the training's. One process measures all runs of a study, so that imports are paid
once, and a lock keeps two commands on one machine from measuring at the same time. What cannot be
measured stays unmeasured, with the reason in cost.json, and is tried again when it is compared.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from headstart.openmp import spin_count
from headstart.paths import cache_root
from headstart.processes import python_command, python_environment
from headstart.progress import Reporter
from headstart.report import write_report
from headstart.rundir import Run, open_run, write_json

# On a shared machine the same model took 11 to 17 ms, in stretches of seconds.
ROUNDS = 2
DISTURBED = 3.0  # times the median that the 95th percentile is where others had the cores
PATIENCE_S = 300.0  # without an answer: an import and one run's measurement take seconds


def measure_runs(
    runs: Sequence[Run],
    *,
    device: str = "auto",
    reporter: Reporter | None = None,
    on_measured: Callable[[Run], None] = lambda run: None,
) -> list[Run]:
    """The runs, those that are finished and had no measurement now with one, in their reports too.

    Fails no run: a reason is warned about and kept as cost.json's "not_measured".
    """
    reporter = reporter or Reporter()
    waiting = [run for run in runs if run.finished and "measured" not in run.cost]
    if not waiting:
        return list(runs)
    with _alone(reporter):
        reporter.say(f"measuring what {_count(len(waiting))} to serve, in a process of its own")
        done = 0
        while done < len(waiting):  # after a death, the next process takes up the rest
            left = waiting[done:]
            for number, answer in enumerate(_answers(left, device)):
                if number < len(left):
                    _keep(left[number], answer, reporter)
                    done += 1
                else:
                    _improve(left[number % len(left)], answer)
    fresh = {run.path: open_run(run.path) for run in waiting}
    for run in fresh.values():
        _warn_of_disturbance(run, reporter)
        with contextlib.suppress(OSError):  # a run of others, which cannot be written
            write_report([run], run.path / "report" / "report.html", title=run.name)
        on_measured(run)
    return [fresh.get(run.path, run) for run in runs]


def _warn_of_disturbance(run: Run, reporter: Reporter) -> None:
    """A model takes as long for one image as for the next: where it does not, others had the
    cores."""
    latency = run.cost.get("latency_ms")
    if latency and latency["p95"] > DISTURBED * latency["median"]:
        reporter.warn(
            f"{run.path}: {latency['median']:.1f} ms an image, but one in twenty took more than "
            f"{latency['p95']:.1f}: others used this machine meanwhile, and an idle one serves "
            "faster"
        )


def _count(runs: int) -> str:
    return "the run costs" if runs == 1 else f"{runs} runs cost"


def _keep(run: Run, answer: dict[str, Any], reporter: Reporter) -> None:
    """Add what was found to the run's cost.json."""
    known = {key: value for key, value in run.cost.items() if key != "not_measured"}
    if "not_measured" in answer:
        reporter.warn(f"{run.path}: its serving cost is not measured: {answer['not_measured']}")
    try:
        write_json(run.path / "cost.json", {**known, **answer})
    except OSError as error:
        reporter.warn(f"{run.path}: its serving cost cannot be kept: {error.strerror}")


def _improve(run: Run, answer: dict[str, Any]) -> None:
    """Of two rounds, the one that was disturbed less: others on the machine only ever slow."""
    known = open_run(run.path).cost
    if "not_measured" in answer or "measured" not in known:
        return
    with contextlib.suppress(OSError):  # the first round stands
        if answer["latency_ms"]["median"] < known["latency_ms"]["median"]:
            known["latency_ms"] = answer["latency_ms"]
        if answer["throughput"]["images_per_s"] > known["throughput"]["images_per_s"]:
            known["throughput"] = answer["throughput"]
        write_json(run.path / "cost.json", known)


def _answers(runs: Sequence[Run], device: str) -> Iterator[dict[str, Any]]:
    """An answer for each run in turn, ROUNDS times, from one process; its death in the first round
    is the answer of one run."""
    command = python_command("-m", __name__, device, *(str(run.path.absolute()) for run in runs))
    # As the command line sets it, before torch is loaded: a spinning barrier is not the model's.
    environment = {"GOMP_SPINCOUNT": spin_count(), **python_environment()}
    given = 0
    with (
        tempfile.TemporaryFile("w+") as errors,
        tempfile.TemporaryDirectory(prefix="headstart-") as folder,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment, cwd=folder
        ) as child,
    ):
        try:
            assert child.stdout is not None
            for line in _lines(child, child.stdout):
                yield json.loads(line)
                given += 1
        finally:
            if child.poll() is None:
                child.kill()
            status = child.wait()
        if given < len(runs):
            yield {"not_measured": _reason(status, errors)}


def _lines(child: subprocess.Popen[str], output: IO[str]) -> Iterator[str]:
    """The process's lines; it is killed where the next takes longer than PATIENCE_S."""
    while True:
        timer = threading.Timer(PATIENCE_S, child.kill)
        timer.start()
        try:
            line = output.readline()
        finally:
            timer.cancel()
        if not line.endswith("\n"):  # the end, or a line that a death cut short
            child.wait()
            return
        yield line


def _reason(status: int, errors: IO[str]) -> str:
    if status < 0:
        return f"the measuring process was killed ({signal.Signals(-status).name})"
    errors.seek(0)
    last = (errors.read().strip() or f"exit status {status}").splitlines()[-1]
    return f"the measuring process failed: {last}"


@contextlib.contextmanager
def _alone(reporter: Reporter) -> Iterator[None]:
    """Hold this machine's lock on measuring."""
    root = cache_root()
    root.mkdir(parents=True, exist_ok=True)
    with (root / "measuring.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            reporter.say("another headstart is measuring: waiting for it to end")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main(device: str, *paths: str) -> None:
    """The measuring process: one line of JSON a run, on stdout."""
    # What libraries print, from C too, must not come between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    from headstart.comparison.cost import serving_cost, warm_up

    for number, path in enumerate(paths * ROUNDS):
        try:
            run = open_run(Path(path))
            if not number:
                warm_up(run)
            answer = serving_cost(run, device)
        except Exception as error:  # whatever it is, the other runs can still be measured
            answer = {"not_measured": str(error).strip().split("\n")[0] or type(error).__name__}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
