"""Waiting for others in steps so short that a signal is heard."""

import socket
import time
from collections.abc import Callable

STEP_S = 0.2


def until(done: Callable[[], bool], end: float) -> None:
    """Look again and again until it is done.

    Raises
    ------
    TimeoutError
        When it is not at a time of the monotonic clock.
    """
    while not done():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(STEP_S)


def listens(host: str, port: int) -> bool:
    """Whether somebody listens at an address."""
    try:
        socket.create_connection((host, port), timeout=1).close()
    except (OSError, UnicodeError):
        return False
    return True
