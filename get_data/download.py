"""One file from a server or a folder: tried again, gone on with, checked, and only then given its name."""

import errno
import logging
import lzma
import os
import shutil
import sys
import tarfile
import tempfile
import time
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pooch
import requests
from catalogue import Entry

from cmbml.core.errors import UserError

log = logging.getLogger("get_data")

CHUNK = 1 << 16  # bytes; at most this much is lost when a connection is cut
TIMEOUT_S = 60
LONGEST_WAIT_S = 60
PASSING = {408, 416, 425, 429}  # of the 4xx answers, those that another try can cure
LARGEST = 1 << 36  # bytes of a file of which neither the manifest nor the server says a size
MORE = 4  # times the size that a manifest says about; and the size of an archive's contents over its own
MEMBERS = 100_000  # of an archive
FIRST_BYTES = {".fits": b"SIMPLE  =", ".gz": b"\x1f\x8b", ".h5": b"\x89HDF"}


class Refused(Exception):
    """What came is not the file that was asked for: it is not kept, and asking again does not help."""


class Cut:
    """A file that takes no more than a number of bytes.

    Parameters
    ----------
    file : binary file
        What is written to.
    most : int
        Bytes that it may have in the end.
    """

    def __init__(self, file, most: int):
        self.file, self.most = file, most

    def write(self, chunk: bytes) -> int:
        """Write, or raise `Refused`."""
        if self.file.tell() + len(chunk) > self.most:
            raise Refused(f"more came than the {self.most} bytes that it may have")
        return self.file.write(chunk)

    def __getattr__(self, name: str):
        return getattr(self.file, name)


class Download:
    """A downloader for pooch that writes `<file>.part` and goes on with it where an earlier try stopped.

    A server sends the rest alone when the file is still the one that was begun, which its ETag or Last-Modified tells
    (RFC 9110, sections 13.1.5 and 14.2); the mark is kept in `<file>.part.mark`. Anything else starts from the first
    byte.

    Parameters
    ----------
    entry : Entry
        What should come.
    target : Path
        The final name; nothing is written under it here.
    progress : bool
        Whether to draw a progress bar.
    """

    def __init__(self, entry: Entry, target: Path, *, progress: bool = False):
        self.entry, self.progress = entry, progress
        self.part = target.with_name(f"{target.name}.part")
        self.mark = target.with_name(f"{target.name}.part.mark")
        self.length = None

    def __call__(self, url: str, output_file: str, pooch_object) -> None:
        """Put the file under a temporary name, or raise; called by `pooch.retrieve`."""
        self.length = self.entry.size
        remote = url.startswith(("http://", "https://"))
        if remote:
            self.receive(url)
        else:
            self.mark.unlink(missing_ok=True)
            shutil.copyfile(url, self.part)
        self.check(more_may_come=remote)
        os.replace(self.part, output_file)

    def receive(self, url: str) -> None:
        """Bytes from a server into the part."""
        start = self.part.stat().st_size if self.part.exists() and self.mark.exists() else 0
        headers = {"Accept-Encoding": "identity"}
        if start:
            log.info("  going on after %d bytes", start)
            headers |= {"Range": f"bytes={start}-", "If-Range": self.mark.read_text()}
        with self.part.open("ab" if start else "wb") as opened:
            file = Cut(opened, self.entry.size or MORE * (self.entry.about or 0) or LARGEST)
            hooks = {"response": lambda response, **_: self.begin(response, file, start)}
            get = pooch.HTTPDownloader(self.progress, CHUNK, timeout=TIMEOUT_S, headers=headers, hooks=hooks)
            try:
                get(url, file, None)
            except Refused:
                opened.truncate(0)
                raise

    def begin(self, response: requests.Response, file, start: int) -> None:
        """Look at an answer before its body is read: where it starts, how long it is, whether it is a web page."""
        if response.status_code == 416:
            file.truncate(0)
        if not response.ok or response.is_redirect:
            return
        if "html" in response.headers.get("Content-Type", ""):
            raise Refused("a web page came instead of the file")
        response.raw.headers.discard("Content-Encoding")  # a .gz file stays one, whatever the server calls it
        if response.status_code != 206:
            file.truncate(0)
            start = 0
            tag = response.headers.get("ETag", "")
            mark = response.headers.get("Last-Modified", "") if tag[:2] in ("", "W/") else tag
            self.mark.write_text(mark) if mark else self.mark.unlink(missing_ok=True)
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            file.truncate(0)
            raise requests.ConnectionError("the server sent another part of the file than it was asked for")
        if length := response.headers.get("Content-Length"):
            self.length = start + int(length)
            if self.entry.size not in (None, self.length):
                raise Refused(f"the server has {self.length} bytes, the manifest {self.entry.size}")
            file.most = min(file.most, self.length)

    def check(self, *, more_may_come: bool) -> None:
        """Raise, and keep no part, unless it is as long as announced and starts as a file of its kind does."""
        size, kind = self.part.stat().st_size, Path(self.entry.to).suffix
        with self.part.open("rb") as file:
            head = file.read(512)
        if more_may_come and self.length is not None and size < self.length:
            raise requests.ConnectionError(f"the connection was cut after {size} of {self.length} bytes")
        if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
            why = "a web page came instead of the file"
        elif self.length not in (None, size):
            why = f"it has {size} bytes instead of {self.length}"
        elif not size or not head.startswith(FIRST_BYTES.get(kind, b"")):
            why = f"it does not start as a {kind} file does" if size else "it is empty"
        else:
            return
        self.part.unlink()
        raise Refused(why)

    def tidy(self) -> None:
        """Leave a part that can be gone on with, and nothing else."""
        if self.part.exists() and not self.part.stat().st_size:
            self.part.unlink()
        if not self.part.exists():
            self.mark.unlink(missing_ok=True)


