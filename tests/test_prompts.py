"""Which examples a prompt shows, what is refused before a run starts, and what a run asks, read in its transcripts."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import pytest
from small_tokenizers import GEMMA, character_tokenizer

from envs.base import Task
from envs.chain import Chain
from envs.jsonl import Jsonl
from envs.sums import Sums
from selfplay import recipe
from selfplay.config import Template
from selfplay.errors import UserError
from selfplay.learner import train
from selfplay.models import ModelConfig, init_params, load, save
from selfplay.models.tokenizer import Tokenizer
from selfplay.prompts import Prompter, check_examples
from selfplay.room import check_room
from selfplay.units import World

BARE = character_tokenizer()
OPTIONS: dict[str, Any] = {
    "form": "brief", "operators": ["sort", "reverse", "largest", "last", "increment"], "values": [0, 9],
    "digits": [1, 4], "propose_digits": [1, 4], "propose_operators": [1, 2], "guess_limit": 0.5,
}  # fmt: skip
ENV = Chain(**OPTIONS)
FOUR = Template(kind="text", examples=4, example_difficulties=(1,))
ANSWER = re.compile(r"Q: (.+)\nA: (.+)\n")


def prompter(template: Template = FOUR, *, seed: int = 0, env: Any = ENV, tokenizer: Tokenizer = BARE) -> Prompter:
    return Prompter(env, template, tokenizer, seed)


def text(ids: Any, tokenizer: Tokenizer = BARE) -> str:
    return tokenizer.decode(ids, special=True)


def test_four_examples_then_the_task() -> None:
    task = ENV.task("test", 0, 0, difficulty=2)
    prompt = text(prompter().solve(task))
    pairs = ANSWER.findall(prompt)
    assert len(pairs) == 4 and prompt.startswith("<bos>Q: ") and prompt.endswith(f"Q: {task.prompt[0].text}\nA:")
    for asked, answer in pairs:
        shown = ENV.admit("solve", asked, (), 0)
        assert isinstance(shown, Task) and shown.difficulty == 1  # so it is of no dev or test family
        assert ENV.verify(shown, answer).reward == 1
    assert len({asked for asked, _ in pairs}) == 4


def test_examples_follow_from_the_seed_and_the_task_alone() -> None:
    one, two = (ENV.task("train", i, 0, difficulty=1) for i in range(2))
    first = prompter().solve(one).tolist()
    prompter().solve(two)
    assert prompter(env=Chain(**OPTIONS)).solve(one).tolist() == first
    assert prompter(seed=1).solve(one).tolist() != first
    assert ANSWER.findall(text(first)) != ANSWER.findall(text(prompter().solve(two)))
    asks = [prompter().propose("solve", (), seed).tolist() for seed in (1, 1, 2)]
    assert asks[0] == asks[1] != asks[2]


def test_the_task_itself_is_never_among_its_examples() -> None:
    tiny = Chain(form="brief", operators=["sort", "reverse"], values=[0, 2], digits=[2, 3], guess_limit=1.0)
    writer = prompter(env=tiny)
    for i in range(60):
        task = tiny.task("train", i, 0, difficulty=1)
        asked = [tiny.admit("solve", a, (), 0) for a, _ in ANSWER.findall(text(writer.solve(task)))]
        families = [a.family for a in asked if isinstance(a, Task)]
        assert task.family not in families and len(set(families)) == len(families)


def test_a_proposer_is_shown_proposals_that_would_be_admitted() -> None:
    prompt = text(prompter().propose("solve", (ENV.task("train", 0, 0, difficulty=1),), 5))
    pairs = ANSWER.findall(prompt)
    assert [asked for asked, _ in pairs] == ["new task"] * 4
    assert all(isinstance(ENV.admit("solve", answer, (), 0), Task) for _, answer in pairs)
    assert re.search(r"Q: new task, other than: \w+ \[[0-9, ]+\]\nA:$", prompt)


def test_by_default_examples_are_as_difficult_as_the_task() -> None:
    writer = prompter(replace(FOUR, example_difficulties=()))
    for difficulty in (1, 3):
        prompt = text(writer.solve(ENV.task("train", 0, 0, difficulty=difficulty)))
        assert {asked.count(", then ") + 1 for asked, _ in ANSWER.findall(prompt)} == {difficulty}


def test_examples_of_the_same_shape_come_last_and_first_of_all() -> None:
    writer = prompter(replace(FOUR, example_difficulties=(), example_shape="same"))
    lone = 0
    for difficulty, index in itertools.product((1, 2), range(20)):
        task = ENV.task("test", index, 0, difficulty=difficulty)
        asked = [ENV.admit("solve", a, (), 0) for a, _ in ANSWER.findall(text(writer.solve(task)))]
        alike = [isinstance(a, Task) and ENV.shape(a) == ENV.shape(task) for a in asked]
        assert len(asked) == 4 and alike == sorted(alike)
        assert difficulty == 2 or all(alike)
        lone += not alike[0]
    assert lone < 10  # a train pool of 256 has four of most pairs of operators


def test_examples_that_cannot_be_had_are_refused(tmp_path: Path) -> None:
    few = Chain(form="brief", operators=["sort"], values=[0, 1], digits=[2, 2], guess_limit=1.0)
    with pytest.raises(UserError, match=r"environment chain: [01] different examples of mode solve and difficulty 1"):
        prompter(env=few).solve(few.task("train", 0, 0, difficulty=1))
    with pytest.raises(UserError, match="environment chain has no 11; valid: 1, 2"):
        check_examples(ENV, {"solve": replace(FOUR, example_difficulties=(11,))}, "chain")
    with pytest.raises(UserError, match=r"environment chain: its gold answers hold the stop text '\\n', such as"):
        check_examples(Chain(form="words"), {"solve": FOUR}, "chain")
    questions = tmp_path / "questions.jsonl"
    questions.write_text("".join(f'{{"prompt": "{i}?", "answer": "{i}"}}\n' for i in range(60)))
    with pytest.raises(UserError, match="environment jsonl tells no shapes of tasks apart: set the template's"):
        same = replace(FOUR, example_shape="same", example_difficulties=())
        check_examples(Jsonl(path=str(questions)), {"solve": same}, "jsonl")
    check_examples(Sums(), {"solve": replace(FOUR, example_difficulties=(12,))}, "sums")


CONFIG = ModelConfig(
    family="llama", vocab_size=128, hidden_size=32, layers=1, heads=2, kv_heads=1, head_dim=16, intermediate_size=32,
    max_positions=512, bos_id=1, pad_id=0,
)  # fmt: skip
SMALL = (
    "--schedule.generations 1 --schedule.steps-per-generation 2 --cluster.actors 0 --cluster.threads 2 "
    "--acquire.tasks-per-unit 4 --propose.per-ask 4 --acquire.group-size 2 --evaluate.tasks 2 "
    "--evaluate.tasks-between 2 --roles.solve.max-new-tokens 8 --roles.propose.max-new-tokens 8 "
    "--update.row-tokens 320 --output.samples-per-step 8 --acquire.mix.procedural 1"
).split()


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama whose tokenizer has a chat template, its end of turn named by generation_config.json alone."""
    tokenizer = character_tokenizer(GEMMA)
    folder = tmp_path_factory.mktemp("models") / "chat"
    save(folder, replace(CONFIG, eos_ids=(2,)), init_params(CONFIG, jax.random.key(0)), tokenizer)
    ends = [2, tokenizer.special["<end_of_turn>"]]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    return folder


