"""What a browser makes of a page: headless Chromium opens files in frames of given widths and says what it sees."""

import html
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

_LOOK = """<pre></pre><script>
onload = () => {
  const seen = [...document.querySelectorAll("iframe")].map(frame => {
    const view = frame.contentWindow, page = view.document;
    return {width: view.innerWidth, wide: page.documentElement.scrollWidth, high: page.documentElement.scrollHeight,
            images: [...page.images].map(image => image.naturalWidth),
            asked: view.performance.getEntriesByType("resource").map(entry => entry.name)};
  });
  document.querySelector("pre").textContent = JSON.stringify(seen);
};
</script>"""


def look(pages: Sequence[tuple[Path, int]], folder: Path) -> list[dict]:
    """Open each page in a frame of the width in pixels; no name is resolved, so that nothing leaves the machine.

    Parameters
    ----------
    pages : sequence of (path, width)
    folder : Path
        For what the browser needs to write.

    Returns
    -------
    list of dict
        One a page: ``width`` of the frame, ``wide`` and ``high`` of what is in it, natural widths of its ``images`` (0:
        not decoded), and the addresses that it ``asked`` for, data within the page not among them.
    """
    names = ("chromium", "chromium-browser", "google-chrome")
    chromium = next(filter(None, map(shutil.which, names)), None)
    if chromium is None:
        pytest.skip("no Chromium is installed (Debian: apt-get install chromium)")
    frames = []
    for i, (path, width) in enumerate(pages):
        eager = folder / f"frame{i}.html"  # nobody scrolls to pictures that wait until they are seen
        eager.write_text(path.read_text().replace(' loading="lazy"', ""))
        frames.append(f'<iframe style="width:{width}px;height:800px;border:0" src="{eager.as_uri()}"></iframe>')
    (folder / "frames.html").write_text("<!doctype html>\n" + "\n".join(frames) + _LOOK)
    done = subprocess.run(
        [
            chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files",
            "--no-first-run", "--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=60000", "--dump-dom",
            (folder / "frames.html").as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    (seen,) = re.findall("<pre>(.*)</pre>", done.stdout)
    return json.loads(html.unescape(seen))
