"""The audit's methods on made arrays and photos: labels, strangers, shortcuts, quality."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from headstart.auditing.audit import wrong_lines
from headstart.auditing.facts import Facts, blur_of, describe, jpeg_quality, wrong_suffix
from headstart.auditing.foreign import distances, find_foreign
from headstart.auditing.labels import grouped_folds, rank_labels
from headstart.auditing.neighbours import nearest, unit
from headstart.auditing.quality import blurred_rows, find_flaws
from headstart.auditing.records import Pair, Picture
from headstart.auditing.shortcuts import balanced_accuracy, find_shortcuts
from headstart.data.hashing import hash_ids
from tests.photos import real_pixels


def clusters(
    classes: int = 4, each: int = 60, width: int = 16, apart: float = 1.0, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Features float32 (n, width) around a centre for each class, and labels."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(0, apart, (classes, width))
    labels = np.repeat(np.arange(classes), each)
    return (centres[labels] + rng.normal(0, 0.5, (len(labels), width))).astype(np.float32), labels


def keys_of(count: int) -> np.ndarray:
    return hash_ids([str(k) for k in range(count)])


def judged(features: np.ndarray, labels: np.ndarray) -> Any:
    groups = np.arange(len(labels))
    folds = grouped_folds(labels, keys_of(len(labels)), groups)
    return rank_labels(features, labels, folds, groups, int(labels.max()) + 1)


def test_planted_wrong_labels_come_first_and_are_corrected() -> None:
    features, truth = clusters()
    rng = np.random.default_rng(1)
    wrong = rng.permutation(len(truth))[:12]
    labels = truth.copy()
    labels[wrong] = (truth[wrong] + rng.integers(1, 4, 12)) % 4
    ranking = judged(features, labels)
    assert set(ranking.order[:12].tolist()) == set(wrong.tolist())
    assert (ranking.suggested[wrong] == truth[wrong]).all()
    assert ranking.likely[wrong].all() and ranking.likely.sum() <= 14
    assert (np.diff(ranking.score[ranking.order]) <= 0).all()
    assert ranking.score.min() >= 0 and ranking.score.max() <= 1


def test_right_labels_are_not_likely_wrong() -> None:
    features, labels = clusters()
    ranking = judged(features, labels)
    assert ranking.likely.sum() == 0
    assert (ranking.suggested != labels).all()


def test_a_class_of_few_pictures_is_not_judged() -> None:
    features, labels = clusters()
    labels = labels.copy()
    labels[:2] = 4  # two pictures of a fifth class, in the midst of the first
    ranking = judged(features, labels)
    assert not ranking.likely[:2].any() and (ranking.score[:2] == 0).all()


def test_a_group_is_in_one_fold_and_classes_are_spread() -> None:
    labels = np.repeat(np.arange(3), 50)
    groups = np.arange(150)
    groups[[3, 60, 149]] = 3
    folds = grouped_folds(labels, keys_of(150), groups)
    assert folds[3] == folds[60] == folds[149]
    counts = np.array([np.bincount(folds[labels == c], minlength=5) for c in range(3)])
    assert counts.min() >= 8 and counts.max() <= 12


def test_neighbours_are_outside_the_group_and_ordered() -> None:
    rows = unit(np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32))
    groups = np.arange(40)
    groups[1] = groups[0]
    found, cosines = nearest(rows, groups, 5)
    products = rows @ rows.T
    products[groups[:, None] == groups[None]] = -np.inf
    assert (found == np.argsort(-products, axis=1)[:, :5]).all()
    assert (np.diff(cosines, axis=1) <= 0).all()
    assert 1 not in found[0] and 0 not in found[1]


def test_more_neighbours_than_rows() -> None:
    rows = unit(np.eye(3, dtype=np.float32))
    found, cosines = nearest(rows, np.array([0, 0, 1]), 10)
    assert found.shape == (3, 2)
    assert np.isinf(cosines[0]).sum() == 1 and np.isfinite(cosines[2]).all()


def test_strangers_are_far_from_every_class() -> None:
    features, labels = clusters(each=80, width=32)
    rng = np.random.default_rng(2)
    strange = rng.normal(0, 1.5, (6, 32)).astype(np.float32)
    whole = np.concatenate([features, strange])
    given = np.concatenate([labels, rng.integers(0, 4, 6)])
    groups, foreign = np.arange(len(given)), np.arange(len(given)) >= len(labels)
    assert roc_auc_score(foreign, distances(whole, given, groups)) > 0.99
    found = find_foreign(whole, given, groups)
    assert {row for row, _ in found[:6]} == set(np.flatnonzero(foreign).tolist())
    assert [score for _, score in found] == sorted((s for _, s in found), reverse=True)
    assert len(find_foreign(features, labels, np.arange(len(labels)))) <= 3


def fact(**settings: Any) -> Facts:
    plain = Facts(200, 150, 12_000, "JPEG", 90, "", "", 100, 100, 100, 220, 200, 0.3)
    values = {name: getattr(plain, name) for name in Facts.__slots__}
    return Facts(**{**values, **settings})


def shortcuts_of(facts: list[Facts], labels: np.ndarray, classes: int) -> dict[str, Any]:
    folds = grouped_folds(labels, keys_of(len(labels)), np.arange(len(labels)))
    names = [f"class {k}" for k in range(classes)]
    return {cut.field: cut for cut in find_shortcuts(facts, labels, folds, names)}


def test_a_quality_that_tells_the_class_alarms() -> None:
    labels = np.repeat(np.arange(3), 30)
    found = shortcuts_of(
        [fact(quality=q) for q in np.array([60, 80, 95])[labels].tolist()], labels, 3
    )
    assert found.keys() == {"JPEG quality"}  # what never varies is no field
    cut = found["JPEG quality"]
    assert cut.level == "alarm" and cut.accuracy == 1 and cut.chance == pytest.approx(1 / 3)


def test_one_class_of_ten_with_its_own_camera_alarms() -> None:
    labels = np.repeat(np.arange(10), 30)
    facts = [fact(camera="Acme One" if label == 7 else "Other") for label in labels]
    cut = shortcuts_of(facts, labels, 10)["camera"]
    assert cut.level == "alarm" and cut.label == "class 7" and cut.auc > 0.99
    assert "Acme One (100%) in class 7, Other (100%) elsewhere" in cut.example


def test_chance_does_not_alarm() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 50)
    facts = [
        fact(quality=q, width=w, bytes=b)
        for q, w, b in zip(
            rng.integers(60, 96, 200).tolist(), rng.integers(100, 900, 200).tolist(),
            rng.integers(5_000, 50_000, 200).tolist(), strict=True,
        )
    ]  # fmt: skip
    found = shortcuts_of(facts, labels, 4)
    assert found.keys() >= {"JPEG quality", "width", "bytes per pixel"}
    assert {cut.level for cut in found.values()} == {"none"}


def test_mean_colour_is_a_note_however_well_it_predicts() -> None:
    labels = np.repeat(np.arange(2), 40)
    rng = np.random.default_rng(0)
    facts = [fact(red=50.0 + 100 * label + rng.normal()) for label in labels]
    cut = shortcuts_of(facts, labels, 2)["mean colour"]
    assert cut.level == "note" and cut.accuracy == 1


def test_balanced_accuracy_weighs_classes_the_same() -> None:
    labels = np.array([0] * 90 + [1] * 10)
    accuracy, error = balanced_accuracy(labels == 0, labels)
    assert accuracy == 0.5 and 0 < error < 0.1


@pytest.mark.parametrize("quality", [10, 35, 50, 75, 90, 95, 100])
def test_the_quality_of_a_jpeg_is_read_from_its_table(quality: int) -> None:
    assert abs(describe(encoded(photo(), "JPEG", quality=quality)).quality - quality) <= 1


def test_no_table_has_no_quality() -> None:
    assert jpeg_quality([]) == 0
    assert describe(encoded(photo(), "PNG")).quality == 0


def photo(width: int = 120, height: int = 90, seed: int = 0) -> Image.Image:
    """A real picture, enlarged, with noise as fine as its pixels."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(real_pixels()[seed])
    large = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    noisy = large + rng.integers(-30, 31, (height, width, 1))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, form: str, **settings: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **settings)
    return stream.getvalue()


