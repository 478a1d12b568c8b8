"""Exact truth about a policy in a small two-seat game: value, best responses, NashConv, and the average of policies.

A tree is grown once, as flat arrays in sequence form: a seat's sequence is its own moves so far, and the probability
that it plays a sequence, its own reach, is linear in what follows. The game is the game as played: at every information
state an illegal move is one more action, the last one, and ends the game with the forfeit payoffs of the spec.
Source of the sequence form: Koller, Megiddo and von Stengel 1996, Efficient computation of equilibria for extensive
two-person games, Games and Economic Behavior 14.

Letters: I information states of both seats, S sequences, Z ends of the game, H histories in which a seat moves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from envs.base import CHANCE, OVER, Game, Message, State

Table = Mapping[str, Sequence[float]]
"""A policy: information state -> probability of each legal action, in the order of `State.actions`, then the illegal
mass. Keys of both seats are in one table: they never meet, so two seats' policies may be merged."""

SEATS = (0, 1)


@dataclass(frozen=True)
class GameTree:
    """A game as flat arrays. Sequences 0 and 1 are the empty ones of the two seats."""

    keys: tuple[str, ...]
    """[I] information states, every one after those that its seat passes on the way to it."""
    actions: tuple[tuple[str, ...], ...]
    """[I] legal actions."""
    views: tuple[tuple[Message, ...], ...]
    """[I] what the seat has been shown there: the prompt of its move."""
    seat: Int[np.ndarray, "I"]
    parent: Int[np.ndarray, "I"]
    """The seat's sequence that leads there."""
    first: Int[np.ndarray, "I"]
    """Sequence of the first action; the others follow, the illegal move last."""
    info: Int[np.ndarray, "S"]
    """Information state in which a sequence's last move is made; -1 for the empty ones."""
    levels: tuple[Int[np.ndarray, "_"], ...]
    """Information states by how many own moves precede them."""
    end_sequence: Int[np.ndarray, "Z 2"]
    end_chance: Float[np.ndarray, "Z"]
    """Probability of all that chance did on the way."""
    end_payoff: Float[np.ndarray, "Z 2"]
    history_info: Int[np.ndarray, "H"]
    history_other: Int[np.ndarray, "H"]
    """Sequence of the other seat."""
    history_chance: Float[np.ndarray, "H"]

    @property
    def illegal(self) -> Int[np.ndarray, "I"]:
        """Sequence of the illegal move of every information state."""
        return np.array([first + len(actions) for first, actions in zip(self.first, self.actions, strict=True)])

    def behaviour(self, policy: Table) -> Float[np.ndarray, "S"]:
        """The probability of every sequence's last move."""
        flat = np.ones(len(self.info))
        for key, actions, first in zip(self.keys, self.actions, self.first, strict=True):
            row = policy.get(key)
            if row is None or len(row) != len(actions) + 1:
                raise ValueError(
                    f"information state {key!r}: expected {len(actions) + 1} probabilities, those of {actions} and the "
                    f"illegal mass, got {row}"
                )
            flat[first : first + len(row)] = row
        sums = np.add.reduceat(flat[2:], self.first - 2)
        if flat.min() < 0 or np.abs(sums - 1).max() > 1e-4:
            worst = int(np.abs(sums - 1).argmax())
            raise ValueError(
                f"probabilities must be >= 0 and sum to 1, {self.keys[worst]!r} has {policy[self.keys[worst]]}"
            )
        return flat

    def table(self, behaviour: Float[np.ndarray, "S"]) -> dict[str, list[float]]:
        """The inverse of `behaviour`."""
        return {
            key: behaviour[first : first + len(actions) + 1].tolist()
            for key, actions, first in zip(self.keys, self.actions, self.first, strict=True)
        }

    def reach(self, behaviour: Float[np.ndarray, "S"]) -> Float[np.ndarray, "S"]:
        """Own reach: r[sequence] = product of its seat's own probabilities; r[empty] = 1."""
        reach = behaviour.copy()
        for level in self.levels:
            of_level = self._sequences(level)
            reach[of_level] *= reach[self.parent[self.info[of_level]]]
        return reach

    def _sequences(self, infos: Int[np.ndarray, "_"]) -> Int[np.ndarray, "_"]:
        """All sequences that end in some information states, in order."""
        return np.concatenate([np.arange(self.first[i], self.first[i] + len(self.actions[i]) + 1) for i in infos])


