"""`python`: our steps give what their text gives, every gold verifies, and nothing a model writes fools a verdict."""

from __future__ import annotations

import gc
import random
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import envs
from envs.base import SPLITS, EnvUserError, Proposable, Rejection, Task, split_of
from envs.check import check
from envs.python import Python
from envs.python_draw import Chain, Fault, Placed, chain, every_step_counts, values, write
from envs.python_kinds import KINDS, fits, probes
from envs.python_runs import args_text
from envs.python_source import operations, read
from envs.python_steps import STEPS
from envs.sandbox import SandboxBroken
from envs.sandbox.values import canonical

WORDS, BRIEF = Python(timeout_s=10.0), Python(form="brief", timeout_s=10.0)
"""A busy machine is no failure."""
ANY = Python(form="brief", timeout_s=10.0, imports=["random", "time", "os", "sys", "gc", "builtins", "math"])
"""Lets programs import what they should not, so that walls and determinism are tested, not the list of modules."""
BRIEF._runs = ANY._runs = WORDS._runs  # one sandbox for most tests: eight workers take a second to start
TOTAL = "def f(xs: list[int]) -> int:\n    return sum(xs) * 2"


def admitted(env: Python, mode: str, program: str, args: str = "") -> Task:
    """The task about a program, whatever its split: these tests choose their cases by hand, not by hash."""
    known = read(program, env.imports)
    assert known is not None and known.kinds is not None, program
    offered = env.form.read_offer(mode, env.form.offer(mode, known.text, args))
    assert offered is not None
    found = env._study(known.text, known.kinds, offered[1], env._sandboxed(known.text))
    assert not isinstance(found, str), found
    problem = env._problem(mode, known.text, found)
    assert problem is not None
    return env._task("train", 0, -1, problem, known, found.family)


def outcome(env: Python, mode: str, text: str) -> str:
    found = env.admit(mode, text, (), 0)
    return found.reason if isinstance(found, Rejection) else "task"


def status(env: Python, task: Task, text: str) -> str:
    verdict = env.verify(task, text)
    assert verdict.reward == float(verdict.status == "ok")
    return verdict.status


def test_what_our_steps_compute_is_what_their_text_gives() -> None:
    """Every step on all probes of its kinds, against CPython in the sandbox."""
    for step in STEPS:
        kinds = step.takes
        names = [KINDS[kind].names[place] for place, kind in enumerate(kinds)]
        known = Chain(kinds, tuple(names), (Placed(step, tuple(names), 0, step.constants[0], "g", False),))
        inputs = probes(kinds)
        got = BRIEF._runs.column(write(known), list(map(args_text, inputs)))
        assert got == tuple(canonical(values(known, args)[-1]) for args in inputs), step.text


def test_what_chains_compute_is_what_their_text_gives() -> None:
    rng, met = random.Random(0), 0
    while met < 20:
        known = chain(rng, tuple(KINDS), rng.randint(4, 10))
        try:
            wanted = known and [canonical(values(known, args)[-1]) for args in probes(known.kinds)]
        except Fault:
            continue
        if known is None:
            continue
        text = write(known)
        assert BRIEF._runs.column(text, list(map(args_text, probes(known.kinds)))) == tuple(wanted or ()), text
        source = read(text)
        assert source is not None and source.kinds == known.kinds and not source.outside
        assert source.operations == sum(operations(p.step.text.format("a", "b", k=2, out="g")) for p in known.steps)
        met += 1


def test_idle_steps_are_seen() -> None:
    def of(*texts: str) -> Chain:
        steps = [next(s for s in STEPS if s.text == text and s.takes[0] == "list[int]") for text in texts]
        placed = [
            Placed(step, ("xs" if i == 0 else "abgh"[i - 1],), 0, 2, "abgh"[i], False) for i, step in enumerate(steps)
        ]
        return Chain(("list[int]",), ("xs",), tuple(placed))

    inputs = probes(("list[int]",))
    assert every_step_counts(of("sorted({0})", "{0}[::-1]"), inputs)
    assert not every_step_counts(of("{0}[::-1]", "sorted({0})"), inputs)
    assert not every_step_counts(of("sorted({0})", "sum({0})"), inputs)


