"""Small pictures for TensorBoard, drawn without a plotting library."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_INK, _PAPER, _MISSING = (30, 30, 30), (255, 255, 255), (222, 222, 222)
_COLOURS = np.array([[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]], float)
"""Five points of the viridis map, for the values 0, 1/4, 1/2, 3/4 and 1."""

_ROW, _LEFT, _TOP, _BOTTOM = 24, 36, 26, 22
_LETTER, _LONGEST = 6, 6
"""Pixels of a letter, and letters of a column's label that fit."""
_WIDTH = 900
"""Pixels that the columns share; a column takes 3 to 40."""


def colour(values: np.ndarray) -> np.ndarray:
    """Colours [..., 3] uint8 of values between 0 and 1; NaN is grey."""
    stops = np.linspace(0, 1, len(_COLOURS))
    rgb = np.stack([np.interp(np.nan_to_num(values), stops, _COLOURS[:, c]) for c in range(3)], -1)
    return np.where(np.isnan(values)[..., None], _MISSING, rgb.round()).astype(np.uint8)


def heat_map(values: np.ndarray, rows: Sequence[str], columns: Sequence[str], *, title: str) -> np.ndarray:
    """A labelled heat map, with its numbers where they fit.

    Args:
      values: [R, C], each between 0 and 1 or NaN.
      rows: R labels, top to bottom.
      columns: C labels, left to right.

    Returns:
      [H, W, 3] uint8.
    """
    if values.shape != (len(rows), len(columns)):
        raise ValueError(f"values {values.shape} do not fit {len(rows)} rows and {len(columns)} columns")
    width = max(3, min(40, _WIDTH // len(columns)))
    size = (max(_LEFT + width * len(columns) + 8, _LETTER * len(title) + 16), _TOP + _ROW * len(rows) + _BOTTOM)
    image = Image.new("RGB", size, _PAPER)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default()
    draw.text((6, 6), title, fill=_INK, font=font)
    cells = Image.fromarray(colour(values)).resize((width * len(columns), _ROW * len(rows)), Image.Resampling.NEAREST)
    image.paste(cells, (_LEFT, _TOP))
    for r, name in enumerate(rows):
        draw.text((_LEFT - 6, _TOP + _ROW * r + _ROW // 2), name, fill=_INK, font=font, anchor="rm")
    every = math.ceil(28 / width)  # leave a label 28 pixels
    for c in range(0, len(columns), every):
        place = (_LEFT + width * c + width // 2, _TOP + _ROW * len(rows) + 4)
        draw.text(place, columns[c][:_LONGEST], fill=_INK, font=font, anchor="mt")
    if width >= 28:
        for (r, c), v in np.ndenumerate(values):
            if not math.isnan(v):
                ink = _INK if v > 0.5 else _PAPER
                place = (_LEFT + width * c + width // 2, _TOP + _ROW * r + _ROW // 2)
                draw.text(place, f"{v:.2f}", fill=ink, font=font, anchor="mm")
    return np.asarray(image)