def chain_run(model: Path, *flags: str, **template: Any) -> Any:
    run = recipe.resolve("quickstart", [*SMALL, "--policies.main.model", str(model), *flags], env="chain")
    choice = replace(run.envs["chain"], difficulties=(1,), options=OPTIONS)
    main = replace(run.policies["main"], template=Template(**template))
    return replace(run, envs={"chain": choice}, policies={"main": main})


def transcripts(folder: Path) -> dict[str, list[dict[str, Any]]]:
    lines = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    return {role: [line for line in lines if line["role"] == role] for role in ("propose", "solve")}


def test_a_run_through_a_chat_template(chat_model: Path, tmp_path: Path) -> None:
    train(chain_run(chat_model, kind="chat"), tmp_path / "run")
    said = transcripts(tmp_path / "run")
    before, after = "<bos><start_of_turn>user\n", "<end_of_turn>\n<start_of_turn>model\n"
    assert {s["prompt"] for s in said["propose"]} == {f"{before}new task{after}"}
    for s in said["solve"]:
        asked = s["prompt"].removeprefix(before).removesuffix(after)
        assert isinstance(ENV.admit("solve", asked, (), 0), Task) and "<end_of_turn>" not in s["text"]
    assert said["solve"] and {f for role in said.values() for s in role for f in s["finish"]} <= {"eos", "length"}


def test_a_run_with_four_examples(chat_model: Path, tmp_path: Path) -> None:
    train(chain_run(chat_model, kind="text", examples=4, example_difficulties=(1,)), tmp_path / "run")
    said = transcripts(tmp_path / "run")
    assert said["solve"] and said["propose"]
    for role, each in said.items():
        for s in each:
            assert len(ANSWER.findall(s["prompt"])) == 4 and s["prompt"].endswith("\nA:"), role
            assert "\n" not in s["text"][:-1]
            assert (s["finish"] == ["stop"]) == s["text"].endswith("\n")
            assert s["status"] != "ok" or s["finish"] != ["length"]


def test_what_does_not_fit_is_refused_before_the_run_starts(chat_model: Path, random_model: Path) -> None:
    def check(model: Path, *flags: str, **template: Any) -> None:
        check_room(chain_run(model, *flags, **template), World({"chain": ENV}, {}), {"main": load(model)})

    check(chat_model, kind="chat")
    with pytest.raises(UserError, match=r"policies.main.template.kind = chat: the model's tokenizer has no chat"):
        check(random_model, kind="chat")
    with pytest.raises(UserError, match=r"environment chain: a prompt of \d+ tokens and roles.propose.max_new_tokens"):
        check(chat_model, kind="text", examples=30, example_difficulties=(1,))
    with pytest.raises(UserError, match=r"environment chain: a prompt of \d+ tokens and roles.solve.max_new_tokens"):
        check(chat_model, "--roles.solve.max-new-tokens", "500", kind="plain")


def test_the_kind_is_a_flag(chat_model: Path) -> None:
    flags = "--policies.main.template.kind chat --policies.main.template.options.enable_thinking false".split()
    template = recipe.resolve("quickstart", flags).policies["main"].template
    assert (template.kind, template.options) == ("chat", {"enable_thinking": False})
    assert recipe.resolve("quickstart").policies["main"].template == Template()
    with pytest.raises(
        UserError, match="template.kind must be one of plain, text, chat, got 'chart': did you mean chat"
    ):
        recipe.resolve("quickstart", ["--policies.main.template.kind", "chart"])
    with pytest.raises(UserError, match=r"policies.main.template must be a table, got 'plain'"):
        recipe.build(recipe.Run, {"policies": {"main": {"template": "plain"}}})
