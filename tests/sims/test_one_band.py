"""One species of instrument: a table and a yaml file make one, of whose bands `main_delens.py` observes one."""

import numpy as np
import pytest

from cmbml.core.errors import UserError
from cmbml.maps.skymap import read_skymap
from cmbml.methods.shared.filters import Filters
from cmbml.sims.bands import chosen, observed, one_band
from cmbml.sims.observe import Observe
from cmbml.sky import sht
from cmbml.sky.beams import gaussian_beam
from cmbml.start import build

NSIDE, LMAX, LEVEL, L_KNEE, ALPHA = 32, 64, 400.0, 20.0, -2.0
SMALL = (
    f"nside={NSIDE}", f"sky.lmax={LMAX}", "sky.margin=20", "splits.train=0", "splits.valid=0", "splits.test=1",
    "run.workers=1",
)  # fmt: skip
DELENS = (*SMALL, "method=wiener", "delens.lmin_b=5", "analysis.band=[5,50]", "analysis.r.band=[5,50]")
TABLE = f"""\
# %ECSV 1.0
# ---
# delimiter: ','
# datatype:
# - {{name: name, datatype: string}}
# - {{name: center_ghz, unit: GHz, datatype: float64}}
# - {{name: fwhm_arcmin, unit: arcmin, datatype: float64}}
# - {{name: noise_t_uk_arcmin, unit: uK arcmin, datatype: float64}}
# - {{name: noise_p_uk_arcmin, unit: uK arcmin, datatype: float64}}
# - {{name: fields, datatype: string}}
# - {{name: l_knee_p, datatype: float64}}
# - {{name: alpha_p, datatype: float64}}
name,center_ghz,fwhm_arcmin,noise_t_uk_arcmin,noise_p_uk_arcmin,fields,l_knee_p,alpha_p
93,93,300,40,56,TQU,0,0
145,145,250,{LEVEL / 2},{LEVEL},TQU,{L_KNEE},{ALPHA}
600,600,200,90,0,T,0,0
"""


@pytest.fixture
def added(tmp_path):
    """Words that add an instrument, of these two files and no other."""
    folder = tmp_path / "cfg" / "instrument"
    folder.mkdir(parents=True)
    (tmp_path / "mine.ecsv").write_text(TABLE)
    text = f"# Mine.\ndefaults: [_table]\nname: mine\ntable: {tmp_path}/mine.ecsv\n"
    (folder / "mine.yaml").write_text(text)
    return f"hydra.searchpath=[file://{tmp_path}/cfg]", "instrument=mine"


def test_an_added_instrument_is_observed_and_delensed_with_its_own_noise(composed, added):
    """The noise of the map is that of the filters, to five times the scatter of its modes: white and with its knee."""
    cfg = composed(*added, *DELENS, "instrument.bands=[145]")
    build(cfg).run(only=["theory", "cmb", "observe", "filters"], workers=1)
    folder = f"{cfg.system.root}/{cfg.dataset}/Simulations/Test/sim0000"
    assert read_skymap(f"{folder}/obs_map.fits").fwhm_arcmin == cfg.delens.fwhm_arcmin == 250
    lensed, seen = (np.load(f"{folder}/{name}_alm.npz") for name in ("cmb_lensed", "obs"))
    beam, ell = gaussian_beam(250, LMAX), np.arange(LMAX + 1)
    filters = Filters(cfg).run({})
    assert filters["skies"] == 0
    for first, last in ((3, 10), (40, 60)):
        part = slice(first, last + 1)
        modes = 2 * ell[part] + 1
        expected = (LEVEL * np.pi / 10800) ** 2 * (1 + (ell[part] / L_KNEE) ** ALPHA)
        for x in "eb":
            np.testing.assert_allclose((filters[f"noise_{x}"] * beam**2)[part], expected, rtol=1e-12)
        noise = [seen[x] - sht.almxfl(sht.truncate(lensed[x].astype(complex), LMAX), beam) for x in "EB"]
        found = sum(np.sum(modes * sht.alm2cl(alm)[part]) for alm in noise)
        scatter = np.sqrt(2 / (2 * modes.sum()))
        assert found == pytest.approx(2 * np.sum(modes * expected), rel=5 * scatter)


def test_an_added_instrument_is_simulated_in_all_its_bands(composed, added):
    stages = build(composed(*added, *SMALL, name="sims")).stages
    observe = next(stage for stage in stages if stage.name == "observe")
    assert [band.name for band in observe.instrument.bands] == ["93", "145", "600"]


