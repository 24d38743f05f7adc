"""The state of an interrupted training, and whether it may be continued."""

import json
from collections.abc import Mapping
from typing import Any, Protocol

from cmbml.core.errors import UserError

AFRESH = "train afresh with run.force=[train]"


class File(Protocol):
    """A file that a training writes for itself; picklable, and written atomically."""

    def exists(self) -> bool: ...  # noqa: D102
    def read(self) -> Any: ...  # noqa: D102
    def write(self, value: Any) -> None: ...  # noqa: D102


def fingerprint(settings: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """Return all that decides the result of a training, as plain values.

    Parameters
    ----------
    settings
        The settings of the training; the orientations of a prediction do not count.
    data
        Numbers that tell the training skies from others.
    """
    rotation = {key: value for key, value in settings["rotation"].items() if key not in ("predict", "average")}
    return json.loads(json.dumps({**settings, "rotation": rotation, "skies": data}))


def demand_same(then: Mapping[str, Any], now: Mapping[str, Any], epoch: int) -> None:
    """Refuse to continue a training whose fingerprint was another.

    Raises
    ------
    UserError
        Names every key that changed, and how.
    """
    old = _flat(then)
    new = _flat(now)
    absent = "absent"
    changes = [
        f"{key} {old.get(key, absent)} -> {new.get(key, absent)}"
        for key in sorted(old | new)
        if old.get(key, absent) != new.get(key, absent)
    ]
    if changes:
        raise UserError(
            f"A training interrupted after epoch {epoch} cannot go on with other settings ({', '.join(changes)}); "
            f"put them back, or {AFRESH}."
        )


def read(file: File, like: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state of an interrupted training.

    Parameters
    ----------
    file
        The file ``last``.
    like
        The state of a training that begins: the parts that there must be, of the same kinds.

    Raises
    ------
    UserError
        When it cannot be read, or is no such state.
    """
    state = read_file(file)
    if not isinstance(state, Mapping) or set(state) != set(like):
        raise damaged("it lacks parts, or has others")
    for key, part in like.items():
        number = isinstance(part, int | float) and isinstance(state[key], int | float)
        if not number and not isinstance(state[key], type(part)):
            raise damaged(f"its {key} is of another kind")
    rows = state["history"]
    if not all(isinstance(row, Mapping) and isinstance(row.get("valid_loss"), float) for row in rows):
        raise damaged("its history is none")
    if len(rows) != state["epoch"] or not {"cpu", "cuda"} <= set(state["rng"]):
        raise damaged("its parts do not fit together")
    return dict(state)


def read_file(file: File) -> Any:
    """Return what a file of a training holds; when it cannot be read, the sentence says what makes it anew."""
    try:
        return file.read()
    except UserError as error:
        raise UserError(f"{str(error).partition(';')[0]}; {AFRESH}.") from None


def damaged(why: str) -> UserError:
    """Make the sentence about a checkpoint that is none."""
    return UserError(f"The checkpoint of the interrupted training is damaged ({why}); {AFRESH}.")


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings to dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
