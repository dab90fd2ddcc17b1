"""A model card of one run, in the Hugging Face format: YAML that the hub reads, and prose."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import jinja2
from huggingface_hub import EvalResult, ModelCardData

from headstart.comparison.leaderboard import describe_classes, headline_scores
from headstart.comparison.mistakes import find_departures
from headstart.comparison.protocol import CHOSEN_ON
from headstart.comparison.records import Classes
from headstart.errors import RunError
from headstart.files import write_atomically
from headstart.report.sections.facts import describe_facts
from headstart.report.sections.phases import describe_phases
from headstart.rundir.run import Run
from headstart.text import formats
from headstart_predict.framing import SAID
from headstart_predict.plain import as_markdown, visible, without_home

# Where the hub keeps what our sources are made of: its id and its name for people.
_DATASETS = {
    "cifar10": ("uoft-cs/cifar10", "CIFAR-10"),
    "cifar10-mini": ("uoft-cs/cifar10", "CIFAR-10, a sample of 2,500 images"),
    "cifar100": ("uoft-cs/cifar100", "CIFAR-100"),
}
# Licences that the hub knows by these names; any other is named beside "other".
_LICENCES = frozenset(
    ("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc-by-4.0", "cc-by-nc-4.0",
     "cc-by-sa-4.0", "cc0-1.0", "openrail", "gpl-3.0", "lgpl-3.0", "mpl-2.0")
)  # fmt: skip


def write_card(run: Run, out: Path) -> Path:
    """Write a run's model card and return its path. Raises RunError where it did not finish."""
    write_atomically(out, render_card(run))
    return out


def render_card(run: Run) -> str:
    """Front matter and body; equal runs give equal text."""
    if not run.finished:
        raise RunError(f"{run.path}: the run is {run.status}: a model card is of a finished one")
    many, made = run.recipe.many_labels, run.provenance
    dataset, title = dataset_title(run)
    environment = jinja2.Environment(
        trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters.update(
        percent=_spaced(formats.percent), interval=formats.interval, decimal=formats.decimal,
        count=formats.count, duration=_spaced(formats.duration), metric=_spaced(formats.metric),
        megabytes=_spaced(formats.megabytes), plain=as_markdown,
    )  # fmt: skip
    recipe = (run.path / "recipe.toml").read_text(encoding="utf-8").strip()
    name = "card_many.md.j2" if many else "card.md.j2"
    template = resources.files("headstart.report") / "templates" / name
    body = environment.from_string(template.read_text(encoding="utf-8")).render(
        run=run, made=made, cost=run.cost, names=run.class_names, balance=_balance(run),
        metrics=run.many_metrics if many else run.metrics,
        test=run.many_metrics.test if many else run.metrics.test,
        listed=_listed(run.class_names[:20]), data_title=title,
        phases=describe_phases(run.history, run.cost), facts=describe_facts([run]),
        limits=limitations(run), framed=SAID[run.recipe.data.framing],
        refit=_refit(run), chosen=CHOSEN_ON, recipe=recipe, fence=_fence(recipe),
    )  # fmt: skip
    front = _front(run, dataset, title).to_yaml(line_break="\n")
    return without_home(visible(f"---\n{front.strip()}\n---\n\n{body.strip()}\n"))


def _fence(text: str) -> str:
    """Backticks to put around a text as code: more than it has in a row."""
    return "`" * max([3, *(len(row) + 1 for row in re.findall("`+", text))])


@dataclass(frozen=True, slots=True)
class _Refit:
    """How many images the solved head that is served was fitted to, and whether folds of them tell
    what validation says."""

    images: int
    by_folds: bool


def _refit(run: Run) -> _Refit | None:
    """None where no solved head is served."""
    refit = run.history.refit
    return _Refit(refit.images, headline_scores(run, "val").n == refit.images) if refit else None


def _balance(run: Run) -> Classes | None:
    """What always answering one class would reach, where accuracy alone says little."""
    if (classes := describe_classes(run)) is None:
        return None
    return classes if classes.unequal or run.recipe.chooses_by != "accuracy" else None


def _listed(names: Sequence[str]) -> str:
    """Names in a row; a name with a comma in it would else read as two."""
    between = "; " if any("," in name for name in names) else ", "
    return between.join(map(as_markdown, names))


def _spaced(write: Callable[..., str]) -> Callable[..., str]:
    """The same text with plain spaces: Markdown is read as text, too."""
    return lambda *given: write(*given).replace("\u202f", " ")


def _front(run: Run, dataset: str | None, title: str) -> ModelCardData:
    weights = run.provenance.weights
    licence = weights.licence.lower()
    known = licence in _LICENCES
    of_the_hub = weights.provider == "hub" and "/" in weights.source
    return ModelCardData(
        base_model=weights.source if of_the_hub else None,
        license=licence if known else "other",
        license_name=None if known else licence,
        library_name="headstart",
        pipeline_tag="image-classification",
        tags=["image-classification", "headstart", "timm", "transfer-learning"],
        datasets=[dataset] if dataset else None,
        metrics=["mean_average_precision" if run.recipe.many_labels else "accuracy", "f1"],
        model_name=run.name,
        eval_results=_results(run, dataset, title),
    )


def _results(run: Run, dataset: str | None, title: str) -> list[EvalResult]:
    """The scores on test that a leaderboard may want, as the hub's model index."""
    scores = _many_scores(run) if run.recipe.many_labels else _scores(run)
    return [
        EvalResult(
            task_type="image-classification", task_name="Image classification",
            dataset_type=dataset or "imagefolder", dataset_name=title, dataset_split="test",
            metric_type=kind, metric_name=name, metric_value=round(float(value), 6),
        )
        for kind, name, value in scores
        if value is not None
    ]  # fmt: skip


def _many_scores(run: Run) -> Sequence[tuple[str, str, float | None]]:
    test = run.many_metrics.test
    return (
        ("mean_average_precision", "Test mAP", test.mean_ap),
        ("f1", "Macro F1", test.macro_f1),
        ("loss", "Log loss an image, as served", test.loss),
    )


def _scores(run: Run) -> Sequence[tuple[str, str, float | None]]:
    test = run.metrics.test
    return (
        ("accuracy", "Test accuracy", test.accuracy),
        ("f1", "Macro F1", test.macro_f1),
        ("balanced_accuracy", "Balanced accuracy", test.macro_recall if _balance(run) else None),
        ("loss", "Log loss, as served", test.calibrated.loss),
        ("expected_calibration_error", "Calibration error", test.calibrated.ece),
    )


def dataset_title(run: Run) -> tuple[str | None, str]:
    """The hub's id of the run's data, if it has one, and a name for people."""
    source = run.recipe.data.source
    return _DATASETS.get(source, (None, Path(source.partition(":")[2]).name or source))


def limitations(run: Run) -> list[str]:
    """What someone who relies on the answers should know; names are as they were given."""
    if run.recipe.many_labels:
        recalls = [row.recall for row in run.many_metrics.test.per_label]
    else:
        recalls = [row.recall for row in run.metrics.test.per_class]
    rows = zip(run.class_names, recalls, strict=True)
    hardest = sorted(rows, key=lambda row: row[1])[:3]
    least = ", ".join(f"{name} ({_spaced(formats.percent)(recall, 0)})" for name, recall in hardest)
    return [
        f"It finds the least of {least}.",
        "The interval covers the luck of the test images, not that of the training seed.",
        "Images unlike the training data may be answered wrong and with confidence.",
        *(f"Mark: {mark}." for mark in run.provenance.marks),
        *(f"{f.key} = {f.has}: {f.why}." for f in find_departures(run) if f.mistake),
    ]
