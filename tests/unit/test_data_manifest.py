"""Manifests: tables that name photos, as people write them; an unclear one is refused."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from headstart.data import Splits, find_warnings, forget_scans, load_data
from headstart.data.sources import scan as scanning
from headstart.data.sources import tables
from headstart.data.sources.places import absolute_source
from headstart.errors import DataError
from headstart.specs import DataSpec
from tests.conftest import Outcome
from tests.photos import fill, real_pixels
from tests.photos import load as load_folder

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return real_pixels()


@pytest.fixture
def root(tmp_path: Path, pixels: np.ndarray) -> Path:
    """Twelve photos of airplanes and twelve of cats, 000 to 011 and 012 to 023, in one folder."""
    folder = tmp_path / "photos"
    fill(folder / "all", np.concatenate([pixels[:12], pixels[32:44]]))
    return folder


Rows = list[tuple[str, ...]]


def write(path: Path, rows: Rows, delimiter: str = ",", encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding=encoding, newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    return path


def photos(count: int = 24) -> list[str]:
    return [f"all/{i:03}.png" for i in range(count)]


def rows(header: tuple[str, ...] = ("path", "label"), names: str = "airplane cat") -> Rows:
    first, second = names.split()
    return [header, *((path, first if i < 12 else second) for i, path in enumerate(photos()))]


def load(path: Path, **settings: object) -> Splits:
    return load_data(DataSpec(source=f"manifest:{path}", size=32, **settings))  # type: ignore[arg-type]


def sizes(splits: Splits) -> list[int]:
    return [len(splits.train), len(splits.val), len(splits.test)]


def test_photos_of_a_table_are_those_of_a_folder(root: Path, pixels: np.ndarray) -> None:
    splits = load(write(root / "table.csv", rows()))
    assert splits.class_names == ("airplane", "cat")
    assert splits.source == f"manifest:{root}/table.csv"
    assert sizes(splits) == [18, 2, 4] and splits.notes == ()
    for images in (splits.train, splits.val, splits.test):
        numbers = [int(name[4:7]) for name in images.ids]
        assert (images.labels == (np.array(numbers) >= 12)).all()
        shown = np.concatenate([pixels[:12], pixels[32:44]])[numbers]
        np.testing.assert_array_equal(images.read(np.arange(len(images))), shown)


@pytest.mark.parametrize("header", [
    ("path", "label"), ("Path", "LABEL"), ("filename", "class"), ("File", "Category"),
    ("image", "target"), (" image path ", "class-name"),
])  # fmt: skip
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_usual_columns_and_delimiters(header: tuple[str, str], delimiter: str, root: Path) -> None:
    table = write(root / "table.csv", rows(header), delimiter, "utf-8-sig")
    assert load(table).class_names == ("airplane", "cat")


def test_a_tsv_is_split_at_tabs_alone(root: Path) -> None:
    table = [("path", "label"), *((p, f"{name}, or; so") for p, name in rows()[1:])]
    lines = "\n".join("\t".join(row) for row in table)
    (root / "table.tsv").write_text(lines)
    assert load(root / "table.tsv").class_names == ("airplane, or; so", "cat, or; so")


def test_its_own_column_wins_over_another_name_for_it(root: Path) -> None:
    table = [("file", "path", "class", "label", "extra")]
    table += [("no", path, "no", label, "x") for path, label in rows()[1:]]
    assert load(write(root / "t.csv", table)).class_names == ("airplane", "cat")


@pytest.mark.parametrize(
    ("labels", "names"),
    [(range(9, 11), ("9", "10")), (("10", "9.5"), ("9.5", "10")), (("10", "9a"), ("10", "9a")),
     (("nan", "1"), ("1", "nan"))],
)  # fmt: skip
def test_numbers_sort_by_value(labels: tuple[object, object], names: object, root: Path) -> None:
    table: Rows = [("path", "label")]
    table += [(path, str(labels[i >= 12])) for i, path in enumerate(photos())]
    assert load(write(root / "t.csv", table)).class_names == names


def test_splits_in_usual_spellings(root: Path) -> None:
    words = ["train", "Training", "TRAIN", "train", "train_set", "valid", "Validation", "dev",
             "test", "testing", "Test", "TEST"]  # fmt: skip
    table: Rows = [("path", "label", "split")]
    table += [(path, str(i // 12), words[i % 12]) for i, path in enumerate(photos())]
    splits = load(write(root / "t.csv", table))
    assert sizes(splits) == [10, 6, 8] and not splits.val_cut
    assert {int(name[4:7]) % 12 for name in splits.test.ids} == {8, 9, 10, 11}


def test_without_rows_of_test_val_is_the_test(root: Path) -> None:
    table: Rows = [("path", "label", "split")]
    table += [(p, str(i // 12), "val" if i % 3 == 0 else "train") for i, p in enumerate(photos())]
    splits = load(write(root / "t.csv", table))
    assert sizes(splits) == [14, 2, 8]
    (note,) = splits.notes
    assert note.startswith("no test split: the images of val are the test images")


def test_paths_may_be_absolute_lead_out_or_come_from_windows(root: Path) -> None:
    fill(root.parent / "elsewhere", real_pixels()[20:22])
    table = rows()
    table[1] = (str(root / "all" / "000.png"), "airplane")
    table[2] = ("all\\001.png", "airplane")
    table += [("../elsewhere/000.png", "airplane"), (f"{root.parent}/elsewhere/001.png", "cat")]
    splits = load(write(root / "t.csv", table))
    ids = {*splits.train.ids, *splits.val.ids, *splits.test.ids}
    assert {"all/000.png", "all/001.png", "../elsewhere/000.png"} <= ids and len(ids) == 26
    plain = load(write(root / "plain.csv", [*rows(), *table[-2:]]))
    assert plain.fingerprint == splits.fingerprint  # the spelling of a path is no content


def test_what_cannot_be_read_is_left_out_and_listed(root: Path) -> None:
    os.mkfifo(root / "pipe.png")
    (root / "text.png").write_text("no image")
    table = [*rows(), ("gone.png", "cat"), ("pipe.png", "cat"), ("text.png", "airplane")]
    table += [("all", "airplane"), ("x\0y.png", "cat"), ("000.png", "")]
    splits = load(write(root / "t.csv", table))
    reasons = {bad.path: bad.reason for bad in splits.quarantined}
    assert sum(sizes(splits)) == 24 and len(reasons) == 6
    assert reasons["gone.png"] == "No such file or directory"
    assert reasons["pipe.png"] == reasons["all"] == "not a regular file"
    assert reasons["000.png"] == "the table gives it no label"
    (warning,) = find_warnings(splits, DataSpec(source=splits.source, size=32))
    assert warning.startswith("left out 6 images that cannot be used, such as text.png: not in a")


def test_repeated_rows_count_once(root: Path) -> None:
    splits = load(write(root / "t.csv", [*rows(), rows()[1], rows()[1], ("", "")]))
    assert sum(sizes(splits)) == 24
    assert splits.notes == ("2 rows of the table repeat another: each image counts once",)


def test_a_class_of_train_alone_is_noted(root: Path) -> None:
    table: Rows = [("path", "label", "split")]
    table += [(p, str(i // 8), "test" if i < 3 else "train") for i, p in enumerate(photos())]
    splits = load(write(root / "t.csv", table))
    assert splits.class_names == ("0", "1", "2")
    note = "test has no image of 2 classes (1, 2): its scores say nothing about that"
    assert note in splits.notes
    assert np.bincount(splits.test.labels, minlength=3).tolist() == [3, 0, 0]
    assert len(load(write(root / "t.csv", table), test_limit=2).test) == 2


WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "no file": (lambda t: None, "t.csv: no such file$"),
    "a folder": (lambda t: t.mkdir(parents=True), "a folder, not a table: write folder:"),
    "a pipe": (lambda t: os.mkfifo(t), "t.csv: not a regular file"),
    "empty": (lambda t: t.touch(), "t.csv: is empty"),
    "header alone": (lambda t: t.write_text("path,label\n\n"), "no row but the names of the col"),
    "latin-1": (
        lambda t: t.write_text("path,label\ncafé.png,x\n", encoding="latin-1"),
        "is not UTF-8: save it with that encoding",
    ),
    "UTF-16": (lambda t: t.write_text("path,label\n", encoding="utf-16"), "is not UTF-8"),
    "no label": (lambda t: t.write_text("path,kind\na,b\n"), "no column label .there are: path"),
    "no header": (lambda t: t.write_text("a.png,cat\n"), "no column path .there are: a.png"),
    "two paths": (
        lambda t: t.write_text("file,image,label\n"),
        "columns file and image may both be the path: call one of them path",
    ),
    "twice": (lambda t: t.write_text("path,label,Label\n"), "label and Label may both be the lab"),
    "short row": (lambda t: t.write_text("path,label\na\n"), "line 2: 1 cells, where the header"),
    "long row": (lambda t: t.write_text("path,label\na,b,c\n"), "line 2: 3 cells.*into quotes"),
    "open quote": (lambda t: t.write_text('path,label\n"a,b\nc,d\n'), "line 2: not CSV: unexp"),
    "long cell": (lambda t: t.write_text(f"path,label\n{'x' * 200_000},b\n"), "line 2: not CSV"),
    "no path": (lambda t: write(t, [*rows(), ("", "cat")]), "line 26: no path"),
    "two labels": (
        lambda t: write(t, [*rows(), ("all/000.png", "cat")]),
        r"line 2 and line 26 differ about all/000.png \(airplane or cat\): keep one",
    ),
    "elsewhere": (
        lambda t: write(t, [("path", "label"), ("x/1.png", "a"), ("x/2.png", "b")]),
        "none of its 2 paths leads to a file, such as x/1.png: paths are absolute, or relative to",
    ),
    "no labels": (
        lambda t: write(t, [("path", "Class"), *((p, "") for p in photos())]),
        "no row has a label in column Class",
    ),
    "one class": (lambda t: write(t, rows(names="cat cat")), "a single class, cat: at least two"),
    "split word": (
        lambda t: write(t, [("path", "label", "split"), (*rows()[1], "unseen")]),
        "line 2: unknown split 'unseen': write train, val or test",
    ),
    "half a split": (
        lambda t: write(t, [("path", "label", "split"), (*rows()[1], "")]), "line 2: no split"),
    "no train": (
        lambda t: write(t, [("path", "label", "split"), (*rows()[1], "test")]),
        "no row of split train: only test",
    ),
    "class of test alone": (
        lambda t: write(t, [("path", "label", "split"), ("all/000.png", "a", "train"),
                            ("all/001.png", "b", "train"), ("all/002.png", "c", "test")]),
        "train and test differ in classes: train lacks c: add training images",
    ),
    "one image": (
        lambda t: write(t, [*rows(), ("all/../all/000.png", "dog")]),
        "class dog has 1 image to split",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_mistakes_are_one_line(case: str, root: Path) -> None:
    make, message = WRONG[case]
    make(root / "t.csv")
    with pytest.raises(DataError, match=message) as caught:
        load(root / "t.csv")
    assert "\n" not in str(caught.value)


def test_a_table_may_not_be_endless(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MOST_ROWS", 20)
    with pytest.raises(DataError, match="more than 20 rows are too many"):
        load(write(root / "t.csv", rows()))


@pytest.mark.parametrize(
    ("source", "message"),
    [("{}", "unknown data source .* did you mean manifest:{}\\?"),
     ("folder:{}", "a table, not a folder: write manifest:{}"),
     ("manifest:", "manifest: names no table: write manifest:PATH"),
     ("manifest:{}.txt", "no such file")],
)  # fmt: skip
def test_another_word_for_a_table_is_told_the_right_one(
    source: str, message: str, root: Path
) -> None:
    table = write(root / "t.csv", rows())
    with pytest.raises(DataError, match=message.format(table)):
        load_data(DataSpec(source=source.format(table), size=32))
    (root / "t.txt").write_text("path,label\n")
    with pytest.raises(DataError, match=r"t\.txt: not a table: its name must end in \.csv, \.tsv"):
        load(root / "t.txt")


def test_a_folder_and_the_tables_in_it_share_what_is_remembered(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header, *named = rows()
    (root / "all").rename(root / "a")
    (root / "b").mkdir()
    for path in sorted((root / "a").iterdir())[12:]:
        path.rename(root / "b" / path.name)
    named = [(p.replace("all", "a" if c == "airplane" else "b"), c) for p, c in named]
    for name, half in (("even.csv", named[::2]), ("odd.csv", named[1::2])):
        write(root / name, [header, *half])
    looked_at: list[Path] = []
    honest = scanning._scan_file
    monkeypatch.setattr(scanning, "_scan_file", lambda p: looked_at.append(p) or honest(p))
    for _ in range(2):
        load(root / "even.csv")
        load(root / "odd.csv")
        load_folder(root)
        assert len(looked_at) == 24
    forget_scans([f"manifest:{root}/even.csv"])
    load(root / "even.csv")
    assert len(looked_at) == 24 + 12


def test_a_source_is_the_same_from_another_folder(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(root / "t.csv", rows())
    (root / "link.csv").symlink_to(root / "t.csv")
    monkeypatch.chdir(root)
    before = load_data(DataSpec(source="manifest:link.csv", size=32))
    absolute = absolute_source("manifest:link.csv")
    assert absolute == f"manifest:{root.resolve()}/link.csv"
    monkeypatch.chdir(root.parent)
    assert load_data(DataSpec(source=absolute, size=32)).fingerprint == before.fingerprint
    before.train.read(np.array([0]))  # a set outlives a change of the working directory
    assert absolute_source("cifar10-mini") == "cifar10-mini"


def test_parquet_without_its_package_says_what_to_install(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "t.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match="pip install pyarrow; or save it as CSV"):
        load(root / "t.parquet")


def test_parquet(root: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = {
        "Image": [*photos(), "all/nothing.png"],
        "bytes": [b"\0"] * 25,  # not read
        "target": [*([10.0] * 12), *([9.0] * 12), None],
        "split": arrow.array(
            ["train"] * 8 + ["test"] * 4 + ["train"] * 8 + ["test"] * 5
        ).dictionary_encode(),
    }
    parquet.write_table(arrow.table(columns), root / "t.parquet")
    splits = load(root / "t.parquet")
    assert splits.class_names == ("9", "10") and sizes(splits) == [14, 2, 8]
    assert [bad.reason for bad in splits.quarantined] == ["the table gives it no label"]
    wrong = arrow.table({"path": [{"bytes": b"x"}], "label": ["a"]})
    parquet.write_table(wrong, root / "wrong.parquet")
    with pytest.raises(DataError, match="row 1: holds dict, not text or a number"):
        load(root / "wrong.parquet")
    whole = (root / "t.parquet").read_bytes()
    (root / "t.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="not Parquet, or damaged") as caught:
        load(root / "t.parquet")
    assert "\n" not in str(caught.value)


def test_the_command_says_it_in_one_line(root: Path, headstart: Callable[..., Outcome]) -> None:
    table = write(root / "t.csv", rows())
    described = headstart("data", "describe", f"manifest:{table}")
    assert described.code == 0 and "2 classes" in described.out
    outcome = headstart("data", "describe", f"manifest:{table}x")
    assert outcome.code == 2 and outcome.out == ""
    assert outcome.err.splitlines()[-1] == f"error: {table}x: no such file"
