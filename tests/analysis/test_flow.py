"""The picture of a pipeline shows stages, assets, and what is done; a notebook shows a figure as it is saved."""

from io import BytesIO

import numpy as np
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from PIL import Image

from cmbml.analysis.flow import DONE, MIXED, TO_DO, flow_figure
from cmbml.core.pipeline import Pipeline
from tests.core.toy import toy


def colours(pipeline: Pipeline) -> dict[str, tuple]:
    """Colour of each stage's line, by the label that stands before it."""
    axis = flow_figure(pipeline, caption={"dataset": "toy"}).axes[0]
    labels = [label.get_text() for label in axis.get_yticklabels()]
    return {label: to_rgba(line.get_color()) for label, line in zip(labels, axis.lines, strict=True)}


def test_colours_tell_what_is_done(tmp_path):
    red, orange, green = (to_rgba(colour) for colour in (TO_DO, MIXED, DONE))
    assert colours(toy(tmp_path)) == {"noise  0 / 5": red, "twice  0 / 5": red, "mean  0 / 1": red}
    toy(tmp_path).run()
    assert set(colours(toy(tmp_path)).values()) == {green}
    more = {"train": 4, "valid": 0, "test": 2}
    assert colours(toy(tmp_path, splits=more)) == {"noise  5 / 6": orange, "twice  5 / 6": orange, "mean  0 / 1": red}


def test_a_stage_stands_over_what_it_reads_and_makes(tmp_path):
    axis = flow_figure(toy(tmp_path), caption={}).axes[0]
    assets = [label.get_text() for label in axis.get_xticklabels()]
    marks = [[assets[int(x)] for x, _ in points.get_offsets()] for points in axis.collections]
    assert marks == [[], ["noise"], ["noise"], ["twice"], ["twice"], ["mean"]]  # read and made, stage after stage


def test_a_notebook_shows_the_figure_that_is_saved(tmp_path):
    figure = flow_figure(toy(tmp_path), caption={"dataset": "toy"})
    assert isinstance(figure, Figure)
    saved = BytesIO()
    figure.savefig(saved, format="png", dpi=80)
    shown = Image.open(BytesIO(figure._repr_png_())).convert("RGB")
    expected = Image.open(saved).convert("RGB")
    assert shown.size == expected.size
    # 128 colours: what is lost is the shading of letters.
    assert np.abs(np.asarray(shown, float) - np.asarray(expected, float)).mean() < 1.0
