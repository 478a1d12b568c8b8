"""A game in the terminal: a person against a model, or two players that a person watches. `selfplay play`.

Every player has what it has in training: a model reads and writes tokens as in a run, and the environment judges the
text. A person is shown the game in words, whatever form the model reads, by a second episode of the same deal.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

import envs
from envs.base import CHANCE, Env, Episode, Game, GameEpisode, Task, Turn, stable_seed
from envs.games import GameEnv, GameState
from selfplay import recipe
from selfplay.actor import make_speakers
from selfplay.checkpoint import Generations
from selfplay.config import EnvChoice, Run
from selfplay.errors import UserError, nearest
from selfplay.examine import run_of
from selfplay.export import weights_of, which_generation
from selfplay.folders import CONFIG
from selfplay.match import Match, bot_move, bots_of
from selfplay.models import Params, load
from selfplay.play import Speaker, Voice
from selfplay.records import SEATS, Player, PolicyRef, SamplingSpec, Unit
from selfplay.sampler import LocalSampler
from selfplay.score import score
from selfplay.tree import plain
from selfplay.trie import Trie
from selfplay.units import sampling, template_of

PERSON = Player(bot="person")
ROWS = 8
"""Moves are scored in a multiple of so many rows, so that few programs are compiled."""


class Enough(Exception):
    """The person has no more moves to give: the end of input."""


@dataclass(frozen=True)
class Model:
    """A policy's weights, ready to play."""

    name: str
    """For the person: `generation 3`, or the model's folder."""
    ref: PolicyRef
    params: Params


@dataclass(frozen=True)
class Table:
    """What all games of a session share."""

    run: Run
    env_name: str
    env: Game
    shown: Env
    """The same game as a person is shown it."""
    speaker: Speaker
    seed: int

    def task(self, index: int) -> Task:
        """The deal of a game."""
        return self.env.task("train", index, self.seed)

    def unit(self, index: int, players: tuple[Player, ...]) -> Unit:
        """One game as a unit of play, for a model's draws and settings."""
        return Unit(
            seed=self.seed,
            generation=0,
            step=0,
            index=index,
            kind="play",
            env=self.env_name,
            options=dict(self.run.envs[self.env_name].options),
            mode=self.env.spec.modes[0],
            rows=1,
            seats={},
            sampling={"play": sampling(self.run, "play", self.env)},
            templates={"play": template_of(self.run, "play")},
            players=(players,),
        )


def play_command(
    target: str,
    *,
    env: str | None = None,
    options: Mapping[str, Any] | None = None,
    generation: int | None = None,
    seat: int | None = None,
    against: int | None = None,
    bot: str | None = None,
    watch: bool = False,
    games: int = 1,
    seed: int | None = None,
) -> None:
    """`selfplay play RUN|MODEL`: games against the person at stdin, or with --against, --bot or --watch to look at.

    Args:
      target: a run, `tiny`, or a model folder.
      env: the game; None = the run's, where it has one environment.
      options: of the game, over those of the run.
      generation: who plays; None = the newest.
      seat: of the person, or where there is none of `generation`; None = first in the first game, then the other.
      against: a generation that it plays against.
      bot: a scripted player that it plays against.
      watch: it plays against itself.
      seed: of deals and moves; None = any.

    Raises:
      UserError: no such run, generation, game or player, or an argument out of range.
    """
    _check_numbers(games=games, seat=seat, seed=seed)
    if (against is not None) + (bot is not None) + watch > 1:
        raise UserError("--against, --bot and --watch exclude each other: who is watched?")
    table, models = _open(target, env, options or {}, [generation, *([against] if against is not None else [])], seed)
    if bot is not None and bot not in table.env.bots():
        raise UserError(f"--bot: environment {table.env_name} has no {bot!r}; {nearest(bot, table.env.bots())}")
    mine, other = _side(models[0]), _side(models[-1])
    watched = [mine, Side(bot, Player(bot=bot)) if bot else other]
    person = bot is None and against is None and not watch
    sides = [Side("you", PERSON), mine] if person else watched
    print(f"{table.env_name}, seed {table.seed}: {table.env.spec.summary}")
    wins: Counter[str] = Counter()
    try:
        for index in range(games):
            place = index % 2 if seat is None else seat
            wins[_play(table, index, sides if place == 0 else sides[::-1])] += 1
    except Enough:
        print("\nend of input")
    if wins.total() > 1:
        print(f"\n{wins.total()} games: " + ", ".join(f"{name} {n}" for name, n in sorted(wins.items())))


