"""The workbench: one recipe to a finished run, a study to a comparison. The only orchestration."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from headstart.comparison.estimating import Estimate, Speed, estimate_run, measure_speed
from headstart.comparison.evidence import choose_finalists
from headstart.comparison.leaderboard import (
    Comparison,
    Failure,
    build_comparison,
    split_finished,
)
from headstart.comparison.limits import best_within, regrets
from headstart.comparison.measuring import measure_runs
from headstart.comparison.protocol import require_one_protocol
from headstart.comparison.selection import Candidate, Selection
from headstart.data import Description, describe, find_warnings, load_data
from headstart.data.transforms import recipe_transform
from headstart.errors import DataError, HeadstartError, RecipeError, RunError, explain_os_error
from headstart.evaluation.two_classes import positive_class
from headstart.models.backbones import load_backbone
from headstart.models.freezing import plan_phase
from headstart.models.heads import create_head
from headstart.profiling import active_profile, section
from headstart.progress import Reporter, TerminalReporter
from headstart.provenance import provenance
from headstart.recipe import Recipe, Study
from headstart.report import write_report
from headstart.resolution import resolve
from headstart.results import finish_run
from headstart.rundir import (
    Run,
    create_run,
    open_run,
    remove_partial,
    require_free,
    write_atomically,
    write_json,
)
from headstart.runtime import (
    create_runtime,
    reset_peak_memory,
    seeded,
    within_device_memory,
)
from headstart.shown import Card, Shown
from headstart.training.classifier import Classifier
from headstart.training.outline import PhaseOutline, outline
from headstart.training.phases import Training


def run(
    recipe: Recipe,
    *,
    out: str | Path | None = None,
    device: str = "auto",
    cache_limit_gb: float | None = None,
    reporter: Reporter | None = None,
    on_end: Callable[[Run], None] = lambda run: None,
) -> Run:
    """Carry out a recipe and return its finished run.

    A finished run of the same recipe in the same place is returned as it is; an unfinished one is
    resumed. `out` defaults to runs/NAME-FINGERPRINT. What a finished run costs to serve is measured
    in a process of its own. Progress goes to stderr; a `reporter` hears it instead, and
    `Reporter()` is silent. `on_end` is called with the run however it ended, once its manifest
    says how. Raises HeadstartError for whatever the user can fix; a run that fails after it began
    says so in its manifest and can be resumed.
    """
    reporter = reporter or TerminalReporter()

    def unless_finished(ended: Run) -> None:
        if not ended.finished:
            on_end(ended)

    done = _carry_out(recipe, out, _Means(device, cache_limit_gb, reporter, unless_finished))
    try:
        (done,) = measure_runs([done], device=device, reporter=reporter)
    finally:
        on_end(done)
    return done


@dataclass(frozen=True)
class _Means:
    """What a command says beside its recipes: where to compute, and whom to tell."""

    device: str
    cache_limit_gb: float | None
    reporter: Reporter
    on_end: Callable[[Run], None]
    warned: set[str] = field(default_factory=set)

    def warn_once(self, warnings: Sequence[str]) -> None:
        """What a study's runs have in common is said with the first of them."""
        for line in warnings:
            if line not in self.warned:
                self.reporter.warn(line)
        self.warned.update(warnings)


