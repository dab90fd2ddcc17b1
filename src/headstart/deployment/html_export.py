"""A finished run as one HTML file, which classifies pictures in any browser, without a network.

The page holds the model, ONNX Runtime Web, and the card's main facts. Its content policy allows its
own script and style, and nothing from outside. What it shares with the service's page is in the
predictor's distribution.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from importlib import resources
from pathlib import Path

import jinja2
from markupsafe import Markup

import headstart
from headstart.deployment.web_runtime import LICENCE, SCRIPT, VERSION, WebRuntime
from headstart.errors import BundleError, RunError
from headstart.files import remove_partials, write_atomically
from headstart.report.card import dataset_title, limitations
from headstart.rundir.run import Run
from headstart.text.formats import count, percent
from headstart_predict.framing import SAID
from headstart_predict.plain import one_line, visible, without_home

NAME = "classifier.html"
MOST_BYTES = 300_000_000  # of a model: browsers hold no text of more than half a gigabyte
_LISTED = 12  # classes named at the top
# In this order; a page on its own can import nothing.
_SHARED, _OWN = ("elements.js", "answers.js", "asking.js"), ("picture.js", "script.js")
_MODULE = re.compile(r"^(?:import .*;\n|export )", re.MULTILINE)
# What the runtime's module gives to others, and what the page needs of it.
_EXPORTS, _NEEDED = "export{", ("InferenceSession", "Tensor", "env")


def require_page(path: Path) -> None:
    """Raises RunError where a page cannot be at `path`, or where something else is there."""
    if path.suffix.lower() not in (".html", ".htm"):
        raise RunError(f"{path}: a page's name ends with .html")
    if path.exists() and not path.is_file():
        raise RunError(f"{path}: exists and is no file: choose another place with --out")


def write_page(
    path: Path, run: Run, model: bytes, threshold: float | None, runtime: WebRuntime
) -> None:
    """Write the page, whole or not at all. threshold: of an answer that is "not sure" below it;
    None where a picture may have several labels. Raises BundleError of a model too large for a
    page."""
    if len(model) > MOST_BYTES:
        raise BundleError(
            f"{run.path}: its model has {len(model) / 1e6:.0f} MB, and a page may have "
            f"{MOST_BYTES / 1e6:.0f}: export a bundle"
        )
    remove_partials(path.parent, of=path.name)
    write_atomically(path, render_page(run, model, threshold, runtime))


def render_page(run: Run, model: bytes, threshold: float | None, runtime: WebRuntime) -> str:
    """The page as text; equal runs give equal text. Hidden characters of names are escapes."""
    many = run.recipe.many_labels
    style, script = _shared("style.css"), _script(runtime)
    names = [one_line(name) for name in run.class_names]
    side, framing = run.provenance.data.side, run.recipe.data.framing
    facts: dict[str, object] = {"classes": names, "side": side, "framing": framing}
    if many:
        facts["thresholds"] = run.many_metrics.thresholds
        lead, invitation = f"Finds any of {len(names)} labels: ", "What is in it?"
    else:
        facts["threshold"] = threshold
        lead, invitation = f"Tells {len(names)} classes apart: ", "Which class is it?"
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.from_string(_asset("page.html.j2")).render(
        name=_shown(run.name), lead=lead, invitation=invitation, listed=_listed(names),
        card=[tuple(map(_shown, row)) for row in _card(run, threshold)],
        limits=[_shown(line) for line in limitations(run)],
        version=headstart.__version__, runtime=f"ONNX Runtime Web {VERSION} ({LICENCE})",
        style=Markup(style), style_digest=_digest(style),
        script=Markup(script), script_digest=_digest(script),
        facts=Markup(_as_json(facts)),
        wasm=Markup(_packed(runtime.wasm)), model=Markup(_packed(model)),
    )  # fmt: skip


def _card(run: Run, threshold: float | None) -> list[tuple[str, str, str]]:
    """What the model card says first: a label, a value, and what belongs to it."""
    made = run.provenance
    weights, counts = made.weights, made.data.counts
    scores = _scores(run) if threshold is None else _accuracy(run, threshold)
    return [
        *scores,
        ("Trained on", dataset_title(run)[1],
         f"{count(counts.train)} images, and {count(counts.val)} to choose by"),
        ("Backbone", run.recipe.backbone.name,
         f"sees {made.preprocess.size} pixels a side; a picture that is not square is "
         f"{SAID[run.recipe.data.framing]}"),
        ("Licence of its weights", weights.licence, weights.source),
    ]  # fmt: skip


def _accuracy(run: Run, threshold: float) -> list[tuple[str, str, str]]:
    test = run.metrics.test
    return [
        ("Right answers", percent(test.accuracy), _tested(test.n, test.interval)),
        ("Not sure", *_doubt(threshold)),
    ]


def _scores(run: Run) -> list[tuple[str, str, str]]:
    test = run.many_metrics.test
    labels = "of all yes-or-no answers together"
    return [
        ("Mean average precision", percent(test.mean_ap), _tested(test.n, test.interval)),
        ("Micro F1", percent(test.micro_f1), labels),
    ]


def _tested(n: int, interval: tuple[float, float]) -> str:
    low, high = interval
    return f"of {count(n)} test images; 95 % interval {100 * low:.1f} to {100 * high:.1f}"


def _doubt(threshold: float) -> tuple[str, str]:
    if threshold == 0:
        return "never", "95 % of all answers on validation images were right"
    if threshold == 1:
        return "always", "too few answers on validation images were right, however sure they were"
    return (
        f"below {percent(threshold)}",
        "95 % of the surer answers on validation images were right",
    )


def _listed(names: list[str]) -> str:
    between = "; " if any("," in name for name in names) else ", "
    more = len(names) - _LISTED
    return between.join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")


def _shown(text: str) -> str:
    return without_home(visible(text)).replace(" %", "\u202f%")


def _script(runtime: WebRuntime) -> str:
    """The runtime and the page's own script as one module. What the runtime exports becomes the
    argument of a function that holds the rest: so their names cannot meet."""
    body, _, end = runtime.script.rpartition(_EXPORTS)
    listed, _, rest = end.partition("}")
    parts = [entry.split(" as ") for entry in listed.split(",")]
    inner = {public: local for local, public in parts if public in _NEEDED}
    if len(inner) != len(_NEEDED) or not rest.startswith(";"):
        raise BundleError(f"{SCRIPT}: its exports are not as expected")
    given = ",".join(f"{public}:{inner[public]}" for public in _NEEDED)
    modules = [*map(_shared, _SHARED), *map(_asset, _OWN)]
    own = "".join(_MODULE.sub("", text) for text in modules)
    script = f"{body}\n((ort) => {{\n{own}}})({{{given}}});\n"
    if "</script" in script or "<!--" in script or "\r" in script:
        raise BundleError(f"{SCRIPT}: it cannot be a part of a page")
    return script


def _packed(content: bytes) -> str:
    """Compressed, as text; equal bytes for equal content."""
    return base64.b64encode(gzip.compress(content, mtime=0)).decode()


def _as_json(value: object) -> str:
    """JSON that no name in it can end: it has no < of its own."""
    return json.dumps(value).replace("<", "\\u003c")


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _asset(name: str) -> str:
    return (resources.files("headstart.deployment") / "page" / name).read_text(encoding="utf-8")


def _shared(name: str) -> str:
    return (resources.files("headstart_predict.serving") / "page" / name).read_text("utf-8")
