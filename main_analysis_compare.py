"""Comparison of finished methods of delensing or cleaning on the same skies: tables, figures and one page.

python main_analysis_compare.py compare.methods=[none,wiener,quadratic,linear_map,delens_unet]
python main_analysis_compare.py job=clean compare.methods=[hilc,cnilc]
python main_analysis_compare.py --help          # the groups and keys that can be overridden
"""

from pathlib import Path

from cmbml.start import start

if __name__ == "__main__":
    start(Path(__file__).parent / "cfg", "compare")
