"""Playing in the terminal: games of a person against a model that plays by a table, watching, odds, wrong arguments."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_runs import RANDOM

from envs.tictactoe import TicTacToe
from selfplay import recipe
from selfplay.actor import make_speakers
from selfplay.checkpoint import Generations
from selfplay.cli import main
from selfplay.config import EnvChoice, Policy
from selfplay.match import Match
from selfplay.models import Params, decoder, init_params, printable_ascii, save
from selfplay.play import Voice
from selfplay.records import Player, PolicyRef, SamplingSpec, Unit
from selfplay.terminal import move_odds
from selfplay.tree import plain

CONFIG = replace(RANDOM, tie_embeddings=False)
TOKENIZER = printable_ascii(vocab_size=CONFIG.vocab_size, model_max_length=CONFIG.max_positions)
READ = "xo123456789abcdefghiJQKp"
"""Characters that the table's player tells apart."""
AROUND = dict(zip("123456789abcdefghi", 2 * "234567891", strict=True))
"""To a cell, whoever took it, the next one, whether it is free or not."""


def table_params(answers: Mapping[str, str]) -> Params:
    """A model that answers the last character that it read, and almost surely so."""
    params = init_params(CONFIG, jax.random.key(0))
    params["layers"]["0"]["attn"]["o"]["weight"] *= 0
    params["layers"]["0"]["mlp"]["down"]["weight"] *= 0
    token = {c: int(TOKENIZER.encode(c)[0]) for c in READ}
    embed, head = np.zeros((2, *params["embed"].shape), np.float32)
    for dim, c in enumerate(READ):
        embed[token[c], dim] = 1.0
        if c in answers:
            head[token[answers[c]], dim] = 4.0  # the norm scales by sqrt(32): a logit of 22.6
    return {**params, "embed": jnp.asarray(embed), "head": jnp.asarray(head)}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of tic-tac-toe: generation 0 opens in the middle, 1 in a corner; both then go round the board."""
    folder = tmp_path_factory.mktemp("games")
    save(folder / "model", CONFIG, init_params(CONFIG, jax.random.key(0)), TOKENIZER)
    settings = recipe.resolve(
        "rlvr", ["--policies.main.model", str(folder / "model"), "--roles.play.max-new-tokens", "1"]
    )
    settings = replace(settings, envs={"tictactoe": EnvChoice()})
    (folder / "run").mkdir()
    recipe.write(settings, folder / "run")
    generations = Generations(folder / "run" / "generations", 3)
    for g, first in enumerate("51"):
        params = table_params({**AROUND, "x": first})
        generations.save(g, {"policies": {"main": {"params": params}}}, {}, blobs={})
    return folder / "run"


@pytest.fixture
def play(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Plays with some lines on stdin; what was printed. The last argument says how it ended."""
    for name in ("NPROC", "JAX_COMPILATION_CACHE_DIR", "TF_CPP_MIN_LOG_LEVEL"):
        monkeypatch.setenv(name, "1")

    def played(flags: str, moves: str = "", *, target: str = "", code: int = 0) -> str:
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{move}\n" for move in moves.split())))
        assert main(["play", target or str(run), "--seed", "7", *flags.split()]) == code
        out, err = capsys.readouterr()
        if code == 2:
            assert not out and len(err.splitlines()) == 1, err
        return out + err

    return played


def test_a_person_plays_a_generation_to_a_draw(play: Callable[..., str]) -> None:
    out = play("--generation 0 --seat 1", "5 [1] zebra 8 3 6")
    assert "game 1: first generation 0, second you" in out
    assert re.search(r"generation 0 would write \[1\] 0\.00, .*\[5\] 1\.00, .*anything else 0\.00", out)
    assert 'generation 0 writes "5"\ngeneration 0: [5]\n' in out
    assert "You are o." in out and "1 2 3\n4 x 6\n7 8 9" in out  # the board is drawn, in words
    assert out.count("not a move now: [") == 2  # a taken cell, and no cell: both are asked again
    assert "o x o\nx x o\nx o x" in out and out.endswith("a draw (+0)\n")


def test_a_models_illegal_move_forfeits(play: Callable[..., str]) -> None:
    out = play("--generation 0 --seat 1", "1 8 7")
    assert 'generation 0 writes "8"\ngeneration 0: no legal move' in out
    assert out.endswith("generation 0: illegal\nyou won (generation 0 -1.5, you +0.5)\n")


def test_the_end_of_input_ends_it_in_good_order(play: Callable[..., str]) -> None:
    out = play("--generation 0 --seat 1 --games 5", "1 8 7 1")
    assert "game 2: first generation 0, second you" in out and "game 3" not in out
    assert out.endswith("end of input\n")
    assert play("", "").endswith("end of input\n")


