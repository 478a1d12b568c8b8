"""Draws docs/pay.png: what a proposer may expect, E[pay | p, n], by the solve rate p and the number n of attempts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from selfplay.config import Pay, Propose
from selfplay.credit import expected_pay

PAYS: tuple[Pay, ...] = ("learnability", "one_minus_p", "tent", "gauss", "in_band")
ATTEMPTS = (4, 8, 16)


def main() -> None:
    p = np.linspace(0, 1, 101)
    figure = Figure(figsize=(2.6 * len(PAYS), 2.6), layout="constrained")
    FigureCanvasAgg(figure)
    for ax, pay in zip(figure.subplots(1, len(PAYS), sharey=True), PAYS, strict=True):
        for n in ATTEMPTS:
            curve = np.array([expected_pay(x, n, Propose(pay=pay)) for x in p])
            ax.plot(p, curve, label=f"n = {n}")
            ax.plot(p[curve.argmax()], curve.max(), "o", color=ax.lines[-1].get_color(), markersize=4)
        ax.set_title(pay)
        ax.set_xlabel("p")
    figure.axes[0].set_ylabel("E[pay | p, n]")
    figure.axes[0].legend()
    figure.savefig(Path(__file__).with_name("pay.png"), dpi=110)


if __name__ == "__main__":
    main()
