"""What the fetch script leaves on the disk when servers are good, bad and gone."""

import hashlib
import io
import logging
import tarfile

import numpy as np
import pytest
import yaml
from catalogue import Entry, read_manifest
from download import CHUNK, Download
from fetch import MANIFEST, main

BODY = b"SIMPLE  =" + np.random.default_rng(1).bytes(4 * CHUNK)
PAGE = b"\n<!DOCTYPE html><html><body>Down for maintenance</body></html>"


@pytest.fixture
def fetch(server, tmp_path, caplog):
    """Function (entries, options) -> exit code that runs the command on a manifest; entries name: extra fields."""

    def run(entries: dict, *options: str) -> int:
        caplog.clear()
        assets = {name: {"url": f"{server.url}/{name}", "to": f"far/{name}"} | more for name, more in entries.items()}
        pysm = {"url": f"{server.url}/pysm", "to": "PySM", "freqs_ghz": [], "files": [], "without_files": ["dip1"]}
        (tmp_path / "manifest.yaml").write_text(yaml.safe_dump({"assets": assets, "pysm": pysm}))
        fixed = ["--root", str(tmp_path), "--manifest", str(tmp_path / "manifest.yaml"), "--backoff", "0"]
        return main(["assets", "--presets", "none", *fixed, *options])

    run.folder = tmp_path / "Assets" / "far"
    return run


def left(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_cut_connection_goes_on_where_it_stopped(server, fetch):
    server.files["a.fits"] = BODY
    server.script["a.fits"] = [{"cut": 2 * CHUNK + 5}, {"cut": CHUNK}]
    assert fetch({"a.fits": {"sha256": hashlib.sha256(BODY).hexdigest()}}) == 0
    assert (fetch.folder / "a.fits").read_bytes() == BODY
    assert [wanted for _, wanted in server.asked] == [None, f"bytes={2 * CHUNK}-", f"bytes={3 * CHUNK}-"]
    assert left(fetch.folder) == ["a.fits"]


def test_another_run_goes_on_and_the_next_asks_for_nothing(server, fetch, caplog):
    server.files["a.fits"] = BODY
    server.script["a.fits"] = [{"cut": 3 * CHUNK}] * 2
    assert fetch({"a.fits": {}}, "--tries", "1") == 1
    assert left(fetch.folder) == ["a.fits.part", "a.fits.part.mark"]
    assert "The same command goes on" in caplog.text
    server.script.clear()
    assert fetch({"a.fits": {}}) == 0
    assert server.asked[-1] == ("a.fits", f"bytes={3 * CHUNK}-")
    assert (fetch.folder / "a.fits").read_bytes() == BODY
    assert hashlib.sha256(BODY).hexdigest() in caplog.text  # what to write into the manifest
    asked = len(server.asked)
    assert fetch({"a.fits": {}}) == 0
    assert len(server.asked) == asked
    assert "0 fetched, 1 there already, 0 failed" in caplog.text


@pytest.mark.parametrize("how", ["changed", "whole", "longer", "elsewhere"])
def test_a_part_that_does_not_fit_is_begun_anew(server, fetch, how):
    server.files["a.fits"] = BODY
    server.script["a.fits"] = [{"cut": CHUNK}]
    fetch({"a.fits": {}}, "--tries", "1")
    if how == "changed":
        server.files["a.fits"] = BODY[:-1] + b"x"
    elif how == "whole":
        server.script["a.fits"] = [{"whole": True}]
    elif how == "longer":
        (fetch.folder / "a.fits.part").write_bytes(2 * BODY)
    else:
        server.script["a.fits"] = [{"start": 7}]
    assert fetch({"a.fits": {}}) == 0
    assert (fetch.folder / "a.fits").read_bytes() == server.files["a.fits"]


@pytest.mark.parametrize(
    ("answers", "requests", "reason"),
    [
        ([{"status": 500}, {"status": 503}], 3, None),
        ([{"status": 429}], 2, None),
        ([{"status": 500}] * 9, 5, "the server answered 500"),
        ([{"status": 404}] * 9, 1, "the server answered 404"),
        ([{"status": 403}] * 9, 1, "the server answered 403"),
        ([{"body": PAGE}] * 9, 1, "a web page"),
        ([{"body": BODY, "headers": {"Content-Type": "text/html; charset=utf-8"}}] * 9, 1, "a web page"),
        ([{"body": PAGE, "headers": {"Content-Length": None}}] * 9, 1, "a web page"),
        ([{"body": b"busy, come back later"}] * 9, 1, "does not start as a .fits file"),
        ([{"body": b""}] * 9, 1, "it is empty"),
        ([{"headers": {"Content-Length": None}}], 1, None),
        ([{"headers": {"Content-Length": None, "ETag": None}, "cut": CHUNK}], 1, None),  # nothing can tell
        ([{"headers": {"ETag": None}, "cut": CHUNK}], 2, None),
        ([{"headers": {"Content-Encoding": "gzip"}}], 1, None),  # said of bytes that are none, as some servers do
        ([{"cut": 10}] * 9, 5, "the connection was cut"),
    ],
)
def test_answers_of_a_server(server, fetch, caplog, answers, requests, reason):
    server.files |= {"a.fits": BODY, "b.fits": BODY}
    server.script["a.fits"] = answers
    assert fetch({"a.fits": {}, "b.fits": {}}) == (1 if reason else 0)
    assert [path for path, _ in server.asked].count("a.fits") == requests
    assert (fetch.folder / "b.fits").read_bytes() == BODY  # its neighbour is not lost
    assert (fetch.folder / "a.fits").exists() == (reason is None)
    if reason:
        assert reason in caplog.text
        assert "1 fetched, 0 there already, 1 failed" in caplog.text
        assert not [name for name in left(fetch.folder) if name not in ("b.fits", "a.fits.part", "a.fits.part.mark")]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"sha256": 64 * "0"}, "does not match the known hash"),
        ({"size": len(BODY) + 1}, f"the server has {len(BODY)} bytes, the manifest {len(BODY) + 1}"),
    ],
)
def test_wrong_bytes_are_refused(server, fetch, caplog, fields, reason):
    server.files["a.fits"] = BODY
    assert fetch({"a.fits": fields}) == 1
    assert reason in caplog.text
    assert left(fetch.folder) == []


