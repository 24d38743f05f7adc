"""`python -m cmbml` is the console script `cmbml`."""

import sys

from cmbml.commands import main

if __name__ == "__main__":
    sys.exit(main())
