"""The page of an audit: one HTML file with the suspicious pictures, each to be decided on.

Its style is the report's. It loads nothing; the decisions leave it as a CSV file that the reader
downloads.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import jinja2
from markupsafe import Markup

from headstart.auditing.fixing import ACTIONS
from headstart.auditing.records import Audit
from headstart.data.images import map_threads
from headstart.errors import HeadstartError
from headstart.files import write_atomically
from headstart.report.sections.pictures import data_uri
from headstart.text import formats
from headstart_predict.decode import decode_image
from headstart_predict.plain import one_line, without_home

SIDE = 160  # of a picture in the page, pixels
MOST = 120  # pictures, or pairs, of a section; the JSON has all
_KINDS = {
    "blank": "of one colour",
    "blurred": "blurred",
    "dark": "dark",
    "enlarged": "small: enlarged more than four times",
    "odd_shape": "very long: all but the middle is cut off",
    "tiny": "tiny",
}


@dataclass(frozen=True, slots=True)
class Tile:
    """A picture to decide on. key: its path as JSON. shown: its path, safe to be displayed.
    suggested: another class, or "". note: why it is here."""

    key: str
    path: str
    shown: str
    label: str
    suggested: str
    note: str


@dataclass(frozen=True, slots=True)
class Section:
    """Groups of tiles: a group has one picture, or the two of a pair. more: groups not shown."""

    id: str
    title: str
    intro: str
    groups: list[list[Tile]]
    more: int


def require_page(path: Path) -> None:
    """Raises HeadstartError where `path` cannot be a page's, such as a photo's or a folder's."""
    if path.suffix.lower() not in (".html", ".htm"):
        raise HeadstartError(f"{path}: a page's name ends with .html")
    if path.exists() and not path.is_file():
        raise HeadstartError(f"{path}: exists and is no file: choose another name")


def write_page(audit: Audit, path: Path) -> Path:
    """Write the page and return its path. Raises DataError where a photo can no longer be read."""
    require_page(path)
    write_atomically(path, render(audit))
    return path


def render(audit: Audit) -> str:
    """The page as text. Hidden characters of names are shown as escapes, the home folder as ~."""
    sections = [section for section in _sections(audit) if section.groups]
    uris = _pictures(Path(audit.folder), sections)
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters.update(percent=formats.percent, count=formats.count, line=one_line)
    style = _asset("headstart.report", "style.css") + _asset("headstart.auditing", "audit.css")
    script = _asset("headstart.auditing", "audit.js")
    return environment.from_string(_asset("headstart.auditing", "audit.html.j2")).render(
        audit=audit, counts=audit.counts, sections=sections, uris=uris, actions=ACTIONS,
        folder=without_home(one_line(audit.folder)), style=Markup(style), script=Markup(script),
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )  # fmt: skip


def _sections(audit: Audit) -> list[Section]:
    labels = {picture.path: picture.label for picture in audit.pictures}
    return [
        _section(
            "labels", "Labels that are likely wrong",
            "Each picture was answered by a head that was trained without it. The most suspicious "
            "come first.",
            [[_tile(s.path, s.label, s.suggested, f"suspicion {s.score:.2f}")]
             for s in audit.likely],
        ),
        _section(
            "duplicates", "The same picture twice",
            "Pairs in two splits or two classes come first.",
            [[_tile(path, labels[path], other if pair.contradicting else "",
                    f"{split or 'one of two'}, {pair.kind}")
              for path, split, other in ((pair.first, pair.splits[0], pair.labels[1]),
                                         (pair.second, pair.splits[1], pair.labels[0]))]
             for pair in audit.duplicates],
        ),
        _section(
            "foreign", "Pictures that belong to no class",
            "They resemble the pictures of no class, as far as the network sees.",
            [[_tile(f.path, f.label, "", f"{f.score:.1f} times as far away as is usual")]
             for f in audit.foreign],
        ),
        _section(
            "quality", "Pictures of poor quality",
            "Whether they are like those that the model will see later is yours to judge.",
            [[_tile(q.path, q.label, "", _KINDS[q.kind])] for q in audit.quality],
        ),
    ]  # fmt: skip


def _section(name: str, title: str, intro: str, groups: Sequence[list[Tile]]) -> Section:
    return Section(name, title, intro, list(groups[:MOST]), max(len(groups) - MOST, 0))


def _tile(path: str, label: str, suggested: str, note: str) -> Tile:
    # Lines and letters that HTML would change are escapes of JSON in the attribute.
    return Tile(json.dumps(path), path, one_line(path), label, suggested, note)


def _pictures(root: Path, sections: Iterable[Section]) -> dict[str, str]:
    """By path, the data URI of each picture that is shown."""
    paths = sorted({t.path for s in sections for group in s.groups for t in group})
    squares = map_threads(lambda path: decode_image(root / path, SIDE), paths)
    return {path: data_uri(square, SIDE) for path, square in zip(paths, squares, strict=True)}


def _asset(package: str, name: str) -> str:
    return (resources.files(package) / "templates" / name).read_text(encoding="utf-8")