def test_facts_are_of_the_upright_picture_and_its_exif() -> None:
    exif = Image.Exif()
    exif[0x010F], exif[0x0110], exif[0x0131], exif[0x0112] = "Acme", "One", "Editor 3", 6
    found = describe(encoded(photo(), "JPEG", exif=exif))
    assert (found.width, found.height) == (90, 120)
    assert (found.camera, found.software, found.format) == ("Acme One", "Editor 3", "JPEG")


@pytest.mark.parametrize(
    ("path", "form", "lies"),
    [("a/b.jpg", "PNG", True), ("a/b.JPEG", "JPEG", False), ("a/b.png", "PNG", False),
     ("a/b", "JPEG", False), ("a.png/b", "JPEG", False), ("a/b.webp", "GIF", True)],
)  # fmt: skip
def test_a_suffix_that_is_not_the_format_inside(path: str, form: str, lies: bool) -> None:
    assert (wrong_suffix(path, form) is not None) is lies


def test_blur_rises_with_blurring() -> None:
    from PIL import ImageFilter

    sharp = photo().convert("L")
    values = [
        blur_of(np.asarray(sharp.filter(ImageFilter.GaussianBlur(r)), np.float32))
        for r in (0, 1, 2, 4)
    ]
    assert values == sorted(values) and values[0] < 0.4 and values[-1] > 0.8
    assert blur_of(np.full((20, 20), 7, np.float32)) == 0