@pytest.mark.parametrize("env", [WORDS, BRIEF], ids=["words", "brief"])
def test_tasks(env: Python) -> None:
    assert isinstance(env, Proposable)
    families: dict[str, set[str]] = {split: set() for split in SPLITS}
    for split in SPLITS:
        for index, mode in enumerate(env.spec.modes * 3):
            difficulty = 2 + index
            task = env.task(split, index, 5, mode=mode, difficulty=difficulty)
            assert (task.split, task.mode, task.difficulty) == (split, mode, difficulty)
            gold, offer = env.gold(task), env.offer(task)
            assert status(env, task, gold) == "ok" and len(gold) < env.spec.max_new_tokens
            assert len(offer) < env.spec.propose_tokens and split_of("python", task.family) == split
            families[split].add(task.family)
    assert not families["train"] & (families["dev"] | families["test"]) and not families["dev"] & families["test"]


def test_an_own_task_is_admitted_by_running_it() -> None:
    """A fresh environment knows nothing of the program: the sandbox derives the same truth, and the same split."""
    for split, mode in (("train", "deduce"), ("train", "induce"), ("dev", "abduce")):
        task = BRIEF.task(split, 1, 9, mode=mode, difficulty=5)  # type: ignore[arg-type]
        found = ANY.admit(mode, BRIEF.offer(task), [task], 3)
        if split == "train":
            assert isinstance(found, Task) and (found.content, found.family) == (task.content, task.family)
            assert (found.payload, found.parents) == (task.payload, (task.key,))
        else:
            assert isinstance(found, Rejection) and found.reason == "held_out"


def test_the_conformance_kit() -> None:
    report = check("python", options={"form": "brief", "timeout_s": 10.0}, tasks=3, limit_ms=60_000.0)
    assert report.ok, "\n".join(report.lines())


def test_the_key_ignores_the_surface_form() -> None:
    one = admitted(WORDS, "deduce", TOTAL, "[3, 1]")
    two = admitted(BRIEF, "deduce", "def f(xs: list[int]) -> int:\n  # twice\n  return (sum( xs )*2)\n\n", "[3,1]")
    assert one.key == two.key and one.prompt != two.prompt and one.difficulty == 2
    assert BRIEF.shape(one) == "Mult sum"
    alias = admitted(
        BRIEF, "induce", "def f(values: list[int]):\n    t = 0\n    for v in values:\n        t += v + v\n    return t"
    )
    assert alias.family == one.family and alias.key != one.key


def test_prompts_and_golds_by_hand() -> None:
    deduce, abduce = (admitted(BRIEF, mode, TOTAL, "[3, 1]") for mode in ("deduce", "abduce"))
    assert (deduce.prompt[0].text, BRIEF.gold(deduce)) == (f"{TOTAL}\nf([3, 1]) ==", "8")
    assert (abduce.prompt[0].text, BRIEF.gold(abduce)) == (f"{TOTAL}\nf(?) == 8", "[3, 1]")
    induce = admitted(BRIEF, "induce", TOTAL)
    assert (
        re.fullmatch(r"(f\(\[[-0-9, ]+\]\) == -?[0-9]+\n?){4}", induce.prompt[0].text) and BRIEF.gold(induce) == TOTAL
    )
    assert len(induce.payload["held_back"]) == 6
    assert not any(args in induce.prompt[0].text for args, _ in induce.payload["held_back"])
    said = admitted(WORDS, "deduce", TOTAL, "[3, 1]")
    assert f"```python\n{TOTAL}\n```" in said.prompt[0].text and WORDS.gold(said) == "<answer>8</answer>"
    assert WORDS.gold(admitted(WORDS, "induce", TOTAL)) == f"```python\n{TOTAL}\n```"
    assert "list[int] or int" in WORDS.ask("deduce", [said], 0)[0].text


