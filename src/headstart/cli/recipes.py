"""headstart recipes: list, show and copy the shipped recipes and studies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headstart.cli.options import JSONOption
from headstart.errors import HeadstartError
from headstart_predict.streams import show, show_json

recipes_app = typer.Typer(help="List, show and copy the shipped recipes.", rich_markup_mode=None)


@recipes_app.callback()
def recipes(context: typer.Context, as_json: JSONOption = False) -> None:
    """List the shipped recipes and studies."""
    if context.invoked_subcommand:
        return
    from headstart.cli.tables.catalogue import format_recipes
    from headstart.recipe import shipped_recipes

    shipped = shipped_recipes()
    if as_json:
        show_json(list(shipped))
    else:
        show(format_recipes(shipped))


@recipes_app.command("show")
def recipes_show(name: Annotated[str, typer.Argument(help="A shipped recipe's name.")]) -> None:
    """Print a shipped recipe."""
    show(_shipped(name), end="")


@recipes_app.command("copy")
def recipes_copy(
    name: Annotated[str, typer.Argument(help="A shipped recipe's name.")],
    to: Annotated[Path | None, typer.Argument(help="The file to write; default NAME.toml.")] = None,
) -> None:
    """Copy a shipped recipe to a file, to edit it."""
    from headstart.files import write_atomically

    path = to or Path(f"{name}.toml")
    text = _shipped(name)
    if path.exists():
        raise HeadstartError(f"{path}: exists already: choose another name")
    write_atomically(path, text)
    show(path)


def _shipped(name: str) -> str:
    from headstart.errors import did_you_mean
    from headstart.recipe import shipped_recipes

    shipped = shipped_recipes()
    if name not in shipped:
        raise HeadstartError(f"no shipped recipe {name!r}{did_you_mean(name, shipped)}")
    return shipped[name]
