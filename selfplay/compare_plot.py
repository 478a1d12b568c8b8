"""The plot of a comparison: scores over sampled tokens, and below them the paired difference with its band."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from selfplay.compare import Groups, at_budget, paired, row_names, with_means

POINTS = 16
"""X: budgets at which the curves are drawn, from 0 to the common one."""

BAND_DRAWS = 1000
"""Bootstrap draws at each of them."""


def draw(groups: Groups, budget: float, path: Path) -> None:
    """Write the plot.

    One column a test (the means first): above, test pass@1 of every seed (thin), their mean (thick) and
    range (band); below, the first group minus each other, with its 95 % interval.
    """
    tests = next(iter(next(iter(groups.values())).values())).tests
    names = row_names(tests)
    order = [*range(len(tests), len(names)), *range(len(tests))]  # means first
    x = np.linspace(0, budget, POINTS)
    (first, leader), *controls = groups.items()
    height = 2 if controls else 1
    figure = Figure(figsize=(3.2 * len(names), 2.8 * height + 0.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(height, len(names), squeeze=False, sharex=True)
    for colour, (label, group) in enumerate(groups.items()):
        curves = np.stack([[with_means(at_budget(run, b), tests) for b in x] for run in group.values()])  # [S X D+M]
        for ax, i in zip(axes[0], order, strict=True):
            seeds = curves[..., i]  # [S X]
            ax.plot(x, seeds.T, color=f"C{colour}", linewidth=0.6, alpha=0.6)
            ax.plot(x, seeds.mean(0), color=f"C{colour}", linewidth=2, label=label)
            ax.fill_between(x, seeds.min(0), seeds.max(0), color=f"C{colour}", alpha=0.15, linewidth=0)
    for colour, (_, group) in enumerate(controls, 1):
        if not leader.keys() & group.keys():
            continue
        pairs = [paired(leader, group, b, draws=BAND_DRAWS) for b in x]
        for ax, i in zip(axes[1], order, strict=True):
            ax.plot(x, [p.each[:, i].mean() for p in pairs], color=f"C{colour}")
            low, high = [p.low[i] for p in pairs], [p.high[i] for p in pairs]
            ax.fill_between(x, low, high, color=f"C{colour}", alpha=0.2, linewidth=0)
    for ax, i in zip(axes[0], order, strict=True):
        ax.set_title(names[i])
        ax.set_ylim(-0.02, 1.02)
    for ax in axes[-1]:
        ax.set_xlabel("sampled tokens")
        ax.xaxis.set_major_locator(MaxNLocator(4))
        ax.xaxis.set_major_formatter(EngFormatter())
    axes[0, 0].set_ylabel("test pass@1")
    if controls:
        axes[1, 0].set_ylabel(f"{first} minus control")
        for ax in axes[1]:
            ax.axhline(0, color="black", linewidth=0.8)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    figure.savefig(path, dpi=110)