@pytest.mark.parametrize(
    ("mode", "words", "brief", "wanted"),
    [
        ("deduce", "so <answer> 8 </answer>.", "8", "ok"),
        ("deduce", "It is:\n`8`", "f([3, 1]) == 8\nf([4]) == 8", "ok"),
        ("deduce", "<answer>8.0</answer>", "8.0", "wrong"),  # a float is no int
        ("deduce", "<answer>'8'</answer>", "'8'", "wrong"),
        ("deduce", "eight", "sum([3, 1]) * 2", "unparsed"),
        ("abduce", "<answer>[4]</answer>", "[4]", "ok"),  # another preimage
        ("abduce", "<answer>f([9, -5])</answer>", "f([9, -5]) == 8", "ok"),
        ("abduce", "<answer>[3, 2]</answer>", "[3, 2]", "wrong"),
        ("abduce", "<answer>(3, 1)</answer>", "(3, 1)", "wrong"),  # gives 8, and is no list
        ("abduce", "<answer>[4], [4]</answer>", "[4], [4]", "wrong"),
        ("abduce", "<answer>[3, 1]) or f([4]</answer>", "[3, 1]) or f([4]", "unparsed"),
        ("abduce", "<answer>[__import__('os').getpid()]</answer>", "[x for x in [4]]", "unparsed"),
        ("induce", "```python\ndef f(a):\n    return sum(a + a)\n```", "def f(a): return sum(a + a)\nIt adds.", "ok"),
        ("induce", "```\ndef f(a):\n    return sum(a)\n```", "def f(a): return sum(a)", "wrong"),
        ("induce", "<answer>def f(a): return 2 * sum(a)</answer>", "import math\ndef f(a): return 2 * sum(a)", "ok"),
        ("induce", "```python\ndef g(a): return 2 * sum(a)\n```", "def f(a, b=1): return 2 * sum(a)", "unparsed"),
        ("induce", "```python\nimport os\ndef f(a): return 1\n```", "def f(a): return eval('1')", "illegal"),
        ("induce", "```python\ndef f(a): return a.b\n```", "def f(a): raise ValueError\n    return 1", "wrong"),
    ],
)  # fmt: skip
def test_verdicts_by_hand(mode: str, words: str, brief: str, wanted: str) -> None:
    for env, text in ((WORDS, words), (BRIEF, brief)):
        if text.endswith("raise ValueError\n    return 1"):
            text = "def f(a):\n    raise ValueError\n    return 1"
        assert status(env, admitted(env, mode, TOTAL, "[3, 1]"), text) == wanted, text


def test_two_arguments() -> None:
    task = admitted(BRIEF, "abduce", "def f(s: str, n: int) -> str:\n    return s * n", "'ab', 2")
    assert status(BRIEF, task, "'abab', 1") == "ok" and status(BRIEF, task, "1, 'abab'") == "wrong"
    assert status(BRIEF, task, "('abab', 1)") == "wrong" and fits(["str", "int"], ("abab", 1))


def test_a_program_that_fits_only_the_shown_examples_is_wrong() -> None:
    task = admitted(BRIEF, "induce", TOTAL)
    table = ", ".join(
        f"({args},): {output}".replace("[", "(").replace("]", ")") for args, output in task.payload["shown"]
    )
    verdict = BRIEF.verify(task, f"def f(xs):\n    return {{{table}}}[(tuple(xs),)]")
    assert (verdict.status, verdict.parts) == ("wrong", {"shown": 1.0, "held_back": 0.0})


