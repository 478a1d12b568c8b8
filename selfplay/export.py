"""Any generation of a run as a Hugging Face folder."""

from __future__ import annotations

from pathlib import Path

from selfplay import models, recipe
from selfplay.checkpoint import Generations
from selfplay.config import Dtype, Policy
from selfplay.errors import UserError
from selfplay.folders import CONFIG, is_free
from selfplay.models import Model, Params
from selfplay.models.decoder import abstract_params
from selfplay.models.lora import join, merged, trained_part, with_adapter

CARD = """---
library_name: transformers
---
Generation {generation} of a `selfplay` run: recipe `{recipe}`, seed {seed}, started from the model `{model}`,
trained on {envs}.
"""


def export(run: Path, generation: int | None, out: Path, dtype: Dtype | None = None) -> int:
    """Write the weights of the policy that solves, with config and tokenizer of the model it started from.

    The same generation gives the same bytes.

    Args:
      run: a run folder.
      generation: which one; None = the newest complete one.
      out: a folder that does not exist yet, or is empty.
      dtype: of the written weights; None = that of the policy, so that the folder says what the run's policy says.

    Returns:
      The generation that was written.

    Raises:
      UserError: `out` is taken, or the run has no such complete generation.
    """
    if not is_free(out):
        raise UserError(f"{out} exists already: choose another --out")
    config = recipe.from_toml(run / CONFIG)
    generations = Generations(run / "generations", config.output.keep)
    generation = which_generation(generations, generation, run)
    policy = config.roles[config.main_role].policy
    base = models.load(config.policies[policy].model)
    params = weights_of(generations, generation, policy, config.policies[policy], base)
    card = CARD.format(
        generation=generation,
        recipe=config.recipe,
        seed=config.seed,
        model=base.path.name,
        envs=", ".join(sorted(config.envs)),
    )
    models.save(
        out,
        base.config,
        params,
        base.tokenizer,
        dtype=dtype or config.policies[policy].dtype,
        extra={"README.md": card},
    )
    return generation


def weights_of(generations: Generations, generation: int, policy: str, settings: Policy, base: Model) -> Params:
    """All weights of a policy at a generation, float32; an adapter is added to the matrices of its base."""
    config = with_adapter(base.config, settings.lora)
    trained = trained_part(config, abstract_params(config))
    saved = generations.load_params(generation, policy, trained)
    return saved if config.lora is None else merged(config, join(base.params, saved))


def which_generation(generations: Generations, wanted: int | None, run: Path) -> int:
    if wanted is None:
        newest = generations.newest()
        if newest is None:
            raise UserError(f"{run} has no complete generation yet")
        return newest
    if wanted not in generations.all():
        there = ", ".join(map(str, generations.all())) or "none"
        raise UserError(f"{run} has no generation {wanted}; on disk: {there}")
    return wanted
