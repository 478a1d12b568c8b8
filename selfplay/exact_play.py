"""Exact truth about the learner's weights in a small game: what they do in every information state, from their own
log-probabilities. `game_tree.py` turns that into NashConv.

m_a = the probability of the tokens that make move a, their terminator included, at the playing temperature; the
illegal mass is what is left. Only where one token is a move, and at most the end token follows, is that all of m_a.
Of a seat held to the legal moves m_a is the product over its tokens, each among its candidates: moves of any length,
and nothing is left.
Letters: n tokens of one trajectory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from envs.base import CHANCE, OVER, Env, Game, Message, Verdict
from selfplay import game_tree
from selfplay.config import Template
from selfplay.models import Model
from selfplay.records import PolicyRef, SamplingSpec, Trajectory
from selfplay.templates import continue_ids, prompt_ids
from selfplay.trie import Spelling

STATES = 20_000
"""Histories of a game that is small enough."""

Logprobs = Callable[[Sequence[Trajectory]], list[np.ndarray]]
"""[n] nats of the chosen tokens of each trajectory, at the role's temperature, among its `kept` where it has some."""

Written = Callable[[str], list[int]]
"""A move's text -> the tokens that are written with it, the end token included."""


class ExactPlay:
    """A small game, as one model reads it."""

    def __init__(self, game: Game, model: Model, template: Template, spec: SamplingSpec) -> None:
        self.tree = game_tree.grow(game)
        self.average = game_tree.AveragePolicy(self.tree)
        self._questions: list[Trajectory] = []
        self._ways, self._held = 1, spec.constrain == "legal"
        if self._held:
            self._ask_held(Spelling(template, model.tokenizer), model, template, spec)
            return
        tokenizer = model.tokenizer
        ends: list[tuple[int, ...]] = [()]
        if spec.max_new_tokens > 1:
            ends = [(end,) for end in sorted({*model.config.eos_ids, tokenizer.eos_id})]
        self._ways = len(ends)

        def written(text: str) -> list[int]:
            return [*tokenizer.encode(text).tolist(), *([tokenizer.eos_id] if spec.max_new_tokens > 1 else [])]

        for view, actions in zip(self.tree.views, self.tree.actions, strict=True):
            context = _context(view, model, template, written)
            for action in actions:
                move = tokenizer.encode(action).tolist()
                self._questions += [_question(context, [*move, *end]) for end in ends]

    def _ask_held(self, spelling: Spelling, model: Model, template: Template, spec: SamplingSpec) -> None:
        """The questions of a seat held to the legal moves: each token of a move among its candidates."""
        limit = spec.max_new_tokens

        def written(text: str) -> list[int]:
            return spelling.written(text, limit=limit)

        for view, actions in zip(self.tree.views, self.tree.actions, strict=True):
            context, trie = _context(view, model, template, written), spelling.trie(actions, limit=limit)
            for action in actions:
                ids = written(action)
                self._questions.append(_question(context, ids, trie.kept(ids)))

    def table(self, logprobs: Logprobs) -> dict[str, list[float]]:
        """The policy that some weights are: information state -> m_a of each action, then the illegal mass."""
        found = np.exp([float(row.sum()) for row in logprobs(self._questions)])
        moves = found.reshape(-1, self._ways).sum(axis=1)
        table, start = {}, 0
        for key, actions in zip(self.tree.keys, self.tree.actions, strict=True):
            mine = moves[start : start + len(actions)]
            mine = mine / (mine.sum() if self._held else max(float(mine.sum()), 1.0))  # rounding may lead above 1
            table[key] = [*mine.tolist(), 0.0 if self._held else max(0.0, 1.0 - float(mine.sum()))]
            start += len(actions)
        return table

    def curves(self, logprobs: Logprobs) -> dict[str, float]:
        """How far the last iterate and the average policy are from an equilibrium, and how much of it is illegal."""
        tree, table = self.tree, self.table(logprobs)
        average = self.average.table() if self.average.steps else table
        mass, most = game_tree.illegal_mass(tree, table)
        return {
            "nash_conv": game_tree.nash_conv(tree, table),
            "nash_conv_average": game_tree.nash_conv(tree, average),
            "nash_conv_legal": game_tree.nash_conv_legal(tree, table),
            "value": game_tree.game_value(tree, table),
            "illegal_mass": mass,
            "illegal_mass_max": most,
        }


def is_exact(env: Env, model: Model, template: Template, spec: SamplingSpec) -> bool:
    """Whether a game is small, and everything that a policy may do can be counted: illegal moves end it, and one token
    (with the end token, where a turn has two) is a move; or a seat is held to the legal moves."""
    if not isinstance(env, Game) or env.spec.illegal is None or spec.top_k or spec.top_p < 1:
        return False
    if spec.constrain == "legal":
        spelling = Spelling(template, model.tokenizer)
        return _is_small(env, lambda action: 0 < len(spelling.move(action)) <= spec.max_new_tokens)
    if env.spec.illegal.retries or template.kind != "plain" or spec.max_new_tokens > 2 or spec.stop:
        return False
    return _is_small(env, lambda action: model.tokenizer.encode(action).size == 1)


def _is_small(game: Game, fits: Callable[[str], bool]) -> bool:
    """Whether a game has at most STATES histories, and all of its moves fit."""
    stack, met = [game.root()], 0
    while stack and met <= STATES:
        state = stack.pop()
        met += 1
        if state.player() == CHANCE:
            stack += [after for after, _ in state.chances()]
        elif state.player() != OVER:
            if not all(fits(action) for action in state.actions()):
                return False
            stack += [state.after(action) for action in state.actions()]
    return not stack


def _context(view: Sequence[Message], model: Model, template: Template, written: Written) -> np.ndarray:
    """Ids [n] that a seat has read and written before its move, as `play.py` appends them."""
    ids, said, heard = None, list[int](), list[Message]()
    for message in view:
        if message.role != "assistant":
            heard.append(message)
            continue
        ids, said, heard = _read(ids, heard, said, model, template), written(message.text), []
        ids = np.concatenate([ids, np.asarray(said, np.int32)])
    return _read(ids, heard, said, model, template)


def _read(
    ids: np.ndarray | None, heard: Sequence[Message], said: Sequence[int], model: Model, template: Template
) -> np.ndarray:
    """A context with what is read next, after what was said last."""
    tokenizer = model.tokenizer
    if ids is None:
        return prompt_ids(template, tokenizer, heard)
    ended = said[-1] in (*model.config.eos_ids, tokenizer.eos_id)
    text = tokenizer.decode(said[:-1] if ended else said)
    return np.concatenate([ids, continue_ids(template, tokenizer, heard, written=text, eos=ended)])


def _question(context: np.ndarray, answer: Sequence[int], kept: np.ndarray | None = None) -> Trajectory:
    """A trajectory that asks for the log-probability of some tokens after a context."""
    ids = np.concatenate([context, np.asarray(answer, np.int32)]).astype(np.int32)
    mask = np.arange(len(ids)) >= len(context)
    return Trajectory(
        role="play",
        policy=PolicyRef("", 0),
        ids=ids,
        mask=mask,
        behaviour_logprobs=np.zeros(len(ids), np.float32),
        kept=kept,
        turn_starts=(len(context),),
        finish=("stop",),
        verdict=Verdict(0.0, "ok"),
        text="",
    )
