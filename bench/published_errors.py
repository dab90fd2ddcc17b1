"""Whether an audit of CIFAR-10's test set finds its published label errors.

    python bench/published_errors.py [--backbone NAME]

Northcutt, Athalye and Mueller (2021), "Pervasive label errors in test sets destabilize machine
learning benchmarks", asked five people each about 275 test images whose labels confident learning
doubted. Of 54 fewer than three said that the label alone fits: these count as errors here. Nobody
looked at the other 9,725, so that a candidate outside of the list may be an error, too. Needs
CIFAR-10 in HEADSTART_DATA.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from audit import see
from PIL import Image

from headstart.auditing.audit import BACKBONE
from headstart.auditing.labels import grouped_folds, held_out, rank_shares, softmax, votes
from headstart.data.loading import open_source
from headstart.specs import DataSpec

# Places in the official order of the test set.
ERRORS = (
    165, 792, 882, 1227, 1300, 1684, 1718, 1969, 2010, 2128, 2232, 2405, 2532, 2592, 2804, 2840,
    2940, 3113, 3168, 3183, 3192, 3490, 3600, 3753, 3977, 4055, 4198, 4614, 4643, 4794, 4910, 4965,
    5166, 5191, 5211, 5468, 5632, 5690, 5882, 5960, 6522, 6792, 6877, 6966, 7311, 7657, 7846, 8058,
    8296, 8620, 9227, 9352, 9643, 9793,
)  # fmt: skip
FIRST = (25, 50, 100, 200, 500)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--backbone", default=BACKBONE)
    asked = parser.parse_args()
    source = open_source(DataSpec(source="cifar10"))
    assert source.test is not None
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "test"
        for row, label in enumerate(source.test.labels):
            path = folder / source.class_names[label] / f"{row:05}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(source.test.read(np.array([row]))[0]).save(path)
        seen = see(folder, asked.backbone)
        # The audit has the images in the order of their paths: by class, then by place.
        order = np.array([int(path.stem) for path in sorted(folder.glob("*/*.png"))])
    assert (source.test.labels[order] == seen.labels).all()
    wrong = np.isin(order, ERRORS)
    folds = grouped_folds(seen.labels, seen.keys, seen.groups)
    shares = softmax(held_out(seen.features, seen.labels, folds, seen.classes))
    near = votes(seen.features, seen.labels, seen.groups, seen.classes)
    ranked = wrong[rank_shares(shares, near, seen.labels).order]
    print(f"{asked.backbone}, {wrong.sum()} published errors among {len(wrong):,} images")
    for first in FIRST:
        found = int(ranked[:first].sum())
        print(f"  first {first:>3}: {found:>2} published, precision {found / first:.1%}")


if __name__ == "__main__":
    main()