def fetch(
    entry: Entry, source: str, assets: Path, *, tries: int = 5, backoff_s: float = 2.0, progress: bool = False
) -> None:
    """Bring one file to its final name, all or nothing.

    Parameters
    ----------
    entry : Entry
        What it is and where it goes.
    source : str
        Address or local path to read.
    assets : Path
        The folder that destinations are relative to.
    tries : int
        How often a server is asked while what fails may pass (connection, 5xx, a body that ends early).
    backoff_s : float
        Seconds before the second try, doubled each time, 60 at most.
    progress : bool
        Whether to draw a progress bar.

    Raises
    ------
    Refused
        If a web page, another length or another kind of file came.
    ValueError
        If the checksum is wrong.
    OSError
        If the server (`requests.RequestException`) or the disk fails.
    """
    target = assets / entry.to
    if entry.size and not entry.sha256 and target.is_file() and target.stat().st_size != entry.size:
        target.unlink()  # pooch replaces by itself what has a wrong checksum
    download = Download(entry, target, progress=progress)
    checksum = entry.sha256 and f"sha256:{entry.sha256}"
    for attempt in range(1, tries + 1):
        try:
            pooch.retrieve(source, checksum, target.name, target.parent, downloader=download)
            return
        except requests.RequestException as error:
            status = 0 if error.response is None else error.response.status_code
            if attempt == tries or (400 <= status < 500 and status not in PASSING):
                raise
            wait = min(backoff_s * 2 ** (attempt - 1), LONGEST_WAIT_S)
            log.info("  %s; try %d of %d in %.0f s", reason(error), attempt + 1, tries, wait)
            time.sleep(wait)
        finally:
            download.tidy()