def _carry_out(recipe: Recipe, out: str | Path | None, means: _Means) -> Run:
    """`run`, without a measurement of what the model costs to serve."""
    reporter, on_end = means.reporter, means.on_end
    if not isinstance(recipe, Recipe):
        raise RecipeError("run() takes a Recipe, which load_recipe(name or path) returns")
    if profile := active_profile():
        profile.restart()
    runtime = create_runtime(means.device, means.cache_limit_gb, recipe.precision)
    with section("set-up"):
        resolved, weights = resolve(recipe, reporter)
    path = Path(out or f"runs/{resolved.name}-{resolved.fingerprint}")
    existing = _existing(path, resolved)
    if existing:
        _require_same(existing, "weights", asdict(weights.identity), "sha256")
    if existing and not existing.finished:
        before = existing.manifest.get("machine", {}).get("precision", runtime.precision)
        if before != runtime.precision:
            raise RunError(
                f"{path}: the run began in {before} and would go on in {runtime.precision}: "
                "choose another --out, or go on where it began"
            )
    if existing and existing.finished:
        _require_same_photos(existing, resolved, reporter)
        reporter.say(f"{path}: this recipe's run is finished: nothing to repeat")
        on_end(existing)
        return existing
    spent = float(existing.manifest.get("spent_s", 0.0)) if existing else 0.0
    started = time.perf_counter() - spent
    reset_peak_memory()
    with section("set-up"):
        splits = load_data(resolved.data, progress=reporter.transfer)
    positive_class(splits.class_names, resolved.evaluation.positive)  # a wrong name, told early
    if existing:
        _require_same(existing, "data", {"fingerprint": splits.fingerprint}, "fingerprint")
    with section("set-up"):
        warnings = find_warnings(splits, resolved.data, reporter.transfer)
    transform = recipe_transform(resolved.data, weights.preprocess, resolved.seed)
    with section("set-up"), seeded(resolved.seed, "backbone"):
        backbone = load_backbone(weights, size=transform.preprocess.size)
    for phase in resolved.phases:
        plan_phase(backbone, phase)  # a part that this architecture lacks is told before any work
    with _alone_in(path):
        current = existing or create_run(path, resolved)
        if current.finished:  # by another process, since we looked
            on_end(current)
            return current
        remove_partial(current)
        created = current.manifest.get("created") or datetime.now(UTC).isoformat(timespec="seconds")
        identity = provenance(resolved, weights, transform, splits, runtime)
        # Of a run that goes on, what its training has warned of stays.
        warnings += [line for line in current.warnings if line not in warnings]
        current.update_manifest(created=created, warnings=warnings, **identity)
        means.warn_once(current.warnings)
        with _ending(current, on_end), _recorded(current, started):
            with seeded(resolved.seed, "head"):
                head = create_head(
                    resolved.head,
                    num_features=backbone.num_features,
                    num_classes=len(splits.class_names),
                )
            training = Training(
                current,
                resolved,
                splits,
                Classifier(backbone, head),
                transform,
                runtime,
                reporter,
                started,
            )
            try:
                training.train()
                finish_run(training)
            finally:
                training.close()
    return current


def compare(
    study: Study | Sequence[Run],
    *,
    out: str | Path | None = None,
    device: str = "auto",
    cache_limit_gb: float | None = None,
    budget_s: float | None = None,
    max_ms: float | None = None,
    max_mb: float | None = None,
    reporter: Reporter | None = None,
    on_end: Callable[[Run], None] = lambda run: None,
) -> Comparison:
    """Run a study (or take finished runs) and return its comparison, with a report beside it.

    Runs go to OUT/RUN-NAME, `out` defaulting to runs/NAME-FINGERPRINT; finished ones are kept,
    failed ones are tried again, and a run that fails does not stop the others. With `budget_s`,
    seconds, only the candidates that cheap evidence does not rule out are run in full, as many as
    fit. `max_ms` and `max_mb` ask for the best among runs that answer and weigh no more. Runs
    without a measured serving cost are measured in the end. `on_end` is called with each run as it
    ends, and with each that was measured. Raises HeadstartError where no run finishes.
    """
    reporter = reporter or TerminalReporter()
    selected: tuple[Selection, list[Candidate]] | None = None
    if isinstance(study, Study):
        root = Path(out or f"runs/{study.name}-{study.fingerprint}")
        name = study.name
        recipes = study.recipes()
        for note in require_one_protocol(recipes):
            reporter.warn(note)
        means = _Means(device, cache_limit_gb, reporter, on_end)
        with _alone_in(root):
            if budget_s is None:
                runs, failures = _run_all(recipes, root, means)
            else:
                selected = choose_finalists(recipes, budget_s, device, cache_limit_gb, reporter)
                runs, failures = _run_selected(recipes, selected[0], root, means)
    elif budget_s is not None:
        raise RunError("a budget chooses what to run, and these runs are done: give their study")
    else:
        # By their places too: the same recipes on other photos are another comparison.
        parts = [f"{r.path.absolute()} {r.manifest['fingerprint']}" for r in study]
        digest = hashlib.sha256("\n".join(parts).encode(errors="surrogateescape")).hexdigest()
        root = Path(out or f"runs/comparison-{digest[:8]}")
        name = root.name
        for given in study:
            on_end(given)
        runs, failures = split_finished(study)
    if not runs:
        reasons = "; ".join(f"{failure.run}: {failure.reason}" for failure in failures)
        raise RunError(f"no run of {name} finished: {reasons}")
    runs = measure_runs(runs, device=device, reporter=reporter, on_measured=on_end)
    comparison = build_comparison(name, runs, failures, root)
    if selected:
        selection, candidates = selected
        selection.regrets = regrets(selection, candidates, comparison.best, root)
        comparison = replace(comparison, selection=selection.to_dict())
    if max_ms is not None or max_mb is not None:
        comparison = replace(comparison, limits=best_within(comparison, runs, root, max_ms, max_mb))
    write_json(root / "comparison.json", comparison.to_dict())
    report = write_report(runs, root / "report.html", comparison.to_dict(), title=name)
    return replace(comparison, path=root, report=report)


