"""The one exception that is shown to users without a traceback, and the sentences of checks."""


class UserError(Exception):
    """A mistake of the user: one or two sentences saying what is wrong, where, and what to do."""


def demand(ok: bool, message: str) -> None:
    """Refuse what is not right.

    Raises
    ------
    UserError
        With the message, when `ok` is false.
    """
    if not ok:
        raise UserError(message)


def demand_value(ok: bool, key: str, value: object, wish: str) -> None:
    """Refuse the value of a key: ``train.repeats=0 must be a whole number of at least 1.``

    Raises
    ------
    UserError
        When `ok` is false.
    """
    demand(ok, f"{key}={value} must be {wish}.")
