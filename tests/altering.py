"""Bundles of one model that say other things of themselves: for tests of what shows them."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any


def altered(bundle: Path, folder: Path, card: str = "# A card", **facts: Any) -> Path:
    """The same model with other facts, and another card."""
    copied = shutil.copytree(bundle, folder)
    (copied / "README.md").write_text(card)
    record = json.loads((copied / "bundle.json").read_text())
    content = card.encode()
    listed = record["files"]["README.md"]
    listed |= {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (copied / "bundle.json").write_text(json.dumps(record | facts))
    return copied
