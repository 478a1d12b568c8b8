"""Any generation of a run as a Hugging Face folder."""

from __future__ import annotations

from pathlib import Path

from selfplay import models, recipe
from selfplay.checkpoint import Generations
from selfplay.errors import UserError
from selfplay.folders import CONFIG, is_free
from selfplay.models.config import read_config
from selfplay.models.decoder import abstract_params
from selfplay.models.hf import locate
from selfplay.models.tokenizer import load_tokenizer

CARD = """---
library_name: transformers
---
Generation {generation} of a `selfplay` run: recipe `{recipe}`, seed {seed}, started from the model `{model}`,
trained on {envs}.
"""


def export(run: Path, generation: int | None, out: Path) -> int:
    """Write the weights of the policy that solves, with config and tokenizer of the model it started from.

    The same generation gives the same bytes.

    Args:
      run: a run folder.
      generation: which one; None = the newest complete one.
      out: a folder that does not exist yet, or is empty.

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
    policy = config.roles["solve"].policy
    base = locate(config.policies[policy].model)
    model = read_config(base)
    params = generations.load_params(generation, policy, abstract_params(model))
    card = CARD.format(
        generation=generation,
        recipe=config.recipe,
        seed=config.seed,
        model=base.name,
        envs=", ".join(sorted(config.envs)),
    )
    models.save(out, model, params, load_tokenizer(base), extra={"README.md": card})
    return generation


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
