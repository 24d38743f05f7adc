"""Packed datasets from a server that is good, bad or gone: what comes is what the catalogue's one hash decides."""

import hashlib
import json
from pathlib import Path

import pytest
import yaml
from download import CHUNK
from fetch import main
from published import CATALOGUE, KINDS, read_catalogue

from cmbml.commands import main as cmbml
from tests.test_pack_command import files, pipeline

ARCHIVE = "sky/test_sim0000.tar.gz"


@pytest.fixture
def published(server, tmp_path, capsys):
    """The packed toy on the server, with skies of some hundred kB, and `main` for it: words -> exit code."""
    pipeline(tmp_path / "here").run(only=["noise"])
    noise = tmp_path / "here/set/Simulations/Test/sim0000/obs_143_map.npy"
    record = noise.with_name(f".{noise.name}.json")
    body = noise.read_bytes() + hashlib.shake_256(b"x").digest(5 * CHUNK)
    held = json.loads(record.read_text())
    held["outputs"][noise.name] = {"size": len(body), "sha256": hashlib.sha256(body).hexdigest()}
    noise.write_bytes(body)
    record.write_text(json.dumps(held))
    assert cmbml(["pack", "set", "--root", str(tmp_path / "here"), "--to", str(tmp_path / "packed")]) == 0
    for name, contents in files(tmp_path / "packed").items():
        server.files[f"sky/{name}"] = contents
    manifest = server.files["sky/manifest.json"]
    entry = {"url": f"{server.url}/sky", "size": len(manifest), "about": "numbers"}
    entry["sha256"] = hashlib.sha256(manifest).hexdigest()
    catalogue = tmp_path / "published.yaml"

    def run(*words: str, **changes) -> int:
        catalogue.write_text(yaml.safe_dump({"dataset": {"sky": entry | changes}, "models": {}}))
        fixed = ["--root", str(tmp_path / "there"), "--catalogue", str(catalogue), "--backoff", "0"]
        return main(["dataset", *words, *fixed])

    run.root = tmp_path / "there"
    capsys.readouterr()
    return run


def unpacked(root: Path) -> set[str]:
    return {"/".join(path.parts[-3:-1]) for path in root.rglob("*.npy")}


ALL = {f"{split}/sim{i:04d}" for split, n in (("Train", 3), ("Test", 2)) for i in range(n)}


def test_a_dataset_comes_is_unpacked_and_is_not_asked_for_again(server, published, tmp_path):
    assert published("sky") == 0
    there = files(published.root)
    here = {name: body for name, body in files(tmp_path / "here").items() if "lock" not in name}
    assert {name: body for name, body in there.items() if name.startswith("set/")} == here
    assert "Packed/sky/README.md" in there
    asked = len(server.asked)
    assert published("sky") == 0
    for archive in published.root.glob("Packed/sky/*.tar.gz"):
        archive.unlink()  # what is unpacked needs none
    assert published("sky") == 0
    assert len(server.asked) == asked


def test_a_cut_connection_goes_on_where_it_stopped(server, published):
    server.script[ARCHIVE] = [{"cut": 2 * CHUNK + 5}, {"cut": CHUNK}]
    assert published("sky") == 0
    wanted = [start for path, start in server.asked if path == ARCHIVE]
    assert wanted == [None, f"bytes={2 * CHUNK}-", f"bytes={3 * CHUNK}-"]
    assert unpacked(published.root) == ALL


def test_another_run_goes_on(server, published, caplog):
    server.script[ARCHIVE] = [{"cut": 3 * CHUNK}]
    assert published("sky", "--tries", "1") == 1
    assert "goes on with test_sim0000.tar.gz" in caplog.text
    assert unpacked(published.root) == ALL - {"Test/sim0000"}
    assert published("sky") == 0
    assert server.asked[-1] == (ARCHIVE, f"bytes={3 * CHUNK}-")
    assert unpacked(published.root) == ALL


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({"body": b"\x1f\x8b" + bytes(99), "headers": {"Content-Length": None}}, "bytes instead of|cut after"),
        ({"headers": {"Content-Length": None, "X": "1"}, "body": b"\x1f\x8b" + bytes(8 * CHUNK)}, "more came than the"),
        ({"status": 404}, "the server answered 404"),
        ({"body": b"<!DOCTYPE html>", "headers": {"Content-Length": None}}, "a web page|cut after"),
    ],
)
def test_a_wrong_archive_is_not_unpacked_and_the_others_are(server, published, caplog, answer, reason):
    server.script[ARCHIVE] = [answer] * 9
    assert published("sky") == 1
    assert any(words in caplog.text for words in reason.split("|"))
    assert unpacked(published.root) == ALL - {"Test/sim0000"}
    assert not (published.root / "Packed" / ARCHIVE).exists()


def test_an_archive_of_the_right_length_with_another_hash(server, published, caplog):
    body = server.files[ARCHIVE]
    server.script[ARCHIVE] = [{"body": body[:-9] + bytes(9)}]
    assert published("sky") == 1
    assert "does not match the known hash" in caplog.text
    assert not (published.root / "Packed" / ARCHIVE).exists()
    assert published("sky") == 0


@pytest.mark.parametrize(
    ("changes", "answer", "reason"),
    [
        ({"sha256": 64 * "0"}, {}, "does not match the known hash"),
        ({"size": 7}, {}, "bytes, the manifest 7"),
        ({"size": 7}, {"headers": {"Content-Length": None}}, "more came than the 7 bytes"),
    ],
)
def test_nothing_is_brought_of_a_manifest_that_is_another(server, published, caplog, changes, answer, reason):
    server.script["sky/manifest.json"] = [answer]
    assert published("sky", **changes) == 1
    assert reason in caplog.text
    assert {path for path, _ in server.asked} == {"sky/manifest.json"}
    assert files(published.root) == {}


def test_a_size_that_no_file_has_is_refused(published, caplog):
    assert published("sky", "--dry-run", size=10**400) == 1
    assert "The manifest's entry 'sky' has size: 1000" in caplog.text


def test_some_archives_alone_and_a_dry_run(server, published, caplog):
    assert published("sky", "--dry-run") == 0
    assert server.asked == []
    assert published("sky", "--only", "train_*") == 0
    assert unpacked(published.root) == {sky for sky in ALL if sky.startswith("Train")}
    assert published("sky", "--only", "nothing") == 1
    assert "--only nothing is none of the archives" in caplog.text


def test_a_mirror_is_laid_out_like_the_destinations(server, published, tmp_path):
    (tmp_path / "usb").mkdir()
    (tmp_path / "packed").rename(tmp_path / "usb" / "sky")
    assert published("sky", "--mirror", str(tmp_path / "usb")) == 0
    assert server.asked == []
    assert unpacked(published.root) == ALL


def test_mistakes_get_a_sentence(published, caplog):
    assert published("ski") == 1
    assert "No dataset is named 'ski'; there are sky." in caplog.text
    assert published("sky", url="ftp.nowhere") == 1
    assert "http://" in caplog.text
    assert published("sky", size=None) == 1
    assert "needs about, sha256, size, url" in caplog.text
    assert published() == 0  # lists them
    assert "numbers" in caplog.text


def test_without_a_name_all_are_listed(published, caplog):
    caplog.set_level("INFO")
    assert published() == 0
    assert "numbers" in caplog.text


def test_the_shipped_catalogue_is_well_formed():
    for kind in KINDS:
        read_catalogue(CATALOGUE, kind)
