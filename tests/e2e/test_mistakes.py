"""Every mistake of the user's: one line that says what, where and what would work, and exit 2."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from headstart.files import LOCK
from headstart.rundir.run import open_run
from headstart.specs import BackboneSpec
from tests.conftest import Outcome
from tests.recipes import recipe_text, write_recipe

Command = Callable[..., Outcome]
HEAD = {"train": "head"}


def one_line(outcome: Outcome, *says: str) -> None:
    assert outcome.code == 2, outcome
    assert outcome.out == ""
    (line,) = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in outcome.err
    for words in says:
        assert words in line


@pytest.fixture
def recipe(tmp_path: Path, small_backbone: BackboneSpec) -> Path:
    return write_recipe(tmp_path, recipe_text("probe", HEAD, backbone=small_backbone))


@pytest.fixture
def run_with(
    recipe: Path, tmp_path: Path, cache: Path, headstart: Command
) -> Callable[..., Outcome]:
    """Run the recipe with overrides; whatever happens, a run that never began leaves nothing."""

    def command(*overrides: str) -> Outcome:
        settings = [word for override in overrides for word in ("--set", override)]
        outcome = headstart("run", recipe, "--out", tmp_path / "run", *settings)
        assert not (tmp_path / "run").exists()
        assert not list(cache.rglob("*.partial"))
        return outcome

    return command


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("data.soruce=cifar10", "did you mean source?"),
        ("batch_size=many", "batch_size: should be a valid integer, not 'many'"),
        ("backbone.name=mobilnetv2_100", "mobilenetv2_100"),
        ("data.source=cifar11", "did you mean cifar10"),
        ("data.source=folder:nowhere", "nowhere"),
        ("backbone.weights=file:none.safetensors", "none.safetensors"),
        (
            "phases.0.train=tail",
            "takes head, last_stage, convs, all, from_scratch, last_layers:N or from:MODULE",
        ),
        ("head.dropout=1.5", "head.dropout"),
        ("data.split_seed=-1", "data.split_seed"),
        ("data.train_limit=5", "train_limit"),
        ("data.train_limit=1000000", "train_limit"),
    ],
)
def test_recipes(run_with: Command, override: str, says: str) -> None:
    one_line(run_with(override), says)


def test_recipes_that_contradict_themselves(run_with: Command) -> None:
    one_line(run_with("backbone.weights=random"), "would freeze noise", 'train = "from_scratch"')
    one_line(run_with("phases.0.optimizer=lbfgs", "head.hidden=[8]"), "needs a linear head")
    one_line(run_with("phases.0.optimizer=lbfgs", "phases.0.lr=1"), "takes no lr")


def test_words_of_the_command_line(headstart: Command, recipe: Path) -> None:
    one_line(headstart("run"), "Missing argument")
    one_line(headstart("run", recipe, "--sed", "1"), "No such option")
    one_line(headstart("walk"), "No such command")
    one_line(headstart("run", "cifar10-prob"), "did you mean cifar10-probe")
    one_line(headstart("run", "demo"), "headstart compare demo")
    one_line(headstart("compare", recipe), "needs a [grid]")
    one_line(headstart("predict", "nowhere", "a.png"), "not a run directory")
    one_line(headstart("recipes", "show", "dem"), "did you mean demo")
    one_line(headstart("run", recipe, "--set", "data.size=big"), "--set data.size=big: data.size")
    assert headstart("--version").out.strip() == "0.1.0"
    assert headstart("run", "-h").code == headstart().code == 0
    one_line(headstart("data", "fetch", "mnist"), "unknown data source")
    one_line(headstart("models", "resnet5"), "resnet50")
    one_line(headstart("data", "samples", "cifar10-mini", "--seed", "-1"), "--seed")
    one_line(headstart("run", recipe, "--device", "tpu"), "use auto, cpu, cuda")


def photos(folder: Path, classes: dict[str, int]) -> Path:
    rng = np.random.default_rng(0)
    for name, count in classes.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 256, (40, 50, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.jpg")
    return folder


def test_folders(run_with: Command, tmp_path: Path) -> None:
    empty = photos(tmp_path / "empty", {"cat": 6, "dog": 0})
    one_line(run_with(f"data.source=folder:{empty}"), "dog")
    single = photos(tmp_path / "single", {"cat": 6})
    one_line(run_with(f"data.source=folder:{single}"), "class")
    broken = photos(tmp_path / "broken", {"cat": 6, "dog": 1})
    (broken / "dog" / "0.jpg").write_text("not a picture")
    one_line(run_with(f"data.source=folder:{broken}"), "dog", "0.jpg")


@pytest.mark.usefixtures("cache")
def test_bad_images_are_left_out_and_listed(
    tmp_path: Path, recipe: Path, headstart: Command
) -> None:
    folder = photos(tmp_path / "photos", {"cat": 12, "dog": 12})
    (folder / "cat" / "text.jpg").write_text("not a picture")
    whole = (folder / "dog" / "0.jpg").read_bytes()
    (folder / "dog" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    outcome = headstart(
        *("run", recipe, "--out", tmp_path / "run", "--set", f"data.source=folder:{folder}"),
        *("--set", "data.train_limit=16", "--set", "data.test_limit=4"),
    )
    assert outcome.code == 0, outcome.err
    assert outcome.err.count("warning: left out 2 images that cannot be used") == 1
    listed = [bad.path for bad in open_run(tmp_path / "run").provenance.data.quarantined]
    assert sorted(Path(path).name for path in listed) == ["cut.jpg", "text.jpg"]


def test_damaged_cifar(run_with: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADSTART_DATA", str(tmp_path / "data"))
    folder = tmp_path / "data" / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for name in [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]:
        (folder / name).write_bytes(bytes(3073))
    (folder / "batches.meta.txt").write_text("airplane\n")
    one_line(run_with("data.source=cifar10"), "data_batch_1.bin")
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    archive = tmp_path / "data" / "cifar-10-binary.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(__file__, "cifar-10-batches-bin/data_batch_1.bin")
    one_line(run_with("data.source=cifar10"), "cifar-10-binary.tar.gz", "MD5")
    archive.write_bytes(archive.read_bytes()[:100])
    one_line(run_with("data.source=cifar10"), "cifar-10-binary.tar.gz")
    assert [path.name for path in archive.parent.iterdir()] == [archive.name]


def test_hub_unreachable_fails_in_seconds(
    run_with: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    from headstart.models import hub

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(hub, "_unreachable", set())
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    outcome = run_with("backbone.name=resnet50", "backbone.weights=hub")
    one_line(outcome, "resnet50", "file:PATH")


@pytest.mark.usefixtures("cache")
def test_output_that_cannot_be_written(recipe: Path, tmp_path: Path, headstart: Command) -> None:
    (tmp_path / "file").touch()
    one_line(headstart("run", recipe, "--out", tmp_path / "file" / "run"), "choose another place")
    assert (tmp_path / "file").read_bytes() == b""
    # Denied to everyone, root included.
    one_line(headstart("run", recipe, "--out", "/proc/headstart/run"), "/proc/headstart")


def test_a_file_where_a_folder_is(tmp_path: Path, headstart: Command) -> None:
    outcome = headstart("data", "samples", "cifar10-mini", "--out", tmp_path)
    one_line(outcome, f"{tmp_path}: a folder has the name")
    assert not list(tmp_path.parent.glob(".*.partial"))


@pytest.mark.usefixtures("cache")
def test_a_run_of_another_recipe_is_left_alone(
    recipe: Path, tmp_path: Path, headstart: Command
) -> None:
    out = ("--out", tmp_path / "run")
    assert headstart("run", recipe, *out).code == 0
    before = (tmp_path / "run" / "manifest.json").read_bytes()
    outcome = headstart("run", recipe, *out, "--set", "seed=1")
    one_line(outcome, "holds the run of another recipe", "choose another --out")
    assert (tmp_path / "run" / "manifest.json").read_bytes() == before


@pytest.mark.usefixtures("cache")
def test_a_folder_that_holds_other_things_is_refused_at_once_and_left_alone(
    tmp_path: Path, headstart: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write_recipe(tmp_path, INTERRUPTED)
    home = tmp_path / "home"
    names = ("notes.txt", ".draft.partial", "mail/.big.zip.17.partial", "report/.a.html.17.partial")
    for name in names:
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text("mine")
    (tmp_path / "empty").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr("headstart.plan.plan.load_data", interrupt)  # would take long
        one_line(headstart("run", recipe, "--out", home), "not empty, and not a run", "--out")
    with monkeypatch.context() as patch:
        patch.setattr("headstart.workbench.create_run", interrupt)
        one_line(headstart("run", recipe, "--out", tmp_path / "empty"), "interrupted")
    left = [p.relative_to(home).as_posix() for p in home.rglob("*") if p.is_file()]
    assert sorted(left) == sorted(names)
    assert (tmp_path / "empty").is_dir()  # which the command did not make


@pytest.mark.usefixtures("cache")
def test_a_run_cut_off_after_its_last_phase_keeps_what_it_learned(
    recipe: Path, tmp_path: Path, headstart: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert headstart("run", recipe, "--out", tmp_path / "whole").code == 0
    with monkeypatch.context() as patch:
        patch.setattr("headstart.assessment.assess.write_arrays", interrupt)
        outcome = headstart("run", recipe, "--out", tmp_path / "run")
        one_line(outcome, "interrupted")
    resumed = headstart("run", recipe, "--out", tmp_path / "run")
    assert resumed.code == 0, resumed.err
    assert "resuming after the last phase" in resumed.err
    logits = [open_run(tmp_path / name).predictions("test").logits for name in ("run", "whole")]
    assert np.array_equal(*logits)


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.usefixtures("cache")
def test_a_run_is_not_continued_on_other_images(
    small_backbone: BackboneSpec,
    tmp_path: Path,
    headstart: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = photos(tmp_path / "photos", {"cat": 12, "dog": 12})
    source = {"source": f"folder:{folder}"}
    recipe = write_recipe(
        tmp_path,
        recipe_text("probe", HEAD, backbone=small_backbone, train=None, test=None, data=source),
    )
    command = ("run", recipe, "--out", tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr("headstart.assessment.assess.write_arrays", interrupt)
        one_line(headstart(*command), "interrupted")
    for path in sorted((folder / "cat").iterdir())[:1]:
        path.unlink()
    one_line(headstart(*command), "its data have changed", "choose another --out")
    # Nor is a finished one shown for them: a folder that is gone contradicts nothing.
    finished = ("run", recipe, "--out", tmp_path / "finished")
    assert headstart(*finished).code == 0
    assert "nothing to repeat" in headstart(*finished).err
    Image.new("RGB", (40, 40)).save(folder / "cat" / "new.png")
    one_line(headstart(*finished), "its data have changed", "choose another --out")
    folder.rename(tmp_path / "elsewhere")
    assert "nothing to repeat" in headstart(*finished).err


@pytest.mark.usefixtures("cache")
def test_a_run_that_another_process_writes_is_left_alone(
    recipe: Path, tmp_path: Path, headstart: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    command = ("run", recipe, "--out", out)
    with monkeypatch.context() as patch:
        patch.setattr("headstart.assessment.assess.write_arrays", interrupt)
        one_line(headstart(*command), "interrupted")
    half_written = out / ".log.jsonl.1.partial"
    half_written.touch()
    before = (out / "manifest.json").read_bytes()
    with (out / LOCK).open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # of an open file: this process is another, too
        one_line(headstart(*command), "another process is at work on this", "--out")
    assert half_written.exists()
    assert (out / "manifest.json").read_bytes() == before
    assert headstart(*command).code == 0
    assert not half_written.exists()


def test_what_the_architecture_cannot_do_is_reported_before_the_run(run_with: Command) -> None:
    scratch = ("backbone.weights=random", 'phases=[{train="from_scratch"}]')
    refused = run_with("backbone.name=vgg11", "data.size=8", *scratch)
    one_line(refused, "data.size = 8: vgg11", "the smallest that works is 32")
    one_line(
        run_with("phases.0.train=last_stage", "batch_size=1", "phases.0.norm=train"),
        "raise batch_size",
    )


# Long enough to be stopped between two of its epochs.
INTERRUPTED = recipe_text("long", {"train": "from_scratch", "epochs": 3}, train=250)


@pytest.mark.usefixtures("cache")
def test_interrupt_leaves_a_run_that_goes_on(tmp_path: Path, headstart: Command) -> None:
    recipe = write_recipe(tmp_path, INTERRUPTED)
    command = ("run", recipe, "--out", tmp_path / "run")
    process = subprocess.Popen(
        [sys.executable, "-m", "headstart", *map(str, command)],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
        # A shell that starts tests in the background has them ignore the signal.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None
    for line in process.stderr:  # by then the first epoch is on disk
        if "epoch   2/3" in line:
            break
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    assert err.splitlines()[-1].startswith("error: interrupted")
    assert "Traceback" not in err
    assert open_run(tmp_path / "run").status == "interrupted"
    resumed = headstart(*command)
    assert resumed.code == 0, resumed.err
    assert "resuming in phase 1 of 1" in resumed.err
    assert "epoch   1/3" not in resumed.err
    whole = headstart("run", recipe, "--out", tmp_path / "whole")
    assert whole.code == 0, whole.err
    logits = [open_run(tmp_path / name).predictions("test").logits for name in ("run", "whole")]
    assert np.array_equal(*logits)
