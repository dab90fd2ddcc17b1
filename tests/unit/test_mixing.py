"""Mixup and CutMix: shares, partners, and nothing that depends on the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from headstart.data.hashing import hash_ids
from headstart.features.feeds import CachedFeed, batches
from headstart.machine.runtime import create_runtime
from headstart.views.mixing import Mixer, rectangles

KEYS = hash_ids([f"image-{i}" for i in range(4000)])


def constant_images(n: int) -> torch.Tensor:
    """Image i is everywhere i."""
    return torch.arange(n, dtype=torch.float32).view(-1, 1, 1, 1).expand(n, 3, 8, 8).contiguous()


def test_mixup_blends_with_the_successor() -> None:
    x = constant_images(4001)
    mixed, own = Mixer(0.5, 0.0, 1)(x, KEYS, 0)
    assert mixed.shape == (4000, 3, 8, 8)
    expected = own * x[:-1, 0, 0, 0] + (1 - own) * x[1:, 0, 0, 0]
    assert torch.allclose(mixed[:, 0, 0, 0], expected, atol=1e-3)
    assert 0.45 < float((own < 1).float().mean()) < 0.55
    assert own.min() >= 0.5


def test_cutmix_pastes_a_rectangle_of_the_successor() -> None:
    x = constant_images(4001)
    mixed, own = Mixer(0.0, 0.5, 1)(x, KEYS, 0)
    foreign = mixed[:, 0] == x[1:, 0]
    assert torch.equal(foreign | (mixed[:, 0] == x[:-1, 0]), torch.ones_like(foreign))
    assert torch.allclose(own, 1 - foreign.float().mean(dim=(1, 2)))
    assert 0.4 < float((own < 1).float().mean()) < 0.52
    # A rectangle: the rows that are touched are all touched in the same columns.
    one = foreign[own < 1][0]
    assert torch.equal(one, one.any(1)[:, None] & one.any(0)[None, :])


def test_features_without_a_plane_are_only_blended() -> None:
    x = torch.randn(4001, 6)
    mixed, own = Mixer(0.3, 0.7, 1)(x, KEYS, 0)
    alone = own == 1
    assert 0.65 < float(alone.float().mean()) < 0.75
    assert torch.allclose(mixed[alone], x[:-1][alone])


def test_rectangles_have_the_drawn_area() -> None:
    u = np.stack([np.linspace(0.01, 0.99, 50), np.full(50, 0.5), np.full(50, 0.5)], axis=1)
    areas = rectangles(u, 64, 64).mean(axis=(1, 2))
    assert np.abs(areas - u[:, 0]).max() < 0.04


@pytest.mark.parametrize("batch_size", [1, 7, 50])
def test_what_is_mixed_depends_on_the_epoch_and_not_on_the_batch(batch_size: int) -> None:
    runtime = create_runtime("cpu")
    keys = KEYS[:50]
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(50, 1, 3, 4, 4)).astype(np.float32)
    feed = CachedFeed(rows, np.arange(50), keys, 0, runtime)
    mixer = Mixer(0.5, 0.5, 2)
    order = np.random.default_rng(1).permutation(50)

    def epoch(size: int, number: int) -> torch.Tensor:
        found = batches(feed, order, size, number, runtime, successor=True)
        return torch.cat([mixer(b.x, b.keys, number)[0] for b in found])

    assert torch.equal(epoch(batch_size, 0), epoch(16, 0))
    assert not torch.equal(epoch(16, 0), epoch(16, 1))