@dataclass
class _Growth:
    """The lists that become a `GameTree`."""

    loser: float
    winner: float
    index: dict[str, int] = field(default_factory=dict)
    actions: list[tuple[str, ...]] = field(default_factory=list)
    views: list[tuple[Message, ...]] = field(default_factory=list)
    seat: list[int] = field(default_factory=list)
    parent: list[int] = field(default_factory=list)
    first: list[int] = field(default_factory=list)
    info: list[int] = field(default_factory=lambda: [-1, -1])
    level: list[int] = field(default_factory=list)
    ends: list[tuple[tuple[int, int], float, tuple[float, ...]]] = field(default_factory=list)
    histories: list[tuple[int, int, float]] = field(default_factory=list)

    def meet(self, state: State, parent: int) -> int:
        """The number of the information state of the seat to move; a new one gets its sequences."""
        seat, actions = state.player(), state.actions()
        key, view = state.information(seat), state.view(seat)
        if key in self.index:
            i = self.index[key]
            if (self.actions[i], self.views[i], self.parent[i]) != (actions, view, parent):
                raise ValueError(f"information state {key!r} has two sets of moves, views or pasts of its seat")
            return i
        i = self.index[key] = len(self.actions)
        self.actions.append(actions)
        self.views.append(view)
        self.seat.append(seat)
        self.parent.append(parent)
        self.first.append(len(self.info))
        self.info += [i] * (len(actions) + 1)
        self.level.append(0 if parent < 2 else self.level[self.info[parent]] + 1)
        return i

    def visit(self, state: State, chance: float, at: tuple[int, int]) -> Iterator[tuple[State, float, tuple[int, int]]]:
        """Take a state in, and give those that follow; `at` = sequence of each seat."""
        seat = state.player()
        if seat == OVER:
            self.ends.append((at, chance, state.returns()))
        elif seat == CHANCE:
            yield from ((after, chance * probability, at) for after, probability in state.chances())
        else:
            i = self.meet(state, at[seat])
            actions = self.actions[i]
            self.histories.append((i, at[1 - seat], chance))
            payoff = (self.loser, self.winner) if seat == 0 else (self.winner, self.loser)
            self.ends.append((_moved(at, seat, self.first[i] + len(actions)), chance, payoff))
            for offset, action in enumerate(actions):
                yield state.after(action), chance, _moved(at, seat, self.first[i] + offset)


def _moved(at: tuple[int, int], seat: int, sequence: int) -> tuple[int, int]:
    return (sequence, at[1]) if seat == 0 else (at[0], sequence)


def grow(game: Game) -> GameTree:
    """The whole tree of a game, chance included; for games of up to about a million histories.

    Raises:
      ValueError: the game has another number of seats than two, no illegal-move rule, or one with retries, after which
        a policy would no longer be a function of the information state.
    """
    spec = game.spec
    if spec.seats != 2 or spec.illegal is None or spec.illegal.retries:
        raise ValueError(f"{spec.name}: exact measures need two seats and illegal moves that forfeit without retries")
    growth = _Growth(spec.illegal.loser, spec.illegal.winner)
    stack: list[tuple[State, float, tuple[int, int]]] = [(game.root(), 1.0, (0, 1))]
    while stack:
        stack += growth.visit(*stack.pop())
    sequences, chances, payoffs = zip(*growth.ends, strict=True)
    infos, others, reached = zip(*growth.histories, strict=True)
    level = np.array(growth.level)
    return GameTree(
        keys=tuple(growth.index),
        actions=tuple(growth.actions),
        views=tuple(growth.views),
        seat=np.array(growth.seat),
        parent=np.array(growth.parent),
        first=np.array(growth.first),
        info=np.array(growth.info),
        levels=tuple(np.flatnonzero(level == depth) for depth in range(level.max() + 1)),
        end_sequence=np.array(sequences),
        end_chance=np.array(chances),
        end_payoff=np.array(payoffs, dtype=np.float64),
        history_info=np.array(infos),
        history_other=np.array(others),
        history_chance=np.array(reached),
    )


def uniform(tree: GameTree) -> dict[str, list[float]]:
    """Every legal action alike, and nothing illegal."""
    return {
        key: [1 / len(actions)] * len(actions) + [0.0] for key, actions in zip(tree.keys, tree.actions, strict=True)
    }


def legal(tree: GameTree, policy: Table) -> dict[str, list[float]]:
    """m_a / sum m: the policy given that it moves legally; uniform where it never does."""
    behaviour = tree.behaviour(policy)
    behaviour[tree.illegal] = 0.0
    return tree.table(_normalised(tree, behaviour))


def _normalised(tree: GameTree, weights: Float[np.ndarray, "S"]) -> Float[np.ndarray, "S"]:
    """Weights divided by their sum in each information state; uniform over the legal actions where that is 0."""
    sums = np.zeros(len(tree.keys))
    np.add.at(sums, tree.info[2:], weights[2:])
    even = tree.behaviour(uniform(tree))
    total = sums[tree.info]
    out: Float[np.ndarray, "S"] = np.where(total > 0, weights / np.where(total > 0, total, 1.0), even)
    out[:2] = 1.0
    return out


