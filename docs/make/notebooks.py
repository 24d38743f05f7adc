"""The pages of the demonstrations: a notebook becomes its text, its code, and what it has printed and drawn."""

import json
import re
from pathlib import Path
from typing import Any

from docs.make.markdown import plain, table

FOLDER = Path(__file__).parents[2] / "demonstrations"


def notebooks() -> list[Path]:
    """Notebooks of the demonstrations, as far as there are any."""
    return sorted(FOLDER.glob("[A-Z]*.ipynb"))


def demonstrations_page() -> str:
    """The list of the notebooks."""
    head = "# Demonstrations\n\nNotebooks, to be read from top to bottom; they lie in `demonstrations/`.\n\n"
    if not notebooks():
        return head + "There are none in this version yet.\n"
    rows = [[f"[{plain(path.stem)}]({path.stem}.md)", plain(title_of(path))] for path in notebooks()]
    return head + table(["notebook", "what it shows"], rows)


def title_of(path: Path) -> str:
    """First heading of a notebook."""
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        heading = re.search(r"^#+ (.*)$", "".join(cell["source"]), re.MULTILINE)
        if cell["cell_type"] == "markdown" and heading:
            return heading[1]
    return path.stem


def notebook_page(path: Path) -> str:
    """A notebook as a page: its text, its code, and what it has printed and drawn."""
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
        elif cell["cell_type"] == "code" and source.strip():
            parts.append(f"````python\n{source}\n````")
            parts += [_shown(output) for output in cell["outputs"]]
    return "\n\n".join(parts) + f"\n\nThe notebook itself is `demonstrations/{path.name}`.\n"


def _shown(output: dict[str, Any]) -> str:
    """One output of a cell: a picture, or text."""
    data = output.get("data", {})
    if "image/png" in data:
        return f'<img alt="figure" src="data:image/png;base64,{"".join(data["image/png"].split())}">'
    text = output.get("text") or data.get("text/plain") or []
    return f"````text\n{''.join(text).rstrip()}\n````" if text else ""
