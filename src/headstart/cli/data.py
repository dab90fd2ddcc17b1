"""headstart data: list, fetch, describe, draw and audit data sets; the boundary cache."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headstart.cli.auditing import data_audit
from headstart.cli.options import (
    GroupOption,
    JSONOption,
    LabelFromOption,
    Labels,
    LabelsOption,
    RescanOption,
    make_reporter,
    rescan_folders,
)
from headstart_predict.streams import show, show_json

if TYPE_CHECKING:
    from headstart.specs import DataSpec

data_app = typer.Typer(
    help="List, fetch, describe, draw and audit data sets.", rich_markup_mode=None
)


@data_app.callback()
def data(context: typer.Context, as_json: JSONOption = False) -> None:
    """List the data sets that have a name, and their places on this machine."""
    if context.invoked_subcommand:
        return
    from headstart.cli.tables.data import format_sources
    from headstart.data import list_sources

    sources = list_sources()
    if as_json:
        rows = [{**vars(info), "path": str(info.path) if info.path else None} for info in sources]
        show_json(rows)
    else:
        show(format_sources(sources))


@data_app.command("fetch")
def data_fetch(
    name: Annotated[str, typer.Argument(help="cifar10 or cifar100.")],
) -> None:
    """Fetch and verify a data set; prints the folder it is in."""
    from headstart.data import fetch

    show(fetch(name, progress=make_reporter().transfer))


@data_app.command("describe")
def data_describe(
    source: Annotated[str, typer.Argument(help="A name, folder:PATH or manifest:PATH.")],
    label_from: LabelFromOption = None,
    labels: LabelsOption = Labels.one,
    group: GroupOption = None,
    rescan: RescanOption = False,
    as_json: JSONOption = False,
) -> None:
    """Count a data set's images by class and split, and list its faults."""
    from headstart.cli.tables.data import fault_lines, format_description
    from headstart.data.inspection import describe

    rescan_folders(rescan, [source])
    description = describe(_spec(source, label_from, labels, group))
    if as_json:
        show_json(description.to_json())
    else:
        show("\n".join([format_description(description), *fault_lines(description)]))


@data_app.command("samples")
def data_samples(
    source: Annotated[str, typer.Argument(help="A name, folder:PATH or manifest:PATH.")],
    out: Annotated[Path, typer.Option("--out", help="The PNG to write.")] = Path("samples.png"),
    seed: Annotated[int, typer.Option("--seed", min=0, help="Which random samples.")] = 0,
    label_from: LabelFromOption = None,
    labels: LabelsOption = Labels.one,
    group: GroupOption = None,
    rescan: RescanOption = False,
) -> None:
    """Draw a labelled grid of random training images to a PNG."""
    from headstart.data.inspection import draw_samples

    rescan_folders(rescan, [source])
    spec = _spec(source, label_from, labels, group)
    show(draw_samples(spec, out, seed=seed))


@data_app.command("duplicates")
def data_duplicates(
    source: Annotated[str, typer.Argument(help="A name, folder:PATH or manifest:PATH.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="A PNG to write, of example pairs.")
    ] = None,
    label_from: LabelFromOption = None,
    labels: LabelsOption = Labels.one,
    group: GroupOption = None,
    rescan: RescanOption = False,
    as_json: JSONOption = False,
) -> None:
    """Count the images that have a duplicate in another split, or in their own.

    CIFAR has a shipped list; folders are searched. A duplicate is the same picture, also mirrored,
    moved, enlarged, brighter or tinted.
    """
    from headstart.cli.tables.data import format_duplicates
    from headstart.data.inspection import duplicates

    rescan_folders(rescan, [source])
    result = duplicates(_spec(source, label_from, labels, group), out=out)
    if as_json:
        show_json(result.to_json())
    else:
        show(format_duplicates(result))


def _spec(source: str, label_from: str | None, labels: Labels, group: str | None) -> DataSpec:
    from headstart.data.inspection import data_table
    from headstart.specs import DataSpec

    return DataSpec.model_validate(data_table(source, label_from, labels.value, group))


data_app.command("audit")(data_audit)


@data_app.command("cache")
def data_cache(
    clear: Annotated[bool, typer.Option("--clear", help="Remove every boundary entry.")] = False,
    as_json: JSONOption = False,
) -> None:
    """List the entries of the boundary cache, or remove them."""
    from headstart.cli.tables.data import format_cache
    from headstart.features import room

    if clear:
        room.clear_cache()
    entries = room.list_cache()
    if as_json:
        show_json([{"path": str(path), "bytes": size} for path, size in entries])
    else:
        show(format_cache(entries, room.entries_root(), room.limit_bytes()))
