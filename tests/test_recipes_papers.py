"""Each recipe's rewards, advantages and losses beside its paper's equations, with numbers worked by hand.

No model is run: groups are written down, and refined as the recipe says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from msgspec.structs import replace as replaced
from test_refine import MASK, OWN, PROMPT, Weights, by_role, groups
from toy_env import Toy

from envs.base import Message
from selfplay import recipe
from selfplay.archive import TaskArchive
from selfplay.config import Acquire, Run, Schedule
from selfplay.credit import expected_pay
from selfplay.errors import UserError
from selfplay.experience import experience_metrics
from selfplay.losses import logistic
from selfplay.memory import Memory
from selfplay.packing import minibatches
from selfplay.records import ROLES, Group, Lesson, PolicyRef, Role
from selfplay.refine import Refined, learning_roles, proposal_pay, refine
from selfplay.refiners import REFINERS
from selfplay.votes import majority, vote_metrics


def run_of(name: str, *flags: str, attempts: int = 4) -> Run:
    """A recipe with few attempts, its KL aside: what is paid and credited is what counts here."""
    run = recipe.resolve(name, [*flags, "--acquire.group-size", str(attempts)])
    return replace(run, update=replace(run.update, kl=replace(run.update.kl, place="none")))


def refined(found: Sequence[Group], run: Run) -> Refined:
    planned: dict[Role, int] = {"propose": len(found), "solve": 4 * len(found)}
    return refine(found, run=run, planned=planned, baselines={}, scorer=Weights())


def in_mode(found: Sequence[Group], mode: str) -> list[Group]:
    return [replaced(g, mode=mode) for g in found]


def voting(group: Group, answers: str) -> Group:
    """Its attempts say these answers, one letter each; `-` says nothing."""
    said = [replaced(a, answer=x.strip("-")) for a, x in zip(group.attempts, answers, strict=True)]
    return replaced(group, attempts=tuple(said))


# ---------------------------------------------------------------- Absolute Zero, arXiv:2505.03335


@pytest.mark.parametrize(
    ("name", "paid"),
    [
        # r_propose = 0 where the mean of r_solve is 0 or 1, else 1 - mean; a proposal that is no task gets -1/2, one
        # of wrong format -1.
        ("azr", [0.0, 0.75, 0.5, 0.25, 0.0, -0.5, -1.0]),
        # The released code pays -1/2 for both ends.
        ("azr-released", [-0.5, 0.75, 0.5, 0.25, -0.5, -0.5, -1.0]),
    ],
)
def test_azr_pays_a_proposer_as_the_paper_and_the_code(name: str, paid: list[float]) -> None:
    found = groups("1:wwww", "2:kwww", "3:kkww", "4:kkkw", "5:kkkk", "guessable", "format")
    assert proposal_pay(found, run_of(name)) == paid


def test_azr_pays_a_solver_by_format() -> None:
    # R(y) = 1 where right, -1/2 where well formed and wrong, -1 where not well formed.
    [group] = groups("1:kwww")
    right, wrong, cut, odd = group.attempts
    odd = replaced(odd, verdict=replaced(odd.verdict, status="unparsed"))
    result = refined([replaced(group, attempts=(right, wrong, cut, odd))], run_of("azr"))
    assert [reward for reward, *_ in by_role(result, "solve")] == [1, -0.5, -0.5, -1]


def test_trr_plus_plus_whitens_each_of_the_six_streams_by_itself() -> None:
    # A = (r - mean of its role and mode) / their deviation. deduce: pays .75 and .25, mean .5, deviation .25: A = +-1.
    # abduce: .5 and -1, mean -.25, deviation .75: A = +-1. One stream for both would give other numbers.
    found = in_mode(groups("1:kwww", "2:kkkw"), "deduce") + in_mode(groups("3:kkww", "format"), "abduce")
    run = run_of("azr")
    assert run.roles["propose"].credit.key == ("role", "mode")
    advantages = [a for _, a, _ in by_role(refined(found, run), "propose")]
    np.testing.assert_allclose(np.array(advantages, float), [1, -1, 1, -1], rtol=1e-5)
    # Solvers of abduce: 1, 1, -1/2, -1/2: mean 1/4, deviation 3/4. Of deduce: four of eight right, the same.
    solvers = np.array([a for _, a, _ in by_role(refined(found, run), "solve")], float)
    np.testing.assert_allclose(solvers, [1, -1, -1, -1, 1, 1, 1, -1, 1, 1, -1, -1], rtol=1e-5)


def test_azr_asks_as_the_paper_does() -> None:
    run = recipe.resolve("azr")
    assert (run.propose.shown, run.acquire.group_size) == (6, 8)
    assert run.archive.seeds == 0 and set(run.envs["dsl"].modes) == {"deduce", "abduce", "induce"}
    assert not recipe.resolve("azr-frozen").roles["propose"].trainable
    for name in ("azr-python", "azr-released", "soc"):  # what azr adds for a small model is not in these
        run_of_it = recipe.resolve(name)
        assert (run_of_it.propose.repeat_penalty, run_of_it.update.kl.place) == (0, "none")
    # E[pay | p, n] for 1 - p with nothing at the ends: 1 - p - (1 - p)^n.
    for p in (0.05, 0.3, 0.8):
        assert expected_pay(p, 8, run.propose) == pytest.approx((1 - p) - (1 - p) ** 8)


# ---------------------------------------------------------------- votes: R-Zero, arXiv:2508.05004; Survive or Collapse


def test_a_majority_by_hand() -> None:
    assert majority(["a", "b", "a", ""]) == ("a", 0.5)  # who says nothing counts among all, and for no answer
    assert majority(["b", "a", "a", "b"]) == ("b", 0.5)  # the first of equals
    assert majority(["", ""]) == ("", 0.0) and majority([]) == ("", 0.0)


def test_rzero_pays_by_votes_and_never_by_the_truth() -> None:
    # 1 - 2 |s - 1/2| of the majority's share s, less the share of its cluster in the step; -1 if it is no task.
    found = groups("1:wwww", "2:wkww", "3:kkkk", "format")
    found = [replaced(g, shape=g.task.content if g.task else "") for g in found]
    found[:3] = [voting(g, a) for g, a in zip(found, ("aabc", "aaab", "abcd"), strict=False)]
    run = run_of("rzero", "--propose.repeat-penalty", "0")
    assert proposal_pay(found, run) == [1.0, 0.5, 0.5, -1.0]  # s = 1/2, 3/4, 1/4; solve rates were 0, 1/4, 1
    rewards = [r for r, *_ in by_role(refined(found[:2], run), "solve")]
    assert rewards == [1, 1, 0, 0, 1, 1, 1, 0]  # the one that was right is paid nothing
    twins = [replaced(g, shape="same") for g in found[:2]]
    assert proposal_pay(twins, run_of("rzero")) == [1.0 - 1, 0.5 - 1]  # a cluster that is the whole step


def test_rzero_teaches_only_where_votes_are_split() -> None:
    # s = 1/2 and 3/4 lie in .3 to .8, 1/4 and 1 do not.
    found = [
        voting(g, a)
        for g, a in zip(groups("1:wwww", "2:wwww", "3:wwww", "4:wwww"), ("aabc", "aaab", "abcd", "aaaa"), strict=True)
    ]
    run = replace(run_of("rzero"), schedule=Schedule())
    kept = {i // 4 for i, (*_, used) in enumerate(by_role(refined(found, run), "solve")) if used}
    assert kept == {0, 1}


def test_rzero_takes_turns() -> None:
    schedule = recipe.resolve("rzero").schedule
    turns = [learning_roles(schedule, step) for step in range(1, 42)]
    assert turns[:5] == [("propose", "play")] * 5 and turns[5:20] == [("solve", "play")] * 15  # play takes no turns
    assert turns[20:40] == turns[:20] and learning_roles(Schedule(), 7) == ROLES
    found = [voting(g, "aabc") for g in groups("1:wwww", "2:wwww")]
    roles = {item.trajectory.role for item in refined(found, run_of("rzero")).items}
    assert roles == {"propose"}  # step 1


def test_vote_and_truth_are_told_apart_in_the_curves() -> None:
    # Votes: 3/4 for a (right in one of them, so a is right), 1/2 for a (wrong). Share 5/8, solve rate (1/4 + 1/4) / 2.
    found = [voting(g, a) for g, a in zip(groups("1:kwww", "2:wwkw"), ("aaab", "aabc"), strict=True)]
    measured = vote_metrics(found)
    assert measured == {"vote/share": 0.625, "vote/label_accuracy": 0.5, "vote/excess": 0.375}
    run = run_of("soc")
    curves = experience_metrics(refined(found, run), TaskArchive(9), run)
    assert {n: curves[n] for n in measured} == measured


@pytest.mark.parametrize("proposer", ["verifier", "vote"])
@pytest.mark.parametrize("solver", ["verifier", "vote"])
def test_soc_sets_each_lever_by_itself(proposer: str, solver: str) -> None:
    run = run_of("soc", "--roles.propose.judge", proposer, "--roles.solve.judge", solver, "--propose.leak", "0.05")
    found = [voting(g, "aaab") for g in groups("1:kwww")]
    tent = {"verifier": 0.5, "vote": 0.5}  # p = 1/4 and s = 3/4: the tent is symmetric
    assert run.propose.leak == 0.05 and run.propose.repeat_penalty == 0
    assert proposal_pay(found, run) == [tent[proposer]]
    wrong = -0.5
    by_truth, by_vote = [1, wrong, wrong, wrong], [1, 1, 1, wrong]
    assert [r for r, *_ in by_role(refined(found, run), "solve")] == (by_vote if solver == "vote" else by_truth)


# ---------------------------------------------------------------- STaR, arXiv:2203.14465


def test_star_keeps_what_is_right_and_takes_the_hint_out() -> None:
    run = run_of("star")
    first, second = groups("1:wwww", "2:kwww", proposed=False)
    hinted = [
        replaced(a, ids=np.arange(100, 104 + OWN, dtype=np.int32), mask=np.arange(4 + OWN) >= 4, turn_starts=(4,),
                 behaviour_logprobs=np.where(np.arange(4 + OWN) >= 4, -0.25, 0).astype(np.float32))
        for a in groups("1:kw", proposed=False)[0].attempts
    ]  # fmt: skip
    again = replaced(first, round=1, attempts=tuple(hinted))
    result = refined([first, second, again], run)
    kept = [item for item in result.items if item.in_loss]
    assert len(kept) == 2  # one right in the first round, one in the second
    rationale = kept[1].trajectory
    assert list(rationale.ids) == [*range(PROMPT), 104, 105, 106]  # the first round's prompt, then its own tokens
    np.testing.assert_array_equal(rationale.mask, MASK)
    np.testing.assert_allclose(rationale.behaviour_logprobs, np.where(MASK, -0.25, 0))
    np.testing.assert_allclose(kept[1].advantages, MASK.astype(float))
    curves = experience_metrics(result, TaskArchive(9), run)
    assert curves["solve_rate/chain"] == 0.125 and curves["reward/solve"] == 0.125  # second rounds have their own
    assert curves["retry/tasks"] == 1 and curves["retry/solve_rate"] == 0.5
    archive = TaskArchive(9)
    archive.record(result.groups)
    assert [(e.attempts, e.solves) for e in archive] == [(4, 0), (4, 1)]


# ---------------------------------------------------------------- SPIN, arXiv:2401.01335


def test_spin_pairs_the_answer_with_each_former_attempt() -> None:
    run = run_of("spin", attempts=2)
    [group] = groups("1:kw", proposed=False)
    gold = replaced(group.attempts[0], behaviour_logprobs=np.zeros(PROMPT + OWN, np.float32))
    result = refined([replaced(group, demonstration=gold)], run)
    assert [item.pair_id for item in result.items] == [1, 1, 2, 2]
    assert [float(item.advantages[-1]) for item in result.items] == [1, -1, 1, -1]
    first, second = (item.trajectory.behaviour_logprobs for item in result.items[:2])
    np.testing.assert_allclose(first, np.where(MASK, -1.0, 0))  # the reference's, which is the opponent's
    np.testing.assert_allclose(second, np.where(MASK, -0.5, 0))  # as it was sampled
    update = replace(run.update, minibatches=1, row_tokens=16)
    [batch] = minibatches(result.items, policy="main", planned={"solve": 2}, roles=run.roles, update=update, seed=0)
    for pair in (1, 2):  # in one row, and together worth one of two planned sequences
        rows = {int(r) for r in np.argwhere(batch.pair_ids == pair)[:, 0]}
        assert len(rows) == 1
        assert batch.weights[batch.pair_ids == pair].sum() == pytest.approx(1 / 2)


def test_the_logistic_loss_by_hand() -> None:
    # l = log(1 + exp(-beta m)), m = [log pi/pi_old](y) - [log pi/pi_old](y'): y two tokens up by .5 each, y' one
    # down by 1: m = 1 + 1 = 2, beta = .1. d l / d log pi(x_t) = -beta A_t sigmoid(-beta m).
    pair = jnp.array([[0, 1, 1, 1, 2]])
    old = jnp.zeros((1, 5))
    signs, weights = jnp.array([[0.0, 1, 1, -1, 0]]), jnp.array([[0.0, 1, 1, 1, 0]]) / 3
    lp = jnp.array([[0.0, 0.5, 0.5, -1.0, 9.0]])
    loss, gradient = jax.value_and_grad(lambda x: jnp.sum(weights * logistic(x, old, signs, pair_ids=pair, beta=0.1)))(
        lp
    )
    np.testing.assert_allclose(loss, np.log1p(np.exp(-0.2)), rtol=1e-6)
    slope = 0.1 / (1 + np.exp(0.2))
    np.testing.assert_allclose(gradient, [[0, -slope, -slope, slope, 0]], rtol=1e-5, atol=1e-8)


# ---------------------------------------------------------------- memory


def lesson(n: int, *, shape: str = "s") -> Lesson:
    question = (Message("user", f"{n}?"),)
    return Lesson(env="chain", mode="solve", shape=shape, family=f"task {n}", question=question, answer=str(n))


def test_a_memory_is_a_bounded_value_with_a_digest() -> None:
    memory = Memory().with_lessons([lesson(1), lesson(2), lesson(1), lesson(3)], capacity=2)
    assert [x.family for x in memory.lessons] == ["task 1", "task 3"]  # one a family, the newest stay
    assert Memory.from_bytes(memory.to_bytes()) == memory and not Memory().digest
    assert memory.digest != Memory().with_lessons([lesson(1)], capacity=9).digest
    ref = PolicyRef("main", 3, memory.digest)
    assert ref.weights == PolicyRef("main", 3) != ref


def test_lessons_are_what_nobody_solved() -> None:
    run = run_of("memory")
    found = groups("1:wwww", "2:kwww", "3:eeee", "4:wwww", proposed=False)
    memory = REFINERS["lessons"].remember(run, {"chain": Toy()}, Memory(), found)
    assert [(x.family, x.answer) for x in memory.lessons] == [("task 1", "0"), ("task 4", "0")]
    assert [m.text for m in memory.lessons[0].question] == ["1?"]


# ---------------------------------------------------------------- what contradicts itself is refused


@pytest.mark.parametrize(
    ("name", "flags", "said"),
    [
        ("quickstart", "--update.loss logistic", "need each other"),
        ("spin", "--update.kl.reference base", "previous_generation"),
        ("star", "--update.loss ppo", "update.loss = nll"),
        ("star", "--roles.solve.plays newest", "plays = generation"),
        ("quickstart", "--roles.solve.plays generation", "update.loss must be nll or logistic"),
        ("quickstart-frozen", "--schedule.turns.propose 2", "trainable is false"),
        ("rzero", "--schedule.turns.judge 2", "over propose, solve"),
        ("memory", "--policies.main.template.kind plain", "text or chat"),
        (
            "rlvr",
            "--roles.solve.judge vote --acquire.group-size 1 --roles.solve.credit.centre none",
            "its own majority",
        ),
        ("azr", "--propose.leak 1.5", "in [0, 1]"),
        ("azr", "--propose.rejected.held_out -1", "masked"),
        ("azr", "--roles.propose.pay.wrong -1", "propose.pay"),
        ("azr", "--archive.seeds -1", "archive.seeds"),
        ("quickstart", "--alarms.diversity.action explode", "one of log, stop, roll_back"),
        ("quickstart", "--alarms.window 0", "alarms.window"),
    ],
)
def test_contradictions_are_refused_in_one_line(name: str, flags: str, said: str) -> None:
    with pytest.raises(UserError) as raised:
        recipe.resolve(name, flags.split())
    assert said in str(raised.value) and "\n" not in str(raised.value)


def test_a_gate_can_leak_only_where_unchecked_tasks_exist() -> None:
    recipe.check_envs(recipe.resolve("soc"))
    with pytest.raises(UserError, match="environment chain makes no tasks of rejected proposals"):
        recipe.check_envs(recipe.resolve("soc", env="chain"))
    assert Acquire().modes == "random"
