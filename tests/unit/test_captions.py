"""Captions stay distinct, however much the names have in common, and never outgrow their room."""

from __future__ import annotations

import numpy as np
import pytest

from headstart.text.captions import captions
from headstart_predict.plain import shorten_middle

LONG = "photograph of a flowering plant found in a garden"


def test_names_that_fit_stay_whole() -> None:
    assert captions(["cat", "dog", "a cat and a dog"], 15) == ["cat", "dog", "a cat and a dog"]


def test_what_all_names_share_is_dropped_and_the_rest_is_kept() -> None:
    names = [f"{LONG}, {name}, seen from the side" for name in ("daisy", "iris", "lily-valley")]
    assert captions(names, 18) == ["daisy", "iris", "lily-valley"]


def test_the_part_that_tells_names_apart_is_kept() -> None:
    names = [f"Balinese character{k:02}" for k in range(1, 25)]
    names += [f"Korean character{k:02}" for k in range(1, 41)]
    found = captions(names, 14)
    assert found[:2] == ["Balinese…01", "Balinese…02"]
    assert found[-1] == "Korean…40"
    assert len(set(found)) == len(names)


@pytest.mark.parametrize("most", [12, 18, 24])
def test_captions_are_distinct_and_fit(most: int) -> None:
    rng = np.random.default_rng(0)
    for case in range(300):
        lengths = rng.integers(1, 110, 40)
        names = list({"".join(rng.choice(list("ab 1_-"), n)) for n in lengths})
        if case % 2:
            names = [f"{LONG} {name}" for name in names]
        if case % 3:
            names = [f"{name} {LONG}" for name in names]
        found = captions(names, most)
        assert len(set(found)) == len(names)
        assert all(0 < len(caption) <= most for caption in found)


def test_names_that_nothing_tells_apart_in_their_room_are_numbered() -> None:
    names = ["x" * 60 + "y" * k + "z" * 60 for k in range(3)]
    found = captions(names, 12)
    assert len(set(found)) == 3
    assert captions([], 12) == []
    assert captions([LONG], 18) == ["photograph of a f…"]


def test_a_files_name_keeps_its_ends() -> None:
    assert shorten_middle("IMG_20240131_093012_HDR.jpg", 20) == "IMG_20240…12_HDR.jpg"
    assert shorten_middle("cat.png", 20) == "cat.png"