def test_a_length_in_the_manifest_finds_a_cut_that_the_server_hides(server, fetch):
    server.files["a.fits"] = BODY
    server.script["a.fits"] = [{"headers": {"Content-Length": None}, "cut": CHUNK}]
    assert fetch({"a.fits": {"size": len(BODY)}}) == 0
    assert (fetch.folder / "a.fits").read_bytes() == BODY


def test_a_damaged_file_is_replaced(server, fetch):
    server.files |= {"a.fits": BODY, "b.fits": BODY}
    fetch.folder.mkdir(parents=True)
    for name in ("a.fits", "b.fits"):
        (fetch.folder / name).write_bytes(BODY[:99])
    assert fetch({"a.fits": {"size": len(BODY)}, "b.fits": {"sha256": hashlib.sha256(BODY).hexdigest()}}) == 0
    assert (fetch.folder / "a.fits").read_bytes() == (fetch.folder / "b.fits").read_bytes() == BODY


def test_no_server_at_all(server, fetch, caplog):
    gone = {name: {"url": f"http://127.0.0.1:9/{name}"} for name in ("a.fits", "b.fits")}
    server.files["c.fits"] = BODY
    assert fetch({**gone, "c.fits": {}}) == 1
    assert "1 fetched, 0 there already, 2 failed" in caplog.text
    assert "Connection refused" in caplog.text
    assert caplog.text.count(" of 5 in ") == 4  # the second file of a dead server is asked for once
    assert left(fetch.folder) == ["c.fits"]


def test_mirrors_are_laid_out_like_the_destinations(server, fetch, tmp_path, caplog):
    (tmp_path / "usb" / "far").mkdir(parents=True)
    (tmp_path / "usb" / "far" / "a.fits").write_bytes(BODY)
    (tmp_path / "usb" / "far" / "b.fits").write_bytes(PAGE)
    server.files["mirror/far/b.fits"] = BODY
    both = {"a.fits": {}, "b.fits": {}}
    assert fetch(both, "--mirror", str(tmp_path / "usb")) == 1
    assert left(fetch.folder) == ["a.fits"]
    assert "a web page" in caplog.text
    assert fetch({**both, "c.fits": {}}, "--mirror", str(tmp_path / "usb"), "--only", "c.fits") == 1
    assert "No such file" in caplog.text
    assert fetch(both, "--mirror", f"{server.url}/mirror/") == 0
    assert left(fetch.folder) == ["a.fits", "b.fits"]
    assert fetch(both, "--mirror", str(tmp_path / "nowhere")) == 1
    assert "neither a folder nor an address" in caplog.text


@pytest.mark.parametrize("inside", ["", "chains/"])
def test_an_archive_becomes_a_folder(server, fetch, inside, caplog):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name in ("H0", "tau"):
            member = tarfile.TarInfo(f"{inside}{name}")
            member.size = 4
            tar.addfile(member, io.BytesIO(b"1 70"))
    server.files["chains.tar.gz"] = packed.getvalue()
    server.script["chains.tar.gz"] = [{"body": packed.getvalue()[:-30]}]
    assert fetch({"chains.tar.gz": {"unpack": True}}) == 1
    assert "cannot be unpacked" in caplog.text
    assert left(fetch.folder) == []
    assert fetch({"chains.tar.gz": {"unpack": True}}) == 0
    assert left(fetch.folder / "chains") == ["H0", "tau"]
    (fetch.folder / "chains.tar.gz").unlink()
    assert fetch({"chains.tar.gz": {"unpack": True}}) == 0
    assert len(server.asked) == 2


def test_an_archive_that_is_there_is_only_unpacked(server, fetch):
    fetch.folder.mkdir(parents=True)
    with tarfile.open(fetch.folder / "x.tar.gz", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("H0"), io.BytesIO())
    assert fetch({"x.tar.gz": {"unpack": True}}) == 0
    assert left(fetch.folder / "x") == ["H0"]
    assert server.asked == []