def _check_numbers(*, games: int, seat: int | None, seed: int | None) -> None:
    if games < 1:
        raise UserError(f"--games must be >= 1, got {games}")
    if seat not in (None, 0, 1):
        raise UserError(f"--seat must be 0 or 1, got {seat}")
    if seed is not None and not 0 <= seed < 2**31:
        raise UserError(f"--seed must be in 0..2^31-1, got {seed}")


# ---------------------------------------------------------------- who plays what


def _open(
    target: str, env: str | None, options: Mapping[str, Any], generations: Sequence[int | None], seed: int | None
) -> tuple[Table, list[Model]]:
    """The table, and the models that sit at it."""
    folder = run_of(target)
    if folder is None and env is None:
        raise UserError("--env NAME: which game? A model has none of its own")
    if folder is None:
        run = recipe.resolve("quickstart", ["--policies.main.model", target], env=env)
    else:
        run = recipe.from_toml(folder / CONFIG)
    name = env or (next(iter(run.envs)) if len(run.envs) == 1 else None)
    if name is None:
        raise UserError(f"--env NAME: which game? The run has {', '.join(run.envs)}")
    choice = run.envs.get(name, EnvChoice())
    run = replace(run, envs={name: replace(choice, options={**choice.options, **options})})
    game, shown = _game(name, run.envs[name].options)
    models, speaker = _models(target, folder, run, generations)
    seed = random.SystemRandom().randrange(2**31) if seed is None else seed
    return Table(run, name, game, shown, speaker, seed), models


def _models(
    target: str, folder: Path | None, run: Run, generations: Sequence[int | None]
) -> tuple[list[Model], Speaker]:
    """The policy that plays games, at some generations or as it is in a model folder, and what speaks for it."""
    policy = run.roles["play"].policy
    settings, named = run.policies[policy], next((g for g in generations if g is not None), None)
    base = load(settings.model)
    if folder is None:
        if named is not None:
            raise UserError(f"{target} is a model: it has no generation {named}")
        models = [Model(base.path.name, PolicyRef(policy, 0), jax.device_put(base.params))]
    else:
        saved = Generations(folder / "generations", run.output.keep)
        wanted = [which_generation(saved, g, folder) for g in generations]
        found = [jax.device_put(weights_of(saved, g, policy, settings, base)) for g in wanted]
        models = [Model(f"generation {g}", PolicyRef(policy, g), p) for g, p in zip(wanted, found, strict=True)]
    whole = replace(settings, model=str(base.path), lora=replace(settings.lora, rank=0))
    speaker = make_speakers({"policies": {policy: plain(whole)}})[policy]
    for model in models:
        speaker.sampler.load(model.ref, model.params)
    return models, speaker


def _game(name: str, options: Mapping[str, Any]) -> tuple[Game, Env]:
    """The game, and the same as a person is shown it."""
    env = envs.make(name, **options)
    if not isinstance(env, Game) or env.spec.seats != 2:
        raise UserError(f"environment {name} is no game for two: `selfplay envs list` says which are")
    words = isinstance(env, GameEnv)
    return env, envs.make(name, **{**options, "form": "words", "legal": True}) if words else env


@dataclass(frozen=True)
class Side:
    """Someone at a seat."""

    name: str
    """For the person."""
    player: Player
    model: Model | None = None
    """None = a scripted player, or the person."""


def _side(model: Model) -> Side:
    return Side(model.name, Player(policy=model.ref.policy, version=model.ref.version), model)


