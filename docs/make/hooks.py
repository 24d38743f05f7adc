"""What mkdocs is given beside the pages that lie in `docs/`: the reference, decisions, notebooks and pictures.

Nothing of it is written into the tree: the pages are made from `cfg/`, the stages, the docstrings and the notebooks
whenever the site is built.
"""

import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

REPO = Path(__file__).parents[2]
sys.path.insert(0, str(REPO))

from docs.make import site  # noqa: E402 - mkdocs is started from anywhere


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill the places that `mkdocs.yml` leaves for what is found: modules, decisions and notebooks."""
    config.nav = site.filled(config.nav, site.places())
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages and pictures."""
    for place, text in site.pages():
        files.append(File.generated(config, place, content=text))
    for place, path in site.pictures():
        files.append(File.generated(config, place, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in the sections of CONTRIBUTING.md that a page asks for."""
    return site.with_sections(markdown)
