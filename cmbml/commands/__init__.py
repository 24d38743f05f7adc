"""The console script `cmbml`: the four mains under one name, and what helps beside them.

A command is imported when it is asked for: `cmbml --help` need not wait for what trains.
"""

import difflib
import importlib
import os
import sys
from collections.abc import Sequence

from cmbml.config.options import MAINS, spoken
from cmbml.config.places import CFG
from cmbml.core.errors import UserError

JOBS = {
    "sims": "simulate skies of many bands",
    "delens": "simulate lensed skies, train, delens, measure",
    "clean": "simulate skies of many bands, recover the CMB, measure",
    "compare": "compare finished methods on the same skies",
}
HELPERS = {
    "fetch": "bring public maps, chains and templates",
    "inspect": "tell what a FITS, npz or model file is, and what would be refused in it",
    "doctor": "tell what is installed and found here, and what is missing costs",
    "data": "list what is stale, unused or unfinished under a root, and remove it",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line asks; the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        sys.stdout.write(_help())
        return 0
    command, *rest = words
    if command in MAINS:
        return _job(command, rest)
    if command not in HELPERS:
        near = difflib.get_close_matches(command, [*JOBS, *HELPERS], n=1)
        hint = f"did you mean {near[0]}?" if near else f"the commands are {', '.join([*JOBS, *HELPERS])}."
        sys.stderr.write(f"Error: cmbml has no command {command!r}; {hint}\n")
        return 2
    try:
        return int(importlib.import_module(f"cmbml.commands.{command}").main(rest))
    except BrokenPipeError:  # whoever reads, as `head` does, has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (UserError, OSError) as error:
        sys.stderr.write(f"Error: {spoken(str(error))}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted.\n")
        return 130


def _job(job: str, words: Sequence[str]) -> int:
    """The same as the main of the job."""
    from cmbml.start import start

    sys.argv[1:] = words
    start(CFG, job, say=spoken)
    return 0


def _help() -> str:
    lines = ["usage: cmbml COMMAND ...", ""]
    lines += [f"  {name:<8} {about}" for name, about in (JOBS | HELPERS).items()]
    lines += ["", "cmbml COMMAND --help tells more; e.g. cmbml delens experiment=tiny, the whole job in a minute."]
    return "\n".join(lines) + "\n"