Mover = Callable[[Sequence[str]], str]
"""Legal moves as a person is shown them -> the text of the move that is made."""


def _mover(table: Table, side: Side, unit: Unit, match: Match, seat: int) -> Mover:
    """How a side makes its moves in one game."""
    if side.model is not None:
        voice = Voice(unit, "play", side.player, seat, table.speaker, [match])
        return partial(_speak, table, side.model, voice, match)
    if side.player == PERSON:
        return lambda words: _ask(words, _legal(match))

    def scripted(words: Sequence[str]) -> str:
        rng = random.Random(stable_seed("bot", table.seed, unit.index, match.moves))
        return bot_move(bots_of(table.env), match.playing, side.player.bot, rng)

    return scripted


def _speak(table: Table, model: Model, voice: Voice, match: Match, words: Sequence[str]) -> str:
    """A model's move, after the odds of every legal one."""
    reads, room = voice.reads(match), table.speaker.max_positions
    if not voice.has_room(match, reads):
        raise UserError(f"the game has grown beyond the {room} positions of {model.name}")
    context = np.concatenate([voice.said[match.index].ids, reads])
    spec = voice.spec_of(match)
    moves = voice.moves(match)
    odds = move_odds(voice, model.params, context, _legal(match), spec, moves)
    told = [f"{word} {p:.2f}" for word, p in zip(words, odds, strict=True)]
    print(f"{model.name} would write {', '.join(told)}, anything else {max(0.0, 1 - sum(odds)):.2f}")
    text = voice.speak({match.index: reads}, spec, {match.index: moves})[match.index]
    wrote = table.speaker.tokenizer.decode(voice.said[match.index].completions[-1].ids)
    print(f"{model.name} writes {json.dumps(wrote)}")  # ASCII: no text of a model commands the terminal
    return text


def move_odds(
    voice: Voice,
    params: Params,
    context: np.ndarray,
    legal: Sequence[str],
    spec: SamplingSpec,
    moves: Trie | None = None,
) -> list[float]:
    """The probability that a model writes each legal move next, and ends there, at its playing temperature.

    Of the tokens by which its tokenizer writes the move; what ends it is an end token, a stop text, or, where a turn is
    of one token, nothing. Of a seat held to the legal moves each token is among its candidates.
    """
    tokenizer, sampler = voice.speaker.tokenizer, voice.speaker.sampler
    if not isinstance(sampler, LocalSampler):
        raise TypeError(f"moves are scored with a LocalSampler's model, got {type(sampler).__name__}")
    rows, of_move, kept = [], [], []
    for move, text in enumerate(legal):
        if voice.spelling and moves:
            ids = voice.spelling.written(text, limit=spec.max_new_tokens)
            rows.append(np.append(context, ids).astype(np.int32))
            kept.append(moves.kept(ids))
            of_move.append(move)
            continue
        endings = [tokenizer.encode(text + stop) for stop in spec.stop]
        written = tokenizer.encode(text)
        ended = [np.append(written, eos) for eos in sampler.eos_ids] if spec.max_new_tokens > 1 else [written]
        for ids in (*endings, *ended):
            rows.append(np.concatenate([context, ids]).astype(np.int32))
            of_move.append(move)
    kept += kept[:1] * (-len(rows) % ROWS)
    rows += rows[:1] * (-len(rows) % ROWS)
    found = score(sampler.config, params, rows, temperature=spec.temperature, kept=kept or None)
    odds = np.zeros(len(legal))
    for move, logprobs in zip(of_move, found, strict=False):
        odds[move] += np.exp(logprobs[len(context) - 1 :].sum(dtype=np.float64))
    return [float(p) for p in odds]


def _legal(match: Match) -> tuple[str, ...]:
    """The moves of whoever is to move, as the environment reads them."""
    if match.turn is None or match.turn.legal is None:
        raise UserError(f"environment {match.task.env} does not say which moves are legal: it cannot be played here")
    return match.turn.legal