FORGED = {
    "equals all": "class E:\n    def __eq__(self, o): return True\ndef f(a): return E()",
    "an int that lies": "class I(int):\n    def __eq__(self, o): return True\ndef f(a): return I(1)",
    "own harness": "def _each(f, inputs): return [[0]] * len(inputs)\ndef f(a): return 0",
    "harness patched": (
        "import builtins\nclass L(list):\n    def append(self, v): pass\nbuiltins.list = L\ndef f(a): return L([0])"
    ),
    "frame written": "import os\ndef f(a):\n    os.write(4, b'VT')\n    os._exit(0)\n    return 1",
    "early exit": "import sys\ndef f(a):\n    sys.exit(0)\n    return 1",
    "expected sought": (
        "import sys, gc\ndef f(a):\n    wanted = [o for o in gc.get_objects() if type(o) is list and len(o) == 10]\n"
        "    frame = sys._getframe()\n    while frame:\n"
        "        wanted += [v for k, v in frame.f_locals.items() if 'wanted' in k]\n"
        "        frame = frame.f_back\n    return 2 * sum(a) if [2 * sum(a)] in wanted else 0"
    ),
    "too many values": "def f(a): return list(range(10**6))",
    "endless": "def f(a):\n    while True: pass\n    return 1",
}  # fmt: skip


@pytest.mark.parametrize("name", FORGED)
def test_a_verdict_cannot_be_forged(name: str) -> None:
    env = Python(form="brief", timeout_s=1.0, imports=ANY.imports) if name == "endless" else ANY
    task = admitted(ANY, "induce", TOTAL)
    forged = FORGED[name]
    known = read(forged, env.imports)
    assert known is not None
    # dunder names are refused by the rules of quality already; here the sandbox alone has to hold
    verdict = env._induced(task.payload, known._replace(outside=""))
    assert verdict.reward == 0.0 and verdict.status in ("wrong", "timeout")
    assert status(ANY, task, TOTAL) == "ok"


def fenced(body: str, kinds: str = "xs: list[int]", head: str = "") -> str:
    return f"{head}def f({kinds}):\n    {body}"


@pytest.mark.parametrize(
    ("mode", "text", "reason"),
    [
        ("deduce", "", "format"), ("deduce", fenced("return sum(xs)"), "format"),  # no input
        ("deduce", fenced("return sum(xs") + "\nf([1])", "format"), ("induce", fenced("return 1", "xs"), "format"),
        ("induce", fenced("sum(xs)"), "format"), ("induce", fenced("return 1", "*xs: int"), "format"),
        ("deduce", fenced("return sum(xs)") + "\nf(sum)", "format"),
        ("deduce", fenced("return sum(xs)") + "\nf('ab')", "bounds"), ("induce", fenced("return xs"), "bounds"),
        ("induce", fenced("return " + "+".join(["len(xs)"] * 20)), "bounds"),
        ("induce", fenced("return x ** 2", "x: complex"), "bounds"),
        ("induce", fenced("return os.getpid()", head="import os\n"), "safety"),
        ("induce", fenced("return random.choice(xs)", head="import random\n"), "safety"),
        ("induce", fenced("return xs.__class__(xs[1:])"), "safety"),
        ("induce", fenced("return eval('xs[0]')"), "safety"),
        ("deduce", fenced("return xs[7]") + "\nf([1])", "executes"),
        ("induce", fenced("return (v for v in xs)"), "executes"),
        ("induce", fenced("return xs[10] + len(xs)"), "executes"),
        ("induce", fenced("return list(set(map(str, xs)))"), "deterministic"),
        ("induce", fenced("return hash(s)", "s: str"), "deterministic"),
        ("induce", fenced("return id(xs)"), "deterministic"),
        ("deduce", fenced("seen.append(sum(xs))\n    return len(seen) + sum(xs)", head="seen = []\n") + "\nf([3, 4])",
         "deterministic"),  # another value in another call
        ("induce", fenced("return len(xs) * 2"), "guessable"),
        ("abduce", fenced("return sum(xs)") + "\nf([3, -3])", "guessable"),
        ("induce", fenced("return xs[:]"), "guessable"),
        ("deduce", fenced("return sorted(xs)") + "\nf([3, 4, 9])", "answer_in_prompt"),
        ("deduce", fenced("return max(xs)") + "\nf([3, 3])", "answer_in_prompt"),
        ("abduce", fenced("return sorted(xs)") + "\nf([4, 3])", "answer_in_prompt"),
    ],
)  # fmt: skip
def test_the_first_reason_that_holds_is_named(mode: str, text: str, reason: str) -> None:
    assert outcome(BRIEF, mode, text) == reason


