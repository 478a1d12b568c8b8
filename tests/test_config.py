"""The config tree: what it accepts, what it refuses, and that every field explains itself."""

from __future__ import annotations

import ast
import inspect
from dataclasses import fields, is_dataclass, replace

import pytest

from selfplay import config
from selfplay.config import Acquire, Credit, Critic, EnvChoice, Policy, Propose, RoleConfig, Run, Schedule, Update
from selfplay.errors import UserError
from selfplay.tree import build, field_types, plain

CLASSES = [c for c in vars(config).values() if inspect.isclass(c) and is_dataclass(c)]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda c: c.__name__)
def test_every_class_is_frozen_and_documented(kind: type) -> None:
    assert kind.__dataclass_params__.frozen and all(f.kw_only for f in fields(kind))
    assert kind.__doc__ and not kind.__doc__.startswith(kind.__name__ + "(")
    body = ast.parse(inspect.getsource(kind)).body[0].body
    documented = {
        field.target.id
        for field, text in zip(body, body[1:], strict=False)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)
    }
    # Fields whose class or name says it all.
    obvious = {"beta1", "beta2", "adam_eps"} | {n for n, t in field_types(kind).items() if kind is Run and n != "seed"}
    assert {f.name for f in fields(kind)} - documented - obvious == set()


def test_every_field_has_a_default_and_none_is_always_one() -> None:
    # TOML has no None: config.toml leaves such a field out, so leaving it out must mean None.
    for kind in CLASSES:
        for f in fields(kind):
            if type(None) in getattr(field_types(kind)[f.name], "__args__", ()):
                assert f.default is None, f"{kind.__name__}.{f.name}"
        kind()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Schedule(generations=0), "schedule.generations must be >= 1, got 0"),
        (lambda: Acquire(group_size=0), "acquire.group_size must be >= 1, got 0"),
        (lambda: Acquire(mix={"propose": -1.0}), "acquire.mix.propose must be >= 0"),
        (lambda: Acquire(mix={"yoked": 1.0}), "acquire.mix.yoked needs acquire.yoked_run"),
        (lambda: Update(loss="reinforce", minibatches=2), "update.loss = reinforce is on-policy"),
        (lambda: Update(beta2=1.0), r"update.beta2 must be in \[0, 1\), got 1.0"),
        (lambda: Propose(band=(0.8, 0.2)), "propose.band must be 0 <= low < high <= 1"),
        (lambda: EnvChoice(weight=-1), "envs.NAME.weight must be >= 0"),
        (lambda: Run(seed=-1), "seed must be in 0"),
        (lambda: Run(envs={}), "envs must be at least one"),
        (lambda: Run(roles={"judge": RoleConfig()}), "roles must be among propose, solve, play"),
        (lambda: Run(policies={"other": Policy()}), "roles.propose.policy is 'main'; policies: other"),
        (lambda: Run(acquire=Acquire(tasks_per_unit=5)), "must be a multiple of propose.per_ask"),
    ],
)
def test_a_bad_value_names_field_bound_and_value(make, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


def test_a_group_without_siblings_is_refused() -> None:
    run = Run()
    with pytest.raises(UserError, match="propose.per_ask >= 2, got 1"):
        replace(run, propose=Propose(per_ask=1))
    with pytest.raises(UserError, match="acquire.group_size >= 2, got 1"):
        replace(run, acquire=Acquire(group_size=1))
    lonely = RoleConfig(credit=Credit(centre="batch_mean", key=("role",)))
    roles = {"propose": replace(run.roles["propose"], trainable=False), "solve": lonely}
    assert replace(run, acquire=Acquire(group_size=1), propose=Propose(per_ask=1), roles=roles).acquire.group_size == 1


def test_a_critic_centre_needs_a_critic() -> None:
    roles = {**Run().roles, "solve": RoleConfig(credit=Credit(centre="critic"))}
    with pytest.raises(UserError, match="needs update.critic.kind"):
        Run(roles=roles)
    assert Run(roles=roles, update=Update(critic=Critic(kind="shared"))).update.critic.kind == "shared"


def test_plain_and_build_are_inverse() -> None:
    run = Run(seed=7, envs={"sums": EnvChoice(difficulties=(1, 2), options={"form": "words", "deep": {"a": [1, 2.5]}})})
    assert build(Run, plain(run)) == run


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"update": {"lr": 1.0}}, r"unknown field update.lr: did you mean .*update.learning_rate"),
        ({"group_size": 4}, "unknown field group_size: did you mean acquire.group_size"),
        ({"seed": True}, "seed must be a whole number, got True"),
        ({"seed": 1.5}, "seed must be a whole number, got 1.5"),
        ({"update": {"learning_rate": "fast"}}, "update.learning_rate must be a number, got 'fast'"),
        ({"update": {"learning_rate": float("nan")}}, "update.learning_rate must be a number, got nan"),
        ({"update": 3}, "update must be a table, got 3"),
        ({"update": {"loss": "pppo"}}, "one of reinforce, ppo, nll, got 'pppo': did you mean ppo"),
        ({"cluster": {"actors": "many"}}, "cluster.actors must be a whole number or auto, got 'many'"),
        ({"propose": {"band": [0.2]}}, r"propose.band must be a list of 2: a number, a number, got \[0.2\]"),
        ({"roles": {"solve": {"stop": "x"}}}, "roles.solve.stop must be a list of: text, got 'x'"),
        ({"acquire": {"mix": {"proposed": 1.0}}}, "acquire.mix.proposed: did you mean acquire.mix.propose"),
        ({"envs": {"chain": {"options": {"when": object()}}}}, "envs.chain.options.when must be"),
    ],
)
def test_a_bad_table_is_one_line(table: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        build(Run, table)
    assert "\n" not in str(caught.value)


def test_only_whole_numbers_become_floats() -> None:
    update = build(Update, {"learning_rate": 1, "warmup_steps": 3})
    assert update.learning_rate == 1.0 and type(update.learning_rate) is float
    assert build(Schedule, {"max_minutes": 3}).max_minutes == 3.0
    assert build(Acquire, {"mix": {"propose": 1}}).mix == {"propose": 1.0}
