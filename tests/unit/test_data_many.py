"""Tables that give a photo several labels, or none: read, split, counted, or refused in a line."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from headstart.auditing.folder import open_pictures
from headstart.data import Splits, describe, load_data
from headstart.data.samples import sample_grid
from headstart.data.splits import torn_labels
from headstart.data.strata import class_counts, label_text, strata_of
from headstart.errors import DataError
from headstart.specs import DataSpec
from tests.photos import fill, real_pixels

COUNT = 64
LABELS = ["cat|dog", "cat", "dog|red", "", "cat|red", "dog", "red", "cat|dog|red"]


pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    fill(tmp_path / "all", real_pixels())
    return tmp_path


def write(root: Path, labels: list[str], *columns: list[str], header: str = "path,label") -> Path:
    table = root / "labels.csv"
    paths = [f"all/{i:03}.png" for i in range(len(labels))]
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header.split(","))
        writer.writerows(zip(paths, labels, *columns, strict=True))
    return table


def load(table: Path, **settings: object) -> Splits:
    spec = {"source": f"manifest:{table}", "size": 32, "labels": "many", **settings}
    return load_data(DataSpec.model_validate(spec))


def refused(table: Path, **settings: object) -> str:
    with pytest.raises(DataError) as error:
        load(table, **settings)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_photo_has_all_its_labels_or_none(root: Path) -> None:
    splits = load(write(root, LABELS * 8))
    assert splits.class_names == ("cat", "dog", "red")
    sets = (splits.train, splits.val, splits.test)
    assert sum(map(len, sets)) == COUNT
    for images in sets:
        assert images.labels.dtype == bool
        for name, held in zip(images.ids.tolist(), images.labels, strict=True):
            said = LABELS[int(name[4:7]) % 8].split("|")
            assert {n for n, has in zip(splits.class_names, held, strict=True) if has} == {
                part for part in said if part
            }
    assert any("8 of 64 photos have no label" in note for note in splits.notes)


def test_splits_follow_the_rarest_label(root: Path) -> None:
    labels = LABELS * 8
    for place in range(0, 64, 8):
        labels[place] = "cat|rare"
    splits = load(write(root, labels), val_fraction=0.25, test_fraction=0.25)
    k = splits.class_names.index("rare")
    held = [int(images.labels[:, k].sum()) for images in (splits.train, splits.val, splits.test)]
    assert held == [4, 2, 2] or held == [5, 1, 2]  # a quarter each, and not by luck
    again = load(write(root, labels), val_fraction=0.25, test_fraction=0.25)
    assert again.fingerprint == splits.fingerprint


def test_strata_and_counts() -> None:
    labels = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 0], [1, 0, 1], [1, 1, 1]], bool)
    assert class_counts(labels, 3).tolist() == [4, 2, 2]
    assert strata_of(labels).tolist() == [1, 0, 3, 2, 1]
    one = np.array([2, 0, 1])
    assert strata_of(one) is one
    assert label_text(labels[0], "abc") == "a, b"
    assert label_text(labels[2], "abc") == "no label"
    assert label_text(one[0, ...], "abc") == "c"


def test_rows_of_one_photo_add_up(root: Path) -> None:
    table = write(root, LABELS * 8)
    with table.open("a", newline="") as file:
        csv.writer(file).writerows([("all/001.png", "red"), ("all/001.png", "cat")])
    splits = load(table)
    found = {
        name: held.tolist()
        for images in (splits.train, splits.val, splits.test)
        for name, held in zip(images.ids.tolist(), images.labels, strict=True)
    }
    assert found["all/001.png"] == [True, False, True]
    with table.open("a", newline="") as file:
        csv.writer(file).writerow(("all/002.png", "cat|dog"))
    load(table)


def test_lists_of_parquet(root: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = root / "labels.parquet"
    paths = [f"all/{i:03}.png" for i in range(COUNT)]
    lists = [[part for part in label.split("|") if part] for label in LABELS * 8]
    parquet.write_table(pyarrow.table({"path": paths, "label": lists}), table)
    assert load(table).fingerprint == load(write(root, LABELS * 8)).fingerprint
    lists[3] = ["cat|dog"]
    parquet.write_table(pyarrow.table({"path": paths, "label": lists}), table)
    assert "a label cannot be 'cat|dog'" in refused(table)
    with pytest.raises(DataError, match="holds list"):
        load(table, labels="one")


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (["cat;dog", "cat", "dog", "red"], "separate labels by |, as in cat|dog"),
        (["cat", "dog", "red", "cat"], 'leave data.labels = "many" out'),
        (["", "", "", ""], "no row has a label"),
        (["cat", "cat", "", "cat"], "a single label, cat"),
        (["cat|dog", "cat|dog|red", "cat|dog", "cat|red"], "every training image has the label"),
    ],
)
def test_what_is_no_set_of_labels_is_refused(root: Path, labels: list[str], said: str) -> None:
    assert said in refused(write(root, labels * 16))


def test_a_label_of_one_photo_is_too_rare(root: Path) -> None:
    labels = LABELS * 8
    labels[0] = "cat|rare"
    assert "class rare has 1 image to split" in refused(write(root, labels))


def test_a_label_that_only_test_has_is_refused(root: Path) -> None:
    splits = ["train", "train", "train", "test"] * 16
    labels = LABELS * 8
    labels[3] = "blue"
    table = write(root, labels, splits, header="path,label,split")
    assert "no training photo has the labels blue of split test" in refused(table)


def test_other_sources_have_one_label(root: Path) -> None:
    with pytest.raises(DataError, match="needs a table"):
        load_data(DataSpec(source=f"folder:{root}", size=32, labels="many"))
    with pytest.raises(DataError, match="needs a table"):
        load_data(DataSpec(source="cifar10-mini", labels="many"))


def test_unasked_a_set_of_labels_is_a_name_with_a_note(root: Path) -> None:
    labels = [label or "none" for label in LABELS * 8]
    splits = load(write(root, labels), labels="one")
    assert "cat|dog" in splits.class_names
    (note,) = [note for note in splits.notes if "data.labels" in note]
    assert "is taken as the name of one class" in note


def test_counts_limits_and_pictures_of_sets_of_labels(root: Path) -> None:
    table = write(root, LABELS * 8)
    spec = DataSpec(source=f"manifest:{table}", labels="many")
    told = describe(spec)
    assert sum(told.images.values()) == COUNT
    assert sum(told.counts["train"]) > told.images["train"]
    limited = load(table, train_limit=40, test_limit=8)
    assert len(limited.train) + len(limited.val) == 40
    assert len(limited.test) == 8
    assert "there are" in refused(table, train_limit=1000)
    out = sample_grid(limited.train, limited.class_names, root / "samples.png", rows=1, cols=3)
    assert out.stat().st_size > 0


def test_the_same_picture_with_other_labels_is_noted(root: Path) -> None:
    target = root / "all" / "001.png"
    target.write_bytes((root / "all" / "000.png").read_bytes())
    splits = load(write(root, LABELS * 8))
    assert torn_labels(splits) == ("1 image is there twice, byte for byte, with different labels",)


def test_an_audit_of_such_a_table_is_refused(root: Path) -> None:
    # Each combination occurs often enough to be read as a class.
    table = write(root, [["cat", "dog", "cat|dog", "red"][i % 4] for i in range(COUNT)])
    with pytest.raises(DataError, match=r"cat\|dog: an audit takes photos with one label each"):
        open_pictures(f"manifest:{table}", 32, lambda *_: None)
