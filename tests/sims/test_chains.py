"""Cosmologies drawn from a chain of the form that LAMBDA publishes, made up for the test."""

import tarfile
from pathlib import Path

import numpy as np
import pytest
import yaml

from cmbml.core.errors import UserError
from cmbml.sims import chains
from cmbml.sky import cosmology

NAME = "wmap_lcdm_mnu_wmap9_chains_v5"
SPEC = yaml.safe_load((Path(__file__).parents[2] / "cfg" / "cosmology" / "wmap9_chain.yaml").read_text())
# file: mean, sigma (WMAP nine-year, with massive neutrinos; a002 is 10^9 A_s at k = 0.002 / Mpc)
FILES = {
    "H0": (68.0, 2.0),
    "omegabh2": (0.0226, 5e-4),
    "omegach2": (0.114, 4e-3),
    "mnu": (0.5, 0.1),
    "tau": (0.089, 0.014),
    "ns002": (0.972, 0.013),
    "a002": (2.41, 0.1),
    "sigma8": (0.8, 0.02),
}
NROW = 400


@pytest.fixture
def written(tmp_path):
    """Root of the data with a chain in it, and its columns; omegach2 and H0 are anticorrelated."""
    rng = np.random.default_rng(0)
    table = {name: rng.normal(mean, sigma, NROW) for name, (mean, sigma) in FILES.items()}
    table["omegach2"] = 0.114 - 0.0015 * (table["H0"] - 68)
    folder = tmp_path / "Assets" / "WMAP" / NAME
    folder.mkdir(parents=True)
    (folder / "description.txt").write_text("The chain of a test.\n")
    for name, column in table.items():
        lines = [f"{i + 1:>8d}    {value:24.18f}\n" for i, value in enumerate(column)]
        (folder / name).write_text("".join(lines))
    chains._columns.cache_clear()
    return tmp_path, table


def draws(root: Path, n: int, seed: int = 0, **change) -> list[dict[str, float]]:
    rng = np.random.default_rng(seed)
    spec = SPEC | {"chain": SPEC["chain"] | change}
    return [cosmology.draw_parameters(chains.with_chain(spec, root), rng) for _ in range(n)]


def test_a_draw_is_a_row(written):
    root, table = written
    for params in draws(root, 20):
        row = np.argmin(np.abs(table["H0"] - params["H0"]))
        for name, file in SPEC["chain"]["names"].items():
            if name != "As":
                assert params[name] == pytest.approx(table[file][row], rel=1e-12), name
        assert (params["omk"], params["r"]) == (0.0, 0.01)
        growth = 25 ** (table["ns002"][row] - 1)  # k^(n_s - 1) from 0.002 to 0.05 / Mpc
        assert params["As"] == pytest.approx(1e-9 * table["a002"][row] * growth, rel=1e-12)


def test_amplitude_at_the_mean_is_the_published_one(written):
    """WMAP9 gives 10^9 A_s(0.002) = 2.41 and n_s = 0.972, and ln 10^10 A_s(0.05) = 3.09 for the same chain."""
    amplitude = np.array([p["As"] for p in draws(written[0], 300)])
    assert np.log(1e10 * amplitude).mean() == pytest.approx(3.09, abs=0.015)


def test_draws_follow_the_stream_and_reach_every_row(written):
    root, table = written
    one, two, other = draws(root, 5, seed=1), draws(root, 5, seed=1), draws(root, 5, seed=2)
    assert one == two
    assert one != other
    many = np.array([[p["H0"], p["omch2"]] for p in draws(root, 4000)])
    assert len(np.unique(many[:, 0])) == NROW
    np.testing.assert_allclose(many.mean(axis=0), [table["H0"].mean(), table["omegach2"].mean()], rtol=2e-3)
    assert np.corrcoef(many.T)[0, 1] < -0.999  # of one row


def test_burn_in_is_left_out(written):
    root, table = written
    found = {p["H0"] for p in draws(root, 200, burn_in=NROW - 3)}
    np.testing.assert_allclose(sorted(found), sorted(table["H0"][-3:]), rtol=1e-12)


def test_tar_file_in_place_of_the_folder(written):
    root, _ = written
    folder = root / "Assets" / "WMAP" / NAME
    expected = draws(root, 10)
    with tarfile.open(f"{folder}.tar.gz", "w:gz") as archive:
        for file in sorted(folder.iterdir()):
            archive.add(file, arcname=f"./{file.name}")
            if file.name != "H0":
                file.unlink()
    (folder / "H0").unlink()
    folder.rmdir()
    chains._columns.cache_clear()
    assert draws(root, 10) == expected
    chains._columns.cache_clear()
    assert draws(root, 10, path=f"Assets/WMAP/{NAME}.tar.gz") == expected


def test_files_are_read_once(written, monkeypatch):
    root, _ = written
    draws(root, 1)
    monkeypatch.setattr(np, "loadtxt", None)
    assert len(draws(root, 50)) == 50


def test_without_a_chain_nothing_is_read(tmp_path):
    spec = {"base": {"H0": 67.0}, "chain": {}}
    assert chains.with_chain(spec, tmp_path) == spec
    assert chains.with_chain({"base": {}}, tmp_path) == {"base": {}}


def test_what_does_not_fit_is_refused(written):
    root, table = written
    folder = root / "Assets" / "WMAP" / NAME

    def refused(message: str, root: Path = root, **change) -> None:
        chains._columns.cache_clear()
        with pytest.raises(UserError, match=message):
            draws(root, 1, **change)

    refused("is missing; fetch it with `python get_data/fetch.py assets --only wmap9_chains`", root=root / "elsewhere")
    refused("has no file ns, which", names={"ns": "ns"})
    refused("leaves none of the 400 rows", burn_in=NROW)
    refused("wants ns, too", names={"As": "a002"})
    refused("knows no other key", nmaes={})
    (folder / "tau").write_text("".join(f"{i + 1} {x}\n" for i, x in enumerate(table["tau"][1:])))
    refused("do not have the same rows")
    (folder / "tau").write_text("<html>Not found</html>\n")
    refused("tau is not a table of numbers")
    (folder / "tau").write_text("1 nan\n")
    refused("tau is not a chain")
    packed = root / "bad.tar.gz"
    for content in (b"<html></html>", b"\x1f\x8b\x08\x00" + bytes(range(256)) * 4):
        packed.write_bytes(content)
        refused("cannot be unpacked", path="bad.tar.gz")


def test_a_drawn_chain_fits_to_the_rest_of_the_cosmology():
    base = {"H0": 67.0, "ombh2": 0.022, "omch2": 0.12, "ns": 0.96, "As": 2e-9}
    chain = {"tau": np.array([0.05, 0.06]), "mnu": np.array([0.1, 0.2])}
    found = {
        cosmology.draw_parameters({"base": base, "chain": chain}, np.random.default_rng(i))["tau"] for i in range(9)
    }
    assert found == {0.05, 0.06}
    for change, message in (({"H0": np.ones(2)}, "H0 more than once"), ({"mnu": np.ones(3)}, "differ in length")):
        with pytest.raises(ValueError, match=message):
            cosmology.draw_parameters({"base": base, "chain": chain | change}, np.random.default_rng(0))
