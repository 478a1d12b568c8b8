"""The conformance kit's checks of environments of several turns and seats: views, states and the illegal-move rule."""

from __future__ import annotations

import random
from collections.abc import Sequence

from envs.base import CHANCE, OVER, Env, Game, IllegalRule, Message, State, Task, Turn, digest
from envs.junk import HUGE, JUNK
from envs.promises import Broken, Skip, need

MAX_TURNS = 10_000
MOST_STATES = 500
"""That one game may be in by what its seats were told; a game of more is followed no further."""
FEW = 12
"""Tasks that every junk text is tried on."""


def trace(env: Env, task: Task) -> str:
    """A digest of one seeded random play, messages and verdicts: equal where the same deal is played the same way."""
    rng, told = random.Random(task.seed), []
    episode = env.open(task)
    try:
        for _ in range(MAX_TURNS):
            if (turn := episode.turn()) is None:
                told.append(repr(episode.verdicts()))
                break
            told.append(repr(turn))
            episode.act(turn.seat, rng.choice(turn.legal) if turn.legal else JUNK[2])
    finally:
        episode.close()
    return digest(*told)


def views(env: Env, tasks: Sequence[Task]) -> str:
    """Plays each task as an episode and as a walk over the states of the game, side by side."""
    if not isinstance(env, Game):
        raise Skip("no root(): its states cannot be walked")
    known: dict[str, tuple[tuple[Message, ...], tuple[str, ...]]] = {}
    moves = sum(_Walk(env, known).play(task) for task in tasks)
    return f"{moves} moves in {len(tasks)} games: views only grow, {len(known)} information states fix view and moves"


class _Walk:
    """The states that a game may be in by what its seats were told, followed beside its episode."""

    def __init__(self, env: Game, known: dict[str, tuple[tuple[Message, ...], tuple[str, ...]]]) -> None:
        self.env, self.known = env, known
        self.heard: list[tuple[Message, ...]] = [()] * env.spec.seats
        self.states = _settled([env.root()])

    def play(self, task: Task) -> int:
        """One random game; returns its moves. Games of very many deals are followed as far as that goes."""
        rng, episode, moves = random.Random(task.seed), self.env.open(task), 0
        try:
            while (turn := episode.turn()) is not None and self.states:
                need(moves < MAX_TURNS, f"a game goes on after {MAX_TURNS} moves")
                need(episode.turn() == turn, "turn() gives another turn when asked again")
                actions = self.arrive(turn)
                action = rng.choice(actions)
                self.move(turn.seat, action)
                episode.act(turn.seat, action)
                moves += 1
            if self.states:
                rewards = tuple(verdict.reward for verdict in episode.verdicts())
                ends = [state.returns() for state in self.states if state.player() == OVER]
                need(rewards in ends, f"the episode ends with {rewards}, the states of the game with {ends[:3]}")
            return moves
        finally:
            episode.close()

    def arrive(self, turn: Turn) -> tuple[str, ...]:
        """Keep the states that fit what the seat is told; returns its legal moves."""
        seat = turn.seat
        self.heard[seat] += turn.new_messages
        heard = self.heard[seat]
        need(bool(turn.new_messages), f"seat {seat} is asked to move without being told anything")
        self.states = [state for state in self.states if state.player() == seat and state.view(seat) == heard]
        need(bool(self.states), f"what seat {seat} has been shown is the view of no state: {heard!r}"[:300])
        keys = {state.information(seat) for state in self.states}
        need(len(keys) == 1, f"seat {seat} is shown the same in the information states {sorted(keys)}"[:300])
        actions = self.states[0].actions()
        need(bool(actions) and len(set(actions)) == len(actions), f"moves must be distinct texts, got {actions}")
        need(turn.legal in (None, actions), f"the turn's legal moves are {turn.legal}, the state's {actions}")
        key, found = keys.pop(), (heard, actions)
        need(
            self.known.setdefault(key, found) == found,
            f"information state {key!r} has two views or sets of moves: {self.known[key]} and {found}"[:300],
        )
        return actions

    def move(self, seat: int, action: str) -> None:
        """Follow a move; what anyone was shown before stays at the start of what it is shown."""
        self.heard[seat] += (Message("assistant", action),)
        before = self.states
        after = [state.after(action) for state in before]
        for other in range(self.env.spec.seats):
            for old, new in zip(before, after, strict=True):
                shown = old.view(other)
                need(new.view(other)[: len(shown)] == shown, f"the view of seat {other} does not only grow: {shown!r}")
        self.states = _settled(after)


def _settled(states: Sequence[State]) -> list[State]:
    """Every state that may follow once chance is through; none where they are too many to follow."""
    found: list[State] = []
    waiting = list(states)
    while waiting:
        state = waiting.pop()
        if state.player() != CHANCE:
            found.append(state)
            continue
        outcomes = state.chances()
        total = sum(probability for _, probability in outcomes)
        need(abs(total - 1) < 1e-6, f"probabilities of chance sum to {total:g}")
        waiting += [after for after, probability in outcomes if probability > 0]
        if len(found) + len(waiting) > MOST_STATES:
            return []
    return found


def illegal(env: Env, tasks: Sequence[Task]) -> str:
    """No text raises; a seat that does not move legally forfeits by the rule of the spec."""
    rule = env.spec.illegal
    if rule is None:
        raise Skip("no illegal-move rule")
    for task in tasks[:: max(1, len(tasks) // FEW)]:
        for text in JUNK + HUGE:
            _forfeit(env, task, text, rule)
    low, high = env.spec.reward_range
    need(low <= min(rule.loser, rule.winner) and max(rule.loser, rule.winner) <= high, f"{rule} outside reward_range")
    return f"{len(JUNK + HUGE)} junk texts forfeit {rule.loser:g} to {rule.winner:g} after {rule.retries} retries"


def _forfeit(env: Env, task: Task, text: str, rule: IllegalRule) -> None:
    """Some legal moves, then junk until the game is over."""
    rng, episode = random.Random(digest(task.key, text)), env.open(task)
    try:
        for _ in range(rng.randrange(3)):
            turn = episode.turn()
            if turn is not None and turn.legal:
                episode.act(turn.seat, rng.choice(turn.legal))
        turn = episode.turn()
        if turn is None:  # over already
            return
        for left in range(rule.retries, -1, -1):
            try:
                episode.act(turn.seat, text)
            except Exception as error:  # noqa: BLE001 - whatever it is, an environment must not raise on a model's text
                raise Broken(f"raises {type(error).__name__} on {text[:24]!a}: {error}"[:300]) from error
            again = episode.turn()
            if left:
                asked = again is not None and again.seat == turn.seat and bool(again.new_messages)
                need(asked, f"{left} retries are left, but seat {turn.seat} is not asked again: {again}"[:300])
        need(again is None, f"{text[:24]!a} is taken, or the game goes on after {rule.retries} retries")
        for seat, verdict in enumerate(episode.verdicts()):
            want = (rule.loser, "illegal") if seat == turn.seat else (rule.winner, "ok")
            got = (verdict.reward, verdict.status)
            need(got == want, f"seat {seat} gets {got} when seat {turn.seat} writes {text[:24]!a}, expected {want}")
    finally:
        episode.close()
