"""Studies: several runs, one after the other, and their comparison."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from headstart.comparison.framing import with_framing
from headstart.comparison.leaderboard import Failure, build_comparison, split_finished
from headstart.comparison.limits import best_within
from headstart.comparison.protocol import require_one_protocol
from headstart.comparison.records import Comparison, write_comparison
from headstart.data import load_data
from headstart.data.sources.places import is_photos
from headstart.deployment import measuring
from headstart.errors import HeadstartError, RunError
from headstart.files import remove_partials
from headstart.machine.notebook import default_reporter
from headstart.machine.progress import Reporter
from headstart.models.names import canonical_name
from headstart.recipe import Recipe, Study, load_recipe
from headstart.report import write_report
from headstart.rundir.run import Run
from headstart.selection.candidates import Candidate, Selection
from headstart.selection.evidence import choose_finalists
from headstart.selection.regret import regrets
from headstart.specs import BackboneSpec, DataSpec
from headstart.workbench import RunOptions, alone_in, carry_out, reason_of


def compare(
    study: Study | Sequence[Run],
    *,
    out: str | Path | None = None,
    device: str = "auto",
    cache_limit_gb: float | None = None,
    budget_s: float | None = None,
    max_ms: float | None = None,
    max_mb: float | None = None,
    measure: bool = True,
    reporter: Reporter | None = None,
    on_end: Callable[[Run], None] = lambda run: None,
) -> Comparison:
    """Run a study (or take finished runs), write a report, and return the comparison.

    Runs go to OUT/RUN-NAME; out: by default runs/NAME-FINGERPRINT. Finished runs are kept, failed
    ones are tried again, and a run that fails does not stop the others. budget_s: seconds; cheap
    evidence then rules out clearly worse candidates, and as many of the others as fit are run in
    full. max_ms, max_mb: limits of latency and file size; the best run within them is named.
    measure: measure the serving cost of runs that have none. on_end: called with each run when it
    ends, and again after its serving cost is measured. Raises HeadstartError where no run finishes.
    """
    reporter = reporter or default_reporter()
    options = RunOptions(device, cache_limit_gb, reporter, on_end)
    if isinstance(study, Study):
        done = _run_study(study, out, budget_s, options)
    elif budget_s is not None:
        raise RunError("a budget chooses what to run, but these runs exist: give their study")
    else:
        done = _given(study, out, on_end)
    if not done.runs:
        reasons = "; ".join(f"{failure.run}: {failure.reason}" for failure in done.failures)
        raise RunError(f"no run of {done.name} finished: {reasons}")
    runs = done.runs
    if measure:
        runs = measuring.measure_runs(runs, device=device, reporter=reporter, on_measured=on_end)
    comparison = build_comparison(done.name, runs, done.failures, done.root)
    comparison = with_framing(comparison, done.root)
    if done.selection:
        done.selection.regrets = regrets(
            done.selection, done.candidates, comparison.best, done.root
        )
        comparison = replace(comparison, selection=done.selection.record())
    if max_ms is not None or max_mb is not None:
        limits = best_within(comparison, runs, done.root, max_ms, max_mb)
        comparison = replace(comparison, limits=limits)
    write_comparison(comparison, done.root)
    report = write_report(runs, done.root / "report.html", comparison, title=done.name)
    return replace(comparison, path=done.root, report=report)


@dataclass(frozen=True)
class _Done:
    """Runs to compare. selection, candidates: only of a study with a budget."""

    name: str
    root: Path
    runs: list[Run]
    failures: list[Failure]
    selection: Selection | None = None
    candidates: Sequence[Candidate] = ()


def _run_study(
    study: Study, out: str | Path | None, budget_s: float | None, options: RunOptions
) -> _Done:
    recipes = study.recipes()
    for note in require_one_protocol(recipes):
        options.reporter.warn(note)
    root = Path(out or f"runs/{study.name}-{study.fingerprint(_contents(recipes, options))}")
    with alone_in(root):
        remove_partials(root)  # of a process that was killed
        if budget_s is None:
            return _Done(study.name, root, *_run_all(recipes, root, options))
        recipes = [_pinned(recipe, recipes, root) for recipe in recipes]
        selection, candidates = choose_finalists(
            recipes, budget_s, options.device, options.cache_limit_gb, options.reporter
        )
        outcomes = _run_selected(recipes, selection, root, options)
        return _Done(study.name, root, *outcomes, selection, candidates)


def _contents(recipes: Sequence[Recipe], options: RunOptions) -> dict[str, str]:
    """The fingerprint of the photos of each source. So a moved folder gives the same study."""
    specs = {
        data.source: DataSpec(
            source=data.source, label_from=data.label_from, labels=data.labels, size=32
        )
        for data in (recipe.data for recipe in recipes)
        if is_photos(data.source)
    }
    progress = options.reporter.transfer
    return {s: load_data(spec, progress=progress).fingerprint for s, spec in specs.items()}


def _given(study: Sequence[Run], out: str | Path | None, on_end: Callable[[Run], None]) -> _Done:
    # The paths count too: the same recipes on other photos are another comparison.
    parts = [f"{r.path.absolute()} {r.manifest.fingerprint}" for r in study]
    digest = hashlib.sha256("\n".join(parts).encode(errors="surrogateescape")).hexdigest()
    root = Path(out or f"runs/comparison-{digest[:8]}")
    for given in study:
        on_end(given)
    return _Done(root.name, root, *split_finished(study))


def _run_all(
    recipes: Sequence[Recipe], root: Path, options: RunOptions
) -> tuple[list[Run], list[Failure]]:
    """Carry out every recipe. A run that fails is reported and does not stop the study."""
    outcomes = []
    for number, recipe in enumerate(recipes, start=1):
        options.reporter.say(f"\n[{number}/{len(recipes)}] {recipe.name}")
        outcomes.append(_attempt(_pinned(recipe, recipes, root), root, options))
    return _sorted_out(outcomes)


def _pinned(recipe: Recipe, recipes: Sequence[Recipe], root: Path) -> Recipe:
    """A recipe that leaves the source of its weights open, with the one that the study's first run
    of the backbone took: what is stored, or can be reached, may have changed since."""
    if recipe.backbone.weights != "auto":
        return recipe
    for other in recipes:
        saved = root / other.name / "recipe.toml"
        if other.backbone.name == recipe.backbone.name and saved.exists():
            with contextlib.suppress(HeadstartError):  # the run itself says what is wrong with it
                taken = load_recipe(saved).backbone
                if _same_network(taken, recipe.backbone):
                    return recipe.model_copy(update={"backbone": taken})
    return recipe


def _same_network(one: BackboneSpec, other: BackboneSpec) -> bool:
    names = (canonical_name(spec.name).partition(".") for spec in (one, other))
    return len({base for base, _, _ in names}) == 1


def _run_selected(
    recipes: Sequence[Recipe], selection: Selection, root: Path, options: RunOptions
) -> tuple[list[Run], list[Failure]]:
    """Carry out the runs that the selection asks for, one after the other."""
    by_name = {recipe.name: recipe for recipe in recipes}
    outcomes: list[Run | Failure] = [
        Failure(name, by_name[name].backbone.name, why) for name, why in selection.failures.items()
    ]
    for candidate in selection.to_run():
        name = candidate.name
        about_s = selection.drift * selection.costs[name]
        options.reporter.say(f"\n[in full, about {about_s:.0f} s] {name}")
        started = time.perf_counter()
        recipe = by_name[name].model_copy(update={"backbone": candidate.backbone})
        outcomes.append(outcome := _attempt(recipe, root, options))
        if isinstance(outcome, Run):
            selection.finished(name, outcome.cost.wall_s, outcome.cost.spared_s)
        else:
            selection.failed(name, outcome.reason, time.perf_counter() - started)
    return _sorted_out(outcomes)


def _attempt(recipe: Recipe, root: Path, options: RunOptions) -> Run | Failure:
    try:
        return carry_out(recipe, root / recipe.name, options)
    except Exception as error:
        reason = reason_of(error)
        options.reporter.warn(f"{recipe.name} failed, going on without it: {reason}")
        return Failure(recipe.name, recipe.backbone.name, reason)


def _sorted_out(outcomes: Sequence[Run | Failure]) -> tuple[list[Run], list[Failure]]:
    runs = [outcome for outcome in outcomes if isinstance(outcome, Run)]
    return runs, [outcome for outcome in outcomes if isinstance(outcome, Failure)]
