"""Cleaning: simulate skies of many bands, recover the CMB from them, measure.

python main_clean.py method=cnilc
python main_clean.py --help          # the groups and keys that can be overridden
"""

from pathlib import Path

from cmbml.start import start

if __name__ == "__main__":
    start(Path(__file__).parent / "cfg", "clean")