def test_control_c_ends_it_in_one_line(play: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(prompt: str) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("builtins.input", interrupt)
    assert play("", code=130).endswith("selfplay: stopped\n")


def test_generations_and_bots_are_watched_from_both_seats(play: Callable[..., str]) -> None:
    out = play("--against 0 --games 2")
    assert "game 1: first generation 1, second generation 0" in out
    assert "game 2: first generation 0, second generation 1" in out
    assert "generation 1: [1]\n\nYour opponent takes 1." in out and "generation 0: [2]" in out
    assert out.splitlines()[-1] == "2 games: draws 1, generation 1 1"
    assert "first generation 1 (first), second generation 1 (second)" in play("--watch")
    against_bot = play("--bot perfect --games 2 --generation 0")
    assert against_bot == play("--bot perfect --games 2 --generation 0")  # same seed, same games
    assert re.search(r"2 games: (draws \d|perfect \d|draws 1, perfect 1)\n$", against_bot)  # nobody beats it
    assert "seed 7" in against_bot


def test_cards_are_shown_when_a_hand_is_over(play: Callable[..., str]) -> None:
    out = play("--env kuhn --bot equilibrium --seat 1")
    assert re.search(r"generation 1 saw: Your card is the (jack|queen|king)\.", out)
    assert re.search(r"equilibrium saw: Your card is the (jack|queen|king)\. \[(check|bet)\]", out)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--generation 9", "has no generation 9; on disk: 0, 1"),
        ("--against 9", "has no generation 9"),
        ("--bot perfekt", "did you mean perfect?"),
        ("--bot perfect --watch", "exclude each other"),
        ("--env chain", "environment chain is no game for two"),
        ("--env tictaktoe", "did you mean tictactoe"),
        ("--option size=4", "size"),
        ("--seat 2", "--seat must be 0 or 1, got 2"),
        ("--games 0", "--games must be >= 1, got 0"),
        ("--seed -1", "--seed must be in 0..2^31-1, got -1"),
    ],
)
def test_a_mistake_is_one_line(play: Callable[..., str], flags: str, message: str) -> None:
    assert message in play(flags, code=2)


def test_a_model_needs_a_game_and_has_no_generations(play: Callable[..., str], run: Path) -> None:
    model = str(run.parent / "model")
    assert "which game?" in play("", target=model, code=2)
    assert "it has no generation 1" in play("--env nim --generation 1", target=model, code=2)
    assert "no run 'nothing'" in play("--env nim", target="nothing", code=2)


@pytest.mark.parametrize(("limit", "temperature"), [(1, 0.7), (3, 1.0)])
def test_odds_are_those_of_the_draws(run: Path, limit: int, temperature: float) -> None:
    # One token a move: the log-prob that the sampler records. More: that of the move and of an end token after it.
    params = init_params(CONFIG, jax.random.key(3))
    speaker = make_speakers({"policies": {"main": plain(Policy(model=str(run.parent / "model")))}})["main"]
    speaker.sampler.load(PolicyRef("main", 0), params)
    env, players = TicTacToe(), (Player(policy="main"), Player(bot="random"))
    match = Match(0, env.task("train", 0, 0), players)
    match.begin(env)
    spec = SamplingSpec(max_new_tokens=limit, temperature=temperature)
    unit = Unit(
        seed=0, generation=0, step=0, index=0, kind="play", env="tictactoe", mode="solve",
        rows=1, seats={}, sampling={"play": spec}, players=(players,),
    )  # fmt: skip
    voice = Voice(unit, "play", players[0], 0, speaker, [match])
    reads = voice.reads(match)
    texts = [TOKENIZER.decode(np.asarray([t])) for t in TOKENIZER.encode("519 x")]
    odds = move_odds(voice, params, reads, texts, voice.spec_of(match))
    ids = np.stack([[*reads, int(TOKENIZER.encode(text)[0]), *CONFIG.eos_ids] for text in texts])  # [R T]
    places = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
    hidden = jax.jit(decoder.forward, static_argnums=0)(CONFIG, params, ids, places, np.ones_like(ids))
    logprobs = jax.nn.log_softmax(decoder.logits(CONFIG, params, hidden) / temperature)  # [R T V]
    of_next = np.take_along_axis(np.asarray(logprobs[:, :-1]), ids[:, 1:, None], -1)[..., 0]
    expected = np.exp(of_next[:, len(reads) - 1 :][:, : 1 if limit == 1 else 2].sum(1))
    np.testing.assert_allclose(odds, expected, rtol=1e-4)


def test_odds_of_a_seat_held_to_its_legal_moves(run: Path) -> None:
    params = init_params(CONFIG, jax.random.key(3))
    speaker = make_speakers({"policies": {"main": plain(Policy(model=str(run.parent / "model")))}})["main"]
    speaker.sampler.load(PolicyRef("main", 0), params)
    players = (Player(policy="main"), Player(bot="random"))
    match = Match(0, TicTacToe().task("train", 0, 0), players)
    match.begin(TicTacToe())
    unit = Unit(
        seed=0, generation=0, step=0, index=0, kind="play", env="tictactoe", mode="solve", rows=1, seats={},
        sampling={"play": SamplingSpec(max_new_tokens=1, constrain="legal")}, players=(players,),
    )  # fmt: skip
    voice = Voice(unit, "play", players[0], 0, speaker, [match])
    reads, spec = voice.reads(match), voice.spec_of(match)
    free = move_odds(voice, params, reads, "123456789", spec)
    odds = move_odds(voice, params, reads, "123456789", spec, voice.moves(match))
    np.testing.assert_allclose(odds, np.array(free) / sum(free), rtol=1e-4)
    move = voice.speak({0: reads}, spec, {0: voice.moves(match)})[0]
    assert np.exp(voice.said[0].completions[0].logprobs[0]) == pytest.approx(odds[int(move) - 1], rel=1e-4)