def values(tree: GameTree, policy: Table) -> tuple[float, float]:
    """Expected reward of each seat, in the environment's units."""
    reach = tree.reach(tree.behaviour(policy))
    probability = tree.end_chance * reach[tree.end_sequence].prod(-1)  # [Z]
    first, second = probability @ tree.end_payoff
    return float(first), float(second)


def game_value(tree: GameTree, policy: Table) -> float:
    """Expected reward of the first seat."""
    return values(tree, policy)[0]


def best_response(
    tree: GameTree, policy: Table, seat: int, *, only_legal: bool = False
) -> tuple[float, dict[str, list[float]]]:
    """The largest expected reward that a seat can have against the policy of the other one.

    From the last of its information states to the first: V(I) = max_a [sum of what ends there + sum of V(I') below].

    Args:
      only_legal: the seat that responds makes no illegal move.

    Returns:
      Its value, and the policy with the seat's own part replaced by a best response, one action a state.
    """
    behaviour = tree.behaviour(policy)
    reach = tree.reach(behaviour)
    weights = tree.end_chance * reach[tree.end_sequence[:, 1 - seat]] * tree.end_payoff[:, seat]  # [Z]
    gain = np.bincount(tree.end_sequence[:, seat], weights, minlength=len(tree.info))  # [S]
    if only_legal:
        gain[tree.illegal] = -np.inf
    for level in reversed(tree.levels):
        for i in level[tree.seat[level] == seat]:
            mine = slice(tree.first[i], tree.first[i] + len(tree.actions[i]) + 1)
            best = int(gain[mine].argmax())
            gain[tree.parent[i]] += gain[mine][best]
            behaviour[mine] = 0.0
            behaviour[tree.first[i] + best] = 1.0
    return float(gain[seat]), tree.table(behaviour)


def nash_conv(tree: GameTree, policy: Table) -> float:
    """What both seats could gain by answering best, together; 0 = an equilibrium.

    sum_i [max_b u_i(b, policy) - u_i(policy)]

    Of the game as played: the illegal mass is one more action, for the policy and for who responds.
    Source: Lanctot et al. 2017, A unified game-theoretic approach, arXiv:1711.00832.
    """
    return sum(best_response(tree, policy, seat)[0] for seat in SEATS) - sum(values(tree, policy))


def nash_conv_legal(tree: GameTree, policy: Table) -> float:
    """NashConv of the policy given that it moves legally, where nobody makes an illegal move."""
    allowed = legal(tree, policy)
    responses = (best_response(tree, allowed, seat, only_legal=True)[0] for seat in SEATS)
    return sum(responses) - sum(values(tree, allowed))


def illegal_mass(tree: GameTree, policy: Table) -> tuple[float, float]:
    """Share of moves that are illegal when the policy plays itself, and the largest share in any information state."""
    behaviour = tree.behaviour(policy)
    reach, share = tree.reach(behaviour), behaviour[tree.illegal]
    visits = tree.history_chance * reach[tree.parent[tree.history_info]] * reach[tree.history_other]  # [H]
    return float(visits @ share[tree.history_info] / visits.sum()), float(share.max())


class AveragePolicy:
    """The policy that is as good against anyone as one of the policies added, drawn uniformly before each game.

    Own-reach-weighted: p(a | I) = sum_t r_t(sequence of a at I) / sum_t r_t(sequence that leads to I).
    Source: Heinrich, Lanctot and Silver 2015, Fictitious self-play in extensive-form games, theorem 7.
    """

    def __init__(self, tree: GameTree) -> None:
        self.tree = tree
        self.steps = 0
        self._sums: Float[np.ndarray, "S"] = np.zeros(len(tree.info))

    def add(self, policy: Table) -> None:
        """Count a policy in, that of one learner step."""
        self._sums += self.tree.reach(self.tree.behaviour(policy))
        self.steps += 1

    def table(self) -> dict[str, list[float]]:
        """The average; uniform over the legal actions where no policy ever went, and before the first."""
        return self.tree.table(_normalised(self.tree, self._sums))

    def state(self) -> dict[str, Any]:
        """Plain data for a checkpoint."""
        return {"steps": self.steps, "sums": self.tree.table(self._sums)}

    @classmethod
    def restored(cls, tree: GameTree, state: Mapping[str, Any]) -> AveragePolicy:
        """The average that `state` was taken of."""
        average = cls(tree)
        sums = state["sums"]
        if set(sums) != set(tree.keys):
            raise ValueError(
                f"an average over {len(sums)} information states is not one of this game's {len(tree.keys)}"
            )
        average.steps = int(state["steps"])
        for key, first in zip(tree.keys, tree.first, strict=True):
            average._sums[first : first + len(sums[key])] = sums[key]
        average._sums[:2] = average.steps
        return average
