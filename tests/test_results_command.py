"""Published results: a number that no table has is refused, and the page is what the entries say."""

import copy
import csv
import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from cmbml.commands import main
from tests.conftest import REPO
from tests.test_pack_command import pipeline

VERSION = 32 * "a"
ROWS = [
    {"method": "none", "form": "common", "n": 3, "A_res_mean": 1.0, "A_res_std": 0.0, "transfer_mean": 1.0},
    {"method": "mine", "form": "common", "n": 3, "A_res_mean": 0.41, "A_res_std": 0.02, "transfer_mean": 0.99},
    {"method": "mine", "form": "native", "n": 3, "A_res_mean": 0.31, "A_res_std": 0.02, "transfer_mean": 0.99},
    {"method": "trap", "form": "common", "n": 3, "A_res_mean": 0.11, "A_res_std": 0.02, "transfer_mean": 0.04},
]
PAGE = "# Results\n\n<!-- results: begin; made by `cmbml results` -->\nold\n<!-- results: end -->\nafter\n"


def numbers(row: dict) -> dict:
    return {name: {"mean": row[f"{name}_mean"], "std": row[f"{name}_std"]} for name in ("A_res", "transfer")}


class Place:
    """A folder with one table and its entries."""

    def __init__(self, folder: Path):
        self.folder = folder / "results"
        self.page = folder / "page.md"
        self.page.write_text(PAGE)
        self.table = self.folder / "tables" / "skies.csv"
        self.table.parent.mkdir(parents=True)
        rows = [row | {"transfer_std": 0.01, "note": "it keeps nothing." * (row["method"] == "trap")} for row in ROWS]
        with self.table.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        self.rows = {row["method"]: row for row in rows if row["form"] == "common"}
        self.versions({"skies": VERSION})

    def versions(self, held: dict) -> None:
        (self.folder / "datasets.yaml").write_text(yaml.safe_dump(held))

    def entry(self, method: str = "mine") -> dict:
        held = {
            "method": method,
            "field": "B",
            "dataset": {"name": "skies", "fingerprint": VERSION},
            "beam_arcmin": 5,
            "table": {
                "file": "tables/skies.csv",
                "sha256": hashlib.sha256(self.table.read_bytes()).hexdigest(),
                "row": {"form": "common"},
            },
            "metrics": numbers(self.rows[method]),
            "baselines": {"none": numbers(self.rows["none"])},
            "hardware": "one | core",
            "commit": "1234567",
        }
        return copy.deepcopy(held)

    def write(self, held: object, name: str = "mine") -> None:
        (self.folder / f"{name}.yaml").write_text(yaml.safe_dump(held))


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


@pytest.fixture
def results(place, capsys):
    """Function from words to (exit code, what is printed, errors)."""

    def run(*words: str) -> tuple[int, str, str]:
        code = main(["results", "--folder", str(place.folder), "--page", str(place.page), *words])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def cells(text: str) -> list[list[str]]:
    rows = [re.split(r"(?<!\\)\|", line.strip("|")) for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row] for row in rows]


def test_the_page_shows_methods_beside_baselines(place, results):
    place.write(place.entry())
    place.write(place.entry("trap"), "trap")
    assert results("--check")[0] == 1
    assert place.page.read_text() == PAGE
    assert results()[0] == 0
    text = place.page.read_text()
    assert text.startswith("# Results\n\n<!-- ")
    assert text.endswith("<!-- results: end -->\nafter\n")
    assert "old" not in text
    header, _, none, mine, trap = cells(text)
    assert header == ["published method", "A_res", "transfer", "skies", "commit", "hardware", "table"]
    assert none[:4] == ["none", "1.000 ± 0.000", "1.000 ± 0.010", "3"]  # once, though two results have it
    assert mine[:3] == ["mine", "0.410 ± 0.020", "0.990 ± 0.010"]
    assert mine[4:] == ["`1234567`", r"one \| core", "`results/tables/skies.csv`"]
    assert trap[1] == "~~0.110 ± 0.020~~"  # the table says why, and the entry cannot hide it
    assert "trap: A_res is no headline, it keeps nothing.\n" in text
    assert results("--check")[0] == 0
    assert "another version" not in text


def test_a_result_of_another_version_of_the_dataset_is_shown_as_such(place, results):
    place.write(place.entry())
    other = place.entry("trap")
    other["dataset"]["fingerprint"] = 32 * "b"
    place.write(other, "trap")
    assert results()[0] == 0
    current, old = place.page.read_text().split("**another version of the dataset: not to be compared")
    assert "| mine |" in current
    assert "| trap |" not in current
    assert "| trap |" in old
    assert "| mine |" not in old
    place.versions({})
    code, _, said = results()
    assert code == 1
    assert "has no fingerprint of its dataset skies" in said


