"""The stage that runs a user's own checkout of pyilc; nothing of it is imported."""

import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import healpy as hp
import numpy as np
import yaml
from omegaconf import DictConfig, OmegaConf

from cmbml.config.truth import has_parts
from cmbml.core.asset import File, Files, Item
from cmbml.core.errors import UserError, demand
from cmbml.maps.foreign import read_map
from cmbml.maps.skymap import SkyMap
from cmbml.methods.shared.foreign_ilc import ForeignIlc
from cmbml.sky import dipole

# Beside those of ForeignIlc.
SETTINGS = (
    "wavelet_type",
    "BinSize",
    "wavelet_beam_criterion",
    "N_deproj",
    "ILC_deproj_comps",
)
TYPES = ("CosineNeedlets", "TopHatHarmonic")
LINES = 3  # of its last words, in the sentence about a failure


class Pyilc(ForeignIlc):
    """A needlet or harmonic ILC of T by pyilc (arXiv:2307.01043), in a process of its own.

    Its contract, as its input files and its reader have it: ``python pyilc/main.py input.yml``; one map a file in
    K_CMB, b_l and bandpass of each in text files of two columns, all from the widest beam to the narrowest; and, with
    the CMB preserved, the map ``needletILCmap_component_CMB*.fits`` in uK_CMB with the Gaussian beam that was asked
    for. All of it lies in a temporary folder beside the prediction. What the program says is kept when it fails.
    """

    name = "pyilc"
    scratch = ("pyilc_log",)
    uses = (*ForeignIlc.uses, "method.param_dict_file", *(f"method.{key}" for key in SETTINGS))
    reads = (*ForeignIlc.reads, "method.checkout", "method.python")

    def __init__(self, config: DictConfig):
        """Refuse what pyilc does not know."""
        super().__init__(config)
        given = self.cfg.method
        if self.cfg.clean.field != "T":
            raise UserError(f"method=pyilc recovers T alone, not field={self.cfg.clean.field}.")
        if given.wavelet_type not in TYPES:
            raise UserError(f"method.wavelet_type={given.wavelet_type} is not known; choose {' or '.join(TYPES)}.")
        if given.N_deproj not in (None, len(given.ILC_deproj_comps)):
            raise UserError(
                f"method.N_deproj={given.N_deproj} is not the number of"
                f" method.ILC_deproj_comps={given.ILC_deproj_comps}; leave it out."
            )

    @property
    def program(self) -> Path:
        """Its main file."""
        checkout = self.cfg.method.checkout
        path = Path(checkout or "").expanduser().absolute() / "pyilc" / "main.py"
        if checkout is None or not path.is_file():
            raise UserError(
                f"method.checkout={checkout} has no pyilc/main.py; give the folder of a clone of"
                " https://github.com/jcolinhill/pyilc."
            )
        return path

    def items(self) -> list[Item]:
        """The test skies, if the program is there."""
        return super().items() if self.program else []

    def made_of(self, item: Item) -> Mapping[str, Sequence[Path]]:
        """The program and its spectra of foregrounds, beside what the instrument's table names."""
        spectra = Path(self.cfg.method.param_dict_file or self.default_spectra).expanduser()
        sources = sorted(self.program.parent.glob("*.py"))
        return {**super().made_of(item), "method.checkout": sources, "method.param_dict_file": [spectra]}

    @property
    def default_spectra(self) -> Path:
        """The file of spectra that comes with it."""
        return self.program.parents[1] / "input" / "fg_SEDs_default_params.yml"

    def check(self) -> None:
        """Refuse a band without a bandpass, and an interpreter that is none."""
        super().check()
        for item in self.bands():
            self.bandpass(item)
        python = self.cfg.method.python
        found = python is None or shutil.which(python) is not None
        demand(found, f"method.python={python} is no program that can be run; give the path of an interpreter.")

    def run(self, item: Item, *, bands: Files, scratch: dict[str, File]) -> SkyMap:
        """Map of T, uK_CMB, RING, with the beam that was asked for."""
        log = scratch["pyilc_log"].path
        log.parent.mkdir(parents=True, exist_ok=True)
        for left in log.parent.glob(".pyilc-*"):  # of a run that was killed
            shutil.rmtree(left)
        with TemporaryDirectory(prefix=".pyilc-", dir=log.parent) as name:
            folder = Path(name)
            fwhm_arcmin = self.write(folder, bands)
            target = self.target(fwhm_arcmin.values())
            (folder / "input.yml").write_text(
                yaml.safe_dump(self.input(folder, list(fwhm_arcmin), target)), encoding="utf-8"
            )
            path = self.call(folder, log)
            data, _ = read_map(
                path,
                self.cfg.sky.nside,
                "T",
                {"uK_CMB": 1.0},
                unit="uK_CMB",
                unit_key="pyilc's file",
                fields_key="field",
            )
        return self.cleaned(data[0], target, f"pyilc, {self.cfg.method.wavelet_type}")

    def write(self, folder: Path, bands: Files) -> dict[str, float]:
        """Write map, beam and bandpass of each band; names and beams, arcmin, from the widest to the narrowest."""
        fwhm_arcmin = {}
        (folder / "out").mkdir()
        for i, band in enumerate(bands.items):
            sky = bands[i]
            name = band["band"]
            beam = self.beam(band)
            freqs, response = self.bandpass(band)
            if len(freqs) == 1:  # it wants a width
                freqs = freqs * [0.999, 1.001]
                response = np.ones(2)
            kelvin = 1e-6 * sky["T"].astype(np.float64)
            if not has_parts(self.cfg):  # monopole and dipole of maps of others leak, and would decide on the weights
                kelvin, _ = dipole.without_dipole(kelvin)
            hp.write_map(folder / f"map_{name}.fits", kelvin, dtype=np.float64, column_units="K_CMB", coord="G")
            np.savetxt(folder / f"beam_{name}.txt", np.transpose([np.arange(len(beam)), beam]))
            np.savetxt(folder / f"bandpass_{name}.txt", np.transpose([freqs, response]))
            fwhm_arcmin[name] = sky.fwhm_arcmin
        return dict(sorted(fwhm_arcmin.items(), key=lambda band: -band[1]))

    def input(self, folder: Path, bands: list[str], target: float) -> dict[str, Any]:
        """What its input file says: our settings by the same names, and where the files are."""
        given: Any = OmegaConf.to_container(self.cfg.method)
        files = {
            kind: [str(folder / f"{kind}_{name}.{end}") for name in bands]
            for kind, end in (("map", "fits"), ("beam", "txt"), ("bandpass", "txt"))
        }
        asked = {
            **{key: given[key] for key in (*SETTINGS, "ellmin", "ILC_bias_tol")},
            "ELLMAX": self.lmax,
            "N_scales": len(self.peaks),
            "ellpeaks": self.peaks[1:],
            "perform_ILC_at_beam": target,
            "ILC_preserved_comp": "CMB",
            "N_deproj": len(given["ILC_deproj_comps"]),
            "param_dict_file": str(given["param_dict_file"] or self.default_spectra),
            "override_ILCbiastol_threshold": "yes",
            "taper_width": 0,
            "N_SED_params": 0,
            "N_maps_xcorr": 0,
        }
        return asked | {
            "N_side": self.cfg.sky.nside,
            "N_freqs": len(bands),
            "freq_map_files": files["map"],
            "beam_type": "1DBeams",
            "beam_files": files["beam"],
            "bandpass_type": "ActualBandpasses",
            "freq_bp_files": files["bandpass"],
            "output_dir": f"{folder / 'out'}/",
            "output_prefix": "",
            "output_suffix": "",
            "save_as": "fits",
            "save_weights": "no",
        }

    def call(self, folder: Path, log: Path) -> Path:
        """Run the program, and return the map that it makes."""
        python = self.cfg.method.python or sys.executable
        command = [python, str(self.program), "input.yml"]
        silent = subprocess.DEVNULL
        try:
            with log.open("w", encoding="utf-8") as file:
                done = subprocess.run(command, cwd=folder, stdin=silent, stdout=file, stderr=file, check=False)
        except OSError as error:
            raise UserError(f"method.python={python} cannot be run ({error.strerror}).") from None
        found = list((folder / "out").glob("needletILCmap_component_CMB*.fits"))
        if done.returncode or len(found) != 1:
            last = " | ".join(
                [
                    line.strip()
                    for line in log.read_text(encoding="utf-8", errors="replace").splitlines()
                    if line.strip(" ^~")
                ][-LINES:]
            )
            raise UserError(
                f"pyilc made no map and ended with status {done.returncode}; its last words are {last!r}, all of them"
                f" are in {log}."
            )
        return found[0]
