"""A thin view of a Hugging Face tokenizer.json, and the character tokenizer of the embedded model."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from selfplay.errors import UserError

FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
"""What belongs to a tokenizer in a Hugging Face folder; only the first is required."""


@dataclass(frozen=True)
class Tokenizer:
    """Text to token ids and back.

    `files` holds the folder's own bytes, so that saving a model copies its tokenizer unchanged.
    """

    backend: tokenizers.Tokenizer
    eos_id: int
    pad_id: int
    bos_id: int | None
    """Put in front of every prompt; None = the model does not use one."""
    chat_template: str | None
    files: Mapping[str, bytes] = field(repr=False)

    @property
    def vocab_size(self) -> int:
        """Number of tokens, added ones included; a model's vocabulary may be padded beyond it."""
        return int(self.backend.get_vocab_size(with_added_tokens=True))

    @cached_property
    def special(self) -> dict[str, int]:
        """Name -> id of every special token: those that `decode` leaves out."""
        return {str(t): i for i, t in self.backend.get_added_tokens_decoder().items() if t.special}

    @cached_property
    def special_pattern(self) -> re.Pattern[str]:
        """Finds the name of a special token, the longest one there is, as its only group."""
        longest_first = sorted(self.special, key=len, reverse=True)
        return re.compile("(" + ("|".join(map(re.escape, longest_first)) or "(?!)") + ")")

    @cached_property
    def names(self) -> dict[str, str]:
        """What a chat template may call by name: bos_token, eos_token, pad_token, unk_token, where there is one."""
        config = json.loads(self.files.get("tokenizer_config.json", b"{}"))
        found = {name: _content(config.get(name)) for name in ("bos_token", "eos_token", "pad_token", "unk_token")}
        return {name: text for name, text in found.items() if text is not None}

    def check_fits(self, vocab_size: int, folder: Path) -> None:
        """Refuse a tokenizer that text can lead beyond a model's vocabulary.

        A special token may lie beyond it, as Gemma 3's for images does: `encode` gives it only when asked, and the
        embedding has no row for it.

        Raises:
          UserError: names the first token too many.
        """
        special = {i for i, token in self.backend.get_added_tokens_decoder().items() if token.special}
        special -= {self.eos_id, self.pad_id, self.bos_id}
        for token, i in sorted(self.backend.get_vocab(with_added_tokens=True).items(), key=lambda item: item[1]):
            if i >= vocab_size and i not in special:
                raise UserError(
                    f"{folder / 'tokenizer.json'}: token {token!r} has id {i}, but vocab_size in config.json is"
                    f" {vocab_size}: the tokenizer has {self.vocab_size} tokens"
                )

    def encode(self, text: str, *, special: bool = False) -> np.ndarray:
        """Ids [n] int32 of a text, nothing added. Total: a lone surrogate counts as an unknown character.

        Args:
          special: whether the name of a special token, such as <eos>, is that token. For a template's own text; what
            people and models wrote is plain characters, so that nobody can write a token that only we may use.
        """
        self.backend.encode_special_tokens = not special
        clean = text.encode("utf-8", "replace").decode("utf-8") if _has_surrogate(text) else text
        return np.asarray(self.backend.encode(clean, add_special_tokens=False).ids, np.int32)

    def prompt(self, text: str) -> np.ndarray:
        """Ids [n] int32 of a text that begins a context: with the beginning-of-sequence token where there is one."""
        return self.begin(self.encode(text))

    def begin(self, ids: np.ndarray) -> np.ndarray:
        """Ids [n] int32 that begin a context: the beginning-of-sequence token, where there is one, once."""
        if self.bos_id is None or (ids.size and ids[0] == self.bos_id):
            return ids
        return np.concatenate([np.asarray([self.bos_id], np.int32), ids])

    def decode(self, ids: Iterable[int], *, special: bool = False) -> str:
        """The text of some ids; special tokens are left out, or with `special` written by their names."""
        return str(self.backend.decode([int(i) for i in ids], skip_special_tokens=not special))

    def silent(self, token: int) -> bool:
        """Whether `decode` gives nothing for a token: a special one, or one beyond the vocabulary."""
        return token in self._special_ids or self.backend.id_to_token(token) is None

    @cached_property
    def _special_ids(self) -> frozenset[int]:
        return frozenset(self.special.values())

    def save(self, folder: Path) -> None:
        """Write the tokenizer's files as they were read or built."""
        for name, data in self.files.items():
            (folder / name).write_bytes(data)


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a Hugging Face folder.

    Raises:
      UserError: tokenizer.json is missing or damaged, or names no end-of-sequence token.
    """
    files = {name: (folder / name).read_bytes() for name in FILES if (folder / name).is_file()}
    return from_files(files, source=folder)


def from_files(files: Mapping[str, bytes], *, source: Path | str = "tokenizer") -> Tokenizer:
    """A Tokenizer from the bytes of its files, by name."""
    if "tokenizer.json" not in files:
        raise UserError(f"{Path(source) / 'tokenizer.json'}: no such file")
    try:
        backend = tokenizers.Tokenizer.from_str(files["tokenizer.json"].decode("utf-8"))
    except Exception as error:  # noqa: BLE001  the Rust library raises plain Exception
        raise UserError(f"{Path(source) / 'tokenizer.json'}: damaged ({error})") from error
    try:
        config: dict[str, Any] = json.loads(files.get("tokenizer_config.json", b"{}"))
    except ValueError as error:
        raise UserError(f"{Path(source) / 'tokenizer_config.json'}: not readable as JSON ({error})") from error
    eos = _special(backend, config, "eos_token")
    if eos is None:
        raise UserError(
            f"{Path(source) / 'tokenizer_config.json'}: field eos_token: expected a token of tokenizer.json,"
            f" found {config.get('eos_token')!r}"
        )
    pad = _special(backend, config, "pad_token")
    template = config.get("chat_template")
    if "chat_template.jinja" in files:
        template = files["chat_template.jinja"].decode("utf-8")
    return Tokenizer(
        backend=backend,
        eos_id=eos,
        pad_id=eos if pad is None else pad,
        bos_id=_prompt_bos(backend, config),
        chat_template=_default_template(template),
        files=dict(files),
    )


def printable_ascii(*, vocab_size: int = 128, model_max_length: int = 512) -> Tokenizer:
    """One token a character: <pad> <bos> <eos> <unk>, newline, and the 95 printable ASCII characters.

    Any other character becomes <unk>, so encoding is total. Ids beyond the 100 tokens stay unused.
    """
    characters = ["\n", *(chr(c) for c in range(32, 127))]
    special = ["<pad>", "<bos>", "<eos>", "<unk>"]
    vocab = {token: i for i, token in enumerate([*special, *characters])}
    if len(vocab) > vocab_size:
        raise ValueError(f"printable_ascii needs vocab_size >= {len(vocab)}, got {vocab_size}")
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token="<unk>"))
    every_character = tokenizers.Regex(r"[\s\S]")
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Split(every_character, behavior="isolated")
    backend.decoder = tokenizers.decoders.Fuse()
    backend.add_special_tokens(special)
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A $B:1", special_tokens=[("<bos>", vocab["<bos>"])]
    )
    config = {
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": "<bos>",
        "clean_up_tokenization_spaces": False,
        "eos_token": "<eos>",
        "model_max_length": model_max_length,
        "pad_token": "<pad>",
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": "<unk>",
    }
    text = json.dumps(json.loads(backend.to_str()), indent=1, ensure_ascii=True, sort_keys=True)
    return from_files(
        {
            "tokenizer.json": (text + "\n").encode(),
            "tokenizer_config.json": (json.dumps(config, indent=1, sort_keys=True) + "\n").encode(),
        },
        source="printable_ascii",
    )


def _special(backend: tokenizers.Tokenizer, config: Mapping[str, Any], name: str) -> int | None:
    """Id of a special token that tokenizer_config.json names, as text or as {"content": text}."""
    token = _content(config.get(name))
    found = None if token is None else backend.token_to_id(token)
    return None if found is None else int(found)


def _content(value: Any) -> str | None:
    """The text of a token as tokenizer_config.json writes it: itself, or {"content": text}."""
    token = value.get("content") if isinstance(value, dict) else value
    return token if isinstance(token, str) else None


def _default_template(value: Any) -> str | None:
    """The chat template; of several by name, [{"name": ..., "template": ...}], the one called default."""
    if isinstance(value, list):
        named = {t.get("name"): t.get("template") for t in value if isinstance(t, dict)}
        value = named.get("default")
    return value if isinstance(value, str) else None


def _prompt_bos(backend: tokenizers.Tokenizer, config: Mapping[str, Any]) -> int | None:
    """The bos token, when the post-processor or `add_bos_token` puts it in front of a text."""
    bos = _special(backend, config, "bos_token")
    if bos is None or config.get("add_bos_token") is False:
        return None
    starts = backend.encode("a", add_special_tokens=True).ids[:1] == [bos]
    return bos if starts or config.get("add_bos_token") is True else None


def _has_surrogate(text: str) -> bool:
    return any("\ud800" <= c <= "\udfff" for c in text)