def unpack(archive: Path, folder: Path, *, most: int | None = None) -> None:
    """Unpack a tar file into a folder, all or nothing; a single folder inside it takes the folder's name.

    Parameters
    ----------
    archive, folder : Path
    most : int, optional
        Bytes that its contents may have; 4 times those of the archive and 100 MB if not given.

    Raises
    ------
    Refused
        If it is damaged, larger, or has links that point out of it; it is removed then.
    """
    most = MORE * archive.stat().st_size + 100_000_000 if most is None else most
    with tempfile.TemporaryDirectory(dir=archive.parent) as temporary:
        inside = Path(temporary) / "inside"
        try:
            with tarfile.open(archive) as tar:
                tar.extractall(inside, members=_bounded(tar, most), filter="data")
            found = list(inside.iterdir())
            whole = found[0] if len(found) == 1 and found[0].is_dir() and not found[0].is_symlink() else inside
            _refuse_links_out_of(whole)
        except (tarfile.TarError, EOFError, OSError, KeyError, ValueError, zlib.error, lzma.LZMAError) as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise  # which says nothing against the archive
            archive.unlink()
            raise Refused(f"the archive cannot be unpacked ({str(error) or type(error).__name__})") from error
        except Refused:
            archive.unlink()
            raise
        os.replace(whole, folder)


def _bounded(tar: tarfile.TarFile, most: int) -> Iterator[tarfile.TarInfo]:
    """Members of an archive, as long as there are not too many and all together are not too large."""
    total = 0
    for n, member in enumerate(tar, start=1):
        total += member.size
        if total > most or n > MEMBERS:
            raise Refused(f"the archive holds more than {most} bytes or {MEMBERS} files")
        yield member


def _refuse_links_out_of(folder: Path) -> None:
    """Refuse links that would point out of a folder once it lies where it is to lie."""
    for path in folder.rglob("*"):
        if path.is_symlink():
            target = os.path.normpath(path.parent / os.readlink(path))
            if not Path(target).is_relative_to(folder):
                raise Refused(f"the archive has a link, {path.relative_to(folder)}, that points out of it")


def reason(error: Exception) -> str:
    """An error in a few words."""
    response = getattr(error, "response", None)
    if response is not None:
        return f"the server answered {response.status_code} {response.reason}"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection was cut"
    cause = getattr(error.args[0], "reason", error) if error.args else error  # urllib3 wraps what happened
    return f"{cause or type(error).__name__}"[:200]


def place_of(mirror: str | None) -> str | None:
    """A mirror as it is read: an address, or a folder.

    Raises
    ------
    UserError
        When it is neither.
    """
    if not mirror or mirror.startswith(("http://", "https://")):
        return mirror
    folder = Path(mirror).expanduser()
    if not folder.is_dir():
        raise UserError(f"--mirror {mirror} is neither a folder nor an address that starts with http.")
    return str(folder)


def bring(
    entries: Iterable[Entry], assets: Path, *, mirror: str | None = None, tries: int = 5, backoff_s: float = 2.0
) -> tuple[list[str], dict[str, str]]:
    """Bring every entry that is not there, whatever happens to the others.

    Returns
    -------
    fetched : list of str
        Names of the entries that were brought.
    failed : dict
        Reason of the failure by name.
    """
    fetched, failed, silent = [], {}, set()
    for entry in entries:
        if entry.present(assets):
            continue
        source = entry.source(mirror)
        server = urlsplit(source).netloc
        log.info("%s  <-  %s", entry.to, source)
        left = 1 if server in silent else tries
        try:
            fetch(entry, source, assets, tries=left, backoff_s=backoff_s, progress=sys.stderr.isatty())
            if entry.unpack:
                unpack(assets / entry.to, entry.folder(assets))
        except Exception as error:  # whatever is wrong with this one, the others are brought
            failed[entry.name] = reason(error)
            log.error("  failed: %s", failed[entry.name])
            if isinstance(error, requests.ConnectionError | requests.Timeout):
                silent.add(server)  # the next files of this server get one try
            continue
        fetched.append(entry.name)
        if entry.sha256 is None:
            found = pooch.file_hash(str(assets / entry.to))
            log.warning("  warning: no checksum is known for it; what came has the sha256 %s", found)
    return fetched, failed
