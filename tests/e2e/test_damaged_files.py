"""A run's or comparison's file that is damaged or foreign is one line that names it, and exit 2."""

from __future__ import annotations

import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headstart.comparison.leaderboard import build_comparison
from headstart.comparison.records import write_comparison
from headstart.errors import HeadstartError
from headstart.files import read_arrays
from headstart.rundir.run import Run, open_run
from headstart.tracking.record import read_record
from tests.conftest import Outcome
from tests.fabricating import fabricate

Command = Callable[..., Outcome]
MOST_LETTERS = 400

DECORATIONS = ("pictures.npz", "feature_map.npz", "profile.json")
TEXTS = ("manifest.json", "metrics.json", "cost.json", "recipe.toml", "log.jsonl", "profile.json")
ARRAYS = ("predictions/val.npz", "predictions/test.npz", "pictures.npz", "feature_map.npz")
VERBS: dict[str, tuple[str, ...]] = {  # the files that each verb needs
    **dict.fromkeys(("report", "md", "card", "explain", "compare"), (*TEXTS, *ARRAYS)),
    "run": ("recipe.toml",),
    "predict": ("manifest.json", "recipe.toml", "metrics.json", "checkpoints/best.safetensors"),
    "track": TEXTS,
}


def texts(content: bytes) -> Iterator[bytes]:
    """What may have become of a file of text."""
    yield b"\xff\xfe" + content[: len(content) // 2]
    yield content.replace(b"a", b"\xe4")
    yield content[: len(content) // 2]
    yield b""
    yield b"\0" * len(content)
    yield b"[]\n"
    yield b"7\n"
    yield b"[" * 100_000
    yield b'{"a":' * 100_000
    yield b"PK\x03\x04 not text at all"


def records(content: bytes) -> Iterator[bytes]:
    """Whole JSON of another shape: each field of another type, and missing."""
    record = json.loads(content)
    for name in record:
        for other in ([], {}, "text", -1, 1e400, None, True, [[[1]]], {"a": {"b": "\x1b[2J"}}):
            yield json.dumps({**record, name: other}).encode()
        yield json.dumps({k: v for k, v in record.items() if k != name}).encode()


def archives(content: bytes) -> Iterator[bytes]:
    """What may have become of arrays."""
    arrays = dict(np.load(io.BytesIO(content)))
    yield content[: len(content) // 2]
    yield b""
    yield b"not an archive"
    yield content[:200] + bytes(200) + content[400:]
    yield saved(np.eye(3))
    yield saved({"x": np.eye(3)})
    yield saved({"ids": np.array([{}], dtype=object)})
    for name, array in arrays.items():
        yield saved({**arrays, name: array[:-1] if array.ndim else np.arange(3)})
        yield saved({**arrays, name: np.zeros((2, 2, 2))})
        yield saved({k: v for k, v in arrays.items() if k != name})
        if array.dtype.kind == "i":
            yield saved({**arrays, name: array - 5})
        if array.dtype.kind == "f":
            yield saved({**arrays, name: array.astype("U8")})
    with io.BytesIO() as other:
        with zipfile.ZipFile(other, "w") as archive:
            archive.writestr("ids.txt", "words")
        yield other.getvalue()


def saved(arrays: np.ndarray | dict[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    if isinstance(arrays, dict):
        np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    else:
        np.save(buffer, arrays)
    return buffer.getvalue()


def call(verb: str, run: Path, other: Path, out: Path, headstart: Command) -> Outcome:
    if verb in ("report", "md", "card"):
        form = "html" if verb == "report" else verb
        return headstart("report", run, "--format", form, "--out", out / f"page.{form}")
    if verb == "compare":
        return headstart("compare", run, other, "--out", out / "compared")
    if verb == "run":
        return headstart("run", run, "--out", run)
    if verb == "predict":
        return headstart("predict", run, out / "picture.png", "--json")
    if verb == "track":
        try:
            read_record(open_run(run))
        except HeadstartError as error:
            return Outcome(2, "", f"error: {error}")
        return Outcome(0, "", "")
    return headstart(verb, run)


@pytest.fixture
def trial(whole: Path, tmp_path: Path, headstart: Command) -> Callable[..., int]:
    """Try a content of a file with verbs; returns how many refused it."""
    from PIL import Image

    run = shutil.copytree(whole, tmp_path / "run")
    Image.new("RGB", (40, 40)).save(tmp_path / "picture.png")

    def tried(file: str, content: bytes, verbs: tuple[str, ...]) -> int:
        (run / file).write_bytes(content)
        refused = 0
        for verb in verbs:
            outcome = call(verb, run, whole, tmp_path, headstart)
            said = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
            assert outcome.code in (0, 2), (verb, content[:80], outcome)
            if outcome.code == 2:
                refused += 1
                (line,) = said
                # A run that did not get so far is named itself.
                named = (file.rpartition("/")[2], f"{run}: ended before its images were read")
                assert any(name in line for name in named), (verb, content[:80], line)
                assert len(line) <= MOST_LETTERS, line
                assert line.isprintable()
                assert "pickle" not in line
        return refused

    return tried


def needing(file: str, without: tuple[str, ...] = ()) -> tuple[str, ...]:
    return tuple(verb for verb, files in VERBS.items() if file in files and verb not in without)


@pytest.mark.parametrize("file", [name for name in TEXTS if name not in DECORATIONS])
def test_a_text_that_is_damaged_is_named(whole: Path, trial: Callable[..., int], file: str) -> None:
    verbs = needing(file)
    for number, content in enumerate(texts((whole / file).read_bytes())):
        refused = trial(file, content, verbs)
        # A log that is cut short, or has not begun, is that of a run that was killed.
        assert refused == len(verbs) or (file == "log.jsonl" and number in (2, 3, 4)), content[:80]


@pytest.mark.parametrize("file", ["manifest.json", "metrics.json", "cost.json"])
def test_a_record_of_another_shape_is_named(
    whole: Path, trial: Callable[..., int], file: str
) -> None:
    made = list(records((whole / file).read_bytes()))
    assert len(made) > 50
    refused = sum(trial(file, content, ("explain",)) for content in made)
    assert refused > 0.8 * len(made)  # an error, and a cost on a GPU, may well be null or text
    for content in made[::7]:
        trial(file, content, ("report", "card", "track"))


@pytest.mark.parametrize("file", ["predictions/val.npz", "predictions/test.npz"])
def test_predictions_of_another_shape_are_named(
    whole: Path, trial: Callable[..., int], file: str
) -> None:
    verbs = needing(file)
    contents = list(archives((whole / file).read_bytes()))
    arrays = read_arrays(whole / file)
    contents += [
        saved({**arrays, "labels": arrays["labels"] + 9}),
        saved({**arrays, "logits": np.full_like(arrays["logits"], np.nan)}),
        saved({**arrays, "logits": arrays["logits"][:, :7]}),
        saved({name: array[:0] for name, array in arrays.items()}),
    ]
    for content in contents:
        assert trial(file, content, verbs) == len(verbs), content[:80]
        verbs = ("explain",)  # all of them read it in one place


@pytest.mark.parametrize("file", DECORATIONS)
def test_a_damaged_decoration_is_left_out_with_a_warning(
    whole: Path, trial: Callable[..., int], file: str, tmp_path: Path, headstart: Command
) -> None:
    content = (whole / file).read_bytes()
    for damaged in archives(content) if file.endswith("npz") else texts(content):
        assert trial(file, damaged, ("explain",)) == 0
        outcome = headstart("report", tmp_path / "run", "--out", tmp_path / "page.html")
        assert outcome.code == 0, outcome
        assert outcome.err.startswith("warning: ") and file in outcome.err, damaged[:80]
        assert outcome.err.count("\n") == 1
        assert file in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_a_damaged_model_is_named(whole: Path, trial: Callable[..., int]) -> None:
    file = "checkpoints/best.safetensors"
    content = (whole / file).read_bytes()
    assert trial(file, content, ("predict",)) == 0
    for damaged in (b"", content[:999], b"\x80\x02}q\x00.", content[:-9] + b"123456789"):
        assert trial(file, damaged, ("predict",)) == 1


def test_a_folder_in_place_of_a_file_is_named(
    whole: Path, tmp_path: Path, headstart: Command
) -> None:
    run = shutil.copytree(whole, tmp_path / "run")
    for file in ("metrics.json", "predictions/test.npz", "recipe.toml", "log.jsonl"):
        (run / file).unlink()
        (run / file).mkdir()
        outcome = headstart("explain", run)
        assert outcome.code == 2
        assert "Is a directory" in outcome.err
        (run / file).rmdir()
        shutil.copy(whole / file, run / file)
    assert headstart("explain", run).code == 0


def test_a_pipe_in_place_of_a_file_is_named(
    whole: Path, tmp_path: Path, headstart: Command
) -> None:
    run = shutil.copytree(whole, tmp_path / "run")
    shutil.copy(run / "recipe.toml", picture := tmp_path / "no picture.png")
    for file in (*TEXTS, *ARRAYS, "checkpoints/best.safetensors"):
        (run / file).unlink()
        os.mkfifo(run / file)
        verb = ("predict", run, picture) if "best" in file else ("report", run, "--out", tmp_path)
        outcome = headstart(*verb)
        assert outcome.code == (0 if file in DECORATIONS else 2), (file, outcome)
        assert file.rpartition("/")[2] in outcome.err
        (run / file).unlink()
        shutil.copy(whole / file, run / file)


def without_warnings(content: dict[str, Any]) -> None:
    del content["warnings"]


def text_for_a_number(content: dict[str, Any]) -> None:
    content["wall_s"] = "long"


@pytest.mark.parametrize(
    ("file", "damage", "field"),
    [("manifest.json", without_warnings, "warnings"), ("cost.json", text_for_a_number, "wall_s")],
)
def test_a_wrong_field_is_named(
    tmp_path: Path,
    headstart: Callable[..., Outcome],
    file: str,
    damage: Callable[[dict[str, Any]], None],
    field: str,
) -> None:
    run = fabricate(tmp_path / "run", name="whole")
    content = json.loads((run.path / file).read_text())
    damage(content)
    (run.path / file).write_text(json.dumps(content))
    outcome = headstart("explain", run.path, run.path)
    assert outcome.code == 2, outcome
    (line,) = outcome.err.splitlines()
    assert line.startswith("error: ")
    assert file in line and field in line


def test_a_damaged_comparison_is_named(tmp_path: Path, headstart: Command) -> None:
    runs = [fabricate(tmp_path / name, name=name, n=60) for name in ("a", "b")]
    write_comparison(build_comparison("study", runs, [], tmp_path), tmp_path)
    path = tmp_path / "comparison.json"
    whole = path.read_bytes()
    assert headstart("report", tmp_path, "--out", tmp_path / "page.html").code == 0
    for content in texts(whole):
        path.write_bytes(content)
        for verb in ("report", "explain"):
            out = ("--out", tmp_path / "page.html") if verb == "report" else ()
            outcome = headstart(verb, tmp_path, *out)
            assert outcome.code == 2, outcome
            (line,) = outcome.err.splitlines()
            assert line.startswith("error: ") and "comparison.json" in line
            assert len(line) <= MOST_LETTERS


def test_what_a_run_reads_of_itself_stays_as_it_was_written(whole: Path) -> None:
    run = Run(whole)
    run.verify()
    assert run.left_out == []
    assert run.pictures and run.feature_map and run.profile
