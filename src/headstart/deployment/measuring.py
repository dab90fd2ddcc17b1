"""Serving costs of finished runs, measured in a separate process.

What is measured is what is served: the bundle of a run, which is exported first, without torch. The
process of a run is not suitable: compiled prefixes and their threads stay in it, and its peak
memory is that of training. One process measures all runs of a study: first each model alone, then
the times of all in turns, so that they can be compared. A lock keeps two commands on one machine
from measuring at the same time. If a measurement fails, cost.json holds the reason, and the next
comparison tries again. It also repeats times that were measured in different processes or on a busy
machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING

from headstart.deployment.finished import EXPORT
from headstart.errors import HeadstartError, explain_os_error
from headstart.files import cache_root, locked, parse_json, to_json, write_json
from headstart.machine.openmp import spin_count
from headstart.machine.processes import python_command, python_environment
from headstart.machine.progress import Reporter
from headstart.report import write_report
from headstart.rundir.records import Serving
from headstart.rundir.run import Run, open_run

if TYPE_CHECKING:
    from headstart.deployment.timing import Timed  # which needs torch

PATIENCE_S = 300.0  # the longest wait for an answer; an import and one measurement take seconds


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of the measuring process about one run: the serving cost, or the reason of a
    failure; neither if there is nothing new."""

    serving: Serving | None
    failure: str | None


def measure_runs(
    runs: Sequence[Run],
    *,
    device: str = "auto",
    reporter: Reporter | None = None,
    on_measured: Callable[[Run], None] = lambda run: None,
) -> list[Run]:
    """Measure finished runs, so that their times can be compared, and update their reports.

    A failure does not fail the run: the reason is a warning and "not_measured" in cost.json.
    on_measured: called with each measured run. Returns all runs, the measured ones reopened.
    """
    reporter = reporter or Reporter()
    waiting = _due(runs)
    if not waiting:
        return list(runs)
    _export(waiting, reporter)
    with _alone(reporter):
        reporter.say(f"measuring what {_count(len(waiting))} to serve, in a process of its own")
        done = 0
        while done < len(waiting):  # if the process dies, another one measures the rest
            left = waiting[done:]
            for number, answer in enumerate(_answers(left, device, reporter)):
                if answer.serving or answer.failure:
                    _keep(left[number % len(left)], answer, reporter)
                done += number < len(left)
    fresh = {run.path: open_run(run.path) for run in waiting}
    _warn_of_others(list(fresh.values()), reporter)
    for run in fresh.values():
        with contextlib.suppress(OSError):  # the run may be in a folder that cannot be written
            write_report([run], run.place("report/report.html"), title=run.name)
        on_measured(run)
    return [fresh.get(run.path, run) for run in runs]


def _export(runs: Sequence[Run], reporter: Reporter) -> None:
    """Have each run a bundle, since that is what is served. Where it cannot, torch is measured."""
    without = [run for run in runs if not (run.path / EXPORT).exists()]
    if not without:
        return
    from headstart.deployment.export import export

    reporter.say("exporting " + ("the run" if len(without) == 1 else f"{len(without)} runs"))
    for run in without:
        try:
            export(run, whole_test=False, reporter=Reporter())
        except (HeadstartError, OSError) as error:
            reporter.warn(f"{run.path}: torch is measured, because it cannot be exported: {error}")


@contextlib.contextmanager
def _alone(reporter: Reporter) -> Iterator[None]:
    """Within the block no other process measures, where the file system has locks."""

    def tell() -> None:
        reporter.say("another headstart is measuring: waiting for it to end")

    with contextlib.ExitStack() as held:
        try:
            held.enter_context(locked(cache_root() / "measuring.lock", on_wait=tell))
        except OSError as error:
            reporter.warn(
                f"measuring without a lock ({explain_os_error(error) or error}): another headstart "
                "that measures at the same time makes the times longer"
            )
        yield


def _due(runs: Sequence[Run]) -> list[Run]:
    """The runs to measure: all finished ones, if some have no measurement, or their times are from
    different processes or a busy machine; otherwise those whose measurement failed."""
    finished = [run for run in runs if run.finished]
    known = [run.cost.measured for run in finished if run.cost.measured]
    failed = [run for run in finished if run.cost.measured is None]
    never = [run for run in failed if run.cost.not_measured is None]
    sessions = {each.session for each in known}
    apart = len(sessions) > 1 or None in sessions
    busy = any(each.busy for each in known)
    return finished if never or apart or busy else failed


