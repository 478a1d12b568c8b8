"""`dsl`: every operator by hand, what is written reads back, and no text a model writes breaks or fools it."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import envs
from envs.base import SPLITS, EnvUserError, Proposable, Rejection, Task, split_of
from envs.check import check
from envs.dsl import Dsl
from envs.dsl_draw import Draw
from envs.dsl_eval import COMPUTE, COMPUTE_HIGHER, LIMIT, MAX_LIST, STEPS, Evaluation, reductions, run
from envs.dsl_lang import INPUTS, OPERATORS, Node, Program, Value, depth, nodes, program, value_kind
from envs.dsl_rules import family_text, idle, on_probes
from envs.dsl_syntax import read_compact, read_infix, read_infix_value, write_compact, write_infix

COMPACT, WORDS, BRIEF = Dsl(), Dsl(form="words"), Dsl(form="brief")
BY_NAME = {"compact": COMPACT, "words": WORDS, "brief": BRIEF}


def parsed(text: str) -> Program:
    tree = read_infix(text)
    found = program(tree) if tree else None
    assert found is not None, text
    return found


def function(text: str, modulus: int = 0) -> str:
    """The family of a program."""
    known = parsed(text)
    return family_text(known, on_probes(known.variable, modulus))


def offered(env: Dsl, mode: str, text: str) -> str:
    """A proposal; a program to induce gets an input."""
    if mode != "induce" or "@" in text or " where " in text:
        return text
    variable, given = ("n", "4") if "n" in re.sub("[a-z]{2,}", "", text) else ("x", "3142")
    if env.form is COMPACT.form:
        return f"{text}@{given}" if variable == "n" else f"{text}@({given})"
    return f"{text} where {variable} = {given if variable == 'n' else list(map(int, given))}"


def admitted(env: Dsl, mode: str, text: str) -> Task:
    """The task of a proposal, whatever its split: the tests below choose their cases by hand, not by hash."""
    read = env.form.read_offer(offered(env, mode, text))
    assert read is not None, text
    problem = env._problem(mode, *read)
    assert problem is not None
    return env._task("train", 0, -1, problem, "any")


def outcome(env: Dsl, mode: str, text: str) -> str:
    found = env.admit(mode, offered(env, mode, text), (), 0)
    return found.reason if isinstance(found, Rejection) else "task"


BY_HAND: list[tuple[str, Value, Value]] = [
    ("n + 5", 7, 12), ("n - 9", 7, -2), ("n * 3", 7, 21), ("n // 2", 7, 3), ("(0 - n) // 2", 7, -4),
    ("n // 0", 7, 0), ("n % 4", 7, 3), ("(0 - n) % 4", 7, 1), ("n % 0", 7, 0), ("larger(n, 5)", 7, 7),
    ("smaller(n, 5)", 7, 5), ("distance(n, 9)", 7, 2), ("distance(n, -9)", 7, 16),
    ("if(n < 5, 1, 2)", 5, 2), ("if(n > 5, 1, 2)", 6, 1), ("if(n == 5, 1, 2)", 5, 1), ("if(even(n), 1, 2)", 0, 1),
    ("if(not even(n), 1, 2)", 3, 1), ("if(n > 2 and n < 5, 1, 2)", 3, 1), ("if(n > 2 and n < 5, 1, 2)", 6, 2),
    ("if(n < 2 or n > 5, 1, 2)", 6, 1), ("if(n < 2 or n > 5, 1, 2)", 3, 2),
    ("if(length(x) > 2, x, reverse(x))", (1, 2), (2, 1)),
    ("first(x)", (4, 9, 1), 4), ("last(x)", (4, 9, 1), 1), ("largest(x)", (4, 9, 1), 9), ("smallest(x)", (4, 9, 1), 1),
    ("sum(x)", (4, 9, 1), 14), ("length(x)", (4, 9, 1), 3), ("first(x) + last(x) + largest(x) + smallest(x)", (), 0),
    ("at(x, 1)", (4, 9, 1), 9), ("at(x, 3)", (4, 9, 1), 0), ("at(x, -1)", (4, 9, 1), 0), ("count(x, 4)", (4, 9, 4), 2),
    ("reverse(x)", (4, 9, 1), (1, 9, 4)), ("sort(x)", (4, 9, 1), (1, 4, 9)), ("unique(x)", (4, 9, 4, 9), (4, 9)),
    ("take(x, 2)", (4, 9, 1), (4, 9)), ("take(x, -1)", (4, 9, 1), ()), ("take(x, 8)", (4, 9, 1), (4, 9, 1)),
    ("drop(x, 2)", (4, 9, 1), (1,)), ("drop(x, -1)", (4, 9, 1), (4, 9, 1)), ("prepend(x, 7)", (4, 9), (7, 4, 9)),
    ("concat(x, sort(x))", (4, 1), (4, 1, 1, 4)), ("range(n)", 4, (0, 1, 2, 3)), ("range(n)", -3, ()),
    ("map(x, v * v - 1)", (4, 9, 1), (15, 80, 0)), ("filter(x, v > 3)", (4, 9, 1), (4, 9)),
    ("fold(x, 1, a * 2 + v)", (4, 9, 1), 43),  # 1 -> 6 -> 21 -> 43
]  # fmt: skip


@pytest.mark.parametrize(("text", "asked", "wanted"), BY_HAND)
def test_every_operator_by_hand(text: str, asked: Value, wanted: Value) -> None:
    got = run(parsed(text), asked, 0)
    assert got == wanted and value_kind(got) == value_kind(wanted)  # type: ignore[arg-type]


def test_every_operator_is_met_above_and_has_one_letter() -> None:
    met = {node.op for text, _, _ in BY_HAND for node in nodes(parsed(text).tree)}
    assert met >= set(OPERATORS) == set(COMPUTE) | set(COMPUTE_HIGHER) and len(OPERATORS) >= 20
    letters = [operator.letter for operator in OPERATORS.values()]
    assert len(set(letters)) == len(letters) and not set(letters) & set("0123456789xnva(){}@=:;")


def test_numbers_wrap_around_at_the_modulus() -> None:
    for text, asked, wanted in (
        ("n - 9", 3, 4), ("n * 7", 6, 2), ("sum(x)", (9, 9, 5), 3), ("map(x, v + 3)", (9, 1), (2, 4)),
        ("fold(x, 7, a + v)", (9, 9), 5), ("distance(n, 8)", 3, 5), ("range(n - 1)", 0, tuple(range(9))),
    ):  # fmt: skip
        assert run(parsed(text), asked, 10) == wanted


def test_limits_of_values_sizes_and_steps() -> None:
    assert run(parsed("n * n"), 99, 0) == 9801 and run(parsed("n * n"), 100, 0) is None
    assert run(parsed("0 - n * n"), 100, 0) is None and run(parsed("fold(x, 9, a * a)"), (1,) * 20, 0) is None
    assert run(parsed("sum(map(x, v * v))"), (LIMIT,), 0) is None  # within a list, too
    assert run(parsed("if(n > 0, n, n * n)"), LIMIT, 0) is None  # both branches are computed
    assert len(run(parsed("concat(x, x)"), (1,) * 10, 0)) == MAX_LIST  # type: ignore[arg-type]
    assert run(parsed("concat(x, x)"), (1,) * 11, 0) is None and run(parsed("range(n)"), 10**6, 0) is None
    busy = parsed("sum(" + "map(" * 9 + "x" + ", v + 1)" * 9 + ")")
    evaluation = Evaluation("x", [(1, 2), (0,) * 20], 0)
    # sum, nine maps, and nine additions for every number of the list
    assert evaluation.steps(busy.tree) == [10 + 9 * 2, 10 + 9 * 20]
    busier = parsed("map(" * 10 + "x" + ", v + 1)" * 10)
    assert 10 + 10 * 20 > STEPS and run(busier, (0,) * 20, 0) is None and run(busier, (0,) * 9, 0) == (10,) * 9


def test_infix_is_written_with_the_parentheses_it_needs() -> None:
    for text in ("n - (3 - n)", "n - 3 - n", "(n + 1) * 2", "n + 1 * 2", "-3 * n", "n - -3", "n // (2 * n)"):
        assert write_infix(parsed(text).tree) == text
    assert write_infix(parsed("if(not (n<1 or n>5) and even( n ), (n), 2)").tree) == (
        "if(not (n < 1 or n > 5) and even(n), n, 2)"
    )
    tree = parsed("take(map(x, v * 2), 3)").tree
    assert write_compact(tree) == "x{v2*}M3t" and read_compact("x{v2*}M3t") == tree and depth(tree) == 3


def test_what_has_no_type_is_no_program() -> None:
    for text in (
        "3", "x + 1", "reverse(n)", "sum(3)", "even(n)", "n < 3", "if(n, 1, 2)", "if(n < 1, 1, range(n))", "x + n",
        "take(x, length(x) < 2)", "map(x, v > 2)", "filter(x, v)", "fold(x, 0, x)", "map(x, sum(x))", "map(x, n + v)",
        "map(x, a)", "v", "a + n", "map(x, sum(range(v)))", "not n", "concat(x, range(n))", "length(x) + n",
    ):  # fmt: skip
        tree = read_infix(text)
        assert tree is not None and program(tree) is None, text
    for text in ("", "(", "n +", "n 3", "reverse x", "reverse(x, x)", "map(x)", "n = 3", "add(n, 3)", "n ** 2",
    "y", "[1]",
                 "__import__('os')", "((((" * 50 + "n", "not " * 50 + "n",
                 "n" + " + 1" * 65, "n" + " " * 2000):  # fmt: skip
        tree = read_infix(text)
        assert tree is None or text.startswith("n  "), text
    for text in ("", "xx", "+", "x{", "x{v}M}", "{v}", "x{{v}}M", "(314)r", "x" + "r" * 65, "\u0663"):
        tree = read_compact(text)
        assert tree is None or program(tree) is None, text


def drawn(seed: int) -> Iterator[tuple[Program, int]]:
    """Programs of all sizes, with and without a modulus."""
    rng = random.Random(seed)
    for variable in INPUTS:
        modulus, count = rng.choice((0, 10)), rng.randint(1, 10)
        tree = Draw(variable, tuple(OPERATORS), (0, 9)).program(rng, count, on_probes(variable, modulus))
        if tree is not None:
            known = program(tree)
            assert known is not None and known.size == count
            yield known, modulus


anything: st.SearchStrategy[Node] = st.recursive(
    st.sampled_from([Node("x"), Node("n"), Node("v"),
    Node("a")]) | st.integers(0, 9).map(lambda k: Node("literal", (), k)),
    lambda parts: st.sampled_from(sorted(OPERATORS)).flatmap(
        lambda word: st.tuples(*[parts] * len(OPERATORS[word].slots)).map(lambda args: Node(word, args))
    ),
    max_leaves=8,
)  # fmt: skip


@given(st.integers(0, 2**32))
@settings(max_examples=40)
def test_what_is_written_reads_back(seed: int) -> None:
    for known, _ in drawn(seed):
        assert read_infix(write_infix(known.tree)) == known.tree == read_compact(write_compact(known.tree))


@given(anything)
@settings(max_examples=80)
def test_any_tree_reads_back_typed_or_not(tree: Node) -> None:
    assert read_infix(write_infix(tree)) == tree


@given(st.integers(0, 2**32), st.lists(st.integers(0, 9), max_size=MAX_LIST), st.integers(0, 9))
@settings(max_examples=60)
def test_a_typed_program_gives_its_kind_or_exceeds_a_limit(seed: int, numbers: list[int], number: int) -> None:
    for known, modulus in drawn(seed):
        asked: Value = tuple(numbers) if known.takes == "list" else number
        got = run(known, asked, modulus)
        if got is None:
            continue
        assert value_kind(got) == known.gives
        inside = got if isinstance(got, tuple) else (got,)
        assert all(type(v) is int and (0 <= v < 10 if modulus else abs(v) <= LIMIT) for v in inside)
        states = reductions(known, asked, modulus)
        assert states[-1].value == got and len(states) == sum(known.tree is not n for n in states)
        outer_size = len(states)
        assert outer_size <= known.size


@given(anything)
@settings(max_examples=60)
def test_trees_without_a_type_are_refused_and_those_with_one_never_raise(tree: Node) -> None:
    known = program(tree)
    if known is not None:
        run(known, (3, 1, 2) if known.takes == "list" else 3, 0)


def test_worked_answers_by_hand() -> None:
    task = admitted(COMPACT, "deduce", "xr3t@(3142)")
    assert task.prompt[0].text == "xr3t@(3142)=" and COMPACT.gold(task) == "(2413)3t=(241)"
    both = admitted(COMPACT, "deduce", "xSxL-@(345)")  # 3 + 4 + 5 = 12 -> 2, less 3 is 9 modulo 10
    assert COMPACT.gold(both) == "2xL-=23-=9"
    back = admitted(COMPACT, "abduce", "xr3t@(3142)")
    assert back.prompt[0].text == "xr3t=(241)@" and COMPACT.gold(back) == "(2413)3t=(3142)"
    wide = admitted(WORDS, "deduce", "take(reverse(x), 3) where x = [3, 1, 4, 2]")
    assert WORDS.gold(wide) == "= take([2, 4, 1, 3], 3)\n= [2, 4, 1]\n<answer>[2, 4, 1]</answer>"
    assert "- take(list, number): that many numbers from the start\n" in wide.prompt[0].text
    short = admitted(BRIEF, "deduce", "sum(x) * 2 where x = [3, 1]")
    assert (short.prompt[0].text, BRIEF.gold(short)) == ("sum(x) * 2 where x = [3, 1]", "4 * 2 = 8")
    find = admitted(BRIEF, "abduce", "sum(x) * 2 where x = [3, 1]")
    assert (find.prompt[0].text, BRIEF.gold(find)) == ("find x: sum(x) * 2 = 8", "[3, 1]")
    induce = admitted(COMPACT, "induce", "xr3t")
    assert re.fullmatch(r"\(3142\):\(241\);(\([0-9]+\):\([0-9]+\)[;?]){3}", induce.prompt[0].text)
    many = admitted(COMPACT, "induce", "x{v2*}MSxL-@(345)")  # 6 + 8 + 0 modulo 10 is 4, less 3 is 1
    assert COMPACT.gold(many) == "x{v2*}M(680)S4xL3-1=x{v2*}MSxL-"
    assert COMPACT.gold(induce) == "xr(2413)3t(241)=xr3t" and COMPACT.offer(induce) == "xr3t@(3142)"


@pytest.mark.parametrize(
    ("env", "mode", "offer", "text", "status"),
    [
        (COMPACT, "deduce", "xr3t@(3142)", "(241)", "ok"),
        (COMPACT, "deduce", "xr3t@(3142)", "junk=(241) ", "ok"),  # steps are not judged
        (COMPACT, "deduce", "xr3t@(3142)", "(241)=(2413)", "wrong"),
        (COMPACT, "deduce", "xr3t@(3142)", "241", "unparsed"),
        (COMPACT, "deduce", "xr3t@(3142)", "(\u0662)", "unparsed"),
        (COMPACT, "abduce", "xr3t@(3142)", "(9142)", "ok"),  # another preimage
        (COMPACT, "abduce", "xr3t@(3142)", "(142)", "ok"),
        (COMPACT, "abduce", "xr3t@(3142)", "(241)", "wrong"),
        (COMPACT, "abduce", "xr3t@(3142)", "7", "wrong"),
        (COMPACT, "abduce", "xr3t@(3142)", "(" + "9" * 30 + "142)", "wrong"),  # too long a list
        (COMPACT, "induce", "xr3t", "xr3t", "ok"),
        (COMPACT, "induce", "xr3t", "xr(2413)3t(241)=xr3t", "ok"),
        (COMPACT, "induce", "xr3t", "xr3t=xr", "wrong"),  # only what follows the last `=` is judged
        (COMPACT, "induce", "xr3t", "xrr r", "unparsed"),
        (COMPACT, "induce", "xr3t", "xrrr2t2t3t", "wrong"),
        (COMPACT, "induce", "xr3t", "xrrr3t", "ok"),  # whatever computes the same
        (COMPACT, "induce", "xr3t", "n3+", "wrong"),
        (WORDS, "deduce", "sum(x) where x = [3, 8]", "3 + 8 = 11, so <answer>11</answer>", "ok"),
        (WORDS, "deduce", "sum(x) where x = [3, 8]", "<answer>3</answer> no, <answer>11", "ok"),
        (WORDS, "deduce", "sum(x) where x = [3, 8]", "It is 11.", "ok"),
        (WORDS, "deduce", "sum(x) where x = [3, 8]", "[11]", "wrong"),
        (WORDS, "deduce", "sum(x) where x = [3, 8]", "eleven", "unparsed"),
        (WORDS, "deduce", "first(x) - 9 where x = [3, 8]", "= -6", "ok"),
        (WORDS, "abduce", "sum(x) where x = [3, 8]", "x = [20, -9]", "ok"),
        (WORDS, "abduce", "sum(x) where x = [3, 8]", "<answer>[99999, -99988]</answer>", "wrong"),  # beyond the limit
        (WORDS, "induce", "sum(x) * 2", "Twice the sum:\n`sum(x) * 2`", "ok"),
        (WORDS, "induce", "sum(x) * 2", "<answer>2 * fold(x, 0, a + v)</answer>", "ok"),
        (WORDS, "induce", "sum(x) * 2", "<answer>__import__('os')</answer>", "unparsed"),
    ],
)  # fmt: skip
def test_verdicts_by_hand(env: Dsl, mode: str, offer: str, text: str, status: str) -> None:
    verdict = env.verify(admitted(env, mode, offer), text)
    assert (verdict.status, verdict.reward) == (status, float(status == "ok"))


def test_a_program_that_fits_only_the_shown_examples_is_wrong() -> None:
    task = admitted(BRIEF, "induce", "first(x) * 2")
    shown, held_back = task.payload["shown"], task.payload["held_back"]
    assert (len(shown), len(held_back)) == (4, 6) and not any(repr(one) in task.prompt[0].text for one, _ in held_back)
    table = "0"
    for numbers, output in shown:  # a look-up table: right on what is shown, and nowhere else
        key = numbers[0] + 10 * numbers[1] + 100 * numbers[2]
        table = f"if(at(x, 0) + 10 * at(x, 1) + 100 * at(x, 2) == {key}, {output}, {table})"
    verdict = BRIEF.verify(task, table)
    assert verdict.status == "wrong" and verdict.parts["shown"] == 1.0 > verdict.parts["held_back"]
    assert BRIEF.verify(task, "2 * first(x)").parts == {"shown": 1.0, "held_back": 1.0}


@pytest.mark.parametrize(
    ("env", "mode", "text", "reason"),
    [
        (COMPACT, "deduce", "", "format"), (COMPACT, "deduce", "xr", "format"), (COMPACT, "induce", "xr@(31)",
        "bounds"),
        (COMPACT, "deduce", "xE@(314)", "format"), (COMPACT, "deduce", "xr3t@(31429)junk", "format"),
        (COMPACT, "deduce", "xr@(31)", "bounds"), (COMPACT, "deduce", "xr@5", "bounds"),
        (COMPACT, "induce", "x" + "1p" * 13, "bounds"), (COMPACT, "induce", "xrr", "bounds"),
        (COMPACT, "induce", "x{v0+}M", "bounds"), (COMPACT, "induce", "xsL", "bounds"), (COMPACT, "induce",
        "12+", "format"),
        (COMPACT, "induce", "xxL9>p", "format"), (COMPACT, "induce", "xxx-?", "format"),
        (COMPACT, "deduce", "xs1d@(123)", "bounds"),  # sorted already
        (COMPACT, "induce", "xxcxxccxcxc", "executes"), (WORDS, "induce", "n * n * n * n * n * n", "executes"),
        (COMPACT, "induce", "xL", "guessable"), (COMPACT, "induce", "nE12?", "guessable"),
        (COMPACT, "deduce", "xf@(777)", "answer_in_prompt"), (COMPACT, "deduce", "xr@(313)", "bounds"),
        (COMPACT, "abduce", "xs@(312)", "answer_in_prompt"),  # the sorted list is its own preimage
        (COMPACT, "abduce", "xf@(312)", "answer_in_prompt"),  # so is [3] of 3
        (COMPACT, "abduce", "xr5p1t@(312)", "bounds"),
        (WORDS, "abduce", "prepend(x, 10001) where x = [1, 2, 3]", "bounds"),
        (WORDS, "deduce", "reverse(x) where x = [1, 2, 10]", "bounds"),
        (WORDS, "deduce", "reverse(x) where n = 3", "format"),
    ],
)  # fmt: skip
def test_rejections_by_name(env: Dsl, mode: str, text: str, reason: str) -> None:
    assert outcome(env, mode, text) == reason


def test_an_abduction_that_nothing_would_solve_is_guessable() -> None:
    assert outcome(BRIEF, "abduce", "length(x) * first(x) where x = [0, 2, 3]") == "guessable"  # so does []


def test_padding_is_found() -> None:
    for text in (
        "reverse(reverse(x))", "sort(reverse(x))", "take(x, 9)", "length(map(x, v + 1))", "n * 1", "sum(x) - sum(x)",
        "if(length(x) < 9, sort(x), x)", "prepend(x, first(x) - first(x))",
        "map(x, larger(v, v))", "filter(x, v == v)", "if(even(n), n, n)", "unique(unique(x))",
    ):  # fmt: skip
        known = parsed(text)
        assert idle(known, on_probes(known.variable, 0)), text
    for text in ("reverse(sort(x))", "if(even(n), n, n + 1)", "fold(x, 0, a * 2 + v)", "count(x, first(x))"):
        known = parsed(text)
        assert idle(known, on_probes(known.variable, 0)) == "", text


def test_padding_that_is_allowed_does_not_count() -> None:
    lenient = Dsl(form="words", padding="allowed")
    for text, difficulty in (
        ("reverse(reverse(sort(x))) where x = [3, 1, 2]", 1),
        ("sort(unique(unique(x))) where x = [3, 1, 3]", 2),
        ("length(map(x, v + 1)) * sum(x) where x = [3, 1, 2]", 3),
        ("unique(prepend(x, 7)) where x = [3, 1, 2]", 2),  # does nothing on this input, but on others
    ):
        task = lenient.admit("deduce", text, (), 0)
        assert isinstance(task, Task), text
        assert task.difficulty == difficulty, text
        assert lenient.unchecked("deduce", text, (), 0) == task, text
        assert outcome(WORDS, "deduce", text) == "bounds"
    assert outcome(lenient, "deduce", "reverse(reverse(x)) where x = [3, 1, 2]") == "answer_in_prompt"


def test_aliases_share_a_family_whatever_the_mode() -> None:
    for one, two in (
        ("n + 3", "3 + n"), ("sum(x)", "fold(x, 0, a + v)"), ("reverse(sort(x))", "reverse(sort(reverse(x)))"),
        ("n * 2", "n + n"), ("last(x)", "first(reverse(x))"), ("if(n < 3, 1, n)", "if(not n < 3, n, 1)"),
    ):  # fmt: skip
        assert function(one) == function(two)
    for one, two in (("n + 3", "n + 4"), ("first(x)", "last(x)"), ("n % 3", "n // 3"), ("unique(x)", "sort(x)")):
        assert function(one) != function(two)
    assert function("n + 3") != function("n + 3", 10)
    task = BRIEF.task("test", 0, 0, mode="abduce", difficulty=2)
    text = task.payload["program"]
    assert function(text) == task.family and outcome(BRIEF, "induce", text) == "held_out"


@pytest.mark.parametrize("name", BY_NAME)
def test_tasks(name: str) -> None:
    env = BY_NAME[name]
    assert isinstance(env, Proposable)
    families: dict[str, set[str]] = {split: set() for split in SPLITS}
    for split in SPLITS:
        for index, mode in enumerate(env.spec.modes * 4):
            difficulty = 1 + index % 8
            task = env.task(split, index, 5, mode=mode, difficulty=difficulty)
            assert (task.split, task.mode, task.difficulty) == (split, mode, difficulty)
            assert parsed(task.payload["program"]).size == difficulty and split_of("dsl", task.family) == split
            gold, offer = env.gold(task), env.offer(task)
            assert env.verify(task, gold).reward == 1.0 and len(gold) + 1 <= env.spec.max_new_tokens
            assert (
                len(offer) + 1 <= env.spec.propose_tokens
                and env.task(split, index, 5, mode=mode, difficulty=difficulty) == task
            )
            found = env.admit(mode, offer, [task], 3)
            if split == "train":
                assert isinstance(found, Task) and (found.key, found.parents) == (task.key, (task.key,))
            else:
                assert isinstance(found, Rejection) and found.reason == "held_out"
            families[split].add(task.family)
    assert not families["train"] & families["test"] and not families["train"] & families["dev"]
    assert not families["dev"] & families["test"]


@pytest.mark.parametrize("name", ["compact", "brief"])
def test_the_conformance_kit(name: str) -> None:
    report = check("dsl", options={"form": name}, tasks=12, limit_ms=2000.0)  # a busy machine is no failure
    assert report.ok, "\n".join(report.lines())


def test_the_key_ignores_the_surface_form() -> None:
    compact = admitted(COMPACT, "deduce", "xr3t@(3142)")
    words = admitted(Dsl(form="words", modulus=10), "deduce", "take(reverse(x), 3) where x = [3, 1, 4, 2]")
    assert compact.key == words.key and compact.prompt != words.prompt
    assert (
        compact.key != admitted(BRIEF, "deduce", "take(reverse(x), 3) where x = [3, 1, 4, 2]").key
    )  # no modulus there
    one, two = (admitted(COMPACT, "abduce", f"xr3t@({numbers})") for numbers in ("3142", "9142"))
    assert one.key == two.key and COMPACT.shape(one) == "rt"  # the same output to reach


def test_known_tasks_never_move() -> None:
    """A change of these is a change of every run: raise spec.version then."""
    assert [
        COMPACT.task("test", i, 0, mode=mode, difficulty=3).content for i, mode in enumerate(COMPACT.spec.modes)
    ] == KNOWN
    assert function("reverse(x)") == FAMILY


def test_induce_asks_for_a_function_by_ever_other_examples() -> None:
    """Else a model learns by heart which examples belong to which of the few small functions."""
    core = Dsl(operators="core", inputs=["list"], lengths=[3, 4])
    asked: dict[str, set[str]] = {}
    for index in range(80):
        task = core.task("train", index, 0, mode="induce", difficulty=1)
        assert all(len(one) in (3, 4) for one, _ in task.payload["shown"] + task.payload["held_back"])
        asked.setdefault(task.family, set()).add(task.prompt[0].text)
    assert len(asked) <= 16 and sum(map(len, asked.values())) >= 75
    one, two, other = (admitted(core, "induce", f"xr3t@({given})") for given in ("3142", "3142", "5142"))
    assert one.key == two.key != other.key  # what is proposed twice is one task


KNOWN = [
    "map(x, v * 9 - 9) | [5, 2, 9, 0, 5] | mod 10",
    "map(range(n), 4 - v) | [4, 3, 2, 1, 0, 9, 8] | mod 10",
    "sort(map(x, distance(v, 1))) | [[[5, 6, 1, 9, 2], [0, 1, 4, 5, 8]], [[4, 7, 6], [3, 5, 6]], "
    "[[3, 8, 7, 7, 4], [2, 3, 6, 6, 7]], [[8, 8, 9, 7, 3], [2, 6, 7, 7, 8]], [[5, 5, 4, 2], [1, 3, 4, 4]], "
    "[[2, 7, 8], [1, 6, 7]], [[9, 3, 6, 4, 3], [2, 2, 3, 5, 8]], [[3, 5, 8, 1], [0, 2, 4, 7]], "
    "[[7, 5, 2, 0, 0], [1, 1, 1, 4, 6]], [[8, 8, 7, 3, 9], [2, 6, 7, 7, 8]]] | mod 10",
]
FAMILY = "list -> list 6deb7edb1de08f863557"

junk = st.text(max_size=80) | st.text(alphabet="xnvaMFRrst+-*<?{}()[]0123456789=@:;, <>/answer\n", max_size=80)


@given(junk)
@settings(max_examples=80)
def test_verify_and_admit_are_total(text: str) -> None:
    for env, offer in ((COMPACT, "xr3t@(3142)"), (WORDS, "take(reverse(x), 3) where x = [3, 1, 4, 2]")):
        for mode in env.spec.modes:
            task = admitted(env, mode, offer)
            assert env.verify(task, text).status in ("ok", "wrong", "unparsed")
            found = env.admit(mode, text, (), 0)
            if isinstance(found, Task):
                assert env.verify(found, env.gold(found)).reward == 1.0
    value = read_infix_value(text)
    assert value is None or value_kind(value) in ("int", "list")


def test_options_narrow_tasks_and_proposals_alike() -> None:
    env = Dsl(
        form="brief", operators=["sum", "map", "add", "multiply"], inputs=["list"], lengths=[2, 2], examples=[3, 5]
    )
    for index in range(6):
        task = env.task("train", index, 0, mode="induce", difficulty=1 + index % 4)
        assert {n.op for n in nodes(parsed(task.payload["program"]).tree)} <= {
            "sum",
            "map",
            "add",
            "multiply",
            "x",
            "v",
            "literal",
        }
        assert (len(task.payload["shown"]), len(task.payload["held_back"])) == (3, 5)
        assert all(len(one) == 2 for one, _ in task.payload["shown"])
    assert outcome(env, "induce", "reverse(x)") == outcome(env, "induce", "n + 3") == "bounds"
    said = Dsl(form="words", operators=["sort", "first"], inputs="list").ask("abduce", (), 0)[0].text
    assert "- sort(list)" in said and "reverse(list)" not in said and "3 to 5 whole numbers" in said
    core = Dsl(operators="core")
    assert core.operators == Dsl(operators=["core", "sort"]).operators and len(core.operators) == 6
    assert outcome(core, "induce", "x{v2+}M") == "bounds" and outcome(core, "induce", "x2p") == "task"
    shown = [admitted(COMPACT, "deduce", "xr3t@(3142)")]
    assert COMPACT.ask("deduce", shown, 0)[0].text == "Dxr3t@(3142)?" and COMPACT.ask("induce", (), 0)[0].text == "I?"


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"form": "word"}, "dsl: option form must be one of compact, words, brief, got 'word'; did you mean words?"),
        ({"modulus": 7}, "dsl: option modulus must be one of 10, got 7"),
        ({"operators": ["sort", "sotr"]}, "got 'sotr'; did you mean sort"),
        ({"operators": []}, "dsl: option operators must name at least one of add, subtract,"),
        ({"operators": ["not"]}, "dsl: option operators leaves no program over its inputs"),
        ({"values": [0, 10]}, "dsl: option values must be two whole numbers from 0 to 9"),
        ({"examples": [1, 6]}, "dsl: option examples must be two whole numbers from 2 to 20, got [1, 6]"),
        ({"guess_limit": 2}, "dsl: option guess_limit must be a number from 0 to 1, got 2"),
        ({"length": 2}, "dsl: unknown option 'length'; did you mean lengths"),
    ],
)
def test_wrong_options_are_one_line(options: dict[str, Any], line: str) -> None:
    with pytest.raises(EnvUserError, match=re.escape(line)) as raised:
        envs.make("dsl", **options)
    assert "\n" not in str(raised.value)


def test_an_unchecked_proposal_is_a_task_with_its_truth_where_it_has_one() -> None:
    # A program that checks refuse as guessable has a truth; a text that is no program has none.
    poor = next(
        text for i in range(99) if (text := COMPACT.offer(COMPACT.task("train", i, 0, mode="deduce", difficulty=1)))
    )
    task = COMPACT.unchecked("deduce", poor, (), 7)
    assert task is not None and COMPACT.verify(task, COMPACT.gold(task) or "").status == "ok"
    assert task.key == COMPACT.admit("deduce", poor, (), 7).key  # type: ignore[union-attr]
    for mode in COMPACT.spec.modes:
        for text in ("", "no program", "x@", "@(12)", "x" * 5000, "\ud800"):
            odd = COMPACT.unchecked(mode, text, (), 7)
            assert odd is not None and odd.split == "train" and COMPACT.gold(odd) is None
            assert COMPACT.verify(odd, "xr" if mode == "induce" else "(12)").status == "wrong"
            assert COMPACT.offer(odd) == text.strip()[:256] and COMPACT.shape(odd) == "?"
    held_out = COMPACT.offer(COMPACT.task("test", 0, 0, mode="deduce", difficulty=2))
    assert COMPACT.unchecked("deduce", held_out, (), 7) is None
