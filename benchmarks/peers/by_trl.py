"""TRL's GRPOTrainer: a whole on-policy step, without a reference model, one optimizer step."""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from benchmarks.figures import process_peak_bytes, spreads
from benchmarks.peers.by_transformers import open_model

PIECES = (" 1", "2", " 3", "4", " 5", "6", " 7", "8", " 9", "a", " b", "c", ".", " ")
"""Of these, prompts of exactly so many tokens are put together."""


def step(
    *,
    model: str,
    threads: int,
    repeats: int,
    tasks: int,
    group: int,
    prompt_tokens: int,
    new_tokens: int,
    micro_rows: int,
) -> dict[str, Any]:
    """Seconds from one step's end to the next one's; `sample_s` is what generating takes of it."""
    rows = tasks * group
    micro_rows = min(micro_rows, rows)
    tokenizer = AutoTokenizer.from_pretrained(model)
    texts = [_text(tokenizer, prompt_tokens, np.random.default_rng(i)) for i in range(tasks)]
    credit = np.random.default_rng(1)

    def reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
        if {len(ids) for ids in completion_ids} != {new_tokens}:
            raise ValueError(f"every row must draw {new_tokens} tokens, got {[len(ids) for ids in completion_ids]}")
        return [float(x) for x in credit.normal(size=len(completion_ids))]

    with TemporaryDirectory() as folder:
        clock = Clock()
        trainer = GRPOTrainer(
            model=open_model(model, threads),
            processing_class=tokenizer,
            reward_funcs=reward,
            train_dataset=Dataset.from_dict({"prompt": texts}),
            callbacks=[clock],
            args=GRPOConfig(
                output_dir=str(Path(folder)), use_cpu=True, bf16=False, gradient_checkpointing=False, beta=0.0,
                num_generations=group, max_completion_length=new_tokens, temperature=1.0, top_k=0, top_p=1.0,
                generation_kwargs={"min_new_tokens": new_tokens}, per_device_train_batch_size=micro_rows,
                gradient_accumulation_steps=rows // micro_rows, num_iterations=1, max_steps=repeats + 1,
                learning_rate=1e-4, lr_scheduler_type="constant", optim="adamw_torch_fused", max_grad_norm=1.0,
                logging_strategy="no", save_strategy="no", report_to=[], disable_tqdm=True,
            ),
        )  # fmt: skip
        clock.time_sampling(trainer)
        trainer.train()
    first, *later = clock.steps
    return {"first_call_s": first["s_per_step"], "peak_bytes": process_peak_bytes(), **spreads(later)}


class Clock(TrainerCallback):
    """Seconds of every step, and of the sampling in it."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self.began = self.sampled = 0.0

    def time_sampling(self, trainer: Any) -> None:
        """Measure the trainer's own generating from now on."""
        generate = trainer._generate

        def timed(*given: Any, **named: Any) -> Any:
            began = time.perf_counter()
            made = generate(*given, **named)
            self.sampled += time.perf_counter() - began
            return made

        trainer._generate = timed

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.began = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        now = time.perf_counter()
        self.steps.append({"s_per_step": now - self.began, "sample_s": self.sampled})
        self.began, self.sampled = now, 0.0


def _text(tokenizer: Any, tokens: int, rng: np.random.Generator) -> str:
    """A text of exactly so many tokens, put together piece by piece."""
    text = ""
    while (length := len(tokenizer(text)["input_ids"])) < tokens:
        longer = [text + str(piece) for piece in rng.permutation(PIECES)]
        text = next(t for t in longer if length < len(tokenizer(t)["input_ids"]) <= tokens)
    return text


COMMANDS = {"step": step}
