"""What a folder may hold in which a run begins."""

from __future__ import annotations

from pathlib import Path

from headstart.errors import RunError
from headstart.files import LOCK, PARTIAL
from headstart.recipe import Recipe

_REMNANTS = {
    "checkpoints": ("last.safetensors",),
    "predictions": ("val.npz", "test.npz", "corrupted.npz"),
}


def refuse_others(path: Path, recipe: Recipe | None) -> None:
    """Raises RunError where a folder holds other files than a run begins with.

    recipe: the recipe of that run; None for any.
    """
    try:
        entries = sorted(path.iterdir()) if path.is_dir() else []
        foreign = [entry.name for entry in entries if not _is_first_file(entry, recipe)]
    except OSError as error:
        raise RunError(f"{path}: cannot be listed: {error.strerror}") from error
    if foreign:
        raise RunError(
            f"{path}: not empty, and not a run (it holds {foreign[0]}): choose another --out"
        )


def _is_first_file(entry: Path, recipe: Recipe | None) -> bool:
    if entry.name == LOCK:
        return True
    if is_remnant(entry):
        return True
    if entry.name == "recipe.toml" and entry.is_file():
        return recipe is None or entry.read_bytes() == recipe.to_toml().encode()
    partial = PARTIAL.fullmatch(entry.name)
    return partial is not None and partial[1] in ("recipe.toml", "manifest.json")


def is_remnant(entry: Path) -> bool:
    """Whether a folder is what a run wrote after its directory was removed: useless without it."""
    names = _REMNANTS.get(entry.name)
    if names is None or not entry.is_dir() or (entry.parent / "recipe.toml").exists():
        return False
    return all(e.name in names or PARTIAL.fullmatch(e.name) for e in entry.iterdir())
