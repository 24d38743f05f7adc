"""Multi-frequency skies: CMB, foregrounds, beams and noise of an instrument's bands.

python main_sims.py
python main_sims.py --help          # the groups and keys that can be overridden
"""

from pathlib import Path

from cmbml.start import start

if __name__ == "__main__":
    start(Path(__file__).parent / "cfg", "sims")
