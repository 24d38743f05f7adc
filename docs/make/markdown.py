"""Pieces of Markdown: text that stays as it is, code, tables, the comments of yaml files."""

import html
import re
from collections.abc import Iterable, Sequence


def plain(text: str) -> str:
    """Text that Markdown leaves as it is, also in a table."""
    escaped = html.escape(text, quote=False)
    return re.sub(r"([\\`*_\[\]#])", r"\\\1", escaped).replace("|", "&#124;").replace("~", "&#126;")


def code(text: str, *, whole: bool = False) -> str:
    """Text as code, in a table or outside; on one line, if it is to stay ``whole``."""
    kind = ' class="whole"' if whole else ""
    return f"<code{kind}>{html.escape(text, quote=False).replace('|', '&#124;')}</code>" if text else ""


def doc(text: str) -> str:
    """A sentence of a docstring: what stands between backticks is code."""
    parts = re.split(r"``(.+?)``|`(.+?)`", text)
    return "".join(code(part) if i % 3 else plain(part) for i, part in enumerate(parts) if part)


def wide(text: str, rem: int = 14) -> str:
    """What is in a cell of a table, at least so wide; nothing for little."""
    return f'<span class="wide" style="min-width: {rem}rem">{text}</span>' if len(text) > 30 else text


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of Markdown; cells are Markdown already."""
    lines = [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines) + "\n"


def prose(comment: str) -> str:
    """Comments of a yaml file: sentences as paragraphs, indented lines (commands, lists) as they stand."""
    parts: list[list[str]] = []
    for line in comment.splitlines():
        kind = "code" if line.startswith("  ") else "text"
        if not line.strip():
            parts.append([""])
        elif parts and parts[-1][0] == kind:
            parts[-1].append(line)
        else:
            parts.append([kind, line])
    blocks = []
    for kind, *lines in parts:
        if kind == "code":
            blocks.append("\n".join(["```text", *(line.removeprefix("  ") for line in lines), "```"]))
        elif kind == "text":
            blocks.append(plain(" ".join(lines)))
    return "\n\n".join(blocks)


def in_short(comment: str) -> str:
    """The sentences of a comment before its first command."""
    words = []
    for line in comment.splitlines():
        if line.startswith("  ") or not line.strip():
            break
        words.append(line.strip())
    return plain(re.sub(r":?\s{2,}", ": ", " ".join(words)))