@pytest.mark.parametrize(
    ("at", "value", "why"),
    [
        (
            "metrics.A_res.mean",
            0.4101,
            "A_res.mean of mine is 0.4101, in its table 0.41; a number that cannot be traced",
        ),
        ("metrics.A_res.std", 0.01, "cannot be traced"),
        ("metrics.A_res.mean", "0.41", "cannot be traced"),
        ("metrics.rho", {"mean": 0.5, "std": 0.1}, "in its table None"),
        ("metrics.rho", 0.5, "needs mean and std"),
        ("metrics.transfer", None, "says nothing of transfer"),
        ("baselines.none.A_res.mean", 2.0, "A_res.mean of none is 2.0, in its table 1.0"),
        ("baselines.best", {}, "its table has 0 rows of form common, method best"),
        ("baselines", {}, "lacks baselines"),
        ("table.sha256", 64 * "0", "has another sha256"),
        ("table.file", "tables/none.csv", "is missing; no number is published without one"),
        ("table.file", "../page.md", "is no .csv file below"),
        ("table.file", "/etc/passwd", "is no .csv file below"),
        ("table.row", {"form": "native"}, "has 0 rows of form native, method none|is not of the form common"),
        ("table.row", {}, "has 2 rows of"),
        ("table.more", 1, "table needs file, row, sha256, and nothing else"),
        ("dataset.fingerprint", "b", "dataset.fingerprint is none"),
        ("commit", "newest", "commit=newest is none"),
        ("hardware", "", "lacks hardware"),
        ("beam_arcmin", "five", "lacks beam_arcmin, or it is of another kind"),
        ("beam_arcmin", 10**400, "beam_arcmin is no beam"),
        ("metrics.A_res.mean", 10**400, "A_res.mean of mine is 1000"),
        ("verdict", "the best", "has verdict, which nobody reads"),
    ],
)
def test_what_cannot_be_traced_is_refused(place, results, at, value, why):
    held = place.entry()
    *above, last = at.split(".")
    part = held
    for key in above:
        part = part[key]
    if value is None:
        del part[last]
    else:
        part[last] = value
    place.write(held)
    code, _, said = results()
    assert code == 1
    assert any(words in said for words in why.split("|"))
    assert place.page.read_text() == PAGE


@pytest.mark.parametrize("held", [None, [], "text", {}, {"method": "mine"}])
def test_entries_that_are_none(place, results, held):
    place.write(held)
    code, _, said = results()
    assert code == 1
    assert said.startswith("Error: ")
    assert "mine.yaml" in said


def test_a_table_that_was_changed_later_is_noticed(place, results):
    place.write(place.entry())
    place.table.write_text(place.table.read_text().replace("0.41", "0.31"))
    assert "has another sha256" in results()[2]


def test_a_page_without_markers(place, results):
    place.page.write_text("# Results\n")
    code, _, said = results()
    assert code == 1
    assert "lacks the lines" in said


@pytest.fixture
def comparison(place, tmp_path) -> Path:
    """A comparison of a dataset, as runs leave it: the table of the place, and the record of a measurement."""
    pipeline(tmp_path / "data").run(only=["noise"])
    folder = tmp_path / "data" / "set" / "Comparison" / "B"
    folder.mkdir(parents=True)
    shutil.copy(place.table, folder / "table.csv")
    (folder / "table.json").write_text(json.dumps({"origins": [{"method": "mine", "commit": "0123456789"}]}))
    measured = tmp_path / "data" / "set" / "mine" / "B" / "metrics.csv"
    measured.parent.mkdir(parents=True)
    measured.write_text("A_res\n0.41\n")
    first = next((tmp_path / "data" / "set").rglob(".obs_143_map.npy.json"))
    held = json.loads(first.read_text())
    held |= {"stage": "measure", "item": {}, "inputs": {}, "settings": {"analysis.fwhm_arcmin": 30.0}}
    held["outputs"] = {"metrics.csv": {"size": measured.stat().st_size}}
    measured.with_name(".metrics.csv.json").write_text(json.dumps(held))
    return folder


def test_a_comparison_is_published_with_its_table(place, results, comparison):
    words = ("--method", "mine", "--baselines", "none", "--hardware", "one core")
    (place.folder / "datasets.yaml").unlink()
    code, _, said = results("--add", str(comparison), *words)
    assert code == 0, said
    entry = yaml.safe_load((place.folder / "set_B_mine.yaml").read_text())
    assert entry["beam_arcmin"] == 30.0
    assert entry["metrics"]["A_res"] == {"mean": 0.41, "std": 0.02}  # of the form common
    assert entry["commit"] == "0123456789"
    assert (place.folder / entry["table"]["file"]).read_bytes() == place.table.read_bytes()
    version = yaml.safe_load((place.folder / "datasets.yaml").read_text())
    assert version == {"set": entry["dataset"]["fingerprint"]}
    assert "| mine | 0.410 ± 0.020 |" in place.page.read_text()


@pytest.mark.parametrize(
    ("origin", "why"),
    [({"made by commit": "abcdef0"}, ""), ({"commit": "abcdef0 and changes"}, "(abcdef0 and changes)"), ({}, "(none)")],
)
def test_a_result_of_no_commit_is_not_published(place, results, comparison, origin, why):
    place.versions({"set": VERSION})
    (comparison / "table.json").write_text(json.dumps({"origins": [{"method": "mine", **origin}]}))
    code, _, said = results("--add", str(comparison), "--method", "mine", "--baselines", "none", "--hardware", "x")
    assert code == bool(why)
    assert why in said


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--method", "mine"), "--add needs --method, --baselines and --hardware"),
        (("--method", "other", "--baselines", "none", "--hardware", "x"), "no row of other"),
        (("--method", "mine", "--baselines", "other", "--hardware", "x"), "no row of other"),
        (
            ("--method", "trap", "--baselines", "none", "--hardware", "x"),
            "trap was made by no commit that others can have",
        ),
        (
            ("--method", "mine", "--baselines", "none", "--hardware", "x", "--row", "n=4"),
            "no row of mine",
        ),
    ],
)
def test_what_is_not_said_or_not_there_is_not_published(place, results, comparison, words, why):
    code, _, said = results("--add", str(comparison), *words)
    assert code == 1
    assert why in said
    assert not (place.folder / "set_B_mine.yaml").exists()


def test_the_page_of_this_tree_is_what_its_entries_say(capsys):
    words = ["--folder", str(REPO / "results"), "--page", str(REPO / "docs" / "results.md"), "--check"]
    assert main(["results", *words]) == 0, capsys.readouterr()
