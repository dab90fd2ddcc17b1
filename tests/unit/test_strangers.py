"""Names that others gave: what they cannot do in a terminal, in Markdown, CSV, HTML and JSON."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from headstart.machine.progress import TerminalReporter
from headstart.report.card import render_card
from headstart.report.markdown import render_markdown
from headstart.report.page import render
from headstart_predict.answers import Answer, csv_lines, format_answers
from headstart_predict.plain import as_csv, as_markdown, one_line, visible, without_home
from headstart_predict.streams import show, show_json
from tests.fabricating import fabricate

BIDI = "\u200e\u200f\u202a-\u202e\u2066-\u2069"
HIDDEN = re.compile(f"[\x00-\x08\x0b-\x1f\x7f-\x9f{BIDI}\ud800-\udfff]")
NAMES = [
    *("\x1b[2J\x1b]0;owned\x07", "cat\u202etac", "line\nbreak\rback", "\udcff.jpg", "\x9b31m"),
    *("[link](http://evil)", "![x](http://evil/x.png)", "<script>alert(1)</script>", "**bold**"),
    *("a|b", "# heading", "- item", "1. item", "> quote", "`code`", "_emph_", "~~gone~~"),
    *("&lt;b&gt;", "[ref]: http://evil", "\\", "===", "---", "snake_case_name", "30.5 %", "$x$"),
]


@pytest.mark.parametrize("name", NAMES)
def test_markdown_shows_a_name_as_it_is(name: str) -> None:
    reader = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    shown = one_line(name.replace("\n", " "))
    for form in ("{}", "- {}", "- it is {}, and {}", "# {}", "**{}** x"):
        inline = [t for t in reader.parse(form.format(*[as_markdown(name)] * 2)) if t.children]
        (only,) = inline
        kinds = {child.type for child in only.children or ()}
        assert kinds <= {"text", "strong_open", "strong_close"}, (name, form, kinds)
        text = "".join(child.content for child in only.children or ())
        assert shown.strip() in text.strip(), (name, form, text)
    table = reader.parse(f"| a | b |\n| --- | --- |\n| {as_markdown(name)} | z |\n")
    assert len([token for token in table if token.type == "td_open"]) == 2
    assert [token.content for token in table if token.type == "inline"][3] == "z"


def test_ordinary_texts_stay_as_they_are() -> None:
    for text in ("vit_small_patch16_224", "84.2 % [80.1, 87.3] on 200", "a, b - c", "90.5 x", "é"):
        assert text == as_markdown(text) == one_line(text) == visible(text) == as_csv(text)


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@sum", "\tx", "\rx", '=cmd|"/c calc"!A1'])
def test_a_spreadsheet_computes_no_name(name: str) -> None:
    other = "plain"
    answer = Answer(f"{name}.jpg", name, 0.75, {name: 0.75, other: 0.25})
    header, row = csv.reader(io.StringIO("".join(csv_lines([answer], [name, other]))))
    for cell in (header[3], row[0], row[1]):
        assert cell.startswith("'")
        assert one_line(name) in cell
    assert row[2:] == ["0.750000", "0.750000", "0.250000"]


def test_nothing_hidden_reaches_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = TerminalReporter()
    for name in NAMES:
        answer = Answer(name, name, 1.0, {name: 1.0})
        show(format_answers([answer]))
        show(name)
        print(repr(answer))
        reporter.say(name)
        reporter.warn(name)
        reporter.transfer(name, 0, 1)
    captured = capsys.readouterr()
    assert not HIDDEN.search(captured.out + captured.err)
    assert r"\x1b[2J" in captured.out and r"cat\u202etac" in captured.err


def test_json_has_no_bare_infinity(capsys: pytest.CaptureFixture[str]) -> None:
    show_json({"a": [float("nan"), 1.5], "b": {"c": float("-inf")}, "d": (1, None)})
    assert json.loads(capsys.readouterr().out) == {
        "a": [None, 1.5],
        "b": {"c": None},
        "d": [1, None],
    }


def test_reports_show_hidden_characters_and_no_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home of o'neil"
    monkeypatch.setenv("HOME", str(home))
    run = fabricate(
        tmp_path / "run",
        name="named",
        n=2 * len(NAMES),
        classes=len(NAMES),
        class_names=NAMES,
        settings={"data": {"source": f"folder:{home}/photos"}},
        warnings=(f"left out {home}/photos/\u202egpj.exe: a ``` fence", *NAMES),
        marks=("<b>mark</b>",),
    )
    page, text, card = render([run]), render_markdown([run]), render_card(run)
    for made in (page, text, card):
        assert not HIDDEN.search(made)
        assert "o'neil" not in made and "o&#39;neil" not in made
        assert "~/photos" in made
        assert r"\u202e" in made
    assert "<script>alert" not in page
    body = card.partition("\n---\n\n")[2]
    reader = MarkdownIt("commonmark").enable("table")
    found = [c.type for t in reader.parse(body) for c in t.children or () if "link" in c.type]
    assert found == ["link_open", "link_close"]  # to how it is used
    assert not [t for t in reader.parse(body) if t.type == "html_block"]


def test_home_is_shortened_where_it_is_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    given = "/home/ann/x file:///home/ann/y /home/anna /mnt/home/ann '/home/ann' /home/ann.old"
    assert without_home(given) == "~/x file://~/y /home/anna /mnt/home/ann '~' /home/ann.old"
    monkeypatch.setenv("HOME", "/")
    assert without_home("/tmp/x") == "/tmp/x"
