"""Tokenizers of characters with a chat template, built in memory: ChatML-like, Gemma-like, Llama-3-like."""

from __future__ import annotations

import json

import tokenizers

from selfplay.models.tokenizer import Tokenizer, from_files

CHATML = """{%- for message in messages %}
{%- if message.role == 'assistant' and '</think>' in message.content %}
{%- set said = message.content.split('</think>')[-1].lstrip('\\n') %}
{%- else %}{%- set said = message.content %}{%- endif %}
{{- '<|im_start|>' + message.role + '\\n' + said + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}"""
"""As Qwen 3's: drops old thinking, and can be told not to think."""

GEMMA = """{{ bos_token }}{%- if messages[0]['role'] == 'system' -%}
{%- set prefix = messages[0]['content'] + '\\n\\n' -%}{%- set loop_messages = messages[1:] -%}
{%- else -%}{%- set prefix = "" -%}{%- set loop_messages = messages -%}{%- endif -%}
{%- for message in loop_messages -%}
{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
{{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}{%- endif -%}
{%- set role = "model" if message['role'] == 'assistant' else message['role'] -%}
{{ '<start_of_turn>' + role + '\\n' + (prefix if loop.first else "") }}{{ message['content'] | trim }}
{{- '<end_of_turn>\\n' }}{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\\n' }}{%- endif -%}"""
"""As Gemma 3's: no turn of the system's own, texts trimmed."""

LLAMA = """{{- bos_token }}{%- if strftime_now is defined %}{%- set date = strftime_now("%d %b %Y") %}
{%- else %}{%- set date = "none" %}{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\nToday Date: " + date + "<|eot_id|>" }}
{%- for message in messages %}
{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"""
"""As Llama 3.2's: tells the date."""

SPECIAL = {
    CHATML: ["<|im_start|>", "<|im_end|>"],
    GEMMA: ["<start_of_turn>", "<end_of_turn>"],
    LLAMA: ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
}


def character_tokenizer(chat_template: str | None = None, *, bos: bool = True, eos: str = "<eos>") -> Tokenizer:
    """One token a character, the special tokens of a chat template, and <think> as Qwen has it: added, not special."""
    special = ["<pad>", "<bos>", "<eos>", "<unk>", *SPECIAL.get(chat_template or "", [])]
    characters = ["\n", *(chr(c) for c in range(32, 127)), "\u00e9", "\ue000", "\ue001"]
    vocab = {token: i for i, token in enumerate([*special, *characters])}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token="<unk>"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex(r"[\s\S]"), behavior="isolated")
    backend.decoder = tokenizers.decoders.Fuse()
    backend.add_special_tokens(special)
    backend.add_tokens(["<think>", "</think>"])
    config = {"eos_token": eos, "pad_token": {"content": "<pad>"}, "tokenizer_class": "PreTrainedTokenizerFast"}
    if bos:
        config |= {"bos_token": "<bos>", "add_bos_token": True}
    if chat_template is not None:
        config["chat_template"] = [{"name": "default", "template": chat_template}]
    files = {"tokenizer.json": backend.to_str().encode(), "tokenizer_config.json": json.dumps(config).encode()}
    return from_files(files)
