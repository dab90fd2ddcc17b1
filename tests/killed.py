"""Runs in processes of their own that are killed, by themselves or by the test that began them.

Every process is forked from one that has loaded this module, with torch and all that a run needs,
and has not yet used it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

import matplotlib.figure
import sklearn.decomposition
import timm
import torch._dynamo
import torchcam.methods

from headstart import workbench
from headstart.assessment import assess as results
from headstart.features import cache
from headstart.machine.runtime import import_openvino
from headstart.recipe import load_recipe
from headstart.training import fitting, loop, trainer

# What a run imports late.
LATE = (timm, torch._dynamo, torchcam.methods, matplotlib.figure, sklearn.decomposition)
import_openvino()  # which silences its telemetry: left on, that delays the end of every process

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([__name__])


def run_until(
    recipe: Path,
    out: Path,
    saves: int | None = None,
    moment: str | None = None,
    last: int | None = None,
) -> int:
    """Run, and kill after a number of checkpoints if that many come; returns how many came.

    moment: where the run kills itself; at "last epoch", that is after checkpoint number `last`.
    """
    receiver, sender = CONTEXT.Pipe(duplex=False)
    environment = {**os.environ}  # the server's is that of the first test
    arguments = (recipe, out, sender, moment, last, environment)
    process = CONTEXT.Process(target=_train, args=arguments)
    process.start()
    sender.close()
    seen = 0
    with receiver, contextlib.suppress(EOFError):
        while saves is None or seen < saves:
            receiver.recv()
            seen += 1
    if saves is not None:
        process.kill()  # SIGKILL: nothing is flushed, nothing is said
    process.join()
    killed = -signal.SIGKILL
    expected = (killed,) if moment else (0,) if saves is None else (0, killed)
    assert process.exitcode in expected
    return seen


def _train(
    recipe: Path,
    out: Path,
    saved: Connection,
    moment: str | None,
    last: int | None,
    environment: dict[str, str],
) -> None:
    """A run that checkpoints after every step, so that most kills fall within an epoch."""
    os.environ.update(environment)
    loop.CHECKPOINT_S = 0.0
    save = trainer.save_checkpoint
    saves = 0

    def saving(*arguments: Any, **named: Any) -> None:
        nonlocal saves
        save(*arguments, **named)
        saves += 1
        saved.send(None)
        if moment == "last epoch" and saves == last:
            _die()

    trainer.save_checkpoint = fitting.save_checkpoint = saving  # type: ignore[assignment]
    if moment == "extraction":
        cache.BoundaryCache._pack = _die  # type: ignore[method-assign]
    if moment == "finish":
        results.write_tensors = _die
    workbench.run(load_recipe(recipe), out=out, measure=False)
    saved.close()


def _die(*arguments: Any) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError
