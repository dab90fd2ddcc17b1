"""The command line where the system is unusual: closed streams, full disks, no locks, no home."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from headstart.comparison.leaderboard import build_comparison
from headstart.comparison.records import write_comparison
from headstart.deployment import measuring
from headstart.errors import RunError, explain_os_error
from headstart.files import locked
from headstart.machine.progress import Reporter
from headstart.recipe import load_recipe
from headstart.report import write_report
from headstart.report.card import write_card
from headstart.report.markdown import write_markdown
from headstart.rundir.history import Served
from headstart.rundir.run import create_run
from tests.conftest import Outcome
from tests.fabricating import fabricate

Command = Callable[..., Outcome]
PROGRAM = f"{sys.executable} -m headstart"


def shell(line: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("verb", ["recipes", "recipes show demo", "data --json"])
def test_a_reader_that_goes_away_ends_the_program_quietly(verb: str) -> None:
    done = shell(f"set -o pipefail; (sleep 1; {PROGRAM} {verb}) | true")
    assert done.returncode == 1
    assert done.stderr == ""


def test_closed_streams_hold_up_nothing(tmp_path: Path) -> None:
    lost = shell(f"{PROGRAM} report {tmp_path}/none 2>&-")
    assert (lost.returncode, lost.stdout) == (2, "")
    assert shell(f"{PROGRAM} recipes >&-").returncode == 0
    assert shell(f"{PROGRAM} recipes <&- 2>&-").returncode == 0
    assert shell(f"{PROGRAM} report {tmp_path}/none 2>/dev/full").returncode == 2


def test_results_that_cannot_be_written_are_one_line() -> None:
    done = shell(f"{PROGRAM} recipes >/dev/full")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "no space is left" in line


def test_a_home_that_nobody_knows_is_one_line(
    headstart: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADSTART_CACHE", "~nobody-of-this-name/cache")
    commands = (("data", "cache"), ("data", "describe", "folder:~nobody-of-this-name/x"))
    for command in commands:
        outcome = headstart(*command)
        assert outcome.code == 2
        (line,) = outcome.err.splitlines()
        assert "no home folder is known" in line
        monkeypatch.delenv("HEADSTART_CACHE", raising=False)


def test_names_of_any_length_are_one_line(headstart: Command) -> None:
    for verb in ("run", "compare", "explain", "check", "report"):
        for name in ("a" * 5000, "a/" * 3000, "\x1b[2J\u202e\udcff"):
            outcome = headstart(verb, name)
            assert outcome.code == 2
            (line,) = outcome.err.splitlines()
            assert line.isprintable()
            assert len(line) < 1000


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(number: int, kind: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.mark.usefixtures("no_locks")
def test_a_file_system_without_locks_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="locks") as refused, locked(tmp_path / "x.lock"):
        pass
    line = explain_os_error(refused.value)
    assert line is not None
    assert "x.lock" in line and "has no locks" in line


@pytest.mark.usefixtures("no_locks", "measured", "cache")
def test_serving_costs_are_measured_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []

    class Listening(Reporter):
        def warn(self, line: str) -> None:
            said.append(line)

    monkeypatch.setattr(measuring, "_answers", lambda *_: [measuring.Answer(None, "tried")])
    monkeypatch.setattr(measuring, "_due", list)
    monkeypatch.setattr(measuring, "_export", lambda runs, reporter: None)
    run = fabricate(tmp_path / "run", name="run", n=40)
    measuring.measure_runs([run], reporter=Listening())
    assert said[0].startswith("measuring without a lock (") and "has no locks" in said[0]
    assert said[1].endswith("its serving cost is not measured: tried")


def test_a_run_whose_folder_is_removed_ends_and_can_begin_again(tmp_path: Path) -> None:
    recipe = load_recipe("cifar10-probe")
    run = create_run(tmp_path / "run", recipe, "0" * 8)
    shutil.rmtree(run.path)
    (run.path / "checkpoints").mkdir(parents=True)  # as a writer that knows nothing of it does
    (run.path / "checkpoints" / "last.safetensors").write_bytes(b"of the run that is gone")
    (run.path / "predictions").mkdir()
    with pytest.raises(RunError, match="was removed while the run wrote to it"):
        run.append_log(Served(1, 0, 0.0))
    with pytest.raises(RunError, match="was removed"):
        run.update_manifest(status="finished")
    again = create_run(run.path, recipe, "0" * 8)
    assert again.recipe == recipe
    assert not (run.path / "checkpoints").exists()
    mine = tmp_path / "mine"
    (mine / "checkpoints").mkdir(parents=True)
    (mine / "checkpoints" / "best.safetensors").touch()
    with pytest.raises(RunError, match="not empty, and not a run"):
        create_run(mine, recipe, "0" * 8)


def test_what_killed_processes_left_is_removed_when_the_file_is_written(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "pass"]) as gone:
        gone.wait()
    here = os.getppid()  # at work
    names = ("page.html", "page.md", "card.md", "comparison.json", "notes.txt")
    dead = {tmp_path / f".{name}.{gone.pid}.partial" for name in names}
    alive = {tmp_path / f".{name}.{here}.partial" for name in names}
    for path in dead | alive:
        path.touch()
    runs = [fabricate(tmp_path / name, name=name, n=40) for name in ("a", "b")]
    write_report(runs, tmp_path / "page.html")
    write_markdown(runs, tmp_path / "page.md")
    write_card(runs[0], tmp_path / "card.md")
    left = {path for path in dead if path.exists()}
    assert left == {path for path in dead if "comparison" in path.name or "notes" in path.name}
    write_comparison(build_comparison("study", runs, [], tmp_path), tmp_path)
    assert not any(path.exists() for path in dead)
    assert all(path.exists() for path in alive)


def test_many_unreadable_images_are_two_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from headstart.errors import DataError
    from headstart_predict.streams import say_errors

    errors = [DataError(f"{k}.jpg: no image") for k in range(500)]
    for some, lines in ((errors[:1], 1), (errors[:2], 2), (errors, 2)):
        say_errors(some, [f"{k}.jpg" for k in range(len(some))])
        assert len(capsys.readouterr().err.splitlines()) == lines
