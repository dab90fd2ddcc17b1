"""The workbench turns one recipe into a finished run: plan, train, assess, report."""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from headstart.assessment.assess import assess, assess_again, joined, note_label_efficiency
from headstart.data import find_warnings
from headstart.deployment import measuring
from headstart.deployment.parity import compare_served, warning
from headstart.errors import DataError, HeadstartError, RecipeError, RunError, explain_os_error
from headstart.files import LOCK, locked, write_atomically, write_json
from headstart.machine.host import reset_peak_memory
from headstart.machine.notebook import default_reporter
from headstart.machine.profiling import active_profile, section
from headstart.machine.progress import Reporter
from headstart.machine.runtime import (
    create_runtime,
    seeded,
    within_device_memory,
)
from headstart.models.backbones import StagesError, load_backbone
from headstart.models.classifier import Classifier, load_model
from headstart.models.heads import create_head
from headstart.plan.plan import Plan, make_plan
from headstart.plan.provenance import differences, provenance
from headstart.plan.resolution import resolve
from headstart.recipe import Recipe
from headstart.report import write_report
from headstart.rundir.run import (
    Run,
    create_run,
    open_run,
    remove_partial,
    require_free,
    require_free_or_run,
)
from headstart.training.journal import Journal
from headstart.training.trainer import Entrance, Trained, train


@dataclass(frozen=True)
class RunOptions:
    """The options of a command besides its recipes: the device, the cache limit, the listeners."""

    device: str
    cache_limit_gb: float | None
    reporter: Reporter
    on_end: Callable[[Run], None]
    warned: set[str] = field(default_factory=set)

    def warn_once(self, warnings: Sequence[str]) -> None:
        """Warn of each line once, so that the runs of a study do not repeat a warning."""
        for line in warnings:
            if line not in self.warned:
                self.reporter.warn(line)
        self.warned.update(warnings)


def run(
    recipe: Recipe,
    *,
    out: str | Path | None = None,
    device: str = "auto",
    cache_limit_gb: float | None = None,
    measure: bool = True,
    reporter: Reporter | None = None,
    on_end: Callable[[Run], None] = lambda run: None,
) -> Run:
    """Carry out a recipe and return its finished run.

    A finished run of the same recipe in the same place is returned as it is; where the recipe asks
    for more assessments, they are added. An unfinished run is resumed. out: by default
    runs/NAME-FINGERPRINT. measure: measure the serving cost of the finished run, in a process of
    its own. reporter: gets the progress instead of stderr; `Reporter()` is silent. on_end: called
    with the run when it ends, finished or not, after its manifest is written. Raises HeadstartError
    for anything that the user can fix. A run that fails after it began can be resumed; its manifest
    holds the error.
    """
    reporter = reporter or default_reporter()

    def unless_finished(ended: Run) -> None:
        if not ended.finished:
            on_end(ended)

    done = carry_out(recipe, out, RunOptions(device, cache_limit_gb, reporter, unless_finished))
    try:
        if measure:
            (done,) = measuring.measure_runs([done], device=device, reporter=reporter)
    finally:
        on_end(done)
    return done


def carry_out(recipe: Recipe, out: str | Path | None, options: RunOptions) -> Run:
    """`run` without the measurement of the serving cost."""
    if not isinstance(recipe, Recipe):
        raise RecipeError("run() takes a Recipe, which load_recipe(name or path) returns")
    if profile := active_profile():
        profile.restart()
    began = time.perf_counter()
    if out is not None:
        require_free_or_run(Path(out))  # before any long work
    runtime = create_runtime(options.device, options.cache_limit_gb, recipe.precision)
    try:
        with section("set-up"):
            plan = make_plan(recipe, runtime, options.reporter)
    except DataError:
        if (finished := _without_its_data(recipe, out, options)) is None:
            raise
        return finished
    path = Path(out or f"runs/{plan.recipe.name}-{plan.fingerprint}")
    existing = _existing(path, plan)
    if existing and existing.finished:
        return _finished(existing, plan, options)
    with section("set-up"):
        warnings = find_warnings(plan.splits, plan.recipe.data, options.reporter.transfer)
        warnings += _idle_augmentation(plan)
        try:
            model = _model(plan)
        except StagesError as error:
            options.reporter.warn(str(error))
            return carry_out(recipe, out, options)  # the plan's stages are others now
    reset_peak_memory()
    with alone_in(path):
        current = existing or create_run(path, plan.recipe, plan.fingerprint)
        if current.finished:  # another process finished it in the meantime
            return _finished(current, plan, options)
        started = began - current.manifest.spent_s
        _begin(current, plan, warnings)
        options.warn_once(current.warnings)
        journal = Journal(current, options.reporter, started)
        with _ending(current, options.on_end), _recorded(current, started):
            _train_and_assess(plan, model, journal)
    return current


