"""Files of others: found by patterns, sorted as people count, and paired by the numbers in their names."""

import glob
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cmbml.core.errors import UserError

_NUMBER = re.compile("([0-9]+)")


def natural(path: Path) -> list[list[Any]]:
    """Key that sorts paths folder by folder with their numbers as numbers: sim2 before sim10.

    Examples
    --------
    >>> [path.name for path in sorted(map(Path, ["sim10", "sim9", "sim010"]), key=natural)]
    ['sim9', 'sim010', 'sim10']
    """
    parts = ([int(x) if x.isdecimal() else x for x in _NUMBER.split(part)] for part in path.parts)
    return [*parts, [str(path)]]


def matching(pattern: str, **fields: str) -> list[Path]:
    """Files of a glob pattern, sorted with their numbers as numbers, after its ``{fields}`` are filled in.

    Brackets are those of a name where a file or folder is called so, or where nothing else is found.
    """
    given = Path(pattern).expanduser()
    asked = [(_filled(part, fields), _filled(part.replace("[", "[[]"), fields)) for part in given.parts]
    if not given.is_absolute():
        asked.insert(0, (glob.escape(str(Path.cwd())),) * 2)
    known = ""
    for part, name in asked:  # a name in brackets that exists is that
        named = str(Path(known, name))
        known = named if name != part and glob.glob(named) else str(Path(known, part))
    paths = _files(known) or _files(str(Path(*(name for _, name in asked))))
    return sorted(paths, key=natural)


def _filled(part: str, fields: Mapping[str, str]) -> str:
    """One part of a pattern with its fields: a value is a name, but for the * that stands for any."""
    for name, value in fields.items():
        part = part.replace(f"{{{name}}}", value if value == "*" else glob.escape(value))
    return part


def _files(pattern: str) -> list[Path]:
    return [path for path in map(Path, glob.glob(pattern, recursive=True)) if path.is_file()]


def demand_the_same_numbers(files: Mapping[str, Sequence[Path]], where: str) -> None:
    """Refuse lists of files whose k-th do not belong together by the numbers in their names.

    Of each list only the numbers count that are not those of all its files (a band, a release, an nside). Where two
    files have such numbers, those of one must be among those of the other.

    Parameters
    ----------
    files : mapping
        Name of a list -> its files, equally many in each.
    where : str
        What a sentence begins with: the key of the patterns.
    """
    numbers = {name: _telling(paths) for name, paths in files.items()}
    first = next((name for name, of_list in numbers.items() if any(of_list)), None)
    if first is None:
        return
    for name, of_list in numbers.items():
        for k, (here, there) in enumerate(zip(of_list, numbers[first], strict=True)):
            if here and there and not (here <= there or there <= here):
                raise UserError(
                    f"{where}: file {k + 1} of {name} is {files[name][k].name} and that of {first} is"
                    f" {files[first][k].name}; their numbers tell that they are not of one sky, so give the files of a"
                    " sky the same number or bring what is missing."
                )


def _telling(paths: Sequence[Path]) -> list[set[int]]:
    """Numbers in each path that are not in all of them."""
    counts = [Counter(map(int, _NUMBER.findall(str(path)))) for path in paths]
    common = counts[0].copy() if counts else Counter()
    for count in counts:
        common &= count
    return [set(count - common) for count in counts]
