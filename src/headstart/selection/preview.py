"""Previews: what recipes would do, and their time and disk space, before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from headstart.data import Description, describe
from headstart.machine.notebook import default_reporter
from headstart.machine.progress import Reporter
from headstart.machine.runtime import create_runtime
from headstart.plan.plan import PhasePlan, make_plan
from headstart.recipe import Recipe
from headstart.selection.estimating import Estimate, Speed, estimate_run, measure_speed
from headstart_predict.cards import Card, Shown


@dataclass(frozen=True, repr=False)
class Preview(Shown):
    """The preview of a recipe: the resolved recipe, its data, its phases, its time and disk."""

    recipe: Recipe
    data: Description
    phases: tuple[PhasePlan, ...]
    estimate: Estimate

    def _card(self) -> Card:
        facts = [("phase", f"{phase.spec.train} ({phase.spec.optimizer})") for phase in self.phases]
        counts = ", ".join(f"{split} {n:,}" for split, n in self.data.images.items())
        facts = [
            ("data", f"{self.data.source}: {counts}"),
            *facts,
            ("estimate", str(self.estimate)),
        ]
        return Card(f"Preview of {self.recipe.name}: {self.recipe.backbone.name}", facts)

    def to_json(self) -> dict[str, Any]:
        """For --json."""
        return {
            "recipe": self.recipe.model_dump(mode="json"),
            "data": self.data.to_json(),
            "phases": [phase.to_json() for phase in self.phases],
            "estimate": asdict(self.estimate),
        }


def preview(
    recipe: Recipe,
    *,
    device: str = "auto",
    cache_limit_gb: float | None = None,
    reporter: Reporter | None = None,
) -> Preview:
    """Resolve a recipe, check its data, plan its phases and estimate its time and disk space.

    Trains and writes nothing. The estimate comes from running the backbone for one or two seconds.
    """
    (only,) = preview_all([recipe], device=device, cache_limit_gb=cache_limit_gb, reporter=reporter)
    return only


def preview_all(
    recipes: Sequence[Recipe],
    *,
    device: str = "auto",
    cache_limit_gb: float | None = None,
    reporter: Reporter | None = None,
) -> list[Preview]:
    """`preview` of each recipe, such as `study.recipes()`; each backbone is timed once."""
    reporter = reporter or default_reporter()
    speeds: dict[str, Speed] = {}
    previews = []
    for recipe in recipes:
        runtime = create_runtime(device, cache_limit_gb, recipe.precision)
        plan = make_plan(recipe, runtime, reporter)
        data = describe(plan.recipe.data, progress=reporter.transfer)
        spec, identity = plan.recipe.data, plan.weights.identity
        timed = f"{identity} {spec.size} {spec.source} {runtime.precision}"
        if timed not in speeds:
            reporter.say(f"timing {plan.recipe.backbone.name} for the estimate")
            speeds[timed] = measure_speed(plan)
        previews.append(Preview(plan.recipe, data, plan.phases, estimate_run(plan, speeds[timed])))
    return previews