def _train_and_assess(plan: Plan, model: Classifier, journal: Journal) -> None:
    """Train, assess and report; the status is written last."""

    def on_phase(number: int, trained: Trained) -> None:
        note_label_efficiency(number, trained, journal)

    trained = train(plan, model, journal, on_phase=on_phase)
    assess(trained, journal)
    _compare_served(plan, journal)
    _report(journal.run)
    journal.run.update_manifest(status="finished")
    journal.checkpoint.unlink(missing_ok=True)


def _idle_augmentation(plan: Plan) -> list[str]:
    """A line where the recipe augments, and every phase sees the plain image alone."""
    if not plan.transform.augment.active or any(phase.views != 1 for phase in plan.phases):
        return []
    return [
        "data.augment does nothing here: with views = 1 a phase sees the plain image alone; use 2 "
        "views or more"
    ]


def _compare_served(plan: Plan, journal: Journal) -> None:
    """Hold what the saved model answers against what was tested."""
    with section("served against tested"):
        found = compare_served(journal.run, plan.splits.test)
    journal.run.append_log(found)
    if line := warning(found, plan.runtime.precision):
        journal.warn(line)


def _model(plan: Plan) -> Classifier:
    """The pretrained backbone and a fresh head."""
    seed = plan.recipe.seed
    with seeded(seed, "backbone"):
        backbone = load_backbone(plan.weights, size=plan.size)
    with seeded(seed, "head"):
        head = create_head(
            plan.recipe.head, num_features=backbone.num_features, num_classes=plan.classes
        )
    return Classifier(backbone, head)


def _report(run: Run) -> None:
    profile_path, report = run.place("profile.json"), run.place("report/report.html")
    profile_path.unlink(missing_ok=True)  # left by an interrupted attempt
    with section("report"):
        write_report([run], report, title=run.name)
    if profile := active_profile():
        # The profile includes the report's time, and the report shows the profile: write twice.
        write_json(profile_path, profile.to_json())
        write_report([run], report, title=run.name)


def _without_its_data(recipe: Recipe, out: str | Path | None, options: RunOptions) -> Run | None:
    """The finished run of a recipe whose data can no longer be read; None where there is none."""
    if out is None or not (Path(out) / "manifest.json").exists():
        return None
    run = open_run(out)
    resolved, _ = resolve(recipe, Reporter())
    measured = run.recipe.model_copy(update={"evaluation": resolved.evaluation})
    if not run.finished or measured != resolved:
        return None
    options.reporter.say(f"{run.path}: this recipe's run is finished: nothing to repeat")
    options.on_end(run)
    return run


def _existing(path: Path, plan: Plan) -> Run | None:
    """The run in `path`, to be resumed; None where a new one can begin.

    Raises RunError where the folder holds another run or other files. Called before any work.
    """
    if not (path / "manifest.json").exists():
        require_free(path, plan.recipe)
        return None
    other = open_run(path)
    if other.manifest.fingerprint == plan.fingerprint:
        return other
    raise RunError(f"{path}: {_difference(other, plan)}: choose another --out")


