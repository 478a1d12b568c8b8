"""What is looked at before a run starts: do prompts and answers fit the models, and is a game what it says?"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping

from envs.base import Env, Game, GameEpisode, Message
from selfplay.config import Run, Template
from selfplay.errors import UserError
from selfplay.models import Model
from selfplay.models.tokenizer import Tokenizer
from selfplay.opponents import check_opponents
from selfplay.prompts import Prompter, check_examples
from selfplay.records import Role
from selfplay.templates import check_template, prefix_stable, prompt_ids
from selfplay.trie import Spelling
from selfplay.units import World, difficulties, is_game, modes, sampling, template_of

PROBES = 4
"""Tasks of a mode and difficulty whose prompts are measured."""

GAMES = 8
"""Random games whose views are looked at."""


def check_room(run: Run, world: World, models: Mapping[str, Model]) -> None:
    """Refuse templates that do not fit their models, and completions for which a prompt leaves no room.

    Prompts are measured with their examples, on a few tasks of every mode and difficulty.

    Raises:
      UserError: with the field or the environment, the model and both lengths.
    """
    for name, policy in run.policies.items():
        model = models[name]
        ends = sorted({*model.config.eos_ids, model.tokenizer.eos_id})
        check_template(policy.template, model.tokenizer, policy=name, eos_ids=ends)
    solving: list[Role] = ["propose", "solve"] if run.acquire.mix.get("propose", 0) > 0 else ["solve"]
    for name, env in world.envs.items():
        roles: list[Role] = ["play"] if is_game(env) else solving
        check_examples(env, {role: template_of(run, role) for role in roles if role != "play"}, name)
        for role in roles:
            model = models[run.roles[role].policy]
            wanted, room = sampling(run, role, env).max_new_tokens, model.config.max_positions
            prompt = _longest_prompt(run, name, env, role, model)
            if prompt + wanted > room:
                raise UserError(
                    f"environment {name}: a prompt of {prompt} tokens and roles.{role}.max_new_tokens = {wanted} "
                    f"exceed the {room} positions of model {model.path.name}"
                )


def _longest_prompt(run: Run, name: str, env: Env, role: Role, model: Model) -> int:
    """Tokens of the longest prompt of a role met on a few tasks."""
    writer = Prompter(env, template_of(run, role), model.tokenizer, run.seed)
    choice, longest = run.envs[name], 0
    if role == "play":
        return _longest_view(env, template_of(run, role), model.tokenizer)
    for mode in modes(env, choice):
        for difficulty in difficulties(env, choice):
            tasks = [env.task("train", i, run.seed, mode=mode, difficulty=difficulty) for i in range(PROBES)]
            if role == "solve":
                longest = max(longest, *(len(writer.solve(task)) for task in tasks))
            else:
                shown = [tasks[i % PROBES] for i in range(run.propose.shown)]
                longest = max(longest, len(writer.propose(mode, shown, difficulty)))
    return longest


# ---------------------------------------------------------------- games


def check_games(run: Run, world: World, models: Mapping[str, Model]) -> None:
    """Refuse games whose views grow other than at their end, and templates that would render a context anew.

    Raises:
      UserError: with the environment, or the policy.
    """
    bots = {
        name: tuple(env.bots()) if isinstance(env, Game) else () for name, env in world.envs.items() if is_game(env)
    }
    check_opponents(run.opponents, bots)
    for name in bots:
        env = world.envs[name]
        policy, template = run.roles["play"].policy, template_of(run, "play")
        if template.examples:
            raise UserError(f"policies.{policy}.template.examples: environment {name} is a game and has no examples")
        if template.kind == "chat" and not prefix_stable(template, models[policy].tokenizer):
            raise UserError(
                f"policies.{policy}.template: the chat template rewrites what stands before a new turn, and "
                f"environment {name} has several turns: use kind = text or plain"
            )
        for _ in _views(env, name):
            pass
        if run.roles["play"].constrain == "legal":
            _check_moves(run, env, name, models[policy])


def _check_moves(run: Run, env: Env, name: str, model: Model) -> None:
    """Refuse to hold seats to moves that the environment does not name, or that the model cannot write in a turn.

    Raises:
      UserError: with the environment, and the move where it is one.
    """
    field = f"roles.play.constrain = legal: environment {name}"
    spelling, most = Spelling(template_of(run, "play"), model.tokenizer), sampling(run, "play", env).max_new_tokens
    for index in range(GAMES):
        rng, episode = random.Random(index), env.open(env.task("train", index, 0))
        while (turn := episode.turn()) is not None:
            if not turn.legal:
                raise UserError(f"{field} does not say which moves are legal")
            limit = min(turn.max_new_tokens or most, most)
            for move in turn.legal:
                size = len(spelling.move(move))
                if size > limit:
                    raise UserError(f"{field}: move {move!r} takes {size} tokens, a turn has {limit}")
                if not spelling.reads(move):
                    raise UserError(f"{field}: the tokenizer of model {model.path.name} cannot write move {move!r}")
            episode.act(turn.seat, rng.choice(turn.legal))
        episode.close()


def _longest_view(env: Env, template: Template, tokenizer: Tokenizer) -> int:
    """Tokens of the longest view of a seat met in a few random games."""
    views = _views(env, env.spec.name)
    return max(len(prompt_ids(template, tokenizer, view)) for view in views)


def _views(env: Env, name: str) -> Iterator[tuple[Message, ...]]:
    """What each seat was shown and wrote, in random games, before each of its turns.

    Raises:
      UserError: something that was shown before stands differently, or is shown again.
    """
    for index in range(GAMES):
        rng, episode = random.Random(index), env.open(env.task("train", index, 0))
        shown: dict[int, tuple[Message, ...]] = {}
        while (turn := episode.turn()) is not None:
            before = shown.get(turn.seat, ())
            view = (*before, *turn.new_messages)
            again = before and turn.new_messages[: len(before)] == before
            if again or (isinstance(episode, GameEpisode) and episode.state.view(turn.seat) != view):
                raise UserError(f"environment {name}: the views of seat {turn.seat} are not append-only")
            yield view
            text = rng.choice(turn.legal) if turn.legal else ""
            shown[turn.seat] = (*view, Message("assistant", text))
            episode.act(turn.seat, text)
        episode.close()