def _ask(words: Sequence[str], legal: Sequence[str]) -> str:
    """A legal move from the person, who is asked again until it is one; brackets and capitals do not matter."""
    spoken = {_bare(word): move for word, move in zip(words, legal, strict=True)}
    written = {_bare(move): move for move in legal}
    while True:
        try:
            said = _bare(input("your move> "))
        except EOFError:
            raise Enough from None
        move = spoken.get(said) or written.get(said)
        if move is not None:
            return move
        print(f"not a move now: {', '.join(words)}")


def _bare(text: str) -> str:
    return text.strip().strip("[]").strip().lower()


# ---------------------------------------------------------------- one game


def _play(table: Table, index: int, sides: Sequence[Side]) -> str:
    """One game to its end; returns who won, or `draws`."""
    alike = sides[0].name == sides[1].name
    names = [side.name + f" ({seat})" * alike for side, seat in zip(sides, SEATS, strict=True)]
    print(f"\ngame {index + 1}: first {names[0]}, second {names[1]}")
    task = table.task(index)
    match = Match(0, task, tuple(side.player for side in sides))
    match.begin(table.env)
    episode, mirror = match.playing, table.shown.open(task)
    if not isinstance(episode, GameEpisode):
        raise UserError(f"environment {table.env_name} does not show its state: it cannot be played here")
    unit = table.unit(index, match.players)
    moves = [_mover(table, side, unit, match, seat) for seat, side in enumerate(sides)]
    while match.turn is not None:
        seat, legal, turn = match.turn.seat, _legal(match), mirror.turn()
        if turn is None or turn.legal is None:
            raise RuntimeError("the shown game is not where the played one is")
        if sides[seat].player == PERSON:
            print("\n" + "\n".join(m.text for m in turn.new_messages))
        elif PERSON not in match.players:
            print("\n" + _looks(mirror, seat, turn))
        seen = len(episode.state.view(seat))
        text = moves[seat](turn.legal)
        match.act(seat, text)
        made = [m.text for m in episode.state.view(seat)[seen:] if m.role == "assistant"]
        if not made:
            print(f"{names[seat]}: no legal move")
            continue
        word = turn.legal[legal.index(made[0])]
        print(f"{names[seat]}: {word}")
        mirror.act(seat, word)
    return _result(table, match, mirror, names)


def _looks(mirror: Episode, seat: int, turn: Turn) -> str:
    """What a seat is shown at its turn, for somebody who knows the rules."""
    if isinstance(mirror, GameEpisode) and isinstance(mirror.state, GameState):
        return mirror.state.game.tell(mirror.state.position, seat, mirror.state.told[seat])
    return "\n".join(m.text for m in turn.new_messages)


def _story(state: GameState[Any], seat: int) -> str:
    """What a seat was shown and did in a whole game, in one line, without the rules and the lists of moves."""
    told = [m.text.removeprefix(state.game.rules(seat)) for m in state.view(seat)]
    told = told or [state.game.tell(state.position, seat, 0)]  # it was over before this seat's turn
    return " ".join(line for text in told for line in text.splitlines() if line and not line.startswith("Legal moves:"))


def _result(table: Table, match: Match, mirror: Episode, names: Sequence[str]) -> str:
    """Say how a game ended; returns who won, or `draws`."""
    if isinstance(mirror, GameEpisode) and isinstance(mirror.state, GameState):
        state, hidden = mirror.state, table.env.root().player() == CHANCE
        print()
        if hidden:
            print("\n".join(f"{name} saw: {_story(state, seat)}" for seat, name in enumerate(names)))
        else:
            print(state.game.tell(state.position, 0, state.told[0]))
    first, second = (verdict.reward for verdict in match.verdicts)
    for name, verdict in zip(names, match.verdicts, strict=True):
        if verdict.status not in ("ok", "wrong"):
            print(f"{name}: {verdict.status}")
    if first == second:
        print(f"a draw ({first:+g})")
        return "draws"
    winner = names[0] if first > second else names[1]
    print(f"{winner} won ({names[0]} {first:+g}, {names[1]} {second:+g})")
    return winner
