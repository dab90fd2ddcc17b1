"""Folders of photos: PATH/CLASS/..., or PATH/{train,val,test}/CLASS/..."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from headstart.data.decode import IMAGE_SUFFIXES, decode_image
from headstart.data.download import Progress
from headstart.data.images import ImageSet, build_image_set, map_threads
from headstart.data.scan import Scanned, scan
from headstart.data.splits import BadImage, Source
from headstart.errors import DataError

_SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True)
class Layout:
    """What lies in a folder, by name alone. files: split to class to paths below the folder.

    The one split of a plain class-per-folder layout is "train".
    """

    files: dict[str, dict[str, list[str]]]
    class_names: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def paths(self) -> list[str]:
        return [path for split in self.files.values() for paths in split.values() for path in paths]


@dataclass(frozen=True, eq=False)
class PhotoFiles:
    """A store over image files, decoded in a few threads when read."""

    root: Path
    paths: tuple[str, ...]
    content: tuple[bytes, ...]  # SHA-256 of each file
    side: int
    costly = True  # 2 ms for a JPEG of 224 pixels, 11 for one of 12 megapixels

    def read(self, rows: np.ndarray) -> np.ndarray:
        squares = np.empty((len(rows), self.side, self.side, 3), dtype=np.uint8)
        files = [self.root / self.paths[row] for row in rows.tolist()]
        for i, square in enumerate(map_threads(lambda f: decode_image(f, self.side), files)):
            squares[i] = square
        return squares

    def digests(self, rows: np.ndarray) -> list[bytes]:
        return [self.content[row] for row in rows.tolist()]


def open_folder(root: Path, side: int, progress: Progress | None = None) -> Source:
    """Find, scan and open the photos below `root`, leaving out those that cannot be read.

    Raises DataError where the layout is not one of the two, and where a class has no image left.
    """
    layout = find_photos(root)
    scanned = scan(root, layout.paths, progress)
    bad = tuple(
        BadImage(_shown(path), entry.reason) for path, entry in scanned.items() if entry.reason
    )
    good: dict[str, list[tuple[str, int]]] = {}
    for split, classes in layout.files.items():
        good[split] = []
        for label, name in enumerate(layout.class_names):
            paths = [path for path in classes[name] if not scanned[path].reason]
            if not paths:
                first = classes[name][0]
                raise DataError(
                    f"{root}: class {name}: none of its {len(classes[name])} images in {split} "
                    f"can be read; the first: {first}: {scanned[first].reason}"
                )
            good[split] += [(path, label) for path in paths]
    sets = _image_sets(root, good, scanned, side)
    return Source(
        name=f"folder:{root}",
        class_names=layout.class_names,
        train=sets["train"],
        val=sets.get("val"),
        test=sets.get("test"),
        sizes=np.array([(e.width, e.height) for e in scanned.values() if not e.reason]),
        quarantined=bad,
        notes=layout.notes,
    )


def _image_sets(
    root: Path, good: dict[str, list[tuple[str, int]]], scanned: dict[str, Scanned], side: int
) -> dict[str, ImageSet]:
    """One set a split, its rows in the order of their paths."""
    sets = {}
    for split, rows in good.items():
        paths = tuple(path for path, _ in sorted(rows))
        content = tuple(bytes.fromhex(scanned[path].sha256) for path in paths)
        # Absolute, so that a set outlives a change of the working directory.
        store = PhotoFiles(root.absolute(), paths, content, side)
        sets[split] = build_image_set(store, paths, np.array([label for _, label in sorted(rows)]))
    return sets


def find_photos(root: Path) -> Layout:
    """Read the layout from names alone. Raises DataError, one line, for one that is unclear."""
    if not root.is_dir():
        raise DataError(f"{root}: {'not a folder' if root.exists() else 'no such folder'}")
    children = _folders(root)
    if not children:
        raise DataError(
            f"{root}: no class folders: put the images of each class into a folder of its own"
        )
    splits: dict[str, Path] = {}
    notes = []
    if _is_split_layout(root, children):
        for child in children:
            split = _SPLIT_NAMES.get(child.casefold())
            if split is None:
                notes.append(f"{child}: neither train, val nor test: ignored")
            elif split in splits:
                raise DataError(
                    f"{root}: {splits[split].name} and {child} both mean {split}: keep one"
                )
            else:
                splits[split] = root / child
        if "train" not in splits:
            raise DataError(f"{root}: holds {', '.join(children)} but no train folder")
    else:
        splits["train"] = root
    files = {split: _find_classes(root, folder) for split, folder in sorted(splits.items())}
    loose = sum(_is_image(entry) for folder in {root, *splits.values()} for entry in _list(folder))
    if loose:
        notes.append(f"{loose} images lie in no class folder: ignored")
    return Layout(files, _agreed_classes(root, files), tuple(notes))


def _is_split_layout(root: Path, children: list[str]) -> bool:
    """Whether the folders are splits; a class may be called "train", among other vehicles."""
    if all(child.casefold() in _SPLIT_NAMES for child in children):
        return True
    train = [root / child for child in children if _SPLIT_NAMES.get(child.casefold()) == "train"]
    return bool(train) and all(
        _folders(folder) and not any(map(_is_image, _list(folder))) for folder in train
    )


def _agreed_classes(root: Path, files: dict[str, dict[str, list[str]]]) -> tuple[str, ...]:
    """The classes, sorted by name, which every split must have alike."""
    names = tuple(sorted(files["train"]))
    if len(names) < 2:
        only = root / (PurePosixPath(files["train"][names[0]][0]).parts[0])
        nested = f"; did you mean folder:{only}?" if len(_folders(only)) > 1 else ""
        raise DataError(f"{root}: a single class, {names[0]}: at least two are needed{nested}")
    for split, classes in files.items():
        missing = sorted(set(names) - set(classes))
        extra = sorted(set(classes) - set(names))
        if missing or extra:
            parts = [f"{split} lacks {', '.join(missing)}"] if missing else []
            parts += [f"train lacks {', '.join(extra)}"] if extra else []
            raise DataError(f"{root}: train and {split} differ in classes: {'; '.join(parts)}")
    return names


def _find_classes(root: Path, folder: Path) -> dict[str, list[str]]:
    """Class name to the sorted paths, below `root`, of the images anywhere inside it."""
    names = _folders(folder)
    if not names:
        raise DataError(
            f"{folder}: no class folders: put the images of each class into a folder of its own"
        )
    classes: dict[str, list[str]] = defaultdict(list)
    for name in names:
        for path in _walk(folder / name, ()):
            classes[name].append(path.relative_to(root).as_posix())
        if not classes[name]:
            raise DataError(
                f"{folder / name}: an empty class folder: add images "
                f"({', '.join(sorted(s[1:] for s in IMAGE_SUFFIXES))}), or remove it"
            )
        classes[name].sort()
    return dict(classes)


def _walk(folder: Path, above: tuple[Path, ...]) -> Iterator[Path]:
    """Images anywhere below. Links to folders are followed, but never back up in a circle."""
    here = folder.resolve()
    if here in above:
        return
    for entry in _list(folder):
        if entry.is_dir():
            yield from _walk(entry, (*above, here))
        elif _is_image(entry):
            yield entry


def _folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in _list(folder) if entry.is_dir())


def _list(folder: Path) -> list[Path]:
    """What is in a folder but for hidden things and what macOS adds to archives."""
    try:
        return [e for e in folder.iterdir() if not e.name.startswith(".") and e.name != "__MACOSX"]
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed: {error.strerror}") from error


def _is_image(entry: Path) -> bool:
    return entry.suffix.casefold() in IMAGE_SUFFIXES and not entry.is_dir()


def _shown(path: str) -> str:
    """A path that can be printed and saved, whatever bytes its name is made of."""
    return path.encode(errors="replace").decode()


def find_images(paths: Sequence[Path]) -> list[Path]:
    """The files named, and every image below the folders named, in order of their path.

    A file that is named is taken whatever it is called. Raises DataError for a path that does not
    exist and for a folder without an image.
    """
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            if not path.exists():
                raise DataError(f"{path}: no such file or folder")
            found.append(path)
            continue
        inside = sorted(entry for entry in path.rglob("*") if _is_image(entry))
        if not inside:
            raise DataError(f"{path}: holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
        found += inside
    return found
