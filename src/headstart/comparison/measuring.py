"""Serving costs of finished runs, measured in a process with nothing else to do.

A run's own process is no place to measure: compiled prefixes and their threads live on in it, and
its memory is the training's. One process measures all runs of a study: each one's memory by itself,
then the times of all in turns, so that they can be compared. A lock keeps two commands on one
machine from measuring at the same time. What cannot be measured stays unmeasured, with the reason
in cost.json; it is tried again when it is compared, and so are times that were taken apart from the
others or on a machine that was too busy.
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
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from headstart.openmp import spin_count
from headstart.paths import cache_root
from headstart.processes import python_command, python_environment
from headstart.progress import Reporter
from headstart.report import write_report
from headstart.rundir import Run, open_run, write_json

PATIENCE_S = 300.0  # without an answer: an import and one run's measurement take seconds


def measure_runs(
    runs: Sequence[Run],
    *,
    device: str = "auto",
    reporter: Reporter | None = None,
    on_measured: Callable[[Run], None] = lambda run: None,
) -> list[Run]:
    """The runs, those that are finished with measurements that can be compared, in their reports
    too.

    Fails no run: a reason is warned about and kept as cost.json's "not_measured".
    """
    reporter = reporter or Reporter()
    waiting = _due(runs)
    if not waiting:
        return list(runs)
    with _alone(reporter):
        reporter.say(f"measuring what {_count(len(waiting))} to serve, in a process of its own")
        done = 0
        while done < len(waiting):  # after a death, the next process takes up the rest
            left = waiting[done:]
            for number, answer in enumerate(_answers(left, device, reporter)):
                if answer:  # nothing is timed where the first look failed
                    _keep(left[number % len(left)], answer, reporter)
                done += number < len(left)
    fresh = {run.path: open_run(run.path) for run in waiting}
    _warn_of_others(list(fresh.values()), reporter)
    for run in fresh.values():
        with contextlib.suppress(OSError):  # a run of others, which cannot be written
            write_report([run], run.path / "report" / "report.html", title=run.name)
        on_measured(run)
    return [fresh.get(run.path, run) for run in runs]


def _due(runs: Sequence[Run]) -> list[Run]:
    """The runs to measure: all that are finished, where what is known of them was not measured
    together; else those whose measurement failed."""
    finished = [run for run in runs if run.finished]
    failed = [run for run in finished if "measured" not in run.cost]
    known = [run.cost["measured"] for run in finished if "measured" in run.cost]
    never = [run for run in failed if "not_measured" not in run.cost]
    sessions = {each.get("session") for each in known}
    apart = len(sessions) > 1 or None in sessions
    busy = any(each.get("busy") for each in known)
    return finished if never or apart or busy else failed


def _warn_of_others(runs: Sequence[Run], reporter: Reporter) -> None:
    busy = {run.cost["measured"]["busy"] for run in runs if _is_busy(run.cost)}
    if busy:
        reporter.warn(
            f"this machine was too busy to time models ({min(busy)}): their milliseconds are not "
            "compared, and the same command measures again; an idle machine serves faster"
        )


def _is_busy(cost: Mapping[str, Any]) -> bool:
    return bool((cost.get("measured") or {}).get("busy"))


def _count(runs: int) -> str:
    return "the run costs" if runs == 1 else f"{runs} runs cost"


def _keep(run: Run, answer: dict[str, Any], reporter: Reporter) -> None:
    """Add what was found to the run's cost.json. Times of a quiet machine stay where others would
    take their place."""
    known = open_run(run.path).cost
    if "not_measured" in answer:
        reporter.warn(f"{run.path}: its serving cost is not measured: {answer['not_measured']}")
        if "measured" in known:
            return
    elif _reliable(known) and not _reliable(answer):
        return
    known.pop("not_measured", None)
    try:
        write_json(run.path / "cost.json", {**known, **answer})
    except OSError as error:
        if "measured" in answer and "session" not in answer["measured"]:
            return  # of the first look; the times that follow it say so
        reporter.warn(f"{run.path}: its serving cost cannot be kept: {error.strerror}")


def _reliable(cost: Mapping[str, Any]) -> bool:
    measured = cost.get("measured") or {}
    return bool(measured.get("session")) and not measured.get("busy")


def _answers(runs: Sequence[Run], device: str, reporter: Reporter) -> Iterator[dict[str, Any]]:
    """A first look at each run, then the same with the times that were taken in turns, from one
    process; its death among the first looks is the answer of one run."""
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
        elif given < 2 * len(runs):
            reporter.warn(f"the models were not timed in turns: {_reason(status, errors)}")


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
    """The measuring process. On stdout a line of JSON a run, all first looks, then all times."""
    # What libraries print, from C too, must not come between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    from headstart.comparison.cost import serving_cost
    from headstart.comparison.timing import time_in_turns

    def give(answer: dict[str, Any]) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    began, looks = time.perf_counter(), list[tuple[Run, dict[str, Any]]]()
    for path in paths:
        run = Run(Path(path))
        try:
            look = serving_cost(run, device)
        except Exception as error:  # whatever it is, the other runs can still be measured
            look = {"not_measured": str(error).strip().split("\n")[0] or type(error).__name__}
        looks.append((run, look))
        give(look)
    timed = [run for run, look in looks if "measured" in look]
    found = iter(time_in_turns(timed, began) if timed else [])
    for _, look in looks:
        if "measured" in look:
            turns = next(found)
            give({**look, **turns, "measured": {**look["measured"], **turns["measured"]}})
        else:
            give({})


if __name__ == "__main__":
    main(*sys.argv[1:])
