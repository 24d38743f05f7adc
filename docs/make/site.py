"""What the site has beside the pages that lie in `docs/`, and where it stands in the navigation."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docs.make import program, settings
from docs.make.notebooks import demonstrations_page, notebook_page, notebooks

REPO = Path(__file__).parents[2]
# Where README.md leads to, and where the site has it.
MOVED = {
    "](docs/": "](",
    'src="assets/': 'src="pictures/',
    "](demonstrations)": "](demonstrations/index.md)",
    "](CONTRIBUTING.md)": "](contributing.md)",
    "](CHANGELOG.md)": "](changelog.md)",
}


def places() -> dict[str, list[Any]]:
    """Pages that are found, by the title under which the navigation leaves a place for them."""
    return {
        "API": [{"The rooms": "reference/api/index.md"}, *program.modules_by_room()],
        "Decisions": [*(f"adr/{path.name}" for path in decisions()), {"Template": "adr/template.md"}],
        "Demonstrations": ["demonstrations/index.md", *(f"demonstrations/{path.stem}.md" for path in notebooks())],
    }


def filled(nav: list[Any], found: dict[str, list[Any]]) -> list[Any]:
    """A list of pages with the lists that are found in the place of empty ones."""
    result: list[Any] = []
    for entry in nav:
        if not isinstance(entry, dict):
            result.append(entry)
            continue
        ((title, below),) = entry.items()
        if title in found:
            below = [*(below or []), *found[title]]
        elif isinstance(below, list):
            below = filled(below, found)
        result.append({title: below})
    return result


def pages() -> Iterator[tuple[str, str]]:
    """Places and texts of all pages that are made."""
    yield "index.md", front((REPO / "README.md").read_text(encoding="utf-8"))
    yield "contributing.md", (REPO / "CONTRIBUTING.md").read_text(encoding="utf-8")
    yield "changelog.md", (REPO / "CHANGELOG.md").read_text(encoding="utf-8")
    yield "reference/commands.md", program.commands_page()
    yield "reference/keys.md", settings.keys_page()
    yield "reference/experiments.md", settings.experiments_page()
    yield "reference/files.md", program.files_page()
    yield "reference/stages.md", program.stages_page()
    yield from program.api_pages()
    yield "demonstrations/index.md", demonstrations_page()
    for path in notebooks():
        yield f"demonstrations/{path.stem}.md", notebook_page(path)


def pictures() -> Iterator[tuple[str, Path]]:
    """Places and files of the pictures."""
    for path in sorted((REPO / "assets").glob("*.png")):
        yield f"pictures/{path.name}", path


def decisions() -> list[Path]:
    """Pages of `docs/adr`, the template left out."""
    return sorted((REPO / "docs" / "adr").glob("[0-9]*.md"))


def front(readme: str) -> str:
    """README.md as the first page: what it leads to is where the site has it."""
    for there, here in MOVED.items():
        readme = readme.replace(there, here)
    return readme


def with_sections(markdown: str) -> str:
    """Fill in the sections of CONTRIBUTING.md that a page asks for by their headings."""
    return re.sub(r"<!-- CONTRIBUTING: (.*?) -->", lambda match: section(match[1]), markdown)


def section(heading: str) -> str:
    """A section of CONTRIBUTING.md, without its heading."""
    text = (REPO / "CONTRIBUTING.md").read_text(encoding="utf-8")
    parts = dict(re.findall(r"^## ([^\n]*)\n\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    return parts[heading].strip()
