"""Raw text in packed blocks of tokens, and a language model of random weights to learn from them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from rlaif.errors import UserError, first_line
from rlaif.prompting.chat import token_ids

KINDS = "UTF-8 text (.txt), .jsonl rows with a text, or a folder of datasets' save_to_disk with a text column"


def read_texts(path: Path, option: str) -> list[str]:
    """The texts of a file or of a `datasets` folder; raises UserError that names the option and the line."""
    if path.is_dir():
        return _of_dataset(path, option)
    try:
        content = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{option}: {path} cannot be read ({first_line(error)}).", KINDS) from None
    if path.suffix != ".jsonl":
        return [content.strip()]
    texts = []
    for number, line in enumerate(content.split("\n"), 1):
        try:
            texts += [_text(json.loads(line)["text"])] if line.strip() else []
        except (ValueError, KeyError, TypeError, RecursionError):
            raise UserError(f'{path}:{number}: no row with a "text".', '{"text": "…"} a line') from None
    return texts


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError
    return value


def _of_dataset(path: Path, option: str) -> list[str]:
    from datasets import DatasetDict, load_from_disk

    try:
        found = load_from_disk(str(path))
        table = found["train"] if isinstance(found, DatasetDict) else found
        return [_text(text) for text in table["text"]]
    except Exception as error:  # a broken folder surfaces in many classes
        raise UserError(
            f"{option}: no texts can be read from the folder {path} ({first_line(error)}).",
            "a folder written by save_to_disk, whose rows (of the split train, where it has splits) have a "
            "text",
        ) from None


def blocks_of(
    texts: Iterable[str], tokenizer: Any, length: int, tick: Callable[[int], None] = lambda n: None
) -> list[list[int]]:
    """The texts as one stream of tokens, each text ended by an EOS, cut into blocks; of at least two tokens
    each."""
    stream: list[int] = []
    for text in texts:
        stream += [*token_ids(tokenizer, text), tokenizer.eos_token_id]
        tick(1)
    blocks = [stream[at : at + length] for at in range(0, len(stream), length)]
    return [block for block in blocks if len(block) > 1]


def num_heldout_blocks(blocks: Sequence[list[int]], share: float) -> int:
    """How many of the blocks measure: about `share` of them, at least one, and never all."""
    return min(max(1, round(share * len(blocks))), len(blocks) - 1)


def new_model(
    tokenizer: Any, layers: int, width: int, inner: int, heads: int | None = None, context: int = 512
) -> Any:
    """A Llama with tied embeddings and random weights for the tokenizer; heads 32 wide unless given."""
    from transformers import LlamaConfig, LlamaForCausalLM

    heads = heads or width // 32
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=max(tokenizer.get_vocab().values()) + 1,
            hidden_size=width,
            intermediate_size=inner,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            max_position_embeddings=context,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
