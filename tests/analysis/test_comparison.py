"""Gathering and pairing of results on hand-made numbers."""

import math

import numpy as np
import pytest

from cmbml.analysis.comparison import (
    as_json,
    costs,
    gather,
    paired,
    paired_rows,
    rows_of,
    same_observations,
    same_settings,
    same_skies,
)
from cmbml.analysis.delensing.metrics import METRICS
from cmbml.core.errors import UserError

AGAIN = "`make {method}`"
SKIES = ("obs", "unlensed_alm", "lensed_alm")
PAIRED = tuple(metric.name for metric in METRICS if metric.pairs)
NATIVE = {"metrics": PAIRED, "where": {"form": "native"}}
SETTINGS = {"analysis.band": [20, 200], "analysis.lmax": 400, "dataset": "d"}


def record(sim, *, target="kappa", obs="o", version=2, **settings):
    return {
        "item": {"split": "test", "sim": sim},
        "version": version,
        "settings": {"method.target": target, "analysis.band": [20, 200], "analysis.lmax": 400, **settings},
        "inputs": {"obs": {"o": f"{obs}{sim}"}, "unlensed_alm": {"u": f"u{sim}"}, "lensed_alm": {"l": f"l{sim}"}},
    }


def row(method, sim, value, form="native"):
    return {"method": method, "form": form, "sim": sim} | dict.fromkeys(PAIRED, value)


def results(**records):
    items = [{"method": name, "sim": sim} for name in records for sim in (0, 1)]
    rows = [[row(i["method"], i["sim"], 1.0), row("none", i["sim"], f"none of {i['method']}")] for i in items]
    return gather(list(records), items, rows, [r for own in records.values() for r in own])


def both(**changes):
    return [record(sim, **changes) for sim in (0, 1)]


def test_results_of_the_same_skies_pass_and_others_are_named():
    same_skies(results(one=both(), two=both()), "two", SKIES, AGAIN)
    other = results(one=[record(0), record(1, obs="x")], two=both(), three=both(obs="y"))
    said = r"^Methods one, three were measured on other skies than two \(obs of test sim 1 differs\); repeat `make one`"
    with pytest.raises(UserError, match=said + r" and the same for two\.$"):
        same_skies(other, "two", SKIES, AGAIN)


def test_other_settings_of_the_measurement_are_named():
    same_settings(results(one=both(), two=both()), SETTINGS, 2, AGAIN)
    with pytest.raises(
        UserError, match=r"^Method two was measured with .*\(analysis.lmax 300 -> 400\); repeat `make two`"
    ):
        same_settings(results(one=both(), two=both(**{"analysis.lmax": 300})), SETTINGS, 2, AGAIN)
    with pytest.raises(UserError, match=r"^Methods one, two were measured with .*\(version 1 -> 2\)"):
        same_settings(results(one=both(version=1), two=both(version=1)), SETTINGS, 2, AGAIN)


def test_no_delensing_is_that_of_an_estimate_of_the_lensing():
    found = results(net=both(target="unlensed"), one=both(), two=both())
    assert {r["A_res"] for r in rows_of(found, "none", first="two")["none"]} == {"none of two"}
    assert {r["A_res"] for r in rows_of(found, "none", first="net")["none"]} == {"none of one"}
    alone = results(net=both(target="unlensed"))
    assert {r["A_res"] for r in rows_of(alone, "none", first="net")["none"]} == {"none of net"}
    assert [r["sim"] for r in rows_of(found, "none", first="two")["net"]] == [0, 1]


def test_paired_differences_are_taken_sky_by_sky():
    # The skies differ by 10 and the methods by 1, 2, 3: only the pairing by sim shows it; rows come in any order.
    reference = [row("ref", sim, 10.0 * sim) for sim in (0, 1, 2)]
    own = [row("new", sim, 10.0 * sim + 1 + sim) for sim in (2, 0, 1)]
    own += [row("new", 0, 1e6, form="common")]
    (line,) = paired({"ref": reference, "new": own}, "ref", notes={"ref": "", "new": ""}, **NATIVE)
    assert line["method"] == "new"
    assert line["n"] == 3
    assert line["A_res"] == pytest.approx((2, 1 / np.sqrt(3)))
    # 97.5 % point of Student's t with two degrees of freedom: 2 p sqrt(2 / (1 - 4 p^2)) for the excess p = .475.
    half = 0.95 * np.sqrt(2 / (1 - 0.95**2)) / np.sqrt(3)
    assert line["A_res_interval"] == pytest.approx((2 - half, 2 + half))


