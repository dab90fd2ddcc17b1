"""The layout of a folder of photos, read from names alone: which folders are splits and classes.

An unusual layout with one possible meaning is accepted, with a note. A layout with two possible
meanings is refused, and the error says what to type or to move.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TypeVar

from headstart.data.splits import lacking
from headstart.errors import DataError
from headstart.text.formats import some
from headstart_predict.formats import IMAGE_SUFFIXES
from headstart_predict.walking import (
    counted,
    holds_images,
    list_folder,
    list_folders,
    tell_others,
    walk,
)

_SPLITS = {
    "train": ("train", "training", "trainset"),
    "val": ("val", "valid", "validate", "validation", "valset", "dev", "devel", "development"),
    "test": ("test", "testing", "testset", "holdout"),
}
_SPLIT_OF = {word: split for split, words in _SPLITS.items() for word in words}
BARE = [(split, ()) for split in _SPLITS]  # what split_of returns for "train", "train_set", ...

# Words that only say that a folder holds images, not which.
_PLAIN = frozenset(
    ("data", "dataset", "datasets", "dir", "example", "examples", "file", "files", "folder",
     "folders", "image", "images", "img", "imgs", "original", "photo", "photos", "picture",
     "pictures", "pic", "pics", "raw", "sample", "samples", "seg", "set", "split")
)  # fmt: skip
MASK_WORDS = "masks?|seg|segmentations?|gt|groundtruth|annotations?"

T = TypeVar("T")


@dataclass(frozen=True)
class Layout:
    """The images in a folder. files: by split and class, the paths below the folder.

    A folder of class folders has one split, "train". A class that val or test lacks has no paths
    there. of_many: where a photo may have several labels, the class numbers of each path; every
    path of a split is then listed once, under "". depths: by split, how many parts of a path lead
    to the folder that holds the photos of a class. groups: of a table with such a column, by path,
    what it says. left_out: paths with the reason.
    """

    files: dict[str, dict[str, list[str]]]
    class_names: tuple[str, ...]
    notes: tuple[str, ...]
    depths: Mapping[str, int] = field(default_factory=dict)
    groups: Mapping[str, str] | None = None
    left_out: tuple[tuple[str, str], ...] = ()
    of_many: Mapping[str, tuple[int, ...]] | None = None

    @property
    def paths(self) -> list[str]:
        return [path for split in self.files.values() for paths in split.values() for path in paths]


def find_photos(root: Path) -> Layout:
    """Read the layout from names alone. Raises DataError, one line, for one that is unclear."""
    require_folder(root)
    notes: list[str] = []
    top = _unwrapped(root, root, notes)
    children = list_folders(top)
    if not children:
        raise DataError(
            f"{root}: no class folders: put the images of each class into a folder of its own"
        )
    if splits := find_splits(root, top, children, notes):
        splits = {split: _unwrapped(root, path, notes) for split, path in splits.items()}
    else:
        splits = {"train": top}
        _require_classes(top, children)
    others: dict[str, Counter[str]] = {}
    files = {split: _find_classes(root, folder, others) for split, folder in sorted(splits.items())}
    loose = sum(len(list_folder(folder).images) for folder in {root, top, *splits.values()})
    if loose:
        notes.append(f"{loose} images are in no class folder: ignored")
    if line := tell_others(others):
        notes.append(line)
    notes += _nested(splits["train"].relative_to(root), files["train"])
    names = agreed_classes(root, files, notes)
    depths = {split: len(path.relative_to(root).parts) + 1 for split, path in splits.items()}
    return Layout(files, names, tuple(notes), depths)


def require_folder(root: Path) -> None:
    if not root.is_dir():
        raise DataError(f"{root}: {'not a folder' if root.exists() else 'no such folder'}")


def in_order(labels: Iterable[str]) -> tuple[str, ...]:
    """Labels that no folder is called by, sorted; by value where all are numbers."""
    names = sorted(labels)
    with contextlib.suppress(ValueError):
        values = {name: float(name) for name in names}
        if all(map(math.isfinite, values.values())):
            names.sort(key=values.__getitem__)
    return tuple(names)


def split_of(name: str) -> tuple[str, tuple[str, ...]] | None:
    """The split in a folder's name, and the other words of the name: "seg_train" is train.

    None where the name has no split, or two. Plain words and a leading number are left out.
    """
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name.lstrip("0123456789"))
    words = [word.casefold() for word in re.findall(r"[^\W\d_]+|\d+", spaced)]
    said = [_SPLIT_OF[word] for word in words if word in _SPLIT_OF]
    others = tuple(word for word in words if word not in _SPLIT_OF and word not in _PLAIN)
    return (said[0], others) if len(said) == 1 else None


def _unwrapped(root: Path, folder: Path, notes: list[str]) -> Path:
    """Go down as long as a folder holds one folder and nothing else, and that holds folders."""
    inner = folder
    while len(names := list_folders(inner)) == 1 and not holds_images(inner):
        below = inner / names[0]
        if (inner == root and split_of(names[0]) in BARE) or not list_folders(below):
            break
        inner = below
    if inner == folder or len(list_folders(inner)) < 2:
        return folder
    where = inner.relative_to(root).as_posix()
    notes.append(f"{where}: taken as the folder that holds the classes or splits")
    return inner


def find_splits(
    root: Path, top: Path, children: Sequence[str], notes: list[str]
) -> dict[str, Path]:
    """The folder of each split, `children` of `top`; {} where the folders are classes. Without a
    test folder, val is test. Raises DataError where there is no train folder."""
    splits = _find_splits(top, children, notes)
    if splits and "train" not in splits:
        raise DataError(f"{root}: holds {', '.join(children)} but no train folder")
    names = {split: path.name for split, path in splits.items()}
    use_val_as_test(splits, names, "folder", notes)
    return splits


def _find_splits(top: Path, children: Sequence[str], notes: list[str]) -> dict[str, Path]:
    """The folder of each split; {} where the folders are classes."""
    said = {child: meaning for child in children if (meaning := split_of(child))}
    alike = len({others for _, others in said.values()}) == 1
    if not said or not alike:
        return {}
    train = [top / child for child, (split, _) in said.items() if split == "train"]
    holds_classes = [bool(list_folders(path)) and not holds_images(path) for path in train]
    # A class may be called "train", among other vehicles.
    if len(said) < len(children) and not (train and all(holds_classes)):
        return {}
    if len(said) == 1 and any(next(iter(said.values()))[1]):
        return {}  # "dress training" alone, say
    splits: dict[str, Path] = {}
    for child, (split, _) in said.items():
        if split in splits:
            raise DataError(f"{top}: {splits[split].name} and {child} both mean {split}: keep one")
        splits[split] = top / child
    for child in children:
        if child not in said:
            _ignore(top / child, splits, notes)
    return splits


def _ignore(folder: Path, splits: dict[str, Path], notes: list[str]) -> None:
    """Ignore a folder that is no split. Raises DataError if it holds the classes of train."""
    classes = set(list_folders(splits["train"])) if "train" in splits else set()
    if len(classes & set(list_folders(folder))) > 1:
        free = [name for name in ("val", "test") if name not in splits]
        remedy = f"rename it to {' or '.join(free)}, or move" if free else "move"
        raise DataError(
            f"{folder}: holds the classes of {splits['train'].name}, and its name says neither "
            f"train, val nor test: {remedy} it out of {folder.parent}"
        )
    notes.append(f"{folder.name}: neither train, val nor test: ignored")


def use_val_as_test(
    splits: dict[str, T], names: Mapping[str, str], what: str, notes: list[str]
) -> None:
    """With train and val but no test, val becomes the test split.

    A test set split off train would be smaller and would cost training images. Its scores would
    also look too good where photos come in series: an own split usually holds other series. names:
    of the splits, as the user wrote them. what: what a split is, such as "folder".
    """
    if "train" in splits and "val" in splits and "test" not in splits:
        splits["test"] = splits.pop("val")
        notes.append(
            f"no test {what}: the images of {names['val']} are the test images, opened once at the "
            f"end, and the validation images are split off {names['train']}; add a test {what} "
            "to choose on your own validation images"
        )


def _require_classes(top: Path, children: Sequence[str]) -> None:
    """Raises DataError where the folders may be classes or may hold the classes."""
    if len(children) < 2:
        return
    inside = {
        child: set() if holds_images(top / child) else set(list_folders(top / child))
        for child in children
    }
    common = set.intersection(*inside.values())
    shared = {name for name in common if not (_is_plain(name) or is_mask_folder(name))}
    if len(shared) > 1 and all(split_of(name) in BARE for name in shared):
        raise DataError(
            f"{top}: each class holds folders {some(shared)}: put the classes into the splits, as "
            f"in {min(shared)}/{children[0]}"
        )
    if len(shared) > 1:
        raise DataError(
            f"{top}: {some(children)} hold the same folders ({some(shared)}): where those are "
            f"the classes, type folder:{top / children[0]} or merge the folders; where "
            f"{some(children)} are, move their images up into them"
        )
    if wrapper := next((name for name in children if inside[name] and _is_plain(name)), None):
        raise DataError(
            f"{top}: {wrapper} holds folders ({some(inside[wrapper])}) and no images, beside "
            f"{some([child for child in children if child != wrapper])}: type "
            f"folder:{top / wrapper} where its folders are the classes, or move its images up into "
            "it where it is a class"
        )
    if all(_is_plain(child) or is_mask_folder(child) for child in children):
        raise DataError(
            f"{top}: {some(children)} do not name classes: put the images of each class into a "
            "folder with the name of the class"
        )


def is_mask_folder(name: str) -> bool:
    """Whether a folder's name says that it holds masks, drawn for segmentation."""
    return bool(re.fullmatch(MASK_WORDS, name, re.IGNORECASE))


