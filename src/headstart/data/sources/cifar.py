"""CIFAR-10 and CIFAR-100 in the official binary format: find, verify, read.

A record is one or two label bytes and then 3072 pixel bytes, red plane first. The files are read
through memory maps, so a set takes no memory of its own. No pickle is opened.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from headstart.data.images import build_image_set, encode_png, hash_rows, interleave
from headstart.data.sources.download import md5_of
from headstart.data.splits import Source
from headstart.errors import DataError
from headstart.files import cache_root, data_root, recall, remember
from headstart_predict.framing import CROP

SIDE = 32
_PIXEL_BYTES = 3 * SIDE * SIDE

CITATION = (
    "A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, "
    "technical report, University of Toronto, 2009"
)
LICENCE = "none stated by its authors; they ask to be cited"

_CIFAR10_CLASSES = "airplane automobile bird cat deer dog frog horse ship truck"
_CIFAR100_CLASSES = (
    "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus "
    "butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch "
    "crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo "
    "keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain "
    "mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain "
    "plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk "
    "skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone "
    "television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm"
)


@dataclass(frozen=True)
class BinaryFile:
    """One file of the binary format. md5: None where the images may come in any order."""

    name: str
    split: str
    images: int
    md5: str | None = None


@dataclass(frozen=True)
class Cifar:
    """One of the two data sets. label_ranges: number of classes for each label byte; the last byte
    is the class."""

    name: str
    folder: str
    archive: str
    url: str
    archive_md5: str
    class_names: tuple[str, ...]
    label_ranges: tuple[int, ...]
    files: tuple[BinaryFile, ...]

    @property
    def record_bytes(self) -> int:
        return len(self.label_ranges) + _PIXEL_BYTES


CIFAR10 = Cifar(
    name="cifar10",
    folder="cifar-10-batches-bin",
    archive="cifar-10-binary.tar.gz",
    url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    archive_md5="c32a1d4ab5d03f1284b67883e8d87530",
    class_names=tuple(_CIFAR10_CLASSES.split()),
    label_ranges=(10,),
    files=(
        BinaryFile("data_batch_1.bin", "train", 10000, "5dd7e06a14cb22eb9f671a540d1b7c25"),
        BinaryFile("data_batch_2.bin", "train", 10000, "5ea93a67294ea407fff1d09f752e9692"),
        BinaryFile("data_batch_3.bin", "train", 10000, "942cd6a4bcdd0dd3c604fbe906cb4421"),
        BinaryFile("data_batch_4.bin", "train", 10000, "ae636b3ba5c66a11e91e8cb52e771fcb"),
        BinaryFile("data_batch_5.bin", "train", 10000, "53f37980c15c3d472c316c40844f3f0d"),
        BinaryFile("test_batch.bin", "test", 10000, "803d5f7f4d78ea53de84dbe85f74fb6d"),
    ),
)
CIFAR100 = Cifar(
    name="cifar100",
    folder="cifar-100-binary",
    archive="cifar-100-binary.tar.gz",
    url="https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
    archive_md5="03b5dce01913d631647c71ecec9e9cb8",
    class_names=tuple(_CIFAR100_CLASSES.split()),
    label_ranges=(20, 100),  # the coarse label comes first
    files=(BinaryFile("train.bin", "train", 50000), BinaryFile("test.bin", "test", 10000)),
)
CIFARS = {kind.name: kind for kind in (CIFAR10, CIFAR100)}


@dataclass(frozen=True, eq=False)
class RecordFiles:
    """A store over the binary files of one split.

    The maps are opened for each read (about 50 microseconds). So a set holds no file open, and can
    be sent to another process without its pixels.
    """

    paths: tuple[Path, ...]
    images: tuple[int, ...]  # in each file
    label_bytes: int
    side: int = SIDE
    slow_to_read = False  # a copy from a memory map
    framing = CROP

    def planes(self, rows: np.ndarray) -> np.ndarray:
        """uint8 (len(rows), 3072), channel after channel."""
        rows = np.asarray(rows)
        planes = np.empty((len(rows), _PIXEL_BYTES), dtype=np.uint8)
        start = 0
        for path, count in zip(self.paths, self.images, strict=True):
            here = (rows >= start) & (rows < start + count)
            if here.any():
                records = _records(path, count, self.label_bytes + _PIXEL_BYTES)
                planes[here] = records[rows[here] - start, self.label_bytes :]
            start += count
        return planes

    def read(self, rows: np.ndarray) -> np.ndarray:
        return interleave(self.planes(rows), SIDE)

    def as_file(self, row: int) -> bytes:
        return encode_png(self.read(np.array([row]))[0])

    def digests(self, rows: np.ndarray) -> list[bytes]:
        blocks = np.split(np.asarray(rows), range(4096, len(rows), 4096))  # 12 MB at a time
        return [digest for block in blocks for digest in hash_rows(self.planes(block))]


def find(kind: Cifar) -> Path | None:
    """The folder of the binary files, else their archive; HEADSTART_DATA comes before the cache."""
    for root in (data_root(), cache_data()):
        if root is not None:
            for path in (root / kind.folder, root / kind.archive):
                if path.exists():
                    return path
    return None


def cache_data() -> Path:
    """The folder of fetched data sets, in the cache."""
    return cache_root() / "data"


def open_cifar(kind: Cifar, folder: Path) -> Source:
    """Verify the files of `folder` and open them. Raises DataError naming the file at fault."""
    verify(kind, folder)
    sets = {}
    for split in ("train", "test"):
        files = [file for file in kind.files if file.split == split]
        paths = tuple((folder / file.name).resolve() for file in files)
        counts = tuple(file.images for file in files)
        labels = np.concatenate(
            [
                _records(p, n, kind.record_bytes)[:, len(kind.label_ranges) - 1]
                for p, n in zip(paths, counts, strict=True)
            ]
        )
        store = RecordFiles(paths, counts, label_bytes=len(kind.label_ranges))
        sets[split] = build_image_set(store, [f"{split}/{i}" for i in range(sum(counts))], labels)
    return Source(
        name=kind.name,
        class_names=kind.class_names,
        train=sets["train"],
        val=None,
        test=sets["test"],
        sizes=np.full((sum(file.images for file in kind.files), 2), SIDE),
    )


def verify(kind: Cifar, folder: Path) -> None:
    """check_files, unless the same files passed before.

    Remembered by each file's size and time, because reading 180 MB at every start would take half a
    second.
    """
    stamp, now = _stamp_path(folder), _sizes_and_times(kind, folder)
    if recall(stamp) != now:
        check_files(kind, folder)
        remember(stamp, now)


def check_files(kind: Cifar, folder: Path) -> None:
    """Check sizes, label ranges and, for CIFAR-10, the official MD5 of each file.

    Raises DataError naming the first file at fault and what to do.
    """
    _sizes_and_times(kind, folder)
    for file in kind.files:
        _check_content(kind, folder, file)


def _sizes_and_times(kind: Cifar, folder: Path) -> dict[str, list[int]]:
    """Size and time in ns of each file. Raises DataError where one is missing or cut short."""
    seen = {}
    for file in kind.files:
        path = folder / file.name
        if not path.is_file():
            raise DataError(f"{path}: missing: {_remedy(folder)}")
        stat = path.stat()
        if stat.st_size != file.images * kind.record_bytes:
            raise DataError(
                f"{path}: {stat.st_size} bytes, not {file.images * kind.record_bytes}: "
                f"{_remedy(folder)}"
            )
        seen[file.name] = [stat.st_size, stat.st_mtime_ns]
    return seen


def _check_content(kind: Cifar, folder: Path, file: BinaryFile) -> None:
    path = folder / file.name
    if file.md5 is not None:
        if (actual := md5_of(path)) != file.md5:
            raise DataError(f"{path}: MD5 {actual}, not the official {file.md5}: {_remedy(folder)}")
        return
    records = _records(path, file.images, kind.record_bytes)
    for column, classes in enumerate(kind.label_ranges):
        if (top := int(records[:, column].max())) >= classes:
            raise DataError(
                f"{path}: holds label {top}, but labels end at {classes - 1}: {_remedy(folder)}"
            )


def _records(path: Path, images: int, record_bytes: int) -> np.ndarray:
    """uint8 (images, record_bytes), mapped, not read."""
    try:
        return np.memmap(path, dtype=np.uint8, mode="r", shape=(images, record_bytes))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: can no longer be read: {error}") from error


def _remedy(folder: Path) -> str:
    return f"remove {folder}, and it is fetched again when next used"


def _stamp_path(folder: Path) -> Path:
    name = hashlib.blake2b(str(folder.resolve()).encode(), digest_size=8).hexdigest()
    return cache_root() / "stamps" / f"{folder.name}-{name}.json"
