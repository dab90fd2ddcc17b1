"""Texts of others, such as names of files and classes, made harmless for where they are shown.

Control characters and marks of writing direction can rewrite a terminal's line, or turn a name
around. They are shown as escapes: \\x1b, \\u202e. So are halves of surrogate pairs, which stand for
bytes of a file name that are no UTF-8.
"""

from __future__ import annotations

import re
from html import escape
from pathlib import Path

_HIDDEN = "\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
_IN_TEXT = re.compile(f"[{_HIDDEN}]")
_IN_LINE = re.compile(f"[\t\n{_HIDDEN}]")
_SHORT = {"\t": r"\t", "\n": r"\n", "\r": r"\r"}
# What begins a heading, a quotation, a list or a rule of Markdown, at the start of a line only.
_BEGINS = re.compile(r"^(\s*)(?:(\d+)([.)])(?=\s|$)|([#>+=-]))")
# An underscore within a word stays as it is, as in names of networks. A bracket matters where a
# link or its definition can follow.
_MARKUP = re.compile(r"[\\`*<|$]|~(?=~)|(?<=~)~|(?<![^\W_])_|_(?![^\W_])|\](?=[(\[:])|&(?=[#\w])")
_CUT = "…"
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def visible(text: str) -> str:
    """A text with its hidden characters as escapes; tabs and ends of lines stay."""
    return _IN_TEXT.sub(_as_escape, text)


def one_line(text: str) -> str:
    """As `visible`, with tabs and ends of lines as escapes too."""
    return _IN_LINE.sub(_as_escape, text)


def _as_escape(match: re.Match[str]) -> str:
    letter = match[0]
    code = ord(letter)
    return _SHORT.get(letter) or (f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")


def as_markdown(text: str) -> str:
    """A text that Markdown shows as it is, on one line, also in a cell of a table."""
    line = one_line(text.replace("\n", " "))
    return _BEGINS.sub(r"\1\2\\\3\4", _MARKUP.sub(_with_backslash, line))


def _with_backslash(match: re.Match[str]) -> str:
    return {"<": "&lt;", "&": "&amp;"}.get(match[0], f"\\{match[0]}")


def as_csv(text: str) -> str:
    """A text as a cell of CSV that no spreadsheet computes: an apostrophe goes before = + - @ and
    before a tab or an end of line."""
    shown = one_line(text)
    return f"'{shown}" if text.startswith(_FORMULA) else shown


def without_home(text: str) -> str:
    """A text with the user's home folder as ~; also where the text is HTML."""
    try:
        home = Path.home()
    except RuntimeError:  # nobody knows it
        return text
    if len(home.parts) < 2:  # of some containers it is /
        return text
    quoted = escape(str(home), quote=False).replace("'", "&#39;").replace('"', "&#34;")
    for written in dict.fromkeys((str(home), quoted)):  # the second as jinja writes it
        if written in text:
            text = re.sub(rf"(?<![\w.~-]){re.escape(written)}(?![\w.-])", "~", text)
    return text


def shorten_middle(text: str, most: int) -> str:
    """A text with its middle cut: both ends of a file name are informative."""
    if len(text) <= most:
        return text
    end = most // 2
    return text[: most - end - 1] + _CUT + text[-end:]