def _difference(other: Run, plan: Plan) -> str:
    """Why a run in the folder is not a run of this plan."""
    manifest = other.manifest
    if made := manifest.provenance:
        images, precision = made.data.fingerprint, made.machine.precision
        weights = made.weights.sha256 or plan.weights.identity.provider
        same = plan.recipe.fingerprint(images=images, weights=weights, precision=precision)
        if manifest.fingerprint == same:
            if precision != plan.runtime.precision:
                return f"the run began in {precision} and would go on in {plan.runtime.precision}"
            part = "weights" if images == plan.splits.fingerprint else "data"
            return f"its {part} have changed since the run began"
    return (
        f"holds the run of another recipe ({other.recipe.name}, {manifest.fingerprint}; this "
        f"one is {plan.fingerprint})"
    )


def _finished(run: Run, plan: Plan, options: RunOptions) -> Run:
    """A finished run; assessed again where the recipe now asks for more."""
    before = run.recipe.evaluation
    now = joined(before, plan.recipe.evaluation)
    if before == now:
        options.reporter.say(f"{run.path}: this recipe's run is finished: nothing to repeat")
    else:
        with alone_in(run.path), within_device_memory():
            model = _model(plan)
            load_model(run.path / "checkpoints" / "best.safetensors", model)
            entrance = Entrance(plan, model, run, options.reporter)
            trained = Trained(plan, model, entrance, run.predictions("val"))
            journal = Journal(run, options.reporter, time.perf_counter())
            assess_again(trained, before, journal)
            recipe = run.recipe.model_copy(update={"evaluation": now})
            write_atomically(run.place("recipe.toml"), recipe.to_toml())
            run = open_run(run.path)
            _report(run)
    options.on_end(run)
    return run


def _begin(current: Run, plan: Plan, warnings: list[str]) -> None:
    """Write the provenance of the run. A resumed run keeps its provenance, and the warnings of its
    training."""
    remove_partial(current)
    created = current.manifest.created or datetime.now(UTC).isoformat(timespec="seconds")
    now, begun = provenance(plan), current.manifest.provenance
    if begun and (changes := differences(begun, now)):
        warnings = [*warnings, f"the run was resumed elsewhere: {changes}"]
    kept = [line for line in current.warnings if line not in warnings]
    current.update_manifest(created=created, warnings=(*warnings, *kept), provenance=begun or now)


@contextlib.contextmanager
def alone_in(path: Path) -> Iterator[None]:
    """Lock the directory of a run or study while it is written. The lock ends with the process."""
    with contextlib.ExitStack() as held:
        made, lock = not path.exists(), path / LOCK
        try:
            alone = held.enter_context(locked(lock, wait=False))
        except OSError:
            # Some file systems have no locks. A folder that cannot be written fails later, in
            # create_run, with a better message.
            alone = True
        if not alone:
            raise RunError(
                f"{path}: another process is at work on this: wait for it, or choose another --out"
            )
        held.callback(_clear, lock, made)
        yield


def _clear(lock: Path, made: bool) -> None:
    """Remove a lock file that is still held, and its folder if it was made here and is empty."""
    with contextlib.suppress(OSError):
        lock.unlink(missing_ok=True)
        if made:
            lock.parent.rmdir()


@contextlib.contextmanager
def _ending(current: Run, on_end: Callable[[Run], None]) -> Iterator[None]:
    try:
        yield
    finally:
        on_end(current)


@contextlib.contextmanager
def _recorded(current: Run, started: float) -> Iterator[None]:
    """Write the manifest's status when the block begins and when it fails or is interrupted."""
    current.update_manifest(status="running", error=None)
    try:
        with within_device_memory():
            yield
    except BaseException as error:
        interrupted = isinstance(error, KeyboardInterrupt)
        # The disk may be what failed, or the run was removed.
        with contextlib.suppress(OSError, RunError):
            current.update_manifest(
                status="interrupted" if interrupted else "failed",
                error=None if interrupted else reason_of(error),
                spent_s=time.perf_counter() - started,
            )
            if not isinstance(error, HeadstartError | OSError | KeyboardInterrupt):
                write_atomically(current.place("error.txt"), traceback.format_exc())
        raise


def reason_of(error: BaseException) -> str:
    if isinstance(error, HeadstartError):
        return str(error)
    if isinstance(error, OSError) and (reason := explain_os_error(error)):
        return reason
    return f"{type(error).__name__}: {error}"
