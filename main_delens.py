"""Delensing: simulate lensed skies, train a network, predict, measure.

python main_delens.py field=B scale=5
python main_delens.py --help          # the groups and keys that can be overridden
"""

from pathlib import Path

from cmbml.start import start

if __name__ == "__main__":
    start(Path(__file__).parent / "cfg", "delens")
