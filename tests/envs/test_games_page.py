"""docs/games.md: its game works as it stands there."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

import envs
from envs.base import Game
from envs.check import check
from selfplay.game_tree import grow, nash_conv, uniform

PAGE = Path(__file__).parents[2] / "docs" / "games.md"


@pytest.fixture
def pennies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The page's code in a folder of its own, which is the current one."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "pennies.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path / "pennies.py"


def test_the_game_of_the_page_works(pennies: Path) -> None:
    code = [line for line in pennies.read_text().splitlines() if line.strip()]
    assert len(code) < 40
    for form in ("compact", "words"):
        report = check("pennies:Pennies", options={"form": form}, tasks=6, limit_ms=500)
        assert report.ok, "\n".join(report.lines())
    game = envs.make("pennies:Pennies")
    assert isinstance(game, Game)
    tree = grow(game)
    assert set(tree.keys) == {"0:H", "1:G"}  # who guesses has one information state: it does not see the coin
    assert nash_conv(tree, uniform(tree)) == pytest.approx(0)
    assert nash_conv(tree, {key: [1.0, 0.0, 0.0] for key in tree.keys}) == pytest.approx(2)
