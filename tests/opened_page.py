"""An exported page in a browser, and the pictures that it is asked about."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Opened:
    """A page in a browser without a network, and the pictures that it is asked about."""

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

    def hand_over(self, event: str, files: Mapping[str, str]) -> None:
        """Drop or paste files of some text."""
        self.page.evaluate(
            """([event, files]) => {
              const data = new DataTransfer();
              for (const [name, text] of Object.entries(files)) {
                data.items.add(new File([text], name));
              }
              document.body.dispatchEvent(event === "drop"
                ? new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true })
                : new ClipboardEvent("paste", { clipboardData: data, bubbles: true }));
            }""",
            [event, files],
        )  # fmt: skip