@dataclass(frozen=True, repr=False)
class Preview(Shown):
    """What a recipe would do: resolved, its data described, its phases outlined."""

    recipe: Recipe
    data: Description
    phases: list[PhaseOutline]
    estimate: Estimate

    def _card(self) -> Card:
        facts = [("phase", f"{phase.train} ({phase.optimizer})") for phase in self.phases]
        counts = ", ".join(f"{split} {sum(n):,}" for split, n in self.data.counts.items())
        facts = [
            ("data", f"{self.data.source}: {counts}"),
            *facts,
            ("estimate", str(self.estimate)),
        ]
        return Card(f"Preview of {self.recipe.name}: {self.recipe.backbone.name}", facts)

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return {
            "recipe": self.recipe.model_dump(mode="json"),
            "data": self.data.as_dict(),
            "phases": [asdict(phase) for phase in self.phases],
            "estimate": asdict(self.estimate),
        }


def preview(
    recipe: Recipe,
    *,
    device: str = "auto",
    cache_limit_gb: float | None = None,
    reporter: Reporter | None = None,
) -> Preview:
    """Resolve a recipe, check its data, outline its phases and estimate its time and disk.

    Trains and writes nothing; the estimate is from a second or two of the backbone's own work.
    """
    given = {"device": device, "cache_limit_gb": cache_limit_gb, "reporter": reporter}
    return preview_all([recipe], **given)[0]  # type: ignore[arg-type]


def preview_all(
    recipes: Sequence[Recipe],
    *,
    device: str = "auto",
    cache_limit_gb: float | None = None,
    reporter: Reporter | None = None,
) -> list[Preview]:
    """`preview` of each recipe, such as `study.recipes()`; each backbone is timed once."""
    reporter = reporter or TerminalReporter()
    speeds: dict[str, Speed] = {}
    previews = []
    for recipe in recipes:
        runtime = create_runtime(device, cache_limit_gb, recipe.precision)
        resolved, weights = resolve(recipe, reporter)
        data = describe(resolved.data, progress=reporter.transfer)
        positive_class(data.class_names, resolved.evaluation.positive)
        counts = {split: sum(by_class) for split, by_class in data.counts.items()}
        phases = outline(resolved, weights, counts, len(data.class_names), runtime)
        timed = f"{weights.identity} {resolved.data.size} {resolved.data.source} {recipe.precision}"
        if timed not in speeds:
            reporter.say(f"timing {resolved.backbone.name} for the estimate")
            speeds[timed] = measure_speed(resolved, weights, runtime)
        estimate = estimate_run(resolved, weights, counts, phases, speeds[timed])
        previews.append(Preview(resolved, data, phases, estimate))
    return previews


def _existing(path: Path, recipe: Recipe) -> Run | None:
    """The run in `path`, to go on with; None where a new one can begin.

    Raises RunError where it is another recipe's, or the folder holds something else: before any
    work is done.
    """
    if not (path / "manifest.json").exists():
        require_free(path, recipe)
        return None
    found = open_run(path)
    if found.manifest["fingerprint"] != recipe.fingerprint:
        raise RunError(
            f"{path}: holds the run of another recipe ({found.recipe.name}, "
            f"{found.manifest['fingerprint']}; this one is {recipe.fingerprint}): "
            "choose another --out"
        )
    return found


def _require_same(existing: Run, part: str, found: dict[str, Any], key: str) -> None:
    """Refuse to go on with a run on other images or weights than it began with."""
    before = existing.manifest.get(part, {}).get(key)
    if before is not None and before != found[key]:
        raise RunError(
            f"{existing.path}: its {part} have changed since the run began: "
            "choose another --out, or remove this one"
        )