def test_bands_that_cannot_be_delensed_are_refused(composed, added):
    def refused(*words):
        with pytest.raises(UserError) as caught:
            composed(*added, *DELENS, *words)
        return str(caught.value)

    choice = "choose one of 93, 145, as in instrument.bands=[145]."
    assert refused() == f"instrument=mine has 3 bands here, and one is delensed; {choice}"
    assert refused("instrument.bands=[600]").endswith(f"lensing is found in E and B; {choice}")
    assert "knows Gaussian beams alone" in refused("instrument.bands=[93]", "instrument.pixel_window=true")


def test_what_is_said_of_a_band_goes_before_its_table(composed):
    words = ("instrument.bands=[145]", "instrument.fwhm_arcmin=5", "instrument.noise_p_uk_arcmin=3")
    cfg = composed("instrument=so_lat", *words)
    band = one_band(cfg.instrument)
    assert (band.fwhm_arcmin, band.noise_t_uk_arcmin, band.noise_p_uk_arcmin) == (5, 10, 3)
    assert cfg.delens.fwhm_arcmin == pytest.approx(13.74, abs=0.01)  # two pixels of nside 512
    cfg = composed("instrument=toy", "instrument.noise_t_uk_arcmin={143:1}", name="sims")
    table = composed("instrument=toy", name="sims")
    changed, known = (observed(c.instrument, 64).bands for c in (cfg, table))
    assert [b.noise_t_uk_arcmin for b in changed if b.name == "143"] == [1]
    assert [b for b in changed if b.name != "143"] == [b for b in known if b.name != "143"]


def test_b_is_observed_and_filtered_with_its_own_noise(composed):
    """Of cmbs4_sat at 270 GHz, white where the knee is over; a noise that is given for Q and U is that of both."""
    words = ("instrument=cmbs4_sat", "instrument.bands=[270]", "instrument.min_fwhm_pixels=0", *SMALL, "sky.lmax=95")
    words = (*words, "delens.lmin_b=5", "analysis.band=[5,50]", "analysis.r.band=[5,50]", "instrument.fwhm_arcmin=60")
    cfg = composed(*words)
    filters = Filters(cfg).run({})
    ell = np.arange(2, 96)
    ratio = (5.97 / 8.08) ** 2 * (1 + (ell / 60) ** -3.0) / (1 + (ell / 65) ** -3.1)
    np.testing.assert_allclose(filters["noise_b"][2:] / filters["noise_e"][2:], ratio, rtol=1e-12)
    noise_only = {x: np.zeros(sht.alm_size(95), dtype=complex) for x in "TEB"}
    _, seen = Observe(cfg).run({"split": "test", "sim": 0}, lensed_alm=noise_only)
    modes = 2 * ell[58:] + 1  # l = 60-95
    beam = gaussian_beam(60, 95)[60:] ** 2
    for x, name in (("E", "noise_e"), ("B", "noise_b")):
        power = np.sum(modes * sht.alm2cl(seen[x])[60:] / (filters[name][60:] * beam)) / modes.sum()
        assert power == pytest.approx(1, abs=4 * np.sqrt(2 / modes.sum()) + 0.03)  # aliasing at nside 32
    cfg = composed(*words, "instrument.noise_p_uk_arcmin=3")
    assert one_band(cfg.instrument).noise("B") == (3, 65, -3.1)


@pytest.mark.parametrize(("value", "message"), [("1", "a number where there is one band"), ("{44:1}", "give numbers")])
def test_noise_that_fits_no_band_is_refused(composed, value, message):
    cfg = composed("instrument=toy", f"instrument.noise_p_uk_arcmin={value}", name="sims")
    with pytest.raises(UserError, match=message):
        chosen(cfg.instrument)


@pytest.mark.parametrize(("name", "fwhm", "noise"), [("deep", 5, (0.5**0.5, 1)), ("paper", 20, (1.5, 2.1))])
def test_instruments_of_one_band_keep_their_true_beam(composed, name, fwhm, noise):
    cfg = composed(f"instrument={name}", "nside=64", "delens.lmin_b=30")
    band = one_band(cfg.instrument)
    assert cfg.delens.fwhm_arcmin == band.fwhm_arcmin == fwhm
    assert (band.noise_t_uk_arcmin, band.noise_p_uk_arcmin) == pytest.approx(noise, rel=1e-15)