def _is_plain(name: str) -> bool:
    """Whether a folder's name consists of plain words only, so that it names no class."""
    words = [word.casefold() for word in re.findall(r"[^\W\d_]+", name)]
    return bool(words) and all(word in _PLAIN for word in words)


def _nested(above: Path, classes: dict[str, list[str]]) -> list[str]:
    """A note where classes hold folders of images: these may be the intended classes.

    above: the folder of the classes, below the root.
    """
    depth = len(above.parts) + 1
    deep = {}
    for name, paths in classes.items():
        below = [PurePosixPath(path).parts[depth:-1] for path in paths]
        inner = sorted({p[0] for p in below if p and not is_mask_folder(p[0])})
        if len(inner) > 1 and all(below):
            deep[name] = f"{name}/{inner[0]}"
    if not deep:
        return []
    count = f"{len(deep)} of {len(classes)} classes hold" if len(deep) > 1 else "1 class holds"
    return [
        f"{count} no images but folders of images, such as {next(iter(deep.values()))}: all images "
        "below a class folder count as that class"
    ]


def agreed_classes(
    where: Path,
    files: dict[str, dict[str, list[str]]],
    notes: list[str],
    names: tuple[str, ...] = (),
) -> tuple[str, ...]:
    """The classes of train, in the order of `names`, else sorted. A class that val or test lacks
    gets no paths there, and a note. Raises DataError where train lacks a class."""
    names = names or tuple(sorted(files["train"]))
    for split, classes in files.items():
        if extra := sorted(set(classes) - set(names)):
            raise DataError(
                f"{where}: train and {split} differ in classes: train lacks {some(extra)}: add "
                f"training images, or remove the class from {split}"
            )
    if len(names) < 2:
        raise DataError(f"{where}: a single class, {names[0]}: at least two are needed")
    for split, classes in files.items():
        if missing := [name for name in names if name not in classes]:
            classes |= {name: [] for name in missing}
            notes.append(lacking(split, missing))
    return names


def _find_classes(
    root: Path, folder: Path, others: dict[str, Counter[str]]
) -> dict[str, list[str]]:
    """By class name, the sorted paths, below `root`, of all images inside its folder.

    others: gets the number of each class's other files by suffix.
    """
    names = list_folders(folder)
    if not names:
        raise DataError(
            f"{folder}: no class folders: put the images of each class into a folder of its own"
        )
    classes: dict[str, list[str]] = {}
    for name in names:
        found = walk(folder / name)
        others.setdefault(name, Counter()).update(found.others)
        if not found.images:
            held = f" but for {counted(found.others)}" if found.others else ""
            raise DataError(
                f"{folder / name}: an empty class folder{held}: add images "
                f"({', '.join(sorted(s[1:] for s in IMAGE_SUFFIXES))}), or remove it"
            )
        classes[name] = sorted(path.relative_to(root).as_posix() for path in found.images)
    return classes