def _require_same_photos(existing: Run, recipe: Recipe, reporter: Reporter) -> None:
    """Refuse a finished run whose folder of photos has other images by now."""
    if not recipe.data.source.startswith("folder:"):
        return  # whose files have a checksum
    with contextlib.suppress(DataError):  # a folder that is gone contradicts nothing
        splits = load_data(recipe.data, progress=reporter.transfer)
        _require_same(existing, "data", {"fingerprint": splits.fingerprint}, "fingerprint")


@contextlib.contextmanager
def _alone_in(path: Path) -> Iterator[None]:
    """Hold a run's or study's directory while it is written; a process that is killed lets go."""
    with contextlib.ExitStack() as held:
        # What cannot be written is told where a run begins; some file systems know no locks.
        with contextlib.suppress(OSError):
            made = not path.exists()
            path.mkdir(parents=True, exist_ok=True)
            folder = os.open(path, os.O_RDONLY)
            held.callback(os.close, folder)
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunError(
                    f"{path}: another process is at work on this: wait for it, or choose "
                    "another --out"
                ) from None
            if made:
                held.callback(_remove_empty, path)
        yield


def _remove_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


@contextlib.contextmanager
def _ending(current: Run, on_end: Callable[[Run], None]) -> Iterator[None]:
    try:
        yield
    finally:
        on_end(current)


@contextlib.contextmanager
def _recorded(current: Run, started: float) -> Iterator[None]:
    """Keep the manifest's status true however the block ends."""
    current.update_manifest(status="running", error=None)
    try:
        with within_device_memory():
            yield
    except BaseException as error:
        interrupted = isinstance(error, KeyboardInterrupt)
        with contextlib.suppress(OSError):  # the disk may be what failed
            current.update_manifest(
                status="interrupted" if interrupted else "failed",
                error=None if interrupted else _reason(error),
                spent_s=time.perf_counter() - started,
            )
            if not isinstance(error, HeadstartError | OSError | KeyboardInterrupt):
                write_atomically(current.path / "error.txt", traceback.format_exc())
        raise


def _reason(error: BaseException) -> str:
    if isinstance(error, HeadstartError):
        return str(error)
    if isinstance(error, OSError) and (reason := explain_os_error(error)):
        return reason
    return f"{type(error).__name__}: {error}"


def _run_all(
    recipes: Sequence[Recipe], root: Path, means: _Means
) -> tuple[list[Run], list[Failure]]:
    """Every recipe's run; a study goes on past those that fail, and says why."""
    outcomes = []
    for number, recipe in enumerate(recipes, start=1):
        means.reporter.say(f"\n[{number}/{len(recipes)}] {recipe.name}")
        outcomes.append(_attempt(recipe, root, means))
    return _sorted_out(outcomes)


def _run_selected(
    recipes: Sequence[Recipe], selection: Selection, root: Path, means: _Means
) -> tuple[list[Run], list[Failure]]:
    """The runs that the selection asks for, one after the other."""
    by_name = {recipe.name: recipe for recipe in recipes}
    outcomes: list[Run | Failure] = [
        Failure(name, by_name[name].backbone.name, why) for name, why in selection.failures.items()
    ]
    for candidate in selection.to_run():
        name = candidate.name
        about_s = selection.drift * selection.costs[name]
        means.reporter.say(f"\n[in full, about {about_s:.0f} s] {name}")
        started = time.perf_counter()
        outcomes.append(outcome := _attempt(by_name[name], root, means))
        if isinstance(outcome, Run):
            cost, spent = outcome.cost, time.perf_counter() - started
            selection.finished(name, cost.get("wall_s", spent), cost.get("spared_s", 0.0))
        else:
            selection.failed(name, outcome.reason, time.perf_counter() - started)
    return _sorted_out(outcomes)


def _attempt(recipe: Recipe, root: Path, means: _Means) -> Run | Failure:
    try:
        return _carry_out(recipe, root / recipe.name, means)
    except Exception as error:
        reason = _reason(error)
        means.reporter.warn(f"{recipe.name} failed, going on without it: {reason}")
        return Failure(recipe.name, recipe.backbone.name, reason)


def _sorted_out(outcomes: Sequence[Run | Failure]) -> tuple[list[Run], list[Failure]]:
    runs = [outcome for outcome in outcomes if isinstance(outcome, Run)]
    return runs, [outcome for outcome in outcomes if isinstance(outcome, Failure)]
