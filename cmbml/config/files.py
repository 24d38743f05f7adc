"""Files of others: found by patterns, sorted as people count, and paired by the numbers in their names."""

import functools
import glob
import itertools
import operator
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cmbml.core.errors import UserError

_NUMBER = re.compile("([0-9]+)")
_WORD_AND_NUMBER = re.compile("([A-Za-z]*)[-_.=]?([0-9]+)")

_Told = tuple[str, int]  # a number in the name of a file, and the word before it


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

    Of each list only the numbers count that are not those of all its files (a band, a release, an nside), in their
    order. Where two lists have such numbers, those of one must be numbers of the other, in all files at the same
    places; a number that follows a word stands for one that follows the same word, where there is one.

    Parameters
    ----------
    files : mapping
        Name of a list -> its files, equally many in each.
    where : str
        What a sentence begins with: the key of the patterns.
    """
    numbers = {name: _telling(paths) for name, paths in files.items()}
    for first, name in itertools.combinations(numbers, 2):
        here, there = numbers[name], numbers[first]
        if _agree(here, there):
            continue
        k = next(k for k in range(len(here)) if not _agree(here[: k + 1], there[: k + 1]))
        raise UserError(
            f"{where}: file {k + 1} of {name} is {files[name][k].name} and that of {first} is"
            f" {files[first][k].name}; their numbers tell that they are not of one sky, so give the files of a sky the"
            " same number or bring what is missing."
        )


def _telling(paths: Sequence[Path]) -> list[list[_Told]]:
    """Numbers in each path, with the words before them, but for those that all of the paths have."""
    rows = [[(word.lower(), int(digits)) for word, digits in _WORD_AND_NUMBER.findall(str(path))] for path in paths]
    if _even(rows):
        columns = [column for column in zip(*rows, strict=True) if len({number for _, number in column}) > 1]
        return [[column[k] for column in columns] for k in range(len(rows))]
    common = functools.reduce(operator.and_, (Counter(number for _, number in row) for row in rows))
    return [_without(row, common) for row in rows]


def _without(row: Sequence[_Told], common: Counter[int]) -> list[_Told]:
    """What is left of the numbers of a path, in their order."""
    left = common.copy()
    kept = []
    for word, number in row:
        if left[number]:
            left[number] -= 1
        else:
            kept.append((word, number))
    return kept


def _even(rows: Sequence[Sequence[_Told]]) -> bool:
    """Whether all files have equally many numbers, so that the k-th of one stands for the k-th of another."""
    return len({len(row) for row in rows}) <= 1


def _agree(here: Sequence[Sequence[_Told]], there: Sequence[Sequence[_Told]]) -> bool:
    """Whether the numbers of one list are among those of the other, in their order; or one list has none."""
    if _even(here) and _even(there):
        return _within(list(zip(*here, strict=True)), list(zip(*there, strict=True)))
    return all(_within([(x,) for x in a], [(x,) for x in b]) for a, b in zip(here, there, strict=True))


def _within(one: Sequence[Sequence[_Told]], other: Sequence[Sequence[_Told]]) -> bool:
    """Whether the shorter of two lists of columns is a part of the longer, in its order."""
    short, long = sorted((one, other), key=len)
    words = {_word(column) for column in long} - {""}
    rest = iter(long)
    return all(any(_same(column, x, words) for x in rest) for column in short)


def _same(column: Sequence[_Told], other: Sequence[_Told], words: set[str]) -> bool:
    """Whether two columns hold the same numbers, and have the same word if it is one of ``words``."""
    same_word = _word(column) == _word(other) or _word(column) not in words
    return same_word and [number for _, number in column] == [number for _, number in other]


def _word(column: Sequence[_Told]) -> str:
    """The word before a number; empty if the files differ in it."""
    words = {word for word, _ in column}
    return words.pop() if len(words) == 1 else ""
