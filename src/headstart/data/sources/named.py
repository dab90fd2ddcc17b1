"""Labels in the names of files: a regular expression finds the class in "cat_001.jpg"."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from headstart.data.sources.layout import (
    BARE,
    Layout,
    agreed_classes,
    in_order,
    require_folder,
    split_of,
    use_val_as_test,
)
from headstart.errors import DataError
from headstart_predict.walking import list_folder, list_folders, tell_others, walk


def find_named(root: Path, pattern: str) -> Layout:
    """The layout of a folder whose images have their class in their names.

    pattern: matches the whole name of a file without its suffix; its group `label` is the class.
    Folders called train, val and test are splits; the names of other folders mean nothing. Images
    whose name does not match are left out, with a note. Raises DataError, one line, where none
    matches, and where there is one class.
    """
    require_folder(root)
    notes: list[str] = []
    splits = _find_splits(root, notes)
    files: dict[str, dict[str, list[str]]] = {}
    others: Counter[str] = Counter()
    unmatched, total = [], 0
    for split, folder in sorted(splits.items()):
        found = walk(folder)
        others.update(found.others)
        classes: dict[str, list[str]] = {}
        for image in sorted(found.images):
            total += 1
            path = image.relative_to(root).as_posix()
            said = re.fullmatch(pattern, image.stem)
            if said and said["label"]:
                classes.setdefault(said["label"], []).append(path)
            else:
                unmatched.append(path)
        files[split] = classes
    if not files["train"]:
        raise DataError(_no_match(root, pattern, unmatched))
    if unmatched:
        notes.append(
            f"{len(unmatched):,} of {total:,} images are left out, because their names do not "
            f"match data.label_from, such as {unmatched[0]}"
        )
    if line := tell_others({root.name: others}):
        notes.append(line)
    names = agreed_classes(root, files, notes, in_order(files["train"]))
    depths = {split: len(folder.relative_to(root).parts) for split, folder in splits.items()}
    return Layout(files, names, tuple(notes), depths)


def _find_splits(root: Path, notes: list[str]) -> dict[str, Path]:
    """The folder of each split; the root as train where there are none."""
    children = list_folders(root)
    splits: dict[str, Path] = {}
    for child in children:
        if (meaning := split_of(child)) is None or meaning not in BARE:
            continue
        if meaning[0] in splits:
            both = f"{splits[meaning[0]].name} and {child}"
            raise DataError(f"{root}: {both} both mean {meaning[0]}: keep one")
        splits[meaning[0]] = root / child
    if not splits:
        return {"train": root}
    if "train" not in splits:
        held = ", ".join(sorted(path.name for path in splits.values()))
        raise DataError(f"{root}: holds {held} but no train folder")
    taken = {path.name for path in splits.values()}
    notes += [f"{c}: neither train, val nor test: ignored" for c in children if c not in taken]
    if loose := len(list_folder(root).images):
        notes.append(f"{loose} images are in no split: ignored")
    names = {split: path.name for split, path in splits.items()}
    use_val_as_test(splits, names, "folder", notes)
    return splits


def _no_match(root: Path, pattern: str, unmatched: list[str]) -> str:
    if not unmatched:
        return f"{root}: holds no images to train on"
    return (
        f"{root}: none of {len(unmatched):,} images has a name that data.label_from = {pattern!r} "
        f"matches: it must match the whole name without its suffix, such as "
        f"{Path(unmatched[0]).stem}"
    )
