"""The manifest of an audit: what is left out, decisions, and what is refused."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from headstart.auditing.fixing import read_decisions, require_new, write_manifest
from headstart.auditing.records import Audit, Fault, Pair, Picture
from headstart.errors import DataError, HeadstartError

ROWS = [("train/a/1.jpg", "a", "train"), ("train/b/2.jpg", "b", "train"),
        ("val/a/3.jpg", "a", "val"), ("test/b/4.jpg", "b", "test"), ("=x/a/5.jpg", "a", "train"),
        ('train/a/say "six", x.jpg', "a", "train")]  # fmt: skip


def audited(root: Path, *, pairs: tuple[Pair, ...] = ()) -> Audit:
    return Audit(
        str(root), "net", ("a", "b"), tuple(Picture(*row) for row in ROWS), (), pairs,
        (Fault("train/a/bad.jpg", "truncated", False),), (), (), (), (), (),
    )  # fmt: skip


def pair(first: int, second: int, kind: str) -> Pair:
    one, two = ROWS[first], ROWS[second]
    return Pair(one[0], two[0], kind, (one[1], two[1]), (one[2], two[2]), one[1] != two[1],
                one[2] != two[2], False, 1.0)  # fmt: skip


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_without_decisions_only_what_is_surely_right_is_done(tmp_path: Path) -> None:
    pairs = (pair(3, 1, "exact"), pair(0, 2, "near"), pair(0, 4, "exact"))
    path = tmp_path / "manifest.csv"
    assert write_manifest(audited(tmp_path / "photos", pairs=pairs), path) == 5
    rows = read(path)
    assert list(rows[0]) == ["path", "label", "split"]
    kept = [ROWS[k] for k in (0, 2, 3, 4, 5)]  # not 1: the test has it; near ones, and pairs
    assert [tuple(row.values()) for row in rows] == [  # within a split, stay
        (f"photos/{name}", label, split) for name, label, split in kept
    ]


def test_paths_work_from_the_manifest(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    beside, inside, away = tmp_path / "m.csv", root / "m.csv", tmp_path / "else" / "m.csv"
    away.parent.mkdir()
    root.mkdir()
    for path in (beside, inside, away):
        write_manifest(audited(root), path)
        for row, (name, _, _) in zip(read(path), ROWS, strict=True):
            assert (path.parent / row["path"]).resolve() == (root / name).resolve()
    assert read(inside)[4]["path"] == "./=x/a/5.jpg"  # which no spreadsheet computes
    assert Path(read(away)[0]["path"]).is_absolute()


def test_decisions_are_applied(tmp_path: Path) -> None:
    audit = audited(tmp_path, pairs=(pair(3, 1, "exact"),))
    decided = tmp_path / "decisions.csv"
    decided.write_text(
        'path,label,action\ntrain/a/1.jpg,b,relabel\ntrain/b/2.jpg,b,keep\nval/a/3.jpg,a,remove\n'
        './=x/a/5.jpg,"b",relabel\n"train/a/say ""six"", x.jpg",a,remove\n'
    )  # fmt: skip
    write_manifest(audit, tmp_path / "m.csv", read_decisions(decided, audit))
    rows = {row["path"].removeprefix("./"): row["label"] for row in read(tmp_path / "m.csv")}
    assert rows == {"train/a/1.jpg": "b", "train/b/2.jpg": "b", "test/b/4.jpg": "b",
                    "=x/a/5.jpg": "b"}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("path,action\nx,keep\n", "first line"),
        ("", "first line"),
        ("path,label,action\ntrain/a/1.jpgg,a,keep\n", "line 2.*did you mean train/a/1.jpg"),
        ("path,label,action\ntrain/a/1.jpg,a,drop\n", "unknown action 'drop'"),
        ("path,label,action\ntrain/a/1.jpg,c,relabel\n", "no such class: 'c'"),
        ("path,label,action\ntrain/a/1.jpg,a,keep\ntrain/a/1.jpg,b,relabel\n", "twice"),
    ],
)
def test_what_makes_no_sense_is_refused(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "decisions.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=said) as error:
        read_decisions(path, audited(tmp_path))
    assert "\n" not in str(error.value)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "decisions.csv"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="UTF-8"):
        read_decisions(path, audited(tmp_path))


def test_a_decision_about_an_unreadable_file_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "decisions.csv"
    path.write_text("path,label,action\ntrain/a/bad.jpg,a,keep\n")
    audit = audited(tmp_path)
    assert write_manifest(audit, tmp_path / "m.csv", read_decisions(path, audit)) == len(ROWS)


def test_an_existing_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    require_new(path, overwrite=False)
    path.write_text("mine")
    with pytest.raises(HeadstartError, match="--overwrite"):
        require_new(path, overwrite=False)
    require_new(path, overwrite=True)
    with pytest.raises(HeadstartError, match="folder"):
        require_new(tmp_path, overwrite=True)
