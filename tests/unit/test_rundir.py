"""The run directory: atomic, versioned, readable after a crash."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from headstart.errors import RunError
from headstart.files import atomic_path, read_arrays, write_arrays
from headstart.recipe import load_recipe
from headstart.rundir.history import Epoch, event_line
from headstart.rundir.run import create_run, open_run, remove_partial


@pytest.fixture
def run_path(tmp_path: Path) -> Path:
    return create_run(tmp_path / "run", load_recipe("cifar10-probe"), "0" * 8).path


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_path(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_create_open_and_refuse(run_path: Path, tmp_path: Path) -> None:
    recipe = load_recipe("cifar10-probe")
    assert open_run(run_path).recipe == recipe
    with pytest.raises(RunError, match="holds a run that has just begun"):
        create_run(run_path, recipe, "0" * 8)
    killed = tmp_path / "killed"
    killed.mkdir()
    (killed / "recipe.toml").write_text(recipe.to_toml())
    (killed / ".manifest.json.17.partial").touch()
    assert create_run(killed, recipe, "0" * 8).recipe == recipe
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    with pytest.raises(RunError, match="not empty, and not a run"):
        create_run(tmp_path / "photos", recipe, "0" * 8)
    with pytest.raises(RunError, match=r"a study: name one of its runs, such as .*killed$"):
        open_run(run_path.parent)
    with pytest.raises(RunError, match="not a run directory"):
        open_run(tmp_path / "photos")


def files(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


@pytest.mark.parametrize(
    "name", ["mine.txt", "recipe.toml", ".a.7.partial", "deep/er/.b.7.partial"]
)
def test_a_folder_that_is_refused_is_left_as_it_was(name: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / name).parent.mkdir(parents=True)
    (home / name).write_text("# of the user's own")
    before = files(home)
    with pytest.raises(RunError, match="not empty, and not a run"):
        create_run(home, load_recipe("cifar10-probe"), "0" * 8)
    assert files(home) == before


def test_what_is_half_written_is_removed_where_runs_write_and_nowhere_else(run_path: Path) -> None:
    ours = (".recipe.toml.17.partial", "checkpoints/.last.safetensors.17.partial")
    others = (".notes.partial", "photos/.a.jpg.17.partial", "report/.draft.html.partial")
    for name in (*ours, *others):
        (run_path / name).parent.mkdir(exist_ok=True)
        (run_path / name).touch()
    remove_partial(open_run(run_path))
    assert {*ours, *others} & set(files(run_path)) == set(others)


def test_other_formats_and_damage_are_reported(run_path: Path) -> None:
    run = open_run(run_path)
    with pytest.raises(RunError, match=r"no metrics\.json: the run has not written it yet"):
        _ = run.metrics
    with pytest.raises(RunError, match="no test predictions: the run is running"):
        run.predictions("test")
    run.update_manifest(format=99)
    with pytest.raises(RunError, match="run format 99; this version reads 2"):
        open_run(run_path)
    (run_path / "manifest.json").write_text("{")
    with pytest.raises(RunError, match="damaged"):
        open_run(run_path)


def test_the_log_survives_a_line_cut_short(run_path: Path) -> None:
    run = open_run(run_path)
    first, cut, last = (Epoch(0, 0.5, 0.8, 0.6, 0.7, epoch, 1e-4, 2.0) for epoch in range(3))
    run.append_log(first)
    with (run_path / "log.jsonl").open("a") as log:
        log.write(event_line(cut)[:9])
    assert open_run(run_path).history.events == (first,)
    open_run(run_path).append_log(last)
    assert open_run(run_path).history.epochs == (first, last)


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04 and no more"])
def test_damaged_predictions_are_reported(run_path: Path, content: bytes) -> None:
    (run_path / "predictions").mkdir()
    (run_path / "predictions" / "test.npz").write_bytes(content)
    with pytest.raises(RunError, match=r"test\.npz: damaged: remove .* and run its recipe again"):
        open_run(run_path).predictions("test")


def test_arrays_hold_no_pickle(tmp_path: Path) -> None:
    write_arrays(tmp_path / "a.npz", {"ids": np.array(["a", "bc"]), "x": np.eye(2)})
    assert read_arrays(tmp_path / "a.npz")["ids"].tolist() == ["a", "bc"]
    write_arrays(tmp_path / "b.npz", {"ids": np.array([{}], dtype=object)})
    with pytest.raises(RunError, match="not an archive of plain arrays"):
        read_arrays(tmp_path / "b.npz")


def test_arrays_that_unpack_beyond_the_limit_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "zeros.npz"
    write_arrays(path, {"zeros": np.zeros(100_000, np.uint8)})
    assert path.stat().st_size < 1_000
    assert len(read_arrays(path)["zeros"]) == 100_000
    monkeypatch.setattr("headstart.files.UNPACKED", 99_999)
    with pytest.raises(RunError, match=r"zeros\.npz: .* more than 99,999 bytes") as caught:
        read_arrays(path)
    assert "\n" not in str(caught.value)
