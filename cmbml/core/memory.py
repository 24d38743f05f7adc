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
    try:
        lines = (_SELF / "status").read_text().splitlines()
    except OSError:
        return None
    kib = next((line.split()[1] for line in lines if line.startswith("VmHWM:")), None)
    return None if kib is None else round(int(kib) * 1024 / 1e9, 3)