def _warn_of_others(runs: Sequence[Run], reporter: Reporter) -> None:
    busy = {run.cost.busy for run in runs if run.cost.busy}
    if busy:
        reporter.warn(
            f"this machine was too busy to time models ({min(busy)}): their latencies are not "
            "compared, and the same command measures again; an idle machine serves faster"
        )


def _count(runs: int) -> str:
    return "the run costs" if runs == 1 else f"{runs} runs cost"


def _keep(run: Run, answer: Answer, reporter: Reporter) -> None:
    """Write an answer to the run's cost.json; unreliable times do not replace reliable ones."""
    known, serving = open_run(run.path).cost, answer.serving
    if serving is None:
        reporter.warn(f"{run.path}: its serving cost is not measured: {answer.failure}")
        if known.measured:
            return
        cost = replace(known, not_measured=answer.failure)
    elif known.measured and known.measured.reliable and not serving.measured.reliable:
        return
    else:
        cost = replace(
            known,
            latency_ms=serving.latency_ms,
            throughput=serving.throughput,
            serving_rss_mb=serving.serving_rss_mb,
            measured=serving.measured,
            cuda=serving.cuda or known.cuda,
            not_measured=None,
        )
    try:
        write_json(run.place("cost.json"), cost)
    except OSError as error:
        if serving and serving.measured.session is None:
            return  # the warning comes with the times that follow this first measurement
        reporter.warn(f"{run.path}: its serving cost cannot be kept: {error.strerror}")


def _answers(runs: Sequence[Run], device: str, reporter: Reporter) -> Iterator[Answer]:
    """From one process: a first measurement of each run, then each again with times in turns.

    If the process dies during the first measurements, that is the answer for one run.
    """
    command = python_command("-m", __name__, device, *(str(run.path.absolute()) for run in runs))
    # As on the command line, set before torch is loaded.
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
                yield parse_json(line, Answer, "the measuring process's answer")
                given += 1
        finally:
            if child.poll() is None:
                child.kill()
            status = child.wait()
        if given < len(runs):
            yield Answer(None, _reason(status, errors))
        elif given < 2 * len(runs):
            reporter.warn(f"the models were not timed in turns: {_reason(status, errors)}")


def _lines(child: subprocess.Popen[str], output: IO[str]) -> Iterator[str]:
    """The lines of the process. It is killed if the next line takes longer than PATIENCE_S."""
    while True:
        timer = threading.Timer(PATIENCE_S, child.kill)
        timer.start()
        try:
            line = output.readline()
        finally:
            timer.cancel()
        if not line.endswith("\n"):  # the end, or a line of a process that died
            child.wait()
            return
        yield line


def _reason(status: int, errors: IO[str]) -> str:
    if status < 0:
        return f"the measuring process was killed ({signal.Signals(-status).name})"
    errors.seek(0)
    last = (errors.read().strip() or f"exit status {status}").splitlines()[-1]
    return f"the measuring process failed: {last}"


def main(device: str, *paths: str) -> None:
    """The measuring process. It writes lines of JSON to stdout: one for each run's first
    measurement, then one for each run's times."""
    # Output of libraries, also from C, must not mix with the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    from headstart.deployment.serving_cost import serving_cost
    from headstart.deployment.timing import time_in_turns

    def give(answer: Answer) -> None:
        print(json.dumps(to_json(answer)), file=answers, flush=True)

    began, looks = time.perf_counter(), list[tuple[Run, Answer]]()
    for path in paths:
        run = Run(Path(path))
        try:
            look = Answer(serving_cost(run, device), None)
        except Exception as error:  # the other runs can still be measured
            look = Answer(None, str(error).strip().split("\n")[0] or type(error).__name__)
        looks.append((run, look))
        give(look)
    timed = [run for run, look in looks if look.serving]
    times = iter(time_in_turns(timed, began) if timed else [])
    for _, look in looks:
        # A run is not timed if its first measurement failed.
        give(Answer(_timed(look.serving, next(times)) if look.serving else None, None))


def _timed(look: Serving, turns: Timed) -> Serving:
    """The first measurement with the times that were taken in turns."""
    measured = replace(
        look.measured,
        session=turns.session,
        rounds=turns.rounds,
        cores_left=turns.cores_left,
        busy=turns.busy,
    )
    return replace(
        look, latency_ms=turns.latency_ms, throughput=turns.throughput, measured=measured
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
