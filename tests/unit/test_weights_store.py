"""The weights store: whole files that say what they are, or nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from headstart.errors import WeightsError
from headstart.models import store
from headstart.models.identity import Preprocess, WeightsIdentity
from headstart.models.store import (
    file_sha256,
    find_stored,
    list_stored,
    load_torch_state,
    store_folder,
    store_state,
)

IDENTITY = WeightsIdentity("registry", "tiny", "pkg-1.0", None, "mit", "pkg==1.0")
PREPROCESS = Preprocess(32, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), "bilinear")
STATE = {"a.weight": torch.arange(6.0).reshape(2, 3).t(), "a.bias": torch.ones(3)}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))


def test_what_is_stored_is_found_by_what_it_is() -> None:
    assert find_stored(IDENTITY, PREPROCESS) is None
    path = store_state(IDENTITY, PREPROCESS, STATE)
    assert path.name == "registry-tiny-pkg-1.0.safetensors"
    assert find_stored(IDENTITY, PREPROCESS) == path
    assert find_stored(replace(IDENTITY, licence="other"), PREPROCESS) is None
    assert find_stored(IDENTITY, replace(PREPROCESS, size=64)) is None
    (listed,) = list_stored()
    assert (listed.identity, listed.size_bytes) == (IDENTITY, path.stat().st_size)


def test_equal_content_gives_equal_bytes() -> None:
    first = file_sha256(store_state(IDENTITY, PREPROCESS, STATE))
    assert file_sha256(store_state(IDENTITY, PREPROCESS, dict(reversed(STATE.items())))) == first


def test_a_file_cut_short_or_of_another_format_is_not_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = store_state(IDENTITY, PREPROCESS, STATE)
    path.write_bytes(path.read_bytes()[:-4])
    assert find_stored(IDENTITY, PREPROCESS) is None
    assert list_stored() == []
    store_state(IDENTITY, PREPROCESS, STATE)
    monkeypatch.setattr(store, "FORMAT", store.FORMAT + 1)
    assert find_stored(IDENTITY, PREPROCESS) is None


def test_disk_trouble_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(WeightsError, match="a part of the path is a file"):
        store_state(IDENTITY, PREPROCESS, STATE)
    assert not store_folder().exists()


class _Opinionated:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("ran",))


def test_torch_files_are_read_without_running_anything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "w.pth"
    torch.save({"state_dict": {"module.a": torch.ones(2)}}, path)
    assert list(load_torch_state(path.read_bytes(), "w.pth")) == ["a"]
    torch.save({"a": _Opinionated()}, path)
    with pytest.raises(
        WeightsError, match=r"w\.pth: damaged, or not a torch file of plain tensors"
    ):
        load_torch_state(path.read_bytes(), "w.pth")
    assert capsys.readouterr().out == ""
    with pytest.raises(WeightsError, match="not a torch file"):
        load_torch_state(b"nonsense", "w.pth")
    torch.save({"a": torch.ones(2), "epoch": 3}, path)
    with pytest.raises(WeightsError, match="more than named, plain tensors"):
        load_torch_state(path.read_bytes(), "w.pth")
    for odd in (torch.ones(2).to_sparse(), torch.ones(2, device="meta")):
        torch.save({"a": odd}, path)
        with pytest.raises(WeightsError, match="plain tensors"):
            load_torch_state(path.read_bytes(), "w.pth")
