"""How much memory this process has held at most."""

from pathlib import Path

_SELF = Path("/proc/self")  # of Linux


def forget_peak() -> None:
    """Begin to measure anew; nothing happens where the system cannot."""
    try:
        (_SELF / "clear_refs").write_text("5")
    except OSError:
        return


def peak_gb() -> float | None:
    """Return the most resident memory since `forget_peak`, in 10^9 bytes; None where the system does not tell."""
    peak = _status("VmHWM:")
    return None if peak is None else round(peak / 1e9, 3)


def held() -> int:
    """Return the resident memory of now, in bytes; 0 where the system does not tell."""
    return _status("VmRSS:") or 0


def _status(key: str) -> int | None:
    try:
        lines = (_SELF / "status").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(key)), None)
