"""The command line: `selfplay VERB ...`. A user's mistake is one line on stderr and exit code 2.

Everything heavy is imported by the verb that needs it, after the environment variables that jax reads are set.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from selfplay.arguments import Parser, pull_switch, pull_value
from selfplay.errors import SelfplayError, UserError, nearest, report

if TYPE_CHECKING:
    from selfplay.config import Run

TRAIN_USAGE = "selfplay train RECIPE [--env NAME] [--out DIR] [--resume] [--any.field VALUE ...]"
TRAIN_HELP = f"""usage: {TRAIN_USAGE}

  RECIPE         a name (`selfplay recipes` lists them) or a TOML file of yours
  --env NAME     train on this environment alone: a name (`selfplay envs list`) or module:Class
  --out DIR      the run's folder (default: runs/RECIPE, then -2, -3, ...)
  --resume       go on with the run in --out (or with the newest run of RECIPE)

`selfplay train RECIPE --help` explains every field that can be set, with its value in that recipe."""


@dataclass(frozen=True)
class Verb:
    """One command: what runs it, and its line in the help."""

    run: Callable[[list[str]], int]
    summary: str


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the process's exit code."""
    from envs.base import EnvUserError

    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0 if args else 2
    try:
        if args[0] not in VERBS:
            raise UserError(f"unknown command {args[0]!r}; {nearest(args[0], VERBS)}")
        return VERBS[args[0]].run(args[1:])
    except (SelfplayError, EnvUserError, KeyboardInterrupt) as error:
        return report(error) or 0
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def train(args: list[str]) -> int:
    """`selfplay train`: resolve, check all that can be checked, then hand over to the learner."""
    from selfplay import flags, recipe

    args = list(args)
    asks_help = pull_switch(args, "--help") or pull_switch(args, "-h")
    resume, env, out = pull_switch(args, "--resume"), pull_value(args, "--env"), pull_value(args, "--out")
    name = args.pop(0) if args and not args[0].startswith("-") else None
    if asks_help:
        print(TRAIN_HELP)
        if name is not None:
            flags.show_help(recipe.example(name, env=env), prog=f"selfplay train {name}", description="")
        return 0
    run, folder, resume = _plan(name, args, env, Path(out) if out else None, resume=resume)
    run = recipe.fix_threads(run)
    recipe.check_envs(run)
    processes = run.hosts.processes if isinstance(run.hosts.processes, int) else run.mesh.devices
    prepare_jax(threads=run.cluster.threads, devices=run.mesh.devices // processes)
    from selfplay.actor_processes import early_actors

    with early_actors(run) as actors:  # they import what they need while this process does
        from selfplay.hosts import join
        from selfplay.models.config import read_config
        from selfplay.models.hf import locate

        for policy in run.policies.values():
            read_config(locate(policy.model))
        from selfplay import learner

        with join(run.hosts) as hosts:
            learner.train(run, folder, resume=resume, hosts=hosts, actors=actors)
    return 0


def _plan(
    name: str | None, overrides: list[str], env: str | None, out: Path | None, *, resume: bool
) -> tuple[Run, Path, bool]:
    """The resolved run, its folder, and whether there is something to resume."""
    from selfplay import folders, recipe

    if name is None and (not resume or out is None):
        raise UserError(f"train needs a recipe first: {', '.join(recipe.names())} (or a TOML file)")
    if resume:
        folder = out or folders.latest_run(recipe.load(name or "").name)
        if (folder / folders.CONFIG).is_file():
            return recipe.resume(folder, overrides, recipe=name, env=env), folder, True
        if name is None or not folders.is_free(folder):
            raise UserError(f"nothing to resume: {folder} is not a run folder (there is no {folders.CONFIG} in it)")
    run = recipe.resolve(name or "", overrides, env=env)
    if run.acquire.yoked_run:
        yoked = str(folders.find_run(run.acquire.yoked_run))
        run = replace(run, acquire=replace(run.acquire, yoked_run=yoked))
    return run, folders.new_run(run.recipe, out), False


def prepare_jax(*, threads: int | str = "auto", devices: int = 1) -> None:
    """Set what jax reads when it is first imported: CPU threads (they fix a run's bits), and the compilation cache.

    Where the CPU is all there is, it stands in for as many `devices` as the mesh asks for, unless told otherwise.
    """
    if threads != "auto":
        os.environ["NPROC"] = str(threads)
    if devices > 1 and "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        os.environ.setdefault("JAX_NUM_CPU_DEVICES", str(devices))
    cache = os.environ.get("SELFPLAY_CACHE") or str(Path.home() / ".cache" / "selfplay" / "jax")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", cache)
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.01")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def evaluate(args: list[str]) -> int:
    """`selfplay evaluate RUN|MODEL`."""
    parser = Parser("evaluate", "how a run's generation, or a model, solves held-out tasks (pass@k) and plays games")
    parser.add_argument("target", metavar="RUN|MODEL", help="a run, an embedded model, or a Hugging Face folder")
    parser.add_argument("--env", metavar="NAME", help="environment (default: those of the run)")
    parser.add_argument("--mode", metavar="NAME", help="tasks of this mode alone (default: all that the run uses)")
    parser.add_argument("--generation", type=int, metavar="N", help="default: the newest")
    parser.add_argument("--samples", type=int, metavar="N", help="samples a task")
    parser.add_argument("--tasks", type=int, metavar="N", help="tasks a difficulty; games against each scripted player")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the scores as JSON")
    given = parser.read(args)
    prepare_jax()
    from selfplay.examine import evaluate_command

    evaluate_command(given.pop("target"), **given)
    return 0


def export(args: list[str]) -> int:
    """`selfplay export RUN --out DIR`."""
    parser = Parser("export", "write a generation as a Hugging Face folder")
    parser.add_argument("run", metavar="RUN", help="a run folder, or its name under runs/")
    parser.add_argument("--generation", type=int, metavar="N", help="default: the newest")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a folder that does not exist yet")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="of the weights (default: the policy's)")
    given = parser.read(args)
    from selfplay.folders import find_run

    run = find_run(given["run"])
    prepare_jax()
    from selfplay.export import export as export_run

    generation = export_run(run, given.get("generation"), given["out"], given.get("dtype"))
    print(f"generation {generation} of {run} is now in {given['out']}")
    return 0


def archive(args: list[str]) -> int:
    """`selfplay archive RUN`."""
    parser = Parser("archive", "the tasks that a run remembers: lineage, solve rates, what each taught")
    parser.add_argument("run", metavar="RUN", help="a run folder, or its name under runs/")
    parser.add_argument("--generation", type=int, metavar="N", help="default: the newest")
    parser.add_argument("--status", metavar="STATUS", help="live, mastered, impossible or unstable")
    parser.add_argument("--env", metavar="NAME", help="tasks of this environment")
    parser.add_argument("--difficulty", type=int, metavar="D", help="tasks of this difficulty")
    parser.add_argument("--sort", metavar="BY", help="last, first, p, attempts, taught, novelty or difficulty")
    parser.add_argument("--limit", type=int, metavar="N", help="rows of the table (default: 20; 0 = all)")
    parser.add_argument("--out", type=Path, metavar="FILE.jsonl", help="also write all of them, one JSON object a line")
    given = parser.read(args)
    from selfplay.folders import find_run

    run = find_run(given.pop("run"))
    prepare_jax()
    from selfplay.archive_table import archive_command

    print(archive_command(run, **given))
    return 0


def compare(args: list[str]) -> int:
    """`selfplay compare RUN...`."""
    parser = Parser("compare", "runs side by side at equal sampled tokens: table, intervals, plot")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders, or names under runs/")
    where = Path("runs/compare")
    parser.add_argument("--out", type=Path, default=where, metavar="DIR", help=f"for table and plot (default: {where})")
    parser.add_argument("--tokens", type=int, metavar="N", help="at N sampled tokens (default: the smallest total)")
    given = parser.read(args)
    from selfplay.compare import compare as compare_runs
    from selfplay.folders import find_run

    print(compare_runs([find_run(r) for r in given["runs"]], given["out"], given.get("tokens")))
    return 0


def play(args: list[str]) -> int:
    """`selfplay play RUN|MODEL`."""
    parser = Parser("play", "play a game against a model, or watch two generations, or a generation and a bot")
    parser.add_argument("target", metavar="RUN|MODEL", help="a run, an embedded model, or a Hugging Face folder")
    parser.add_argument("--env", metavar="NAME", help="the game (default: the run's, where it has one)")
    parser.add_argument("--option", action="append", metavar="KEY=VALUE", help="an option of the game")
    parser.add_argument("--generation", type=int, metavar="N", help="default: the newest")
    parser.add_argument("--seat", type=int, metavar="S", help="yours, 0 or 1 (default: 0, then 1, and so on)")
    parser.add_argument("--against", type=int, metavar="M", help="watch generation N play generation M")
    parser.add_argument("--bot", metavar="NAME", help="watch generation N play a scripted player; --seat is its seat")
    parser.add_argument("--watch", action="store_true", default=None, help="watch generation N play itself")
    parser.add_argument("--games", type=int, metavar="N", help="games, one after the other (default: 1)")
    parser.add_argument("--seed", type=int, metavar="N", help="same seed, same deals and moves (default: any)")
    given = parser.read(args)
    prepare_jax()
    from selfplay.flags import pairs
    from selfplay.terminal import play_command

    play_command(given.pop("target"), options=pairs("--option", given.pop("option", [])), **given)
    return 0


def recipes(args: list[str]) -> int:
    """`selfplay recipes`."""
    Parser("recipes", "list the recipes").read(args)
    from selfplay import recipe

    for name in recipe.names():
        r = recipe.load(name)
        print(f"{name:<18} {r.summary}\n{'':<18} {r.paper}")
    return 0


def environments(args: list[str]) -> int:
    """`selfplay envs list | check NAME | new NAME`."""
    actions = {"list": _envs_list, "check": _envs_check, "new": _envs_new}
    if not args or args[0] in ("-h", "--help"):
        print("usage: selfplay envs list | check NAME | new NAME")
        return 0 if args else 2
    if args[0] not in actions:
        raise UserError(f"unknown command 'envs {args[0]}'; {nearest(args[0], actions)}")
    return actions[args[0]](args[1:])


def _envs_list(args: list[str]) -> int:
    Parser("envs list", "list the environments").read(args)
    import envs
    from envs.base import EnvUserError

    for name in envs.names():
        try:
            print(f"{name:<12} {envs.describe(name)}")
        except EnvUserError as error:  # a broken package of somebody's
            print(f"{name:<12} {error}")
    return 0


def _envs_check(args: list[str]) -> int:
    parser = Parser("envs check", "the conformance kit")
    parser.add_argument("name", metavar="NAME", help="a name or module:Class")
    parser.add_argument("--option", action="append", metavar="KEY=VALUE", help="an option of the environment")
    given = parser.read(args)
    from envs.check import check
    from selfplay.flags import pairs

    report = check(given["name"], options=pairs("--option", given.get("option", [])))
    print("\n".join(report.lines()))
    return 0 if report.ok else 1


def _envs_new(args: list[str]) -> int:
    parser = Parser("envs new", "write a working environment and its test, to start from")
    parser.add_argument("name", metavar="NAME", help="a lower-case name")
    name = parser.read(args)["name"]
    from envs.new import class_name, new

    written = " and ".join(map(str, new(name)))
    target = f"{name}:{class_name(name)}"
    print(f"wrote {written}\ntry: selfplay envs check {target}\nthen: selfplay train quickstart --env {target}")
    return 0


def pretrain(args: list[str]) -> int:
    """`selfplay pretrain [SETTINGS.toml] --out DIR`."""
    parser = Parser("pretrain", "pretrain a small base model on the environments' train splits")
    parser.add_argument("settings", nargs="?", type=Path, help="a TOML file (default: the embedded model's own)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a folder that does not exist yet")
    parser.add_argument("--seed", type=int, help="in place of the settings' seed")
    parser.add_argument("--steps", type=int, help="in place of the settings' steps")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads: part of what fixes the bits (default: 1)")
    given = parser.read(args)
    if given["threads"] < 1:
        raise UserError(f"--threads must be >= 1, got {given['threads']}")
    prepare_jax(threads=given.pop("threads"))
    from selfplay.pretrain import pretrain_command

    pretrain_command(given.pop("settings", None), given.pop("out"), **given)
    return 0


def plan(args: list[str]) -> int:
    """`selfplay plan RECIPE --devices N --memory-gib M`: every other flag is a field of the recipe, as for train."""
    from selfplay import flags, recipe

    parser = Parser("plan", "what a recipe holds on a device, and what fits; any field of the recipe is a flag too")
    parser.add_argument("recipe", metavar="RECIPE", help="a name, or a TOML file of yours")
    parser.add_argument("--env", metavar="NAME", help="plan for this environment alone")
    parser.add_argument("--devices", type=int, default=1, metavar="N", help="devices of the learner (default: 1)")
    parser.add_argument("--memory-gib", type=float, required=True, metavar="M", help="memory of one device")
    parser.add_argument("--reserve", type=float, metavar="SHARE", help="share of it left free (default: 0.1)")
    parser.add_argument("--prompt-tokens", type=int, metavar="N", help="longest prompt (default: from the recipe)")
    parser.add_argument("--scratch", metavar="WAY", help="compiled (for this CPU; default) or abstract (no compiler)")
    parser.add_argument("--json", action="store_true", help="one JSON object in place of the table")
    known, overrides = parser.parse_known_args(args)
    given = {name: value for name, value in vars(known).items() if value is not None}
    as_json, name, env = given.pop("json"), given.pop("recipe"), given.pop("env", None)
    run = recipe.resolve(name, overrides, env=env)
    os.environ["JAX_PLATFORMS"] = "cpu"
    prepare_jax(devices=max(given["devices"], 1))
    from selfplay.plan import Limits, plan_command
    from selfplay.plan_table import table, to_json

    asked = flags.parse(overrides)[0].get("mesh") or run.mesh.devices > 1
    planned = plan_command(run, Limits(**given), given_mesh=bool(asked))
    print(to_json(planned) if as_json else table(planned))
    return 0


def score(args: list[str]) -> int:
    """`selfplay score MODEL FILE`."""
    parser = Parser("score", "log-probabilities of texts: one JSON object for each line of a file")
    parser.add_argument("model", metavar="MODEL", help="an embedded model, a Hugging Face folder, or a hub id")
    parser.add_argument("file", type=Path, metavar="FILE", help="one JSON string a line")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="of the parameters (default: float32)")
    given = parser.read(args)
    prepare_jax()
    from selfplay.score import score_command

    for line in score_command(given.pop("model"), given.pop("file"), **given):
        print(line)
    return 0


VERBS = {
    "train": Verb(train, "train a recipe"),
    "evaluate": Verb(evaluate, "score a run's generation or a model"),
    "play": Verb(play, "play against a model in the terminal, or watch two play"),
    "export": Verb(export, "write a generation as a Hugging Face folder"),
    "archive": Verb(archive, "list, filter and export the tasks that a run remembers"),
    "score": Verb(score, "log-probabilities that a model gives to texts"),
    "plan": Verb(plan, "what a recipe holds on a device, and what fits"),
    "compare": Verb(compare, "runs side by side at equal sampled tokens"),
    "recipes": Verb(recipes, "list the recipes"),
    "envs": Verb(environments, "list, check or start an environment"),
    "pretrain": Verb(pretrain, "pretrain a small base model"),
}


def _overview() -> str:
    lines = "\n".join(f"  {name:<10} {verb.summary}" for name, verb in VERBS.items())
    return (
        "selfplay: language models that propose tasks, solve them, and learn from the verdicts\n\n"
        f"usage: selfplay COMMAND ...\n\n{lines}\n\n"
        "`selfplay COMMAND --help` explains one. Start with: selfplay train quickstart"
    )


if __name__ == "__main__":
    raise SystemExit(main())
