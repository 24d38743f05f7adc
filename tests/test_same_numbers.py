"""Files of several patterns that belong together by the numbers in their names, and files that do not."""

from pathlib import Path

import pytest

from cmbml.config.files import demand_the_same_numbers
from cmbml.core.errors import UserError


def paired(obs: str, truth: str, **others: str) -> None:
    lists = {"obs": obs, "truth": truth, **others}
    demand_the_same_numbers(
        {key: [Path(f"/r3/{key}", f"{name}.fits") for name in names.split()] for key, names in lists.items()}, "key"
    )


@pytest.mark.parametrize(
    ("obs", "truth", "k"),
    [
        ("sim1_1 sim1_2 sim2_1", "cmb1_1 cmb2_1 cmb2_2", 2),
        ("sim1_2 sim2_1", "cmb2_1 cmb1_2", 1),
        ("m1_s2 m2_s1", "s1 s2", 1),
        ("sim1_1 sim1_2 sim2_1", "cmb1 cmb2 cmb3", 3),
        ("sim1_1 sim2_1 sim2_3", "cmb1 cmb2 cmb3", 3),
        ("sim1 sim2 sim4", "cmb1 cmb2 cmb3", 3),
        ("sim1 sim2_7 sim3", "cmb1 cmb3 cmb4", 2),
    ],
)
def test_numbers_that_are_of_other_skies(obs, truth, k):
    with pytest.raises(UserError, match=f"^key: file {k} of truth is {truth.split()[k - 1]}.fits and that of obs is"):
        paired(obs, truth)


def test_every_two_lists_are_compared():
    """Two that each agree with a third, which has numbers of both, and not with one another."""
    with pytest.raises(UserError, match="file 1 of more is 2.fits and that of truth is 1.fits"):
        paired("1_2 2_1", "1 2", more="2 1")


@pytest.mark.parametrize(
    ("obs", "truth"),
    [
        ("map_100_R3.00_1 map_100_R3.00_2", "cmb1_64 cmb2_64"),
        ("sim1_100 sim2_100 sim100_100", "cmb_0001 cmb_0002 cmb_0100"),
        ("sim1_1 sim1_2 sim2_1", "cmb1_1 cmb1_2 cmb2_1"),
        ("run1_sim1 run1_sim2 run2_sim3", "cmb1 cmb2 cmb3"),
        ("m1_s2 m2_s1", "s2 s1"),
        ("m1_s2 m2_s1", "m1 m2"),
        ("seed7_1 seed9_2", "cmb1 cmb2"),
        ("1/map1 2/map2", "cmb1 cmb2"),
        ("a b", "cmb1 cmb2"),
        ("sim7", "cmb9"),
        ("sim1 sim2_7 sim3", "cmb1 cmb2 cmb3"),
    ],
)
def test_numbers_of_one_sky(obs, truth):
    paired(obs, truth)
