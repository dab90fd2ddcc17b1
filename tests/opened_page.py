"""A page that classifies, in a browser, and the pictures that it is asked about."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Opened:
    """A page in a browser."""

    def __init__(self, page: Any) -> None:
        self.page = page

    def ask(self, path: Path) -> dict[str, float]:
        self.page.locator("#chosen").set_input_files(path)
        return self.answer()

    def answer(self) -> dict[str, float]:
        """The probabilities that the newest answer shows, best first; the answer is removed."""
        answer = self.page.locator(".answer:not(.waiting)").first
        answer.locator(".bars").first.wait_for()
        rows = answer.locator(".bars li")
        names = rows.locator(".name").evaluate_all("all => all.map((e) => e.textContent)")
        shares = rows.locator("data").evaluate_all("all => all.map((e) => Number(e.value))")
        self.page.locator("#clear").click()
        return dict(zip(names, shares, strict=True))

    def hand_over(self, event: str, files: Mapping[str, bytes]) -> None:
        """Drop or paste files."""
        self.page.evaluate(
            """([event, files]) => {
              const data = new DataTransfer();
              for (const [name, text] of Object.entries(files)) {
                const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
                data.items.add(new File([bytes], name));
              }
              document.body.dispatchEvent(event === "drop"
                ? new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true })
                : new ClipboardEvent("paste", { clipboardData: data, bubbles: true }));
            }""",
            [event, {name: base64.b64encode(file).decode() for name, file in files.items()}],
        )  # fmt: skip