def test_a_dry_run_only_tells(server, fetch, caplog):
    fetch.folder.mkdir(parents=True)
    (fetch.folder / "a.fits").write_bytes(BODY)
    caplog.set_level(logging.INFO)
    entries = {
        "a.fits": {"size": len(BODY), "sha256": hashlib.sha256(BODY).hexdigest()},
        "b.fits": {"about": 2_500_000},
    }
    assert fetch(entries, "--dry-run") == 0
    rows = {line.split()[0]: line.split()[1:] for line in caplog.messages[0].splitlines()}
    assert rows["a.fits"] == ["262.2", "kB", "yes", "sha256", "far/a.fits"]
    assert rows["b.fits"] == ["~2.5", "MB", "no", "none", "far/b.fits"]
    assert "1 of 2 files to bring, about 2.5 MB" in caplog.messages[1]
    assert server.asked == []


@pytest.mark.parametrize(
    ("entries", "options", "words"),
    [
        ({"a.fits": {}}, ["--only", "c.fits"], ["'c.fits'", "a.fits", "dip1"]),
        ({"a.fits": {}}, ["--presets", "d99"], ["d99", "choose from dip1"]),
        ({"a.fits": {"url": "ftp.nowhere"}}, [], ["'a.fits'", "url: ftp.nowhere", "http://"]),
        ({"a.fits": {"to": "../x"}}, [], ["to: ../x", "relative"]),
        ({"a.fits": {"sha256": "abc"}}, [], ["sha256: abc", "64 hexadecimal"]),
        ({"a.fits": {"size": "2 GB"}}, [], ["size: 2 GB", "number of bytes"]),
        ({"a.fits": {"md5": "abc"}}, [], ["'a.fits' needs url and to", "sha256"]),
    ],
)
def test_mistakes_get_a_sentence_with_the_choices(fetch, caplog, entries, options, words):
    assert fetch(entries, *options) == 1
    (message,) = caplog.messages
    assert all(word in message for word in words)


def test_an_interrupted_run_keeps_its_part(server, fetch, monkeypatch, caplog):
    server.files["a.fits"] = BODY

    def interrupt(self, **_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Download, "check", interrupt)
    assert fetch({"a.fits": {}}) == 130
    assert left(fetch.folder) == ["a.fits.part", "a.fits.part.mark"]
    assert "the same command goes on" in caplog.text


def test_the_manifest_is_well_formed():
    manifest = read_manifest(MANIFEST)
    entries = manifest.assets.values()
    assert all(isinstance(entry, Entry) and (entry.size or entry.about) for entry in entries)
    assert len({entry.to for entry in entries}) == len(entries) == len({entry.url for entry in entries})
    assert all(entry.url.endswith(entry.to.split("/")[-1]) for entry in entries)
    assert {entry.to.split("/")[0] for entry in entries} == {"Planck", "WMAP"}


def packed(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """A tar.gz file of members."""
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w:gz") as tar:
        for member, body in members:
            member.size = len(body)
            tar.addfile(member, io.BytesIO(body))
    return held.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


HOSTILE = {
    "hard link to nothing": [(member("a/x", tarfile.LNKTYPE, "a/missing"), b"")],
    "symbolic link out": [(member("a/x", tarfile.SYMTYPE, "../../y"), b"")],
    "out once it is moved": [(member("a/x", tarfile.SYMTYPE, "../b"), b""), (member("a/y"), b"1")],
    "absolute link": [(member("a/x", tarfile.SYMTYPE, "/etc/passwd"), b"")],
    "path out": [(member("../x"), b"1")],
    "device": [(member("a/x", tarfile.CHRTYPE), b"")],
    "a file in the place of a folder": [(member("a"), b"1"), (member("a/b"), b"1")],
    "bomb": [(member("a/x"), bytes(300_000_000))],
}


@pytest.mark.parametrize("members", HOSTILE.values(), ids=HOSTILE)
def test_hostile_archives_are_refused_and_the_next_file_is_brought(server, fetch, members, caplog):
    server.files["x.tar.gz"] = packed(*members)
    server.files["b.fits"] = BODY
    assert fetch({"x.tar.gz": {"unpack": True}, "b.fits": {}}) == 1
    assert "Traceback" not in caplog.text
    assert left(fetch.folder) == ["b.fits"]
    assert not list(fetch.folder.parent.parent.glob("x*"))


@pytest.mark.parametrize(
    ("fields", "headers"),
    [
        ({"size": 1000}, {"Content-Length": None}),
        ({"about": 1000}, {"Content-Length": None}),
        ({"size": 1000}, {"Content-Length": None, "Transfer-Encoding": None}),
    ],
)
def test_endless_bodies_are_cut(server, fetch, fields, headers, caplog):
    server.files["a.fits"] = BODY
    server.files["b.fits"] = BODY
    server.script["a.fits"] = [{"headers": headers}] * 9
    assert fetch({"a.fits": fields, "b.fits": {}}) == 1
    assert "more came than the" in caplog.text
    assert left(fetch.folder) == ["b.fits"]
