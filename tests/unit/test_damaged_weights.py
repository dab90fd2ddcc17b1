"""A damaged weights store: fetched again, or one line; never other weights, never a wait."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from headstart.errors import WeightsError
from headstart.models import fetching
from headstart.models.registry import REGISTRY
from headstart.models.store import list_stored, store_folder
from headstart.models.weights import describe_providers, locate_weights, read_state

NAME = "tf_efficientnet_lite0"
STATE = {"a.weight": torch.arange(600.0).reshape(20, 30), "a.bias": torch.ones(30)}
Damage = Callable[[Path], None]


@pytest.fixture
def fetches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A store with one file; fetching gives the same tensors again."""
    fetched: list[str] = []

    def fetch_state(package: Any) -> dict[str, torch.Tensor]:
        fetched.append(package.requirement)
        return dict(STATE)

    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fetching, "fetch_state", fetch_state)
    assert NAME in REGISTRY
    locate_weights(NAME, "registry")
    return fetched


def bytes_of(change: Callable[[bytes], bytes]) -> Damage:
    return lambda path: void(path.write_bytes(change(path.read_bytes())))


def void(*_: object) -> None:
    """For a call whose result nobody needs."""


def flipped(at: float) -> Damage:
    def change(content: bytes) -> bytes:
        place = min(int(at * len(content)), len(content) - 1)
        return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]

    return bytes_of(change)


def header(change: Callable[[dict[str, Any]], Any]) -> Damage:
    def changed(content: bytes) -> bytes:
        (length,) = struct.unpack("<Q", content[:8])
        tree = json.loads(content[8 : 8 + length])
        text = json.dumps(change(tree) or tree).encode()
        return struct.pack("<Q", len(text)) + text + content[8 + length :]

    return bytes_of(changed)


def own(change: Callable[[dict[str, Any]], Any]) -> Damage:
    """Damage to our own header, within that of safetensors."""

    def changed(tree: dict[str, Any]) -> None:
        ours = json.loads(tree["__metadata__"]["headstart"])
        tree["__metadata__"]["headstart"] = json.dumps(change(ours) or ours)

    return header(changed)


def instead(make: Callable[[Path], object]) -> Damage:
    def damage(path: Path) -> None:
        path.unlink()
        make(path)

    return damage


def store_instead(make: Callable[[Path], object]) -> Damage:
    def damage(path: Path) -> None:
        shutil.rmtree(path.parent)
        make(path.parent)

    return damage


def filled_folder(path: Path) -> None:
    path.mkdir()
    (path / "mine.txt").touch()


def other_tensors(path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"b": torch.ones(3)}, path)


DAMAGES: dict[str, Damage] = {
    **{f"cut at {k / 8}": bytes_of(lambda c, k=k: c[: k * len(c) // 8]) for k in range(8)},
    **{f"flipped at {k / 8}": flipped(k / 8) for k in range(9)},
    "longer": bytes_of(lambda c: c + b"\0"),
    "twice": bytes_of(lambda c: c + c),
    "zeros": bytes_of(lambda c: bytes(len(c))),
    "text": bytes_of(lambda c: b"<html>not found</html>"),
    "a torch file": instead(lambda p: torch.save(STATE, p)),
    "another's safetensors": instead(other_tensors),
    "header of 2**62 bytes": bytes_of(lambda c: struct.pack("<Q", 2**62) + c[8:]),
    "header of no bytes": bytes_of(lambda c: struct.pack("<Q", 0) + c[8:]),
    "deep header": bytes_of(lambda c: struct.pack("<Q", 90_000) + b"[" * 90_000),
    "no metadata": header(lambda tree: void(tree.pop("__metadata__"))),
    "other shape": header(lambda tree: void(tree["a.weight"].update(shape=[30, 20]))),
    "other type": header(lambda tree: void(tree["a.bias"].update(dtype="I32"))),
    "other name": header(lambda tree: void(tree.update(c=tree.pop("a.bias")))),
    "own header is text": header(lambda t: void(t["__metadata__"].update(headstart="{"))),
    "own header is a list": own(lambda ours: [ours]),
    "no digest": own(lambda ours: void(ours.pop("sha256"))),
    "other digest": own(lambda ours: void(ours.update(sha256="0" * 64))),
    "a digest of a number": own(lambda ours: void(ours.update(sha256=7))),
    "other format": own(lambda ours: void(ours.update(format=1))),
    "no identity": own(lambda ours: void(ours.pop("identity"))),
    "other identity": own(lambda ours: void(ours["identity"].update(name="resnet18"))),
    "a folder": instead(Path.mkdir),
    "a folder with files": instead(filled_folder),
    "a named pipe": instead(os.mkfifo),
    "a link to nothing": instead(lambda p: p.symlink_to(p.parent / "nothing")),
    "a link to itself": instead(lambda p: p.symlink_to(p)),
    "a device": instead(lambda p: p.symlink_to("/dev/zero")),
    "no store": store_instead(lambda folder: None),
    "a file as the store": store_instead(Path.touch),
    "a link to nothing as the store": store_instead(lambda f: f.symlink_to(f.parent / "gone")),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_to_the_store(name: str, fetches: list[str]) -> None:
    (path,) = store_folder().iterdir()
    DAMAGES[name](path)
    list_stored(), describe_providers(NAME, None)  # no errors
    lines: list[str] = []
    try:
        located = locate_weights(NAME, "registry", say=lines.append)
        state = read_state(located)
    except WeightsError as error:
        assert "\n" not in str(error) and len(str(error)) < 400
        assert str(store_folder()) in str(error)
        return
    assert len(fetches) == 2, lines
    assert {n: t.tolist() for n, t in state.items()} == {n: t.tolist() for n, t in STATE.items()}
    assert [entry.name for entry in store_folder().iterdir()] == [path.name]
