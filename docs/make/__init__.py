"""What makes the pages of the reference: run by mkdocs when the site is built, and by `tests/test_docs.py`."""