@pytest.mark.parametrize("n", [3, 6, 20])
def test_an_interval_of_95_percent_covers_95_percent(n):
    """6000 comparisons of Gaussian skies, an interval each: the share that holds the truth, to 4 sigma (1.1 %)."""
    d = np.random.default_rng(n).normal(3, 2, (n, 6000))
    names = tuple(map(str, range(6000)))
    rows = {
        "ref": [{"sim": i} | dict.fromkeys(names, 0.0) for i in range(n)],
        "new": [{"sim": i} | dict(zip(names, sky, strict=True)) for i, sky in enumerate(d)],
    }
    (line,) = paired(rows, "ref", metrics=names, where={}, notes={"ref": "", "new": ""})
    low, high = np.transpose([line[f"{name}_interval"] for name in names])
    covered = np.mean((low < 3) & (high > 3))
    assert covered == pytest.approx(0.95, abs=4 * np.sqrt(0.95 * 0.05 / 6000))


@pytest.mark.parametrize("n", [1, 2])
def test_no_interval_is_claimed_of_two_skies(n):
    rows = {name: [row(name, sim, value * (sim + 1)) for sim in range(n)] for name, value in (("ref", 1), ("new", 3))}
    (line,) = paired(rows, "ref", notes={"ref": "", "new": ""}, **NATIVE)
    assert np.isnan(line["A_res_interval"]).all()
    assert math.isnan(line["A_res"][1]) == (n == 1)


def test_a_struck_out_method_takes_its_difference_with_it():
    rows = {name: [row(name, 0, 1.0)] for name in ("ref", "bad", "fine")}
    lines = paired(rows, "ref", notes={"ref": "", "bad": "transfer 0.1", "fine": ""}, **NATIVE)
    assert [line["note"] for line in lines] == ["transfer 0.1", ""]
    lines = paired(rows, "bad", notes={"ref": "", "bad": "transfer 0.1", "fine": ""}, **NATIVE)
    assert [line["note"] for line in lines] == ["transfer 0.1"] * 2
    flat = paired_rows(lines, "bad")[0]
    assert (flat["minus"], flat["A_res_mean"]) == ("bad", 0)
    assert math.isnan(flat["A_res_error"])


def test_differences_of_one_field_form_and_area_alone():
    rows = {
        name: [
            {
                "field": field,
                "form": form,
                "sim": sim,
                "RMSE": value * (sim + 1) if (field, form) == ("E", "common") else 7,
            }
            for field in "TE"
            for form in ("common", "native")
            for sim in (0, 1)
        ]
        for name, value in (("ref", 1.0), ("new", 3.0))
    }
    keys = {"notes": dict.fromkeys(rows, ""), "metrics": ("RMSE",)}
    (line,) = paired(rows, "ref", where={"field": "E", "form": "common"}, **keys)
    assert line["RMSE"] == pytest.approx((3, 1))


def test_predictions_of_observations_that_changed_are_named():
    bands = {0: ["a", "b", "c"], 1: ["d", "e", "f"]}

    def seen(sim, *prints, label="band"):
        return {"item": {"sim": sim}, "inputs": {"model": {"m": "m"}, label: {f"obs_{x}": x for x in prints}}}

    blind = {"item": {"sim": 0}, "inputs": {"lensed_alm": {"l": "x"}}}
    good = {"all": [seen(0, "a", "b", "c"), seen(1, "d", "e", "f")], "two": [seen(0, "a", "c"), seen(1, "d", "f")]}
    good |= {"split": [seen(0, "b", label="band[test]")], "blind": [blind], "unknown": [seen(7, "z")]}
    same_observations(good, bands, AGAIN)
    for stale in ([seen(0, "a", "old", "c")], [seen(0, "a", "c"), seen(1, "d", "old")]):
        with pytest.raises(
            UserError, match=rf"test sim {len(stale) - 1} have .* of late was .*; repeat `make late`\.$"
        ):
            same_observations({"all": good["all"], "late": stale}, bands, AGAIN)


def test_time_and_memory_of_every_step():
    one, other = (
        {"stage": "predict", "seconds": 1.0, "peak_gb": 0.5},
        {"stage": "predict", "seconds": 4.0, "peak_gb": 2.0},
    )
    trained = {"stage": "train", "seconds": 60.0}
    lines = costs([("net", trained), ("net", one), ("ilc", one), ("net", other)])
    assert [(line["method"], line["step"], line["n"]) for line in lines] == [
        ("net", "train", 1), ("net", "predict", 2), ("ilc", "predict", 1)
    ]  # fmt: skip
    assert (lines[1]["seconds"], lines[1]["peak_gb"]) == (pytest.approx((2.5, 3 / np.sqrt(2))), 2.0)
    assert math.isnan(lines[0]["peak_gb"])
    assert math.isnan(lines[0]["seconds"][1])


def test_json_has_null_where_a_number_is_not_known():
    summary = [{"method": "m", "n": 1, "PSNR": (math.inf, math.nan), "note": ""}]
    data = as_json({"field": "T"}, summary, [{"method": "m", "low": math.nan}], [], [{"method": "m"}])
    assert data["methods"] == [{"method": "m", "n": 1, "PSNR_mean": None, "PSNR_std": None, "note": ""}]
    assert data["differences"] == [{"method": "m", "low": None}]
    assert data["caption"] == {"field": "T"}
