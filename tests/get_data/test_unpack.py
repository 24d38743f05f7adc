"""Hostile folders: `cmbml unpack` refuses them in a sentence and writes nothing outside of the dataset."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from cmbml.commands import main
from tests.get_data.test_fetch import HOSTILE, member, packed

BODY = b"good"


def known(name: str, body: bytes) -> dict:
    return {"name": name, "size": len(body), "sha256": hashlib.sha256(body).hexdigest()}


def members_of(body: bytes) -> list[dict]:
    """What a manifest says of an archive that is to be believed: names and contents as the archive has them."""
    with tarfile.open(fileobj=io.BytesIO(body)) as tar:
        return [known(info.name, bytes(info.size)) for info in tar]


def write(folder: Path, bodies: dict[str, tuple[bytes, list[dict]]], **changes) -> None:
    folder.mkdir(exist_ok=True)
    rows = []
    for name, (body, members) in bodies.items():
        (folder / name).write_bytes(body)
        rows.append(known(name, body) | {"members": members})
    held = {"form": 1, "kind": "dataset", "dataset": "a", "fingerprint": 32 * "0", "archives": rows} | changes
    (folder / "manifest.json").write_text(json.dumps(held))


@pytest.fixture
def unpack(tmp_path, capsys):
    """Function that unpacks `tmp_path/packed` under `tmp_path/root`; exit code and errors."""

    def run(*words: str) -> tuple[int, str]:
        code = main(["unpack", str(tmp_path / "packed"), "--root", str(tmp_path / "root"), *words])
        return code, capsys.readouterr().err

    return run


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_symlink() or path.is_file()}


GOOD = (packed((member("a/good"), BODY)), [known("a/good", BODY)])


@pytest.mark.parametrize("believed", [False, True], ids=["honest manifest", "manifest of the same mind"])
@pytest.mark.parametrize("members", HOSTILE.values(), ids=HOSTILE)
def test_hostile_archives_are_refused_and_the_next_is_unpacked(unpack, tmp_path, members, believed):
    body = packed(*members)
    said = members_of(body) if believed and len(body) < 1 << 18 else [known("a/x", b"1")]
    write(tmp_path / "packed", {"x.tar.gz": (body, said), "y.tar.gz": GOOD})
    code, error = unpack()
    assert code == 1
    assert error.startswith(("Refused: x.tar.gz ", "Error: "))
    assert files(tmp_path) - {f"packed/{name}" for name in ("manifest.json", "x.tar.gz", "y.tar.gz")} <= {"root/a/good"}
    if not error.startswith("Error: "):  # the manifest itself leads nowhere
        assert (tmp_path / "root/a/good").read_bytes() == BODY


def test_headers_without_end_are_not_read_to_their_end(unpack, tmp_path):
    endless = member("a/x")
    endless.pax_headers = {"comment": "0" * 50_000_000}
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w:gz", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(endless)
    write(tmp_path / "packed", {"x.tar.gz": (held.getvalue(), [known("a/x", b"")]), "y.tar.gz": GOOD})
    code, error = unpack()
    assert code == 1
    assert "x.tar.gz holds more than the manifest says" in error
    assert files(tmp_path / "root") == {"a/good"}


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ([known("a/x", b"2")], "holds another a/x"),
        ([known("a/x", b"22")], "does not know so"),
        ([known("a/z", b"1")], "does not know so"),
        ([known("a/x", b"1"), known("a/z", b"1")], "holds less"),
    ],
)
def test_members_that_are_not_those_of_the_manifest(unpack, tmp_path, said, why):
    write(tmp_path / "packed", {"x.tar.gz": (packed((member("a/x"), b"1")), said), "y.tar.gz": GOOD})
    code, error = unpack()
    assert code == 1
    assert why in error
    assert "a/good" in files(tmp_path / "root")
    assert not (tmp_path / "root/a/z").exists()


@pytest.mark.parametrize(
    "name", ["../x", "/tmp/x", "a/../../x", "b/x", "a", "a//x", "a/./x", "a\\x", "a/x\n", "a/\x00", "", 3, None]
)
def test_names_that_lead_out_of_the_dataset(unpack, tmp_path, name):
    write(tmp_path / "packed", {"x.tar.gz": (GOOD[0], [known("a/x", BODY) | {"name": name}])})
    code, error = unpack()
    assert code == 1
    assert error.startswith("Error: ")
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"dataset": ".."},
        {"dataset": "Assets"},
        {"dataset": ["a"]},
        {"kind": "virus"},
        {"fingerprint": None},
        {"form": 2},
        {"form": "1"},
        {"archives": None},
        {"archives": [{}]},
        {"archives": [known("../x.tar.gz", b"") | {"members": []}]},
        {"archives": [known("x.zip", b"") | {"members": []}]},
        {"archives": [known("x.tar.gz", b"") | {"members": [], "size": -1}]},
        {"archives": [known("x.tar.gz", b"") | {"members": [], "size": True}]},
        {"archives": [known("x.tar.gz", b"") | {"members": [], "size": 2**63}]},
        {"archives": [known("x.tar.gz", b"") | {"members": [], "size": 10**400}]},
        {"archives": [known("x.tar.gz", b"") | {"members": [known("a/x", b"1") | {"size": 10**400}]}]},
        {"archives": [known("x.tar.gz", b"") | {"members": [], "sha256": "../x"}]},
        {"archives": [known("x.tar.gz", b"") | {"members": [known("a/x", b"1"), known("a/x/y", b"1")]}]},
        {"archives": [known("x.tar.gz", b"") | {"members": [known("a/x", b"1")] * 2}]},
    ],
)
def test_manifests_that_are_none(unpack, tmp_path, changes):
    write(tmp_path / "packed", {"y.tar.gz": GOOD}, **changes)
    code, error = unpack()
    assert code == 1
    assert error.startswith("Error: ")
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize("text", ["", "[]", "3", "{", "[" * 100_000, "\xff"])
def test_files_that_are_no_manifest(unpack, tmp_path, text):
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed/manifest.json").write_text(text, encoding="latin-1")
    code, error = unpack()
    assert code == 1
    assert error.startswith("Error: ")
    assert "Traceback" not in error


@pytest.mark.parametrize("link", ["root/a", "root/a/deep", "root/a/deep/x"])
def test_nothing_is_written_through_links(unpack, tmp_path, link):
    body = packed((member("a/deep/x"), b"1"))
    write(tmp_path / "packed", {"x.tar.gz": (body, [known("a/deep/x", b"1")])})
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / link).parent.mkdir(parents=True)
    (tmp_path / link).symlink_to(tmp_path / "elsewhere")
    for words in ((), ("--replace",)):
        code, error = unpack(*words)
        assert code == 1
        assert "through a link" in error
        assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("there", ["file", "folder"])
def test_a_file_where_a_folder_is_needed_and_the_reverse(unpack, tmp_path, there):
    body = packed((member("a/deep/x"), b"1"))
    write(tmp_path / "packed", {"x.tar.gz": (body, [known("a/deep/x", b"1")]), "y.tar.gz": GOOD})
    if there == "folder":
        (tmp_path / "root/a/deep/x").mkdir(parents=True)
    else:
        (tmp_path / "root/a").mkdir(parents=True)
        (tmp_path / "root/a/deep").write_text("mine")
    code, error = unpack("--replace")
    assert code == 1
    assert "where a folder is a file or a file a folder" in error
    assert (tmp_path / "root/a/good").read_bytes() == BODY
