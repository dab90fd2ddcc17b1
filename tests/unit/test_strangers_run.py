"""What a run of a stranger cannot make headstart do."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from headstart.deployment.predictor import load_predictor
from headstart.errors import HeadstartError
from tests.fabricating import fabricate


@pytest.mark.parametrize("name", ["hf-hub:somebody/model", "local-dir:/etc", "https://a/b"])
def test_a_backbone_that_is_an_address_is_not_followed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = fabricate(tmp_path / "run", name="strange")
    backbone = run.recipe.backbone.model_copy(update={"name": name})
    recipe = run.recipe.model_copy(update={"backbone": backbone})
    (run.path / "recipe.toml").write_text(recipe.to_toml())
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("network"))
    with pytest.raises(HeadstartError, match=r"addresses are not followed|no backbone"):
        load_predictor(run.path, device="cpu")
