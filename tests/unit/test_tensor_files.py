"""Files of tensors: whole, readable as the umask says, and any changed byte is found."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from headstart.errors import RunError
from headstart.models.tensor_files import intact, read_header, read_tensors, write_tensors

STATE = {
    "a.weight": torch.arange(6.0).reshape(2, 3).t(),
    "a.count": torch.tensor(3),
    "half": torch.ones(5, dtype=torch.bfloat16),
    "empty": torch.zeros(0, 4),
}


def test_what_a_killed_process_left_goes_when_the_file_is_written(tmp_path: Path) -> None:
    """safetensors writes under a random name, and leaves it when it is killed."""
    with subprocess.Popen([sys.executable, "-c", "pass"]) as gone:
        gone.wait()
    left = tmp_path / f".w.safetensors.{gone.pid}.partial"
    left.mkdir()
    (left / ".tmpXyZ123").write_bytes(b"half a file")
    write_tensors(tmp_path / "w.safetensors", {"a": torch.ones(2)}, {})
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.safetensors"
    write_tensors(path, STATE, {"format": 1})
    header, tensors = read_tensors(path)
    assert header == {"format": 1}
    assert read_header(path)["format"] == 1  # type: ignore[index]  # it is one of ours
    assert tensors.keys() == STATE.keys()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in STATE.items())
    assert intact(path)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640)])
def test_the_umask_says_who_may_read(tmp_path: Path, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        write_tensors(tmp_path / "a.safetensors", STATE, {})
    finally:
        os.umask(before)
    assert (tmp_path / "a.safetensors").stat().st_mode & 0o777 == mode


def test_any_changed_byte_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_tensors(path, STATE, {"format": 1})
    content = path.read_bytes()
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1
        path.write_bytes(changed)
        with pytest.raises(RunError) as found:
            read_tensors(path)
        line = str(found.value)
        assert line.startswith(f"{path}: "), place
        assert len(line.splitlines()) == 1, place
        assert len(line) < 400, place


@pytest.mark.parametrize("kept", [0, 7, 100, -1])
def test_a_file_cut_short_is_one_line(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "a.safetensors"
    write_tensors(path, STATE, {})
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(RunError, match=r"a\.safetensors: damaged"):
        read_tensors(path)
    assert not intact(path)


@pytest.fixture
def small_files() -> Iterator[None]:
    """Files over 10,000 bytes cannot be written: the kernel's own error, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.usefixtures("small_files")
def test_a_full_disk_is_an_os_error_and_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_tensors(path, STATE, {})
    with pytest.raises(OSError, match="File too large") as error:
        write_tensors(path, {"large": torch.zeros(10_000)}, {})
    assert error.value.filename == str(path)
    assert read_tensors(path)[1].keys() == STATE.keys()
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
