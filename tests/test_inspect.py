"""`cmbml inspect`: what is told of files is what was put into them, and what is refused is what a run refuses."""

import pickle

import healpy as hp
import numpy as np
import pytest
import torch

from cmbml.commands import main
from cmbml.core import handlers
from cmbml.maps.skymap import SkyMap, write_skymap

NSIDE = 8
NPIX = 12 * NSIDE**2


@pytest.fixture
def told(tmp_path, monkeypatch, capsys):
    """Function from words of the command line to (exit code, what is printed), in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str]:
        code = main(["inspect", *words])
        return code, capsys.readouterr().out

    return run


def line(text: str, start: str) -> str:
    """The rest of the only line that starts so."""
    (found,) = [row.strip() for row in text.splitlines() if row.strip().startswith(start)]
    return found.removeprefix(start).strip()


def test_a_map_of_our_own(told, tmp_path):
    data = np.stack([np.arange(NPIX, dtype=float), np.full(NPIX, 2.0)])
    write_skymap(tmp_path / "sky.fits", SkyMap(data, ("E", "B"), "uK_CMB", 30.0, 20, "two fields"))
    code, text = told("sky.fits", "--png")
    assert code == 0
    assert line(text, "nside") == "8, full sky"
    assert line(text, "beam").startswith("30.0 ")
    assert line(text, "lmax") == "20"
    mean, std = (NPIX - 1) / 2, np.sqrt((NPIX**2 - 1) / 12)  # of 0 .. n - 1
    numbers = f"min 0, mean {mean:.4g}, max {NPIX - 1}, std {std:.4g}"
    assert line(text, "E  ") == f"uK_CMB; {NPIX} pixels, 0 without a value; {numbers}"
    assert "refused" not in text
    assert line(text, "taken as     a map") == "of cmbml's own: as an asset of a stage"
    assert (tmp_path / "sky.png").read_bytes().startswith(b"\x89PNG")


def test_what_readers_refuse_in_a_map_of_others_and_which_key_mends_it(told, tmp_path):
    data = np.random.default_rng(0).normal(size=(3, NPIX))
    data[0, :5] = hp.UNSEEN
    mask = np.arange(NPIX) % 2.0
    names = ["I_STOKES", "Q_STOKES", "U_STOKES", "TMASK"]
    units = ["K_CMB", "Kcmb", "kK", ""]
    columns = {"column_names": names, "column_units": units, "dtype": np.float64}
    hp.write_map(tmp_path / "planck.fits", [*data, mask], nest=True, coord="G", **columns)
    code, text = told("planck.fits")
    assert code == 0
    assert line(text, "ordering") == "NESTED"
    assert line(text, "I_STOKES").startswith(f"K_CMB; {NPIX} pixels, 5 without a value; ")
    assert line(text, "Q_STOKES").startswith("Kcmb = K_CMB; ")
    assert "RING is needed" in line(text, "refused as   a map of cmbml's own")
    assert "(mask=file mask.file=...)" in line(text, "refused as   T of a sky of others")
    assert line(text, "refused as   U of a sky of others").endswith("or in sims.external.unit")
    assert line(text, "taken as     Q of a sky of others").startswith(": sims=external nside=8")
    assert line(text, "taken as     TMASK, a mask") == ": mask=file mask.file=planck.fits mask.column=TMASK"

    hp.write_map(tmp_path / "celestial.fits", data[1], coord="C", column_units="uK_CMB", dtype=np.float64)
    assert "rotate it to Galactic ones" in line(told("celestial.fits")[1], "refused as   T of a sky of others")


def test_arrays(told, tmp_path):
    lmax = 7
    alm = np.zeros((lmax + 1) * (lmax + 2) // 2, dtype=np.complex64)
    alm[3] = 3 + 4j
    cl = np.array([np.inf, 1.0, 3.0])
    np.savez(tmp_path / "a.npz", E=alm, tt=cl)
    code, text = told("a.npz", "--png")
    assert code == 0
    assert line(text, "E ").startswith("alm (36,), lmax 7, complex64; of |x| min 0, ")
    assert " max 5, " in line(text, "E ")
    assert line(text, "tt ").endswith("l = 0..2, float64; min 1, mean 2, max 3, std 1; 1 are not finite")
    assert (tmp_path / "a.png").is_file()


class Bomb:
    """Runs when it is unpickled."""

    def __reduce__(self):
        return (open, ("exploded", "w"))


def test_nothing_is_run_by_being_looked_at(told, tmp_path):
    np.savez(tmp_path / "objects.npz", x=np.array([Bomb()], dtype=object))
    torch.save({"settings": Bomb()}, tmp_path / "foreign.pt")
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Bomb(), protocol=2))
    code, text = told("objects.npz", "foreign.pt", "raw.pt", "gone.npz", "notes.txt")
    assert code == 1
    assert text.count("cannot be told") == 5
    assert "save arrays of numbers alone" in text
    assert text.count("holds more than tensors and plain values") == 2
    assert not (tmp_path / "exploded").exists()


def test_a_model(told, tmp_path):
    network = {"_target_": "cmbml.networks.unet.UNet", "in_channels": 1, "out_channels": 1, "n_filters": 8}
    network |= {"conv_width": 1, "network_depth": 1, "growth_factor": 2, "dropout": 0.0, "norm": "group"}
    network |= {"activation": "relu", "padding": "zeros", "upsample": "bilinear", "shortcut": 0, "zero_head": False}
    from cmbml.train.network import build

    net = build(network)
    channels = {"spins_in": [0], "spins_out": [0], "parity_in": [1], "parity_out": [1]}
    patches = {"layout": "squares", "patch": 8, "halo": 0}
    rotation = {"kind": "none", "pairs": [], "symmetries": False, "average": 1}
    train = {"scale": 1.0, "channels_last": False}
    settings = {"network": network, "patches": patches, "rotation": rotation, "train": train, "nside": 8, "lmax": 20}
    settings |= channels
    model = {"settings": settings, "state_dict": net.state_dict(), "target_rms": [1.0], "input_rms": [2.0], "epoch": 3}
    handlers.write(tmp_path / "model.pt", model)
    code, text = told("model.pt")
    assert code == 0
    count = sum(p.numel() for p in net.parameters())
    assert line(text, "kind") == f"model with {count} weights in {len(net.state_dict())} tensors, best of epoch 3"
    assert line(text, "taken as     a model").startswith(": method.trained=model.pt")

    wider = {**model, "settings": {**settings, "network": {**network, "n_filters": 16}}}
    foreign = {**model, "settings": {**settings, "network": {**network, "_target_": "os.system"}}}
    for held, sentence in ((wider, "do not fit its network"), (foreign, "asks for the network os.system")):
        handlers.write(tmp_path / "model.pt", held)
        assert sentence in line(told("model.pt")[1], "refused as   a model")


def test_a_file_of_a_stage_that_was_changed(told, tmp_path):
    record = {"stage": "cmb", "version": 1, "item": {}, "fingerprint": "", "settings": {}, "inputs": {}, "seeds": []}
    record |= {"seconds": 1.5, "host": "h", "git": {"commit": "c" * 40}, "packages": {}, "form": 2}
    np.savez(tmp_path / "a.npz", x=np.zeros(3))
    record["outputs"] = {"a.npz": {"size": (tmp_path / "a.npz").stat().st_size, "sha256": "0" * 64}}
    handlers.write(tmp_path / ".a.npz.json", record)
    text = told("a.npz")[1]
    assert line(text, "made by") == "stage cmb in 1.5 s on h, cccccccccc"
    assert line(text, "contents") == "a.npz has other contents than were written; run.force=[cmb] makes it anew"