@pytest.mark.parametrize(
    ("head", "body"),
    [
        ("import random\n", "return random.randint(0, 10**6) + sum(xs)"),
        ("import time\n", "return int(time.time()) + sum(xs)"),
        ("", "return sorted(xs, key=lambda v: hash(str(v)))"),
    ],
)
def test_chance_time_and_hash_order_are_found_out(head: str, body: str) -> None:
    assert outcome(ANY, "induce", fenced(body, head=head)) == "deterministic"


def test_a_good_proposal_of_a_chat_model() -> None:
    code = "def f(xs: list[int]) -> int:\n    return sum(v * v for v in xs) - 3"
    text = f"Sure!\n```python\n{code}\n```\n<answer>[2, 5]</answer>"
    found = WORDS.admit("deduce", text, (), 0)
    if isinstance(found, Rejection):
        assert found.reason == "held_out", found
    else:
        assert found.payload["output"] == "26" and (found.split, found.index, found.origin) == ("train", -1, "proposed")


junk = st.text(max_size=60) | st.text(alphabet="def f(xs): return[1,2]'\"{}\n`<answer>/=", max_size=60)


@given(junk)
@settings(max_examples=15)
def test_verify_and_admit_are_total(text: str) -> None:
    for env in (WORDS, BRIEF):
        for mode in env.spec.modes:
            task = env.task("train", 0, 0, mode=mode, difficulty=3)
            assert env.verify(task, text).status in ("ok", "wrong", "unparsed", "illegal")
            assert isinstance(env.admit(mode, text, (), 0), (Task, Rejection))


def test_no_sandbox_is_opened_to_pose_tasks() -> None:
    env = Python(sandbox="A")
    for mode in env.spec.modes:
        task = env.task("train", 3, 0, mode=mode)
        assert env.gold(task) and isinstance(env.admit(mode, env.offer(task), (), 0), Task)
    assert env._runs._sandbox is None


def test_the_sandbox_is_opened_once_and_closed_with_its_environment() -> None:
    env = Python(form="brief", workers=1, timeout_s=10.0)
    task = env.task("train", 0, 0, mode="abduce")
    assert status(env, task, env.gold(task)) == "ok"
    sandbox = env._runs._open()
    assert sandbox is env._runs._open()
    del env
    gc.collect()
    with pytest.raises(SandboxBroken, match="closed"):
        sandbox.run("", "1")


def test_known_tasks_never_move() -> None:
    """A change of these is a change of every run: raise spec.version then."""
    assert [BRIEF.task("test", i, 0, mode=mode, difficulty=4).key for i, mode in enumerate(BRIEF.spec.modes)] == KNOWN


KNOWN = ["da3ae83c558ed53e9aa5", "57ffe40709d5a2486434", "70e0988aeb3e84806fa8"]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"form": "brif"}, "python: option form must be one of words, brief, got 'brif'; did you mean brief?"),
        ({"inputs": ["int", "float"]}, "python: option inputs must be one of list[int], int, str"),
        ({"sandbox": "D"}, "python: option sandbox must be one of auto, A, B, C, unsafe, got 'D'"),
        ({"timeout_s": 0}, "python: option timeout_s must be a number of seconds from 0.01 to 60, got 0"),
        ({"imports": ["os.path; x"]}, "python: option imports must name modules, such as math, got 'os.path; x'"),
        ({"workers": 0}, "python: option workers must be a whole number from 1 to 64, got 0"),
        ({"worker": 1}, "python: unknown option 'worker'; did you mean workers"),
    ],
)
def test_wrong_options_are_one_line(options: dict[str, Any], line: str) -> None:
    with pytest.raises(EnvUserError, match=re.escape(line)) as raised:
        envs.make("python", **options)
    assert "\n" not in str(raised.value)
