"""Files of strangers, mutated from whole ones: an answer, or an error of two lines at most."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from headstart.specs import BackboneSpec
from tests.conftest import SMALL, Outcome
from tests.recipes import recipe_text, write_recipe
from tests.trials import WHOLE
from tests.unit.test_mutated_recipes import MUTATIONS

Command = Callable[..., Outcome]
Mutation = Callable[[bytes, random.Random], bytes]
TRIALS = 50 if WHOLE else 5  # of each kind of file

VALUES = (
    *(-1, 0, 2**70, 1e308, float("nan"), float("inf"), "", "a" * 50_000, "\x1b[2J\u202e\ud800"),
    *("../../../etc/passwd", "/dev/zero", "hf-hub:x/y", [], {}, None, True, [[[]]], [0] * 9_000),
    *({"a": {"b": [1, {"c": "<script>"}]}}, "999999999999999999999", "[/red]\n\n# x", -(2**63)),
)


def other_bytes(content: bytes, draw: random.Random) -> bytes:
    """Some bytes flipped, cut, doubled, or those of something else."""
    at = draw.randrange(max(len(content), 1))
    upto = at + draw.choice((1, 4, 100))
    return draw.choice(
        (
            content[:at] + draw.randbytes(upto - at) + content[upto:],
            content[:at],
            content[:at] + content[at:upto] * 50 + content[at:],
            content[:at] + content[upto:],
            draw.randbytes(200),
        )
    )


def other_value(content: bytes, draw: random.Random) -> bytes:
    """JSON with another value, or none, somewhere in its tree."""
    tree = json.loads(content)
    places = list(_places(tree))
    for _ in range(draw.randint(1, 2)):
        holder, key = draw.choice(places)
        if draw.random() < 0.2 and isinstance(holder, dict):
            holder.pop(key, None)
        else:
            holder[key] = draw.choice(VALUES)
    return json.dumps(tree).encode()


def _places(tree: Any) -> Any:
    for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
        yield tree, key
        if isinstance(tree[key], dict | list):
            yield from _places(tree[key])


def other_line(content: bytes, draw: random.Random) -> bytes:
    """A log with another value in one of its lines."""
    lines = content.splitlines()
    at = draw.randrange(len(lines))
    lines[at] = other_value(lines[at], draw)
    return b"\n".join(lines) + b"\n"


def other_recipe(content: bytes, draw: random.Random) -> bytes:
    return draw.choice(MUTATIONS)(content.decode(), draw).encode(errors="surrogatepass")


def other_arrays(content: bytes, draw: random.Random) -> bytes:
    """An archive with another array, or another header of one."""
    arrays = dict(np.load(io.BytesIO(content)))
    name = draw.choice(sorted(arrays))
    array = arrays[name]
    changed = [
        lambda: array[..., None],
        lambda: array[:0] if array.ndim else array,
        lambda: np.zeros(array.shape, draw.choice(("f8", "i1", "u8", "c16", "U3", "M8[s]", "?"))),
        lambda: np.full(array.shape, draw.choice((np.nan, np.inf, -1e308, 2.0**62))),
        lambda: np.full(array.shape, -(2**63)),
        lambda: np.full(array.shape, "\x1b[2J\u202e<script>", dtype="U20"),
        lambda: np.zeros((3,) * 20, "u1")[:1],
    ]
    buffer = io.BytesIO()
    if draw.random() < 0.7:
        np.savez(buffer, **{**arrays, name: draw.choice(changed)()})  # type: ignore[arg-type]
        return buffer.getvalue()
    shape = draw.choice(("(10**15,)", "(1000000000000,)", "(-5,)", "('a',)", "(2, 10)", "()"))
    kind = draw.choice(("'<f8'", "'|O'", "'<U99999999'", "[('a', '<f4')]", "__import__('os')"))
    header = f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    with zipfile.ZipFile(buffer, "w") as archive:
        for each in arrays:
            body = io.BytesIO()
            np.save(body, arrays[each])
            own = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + b"\0" * 64
            archive.writestr(f"{each}.npy", own if each == name else body.getvalue())
    return buffer.getvalue()


def other_header(content: bytes, draw: random.Random) -> bytes:
    """safetensors with another header, or another length of it."""
    (length,) = struct.unpack("<Q", content[:8])
    header, body = content[8 : 8 + length], content[8 + length :]
    if draw.random() < 0.3:
        size = draw.choice((0, 2**63, 2**40, length - 1, 10**8))
        return struct.pack("<Q", size) + header + body
    header = draw.choice((other_value, other_value, other_bytes))(header, draw)
    return struct.pack("<Q", len(header)) + header + body


def other_tensors(content: bytes, draw: random.Random) -> bytes:
    """A torch file whose state is another, or whose archive holds other things."""
    if draw.random() < 0.4:
        return other_bytes(content, draw)
    state = torch.load(io.BytesIO(content), weights_only=True)
    name = draw.choice(sorted(state))
    tensor = state[name]
    buffer = io.BytesIO()
    others: list[Any] = [
        *(tensor.to(torch.complex64), tensor.bool(), tensor * float("nan"), tensor.flatten()),
        *(tensor.to_sparse() if tensor.dim() else tensor, tensor.to("meta"), {"a": tensor}, 7),
        *("text", [tensor], None, torch.zeros(0), tensor.expand(2**20, *tensor.shape)[0]),
        os.path.join,
    ]
    torch.save({**state, name: draw.choice(others)}, buffer)
    return buffer.getvalue()


JSONS = ("manifest.json", "metrics.json", "cost.json", "profile.json")
FILES: dict[str, Mutation] = {
    **dict.fromkeys(JSONS, other_value),
    "log.jsonl": other_line,
    "recipe.toml": other_recipe,
    "predictions/val.npz": other_arrays,
    "predictions/test.npz": other_arrays,
    "pictures.npz": other_arrays,
    "feature_map.npz": other_arrays,
    "checkpoints/best.safetensors": other_header,
}


def assert_an_answer_or_two_lines(outcome: Outcome) -> None:
    errors = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
    assert outcome.code in (0, 2), outcome
    assert len(errors) == (outcome.code == 2), outcome
    assert len(outcome.err) < 4_000
    assert all(line.isprintable() for line in errors), errors
    assert "Traceback" not in outcome.err


def test_run_directories_of_strangers(whole: Path, tmp_path: Path, headstart: Command) -> None:
    run, picture = shutil.copytree(whole, tmp_path / "run"), tmp_path / "picture.png"
    Image.new("RGB", (40, 40)).save(picture)
    refused = 0
    for number in range(4 * TRIALS):
        draw = random.Random(f"run {number}")
        file = draw.choice(sorted(FILES))
        mutate = draw.choice((FILES[file], FILES[file], other_bytes))
        (run / file).write_bytes(mutate((whole / file).read_bytes(), draw))
        for command in (
            ("predict", run, picture, "--json"),
            ("report", run, "--out", tmp_path / "page.html"),
            ("report", run, "--format", "card", "--out", tmp_path / "card.md"),
            ("explain", run),
        ):
            outcome = headstart(*command)
            assert_an_answer_or_two_lines(outcome)
            refused += outcome.code == 2
        shutil.copy(whole / file, run / file)
    assert 4 * TRIALS < refused < 14 * TRIALS  # both outcomes are met


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_weights_of_strangers(
    suffix: str, tmp_path: Path, small_backbone: BackboneSpec, headstart: Command
) -> None:
    path, own = tmp_path / f"w.{suffix}", Path(small_backbone.weights.removeprefix("file:"))
    content, mutate = own.read_bytes(), other_header
    if suffix == "pth":
        torch.save(load_file(own), buffer := io.BytesIO())
        content, mutate = buffer.getvalue(), other_tensors
    backbone = BackboneSpec(name=SMALL, weights=f"file:{path}")
    text = recipe_text("strange", {"train": "head"}, backbone=backbone, train=40, test=20)
    recipe, refused = write_recipe(tmp_path, text), 0
    for number in range(TRIALS):
        draw = random.Random(f"{suffix} {number}")
        path.write_bytes(mutate(content, draw))
        outcome = headstart("run", recipe, "--out", tmp_path / str(number))
        assert_an_answer_or_two_lines(outcome)
        refused += outcome.code == 2
        assert "pickle" not in outcome.err and "weights_only" not in outcome.err
    assert refused > TRIALS / 3
