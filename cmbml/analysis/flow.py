"""A picture of a pipeline: which stage reads and makes what, and what of it is done."""

from collections.abc import Mapping

import matplotlib
from matplotlib.figure import Figure

from cmbml.analysis.projections import STYLE, new_figure
from cmbml.core.pipeline import Pipeline

DONE = "#009E73"
TO_DO = "#D55E00"
MIXED = "#E69F00"


def flow_figure(pipeline: Pipeline, *, caption: Mapping) -> Figure:
    """Draw a row a stage and a column an asset: full squares for what a stage makes, circles for what it reads.

    A stage is green when all its items are done, red when none is, orange between; those without items are left out.

    Parameters
    ----------
    pipeline : Pipeline
        Its records are read, no data.
    caption : mapping
        See ``captions.describe``.
    """
    plan = pipeline.plan()
    stages = [stage for stage in pipeline.stages if plan[stage.name]]
    assets = list(dict.fromkeys(a for stage in stages for a in (*(s.asset for s in stage.sources), *stage.outputs)))
    with matplotlib.rc_context(STYLE):
        figure = new_figure(1.9 + 0.24 * len(assets), 1.5 + 0.2 * len(stages), caption)
        axis = figure.subplots()
        labels = []
        for row, stage in enumerate(stages):
            works = plan[stage.name]
            done = sum(not work.why for work in works)
            colour = DONE if done == len(works) else MIXED if done else TO_DO
            labels.append(f"{stage.name}  {done} / {len(works)}")
            read = [assets.index(source.asset) for source in stage.sources]
            made = [assets.index(name) for name in stage.outputs]
            axis.plot([min(read + made), max(read + made)], [row, row], color=colour, lw=0.8, zorder=1)
            axis.scatter(read, [row] * len(read), s=22, facecolor="white", edgecolor=colour, zorder=2)
            axis.scatter(made, [row] * len(made), s=30, marker="s", color=colour, zorder=3)
        axis.set(xlim=(-0.7, len(assets) - 0.3), ylim=(len(stages) - 0.4, -0.6))
        axis.set_yticks(range(len(stages)), labels=labels)
        axis.set_xticks(range(len(assets)), labels=assets, rotation=90)
        axis.tick_params(length=0)
        axis.grid(color="0.93", lw=0.6)
        axis.set_axisbelow(True)
        axis.spines[:].set_visible(False)
    return figure