def test_blurred_is_what_is_softer_than_its_folder() -> None:
    rng = np.random.default_rng(0)
    sharp = rng.normal(0.3, 0.03, 100)
    assert np.flatnonzero(blurred_rows(np.append(sharp, 0.9))).tolist() == [100]
    assert not blurred_rows(rng.normal(0.85, 0.03, 100)).any()  # a folder that is soft as a whole


def test_flaws_by_kind() -> None:
    facts = [fact(), fact(bright=12.0), fact(spread=1.0), fact(width=6, height=6),
             fact(width=30, height=40), fact(width=900, height=150), fact(blur=0.95)]  # fmt: skip
    facts += [fact() for _ in range(20)]
    pictures = [Picture(f"{k}.jpg", "a", "") for k in range(len(facts))]
    found = {(flaw.path, flaw.kind) for flaw in find_flaws(pictures, facts, 224)}
    kinds = ["dark", "blank", "tiny", "enlarged", "odd_shape", "blurred"]
    assert found == {(f"{k}.jpg", kind) for k, kind in enumerate(kinds, start=1)}


@pytest.mark.parametrize(
    ("kind", "labels", "splits", "said"),
    [
        ("exact", ("a", "b"), ("", ""), "in two classes, such as 1 (a) = 2 (b)"),
        ("near", ("a", "a"), ("test", "train"), "in two splits, such as 1 = 2"),
        ("near", ("a", "b"), ("", ""), None),  # one of them may have what decides
        ("exact", ("a", "a"), ("train", "train"), None),
    ],
)
def test_what_makes_results_wrong(
    kind: str, labels: tuple[str, str], splits: tuple[str, str], said: str | None
) -> None:
    pair = Pair("1", "2", kind, labels, splits, labels[0] != labels[1], splits[0] != splits[1],
                False, 1.0)  # fmt: skip
    lines = wrong_lines([pair], [])
    assert len(lines) == (said is not None) and (said is None or said in lines[0])
