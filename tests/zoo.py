"""Tiny models with every odd tokenizer and chat template that public bug reports name, as `save_pretrained`
folders."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from rlaif.config import ASSETS

CONTEXT = 512
HIDDEN = 16
DATE = "{{ strftime_now('%d %B %Y') }}"
TURNS = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
WITH_BOS = "{{ bos_token }}" + TURNS
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' "
    "}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
)
SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}{{ raise_exception('A system turn comes first') }}{% endif %}"
)
ALTERNATING = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% "
    "endif %}{% endfor %}"
)
THINKING = (
    TURNS + "{% if add_generation_prompt and enable_thinking is defined and not enable_thinking "
    "%}<think></think>{% endif %}"
)
ENDLESS = (
    "{% for a in range(90000) %}{% for b in range(90000) %}{% for c in range(90000) %}{% endfor "
    "%}{% endfor %}{% endfor %}"
)


@dataclass(frozen=True)
class Model:
    """One model: how its tokenizer, its template and its weights differ from the plain one."""

    name: str
    template: str | dict[str, str] | None = TURNS
    family: str = "llama"
    tokens: tuple[str, ...] = (
        "<|pad|>",
        "<|end|>",
        "<|system|>",
        "<|user|>",
        "<|assistant|>",
    )  # special ones
    added: tuple[str, ...] = ()  # added and not special
    late: tuple[str, ...] = ()  # special and after all words
    names: dict[str, str] = field(default_factory=lambda: {"pad_token": "<|pad|>", "eos_token": "<|end|>"})
    before: str = ""  # what a post-processor puts before and after every text
    after: str = ""
    rows: int = 0  # of the embedding more than there are tokens; less than 0, fewer
    side: str = "left"
    tied: bool = True
    end: str = "<|end|>"  # what ends the model's turn
    system: str = ""  # a system turn that its template needs
    switches: dict[str, Any] = field(default_factory=dict)  # chat_template_kwargs
    refused: str = ""  # what the error has to say of a model that cannot work


BASE = {"tokens": ("<s>", "</s>"), "end": "</s>", "names": {"bos_token": "<s>", "eos_token": "</s>"}}
CHAT = ("<|pad|>", "<|end|>", "<s>", "<|system|>", "<|user|>", "<|assistant|>")
NAMED = {"bos_token": "<s>", "pad_token": "<|pad|>", "eos_token": "<|end|>"}
MODELS = [
    Model("plain"),
    Model(
        "pad is EOS",
        names={"pad_token": "<|end|>", "eos_token": "<|end|>"},
        tokens=("<|end|>", "<|system|>", "<|user|>", "<|assistant|>"),
    ),
    Model("no pad, base model", template=None, **BASE),
    Model(
        "pad beyond the embedding",
        tokens=("<|end|>", "<|system|>", "<|user|>", "<|assistant|>"),
        late=("<|pad|>",),
        rows=-1,
    ),
    Model("padded vocabulary", rows=61, tied=False),
    Model("EOS appended, base model", template=None, before="<s>", after="</s>", **BASE),
    Model(
        "EOS appended, BOS in the template",
        template=WITH_BOS,
        tokens=CHAT,
        names=NAMED,
        before="<s>",
        after="<|end|>",
    ),
    Model(
        "BOS in the template and by the tokenizer", template=WITH_BOS, tokens=CHAT, names=NAMED, before="<s>"
    ),
    Model(
        "SentencePiece with add_eos_token",
        template=None,
        family="sentencepiece",
        before="<s>",
        after="</s>",
        **BASE | {"tokens": ("<unk>", "<s>", "</s>")},
    ),
    Model(
        "end marker added, not special",
        template=CHATML,
        tokens=("<|endoftext|>",),
        added=("<|im_start|>", "<|im_end|>"),
        names={"pad_token": "<|endoftext|>", "eos_token": "<|endoftext|>"},
        end="<|im_end|>",
    ),
    Model(
        "GPT-2, base model",
        template=None,
        family="gpt2",
        tokens=("<|endoftext|>",),
        end="<|endoftext|>",
        names={"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"},
    ),
    Model(
        "GPT-2 with ChatML, pad is EOS",
        template=CHATML,
        family="gpt2",
        tokens=("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        names={"pad_token": "<|im_end|>", "eos_token": "<|im_end|>"},
        end="<|im_end|>",
    ),
    Model("no system turn allowed", template=NO_SYSTEM + TURNS),
    Model("a system turn demanded", template=SYSTEM + TURNS, system="Be brief."),
    Model("alternation demanded", template=NO_SYSTEM + ALTERNATING + TURNS),
    Model("prints the date", template=DATE + TURNS),
    Model(
        "named templates with a default",
        template={"default": TURNS, "tool_use": "{{ raise_exception('no tools') }}"},
    ),
    Model(
        "thinking switched off",
        template=THINKING,
        added=("<think>", "</think>"),
        switches={"enable_thinking": False},
    ),
    Model("padding on the right", side="right"),
    Model("untied embeddings", tied=False),
]
REFUSED = [
    Model(
        "named templates without a default",
        template={"chat": TURNS, "rag": TURNS},
        refused="chat, rag, none of them default",
    ),
    Model(
        "a template that always raises",
        template="{{ raise_exception('no') }}",
        refused="chat template fails.*no",
    ),
    Model("a template that divides by zero", template="{{ 1 // 0 }}", refused="chat template fails.*zero"),
    Model("a template that never ends", template=ENDLESS, refused="chat template fails.*computes more"),
    Model(
        "a template that fills the memory",
        template="{{ 'a' * 10**10 }}",
        refused="chat template fails.*10000000000",
    ),
    Model("a template that is none", template="{% for %}", refused="chat template fails"),
    Model("text beyond the embedding", rows=-40, refused="its embedding of .* rows lacks"),
    Model(
        "end marker beyond the embedding",
        template=CHATML,
        tokens=("<|endoftext|>",),
        late=("<|im_start|>", "<|im_end|>"),
        rows=-2,
        names={"eos_token": "<|endoftext|>"},
        end="<|im_end|>",
        refused=r"rows lacks: '<\|im_",
    ),
    Model("no special token at all", template=None, tokens=(), names={}, refused="no special token at all"),
]


@cache
def _words() -> tuple[str, ...]:
    """The words of the judge's templates and of our prompts, so that a question is short in tokens."""
    texts = [
        path.read_text(encoding="utf-8") for path in (ASSETS / "prompts" / "templates" / "brief").glob("*.j2")
    ]
    words = {
        f"{gap}{word}" for text in [*texts, *PROMPTS, PRINCIPLE] for word in text.split() for gap in ("", " ")
    }
    return tuple(sorted(words))


PRINCIPLE = "Be kind."
PROMPTS = tuple(f"Tell me about the number {n}" for n in range(16))


def build_tokenizer(model: Model) -> Any:
    """The model's tokenizer: bytes, words and special tokens, or single letters the way SentencePiece writes
    blanks."""
    from transformers import LlamaTokenizer, PreTrainedTokenizerFast

    options: dict[str, Any] = {
        "padding_side": model.side,
        "model_max_length": CONTEXT,
        "clean_up_tokenization_spaces": False,
        "chat_template": model.template,
        **model.names,
    }
    if model.family == "sentencepiece":
        pieces = [*model.tokens, *(f"<0x{n:02X}>" for n in range(256)), "▁", *map(chr, range(33, 127))]
        return LlamaTokenizer(
            {piece: index for index, piece in enumerate(pieces)},
            [],
            add_bos_token=bool(model.before),
            add_eos_token=bool(model.after),
            **options,
        )
    return PreTrainedTokenizerFast(tokenizer_object=_core(model), **options)


def _core(model: Model) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words = {word for text in _words() for word, _ in splitter.pre_tokenize_str(text)}
    entries = [*model.tokens, *sorted(words | set(pre_tokenizers.ByteLevel.alphabet())), *model.late]
    core = Tokenizer(
        models.BPE({entry: index for index, entry in enumerate(entries)}, merges=[], ignore_merges=True)
    )
    core.pre_tokenizer, core.decoder = splitter, decoders.ByteLevel()
    core.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t in (*model.tokens, *model.late)]
    )
    core.add_tokens([AddedToken(t, special=False, normalized=False) for t in model.added])
    around = [t for t in (model.before, model.after) if t]
    if around:
        written = " ".join(t for t in (model.before, "$A", model.after) if t)
        ids = [(t, core.token_to_id(t)) for t in around]
        core.post_processor = processors.TemplateProcessing(written, special_tokens=ids)
    return core


def build(model: Model, folder: Path, seed: int = 0) -> Path:
    """Write the model and its tokenizer; it ends some of its texts, and answers A or B now and then."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    tokenizer = build_tokenizer(model)
    rows = len(tokenizer) + model.rows
    end = tokenizer.convert_tokens_to_ids(model.end) if model.tokens else 0
    ids = {
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.bos_token_id,
    }
    torch.manual_seed(seed)
    if model.family == "gpt2":
        net: Any = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=rows,
                n_positions=CONTEXT,
                n_embd=HIDDEN,
                n_layer=1,
                n_head=2,
                tie_word_embeddings=model.tied,
                **ids,
            )
        )
    else:
        safe = ids | ({"pad_token_id": None} if (ids["pad_token_id"] or 0) >= rows else {})
        net = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=rows,
                hidden_size=HIDDEN,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=CONTEXT,
                tie_word_embeddings=model.tied,
                **safe,
            )
        )
        net.config.pad_token_id = ids["pad_token_id"]
        net.generation_config.pad_token_id = None
    if end < rows and not model.refused:
        tokenizer.init_kwargs["chat_template_kwargs"] = model.switches
        _decide(net, tokenizer, end)
        del tokenizer.init_kwargs["chat_template_kwargs"]  # a config brings them, not the folder
    net.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _decide(net: Any, tokenizer: Any, end: int) -> None:
    """Make the end token likely in some places, and the answers of a judge where they are asked for."""
    import torch

    from rlaif.engines.transformers import choice_tokens
    from rlaif.prompting.chat import encode_chat
    from rlaif.prompting.templates import user

    weight = net.get_output_embeddings().weight.data
    asked = torch.tensor([encode_chat(tokenizer, [user("Which reply is better, A or B?")])])
    with torch.no_grad():
        state = net.base_model(asked).last_hidden_state[0, -1]
    weight[end] = 2 * state / (state @ state) + 3 * torch.randn(HIDDEN) / HIDDEN**0.5
    for ids in choice_tokens(tokenizer, ("A", "B")):
        weight[ids] = 3 * state / (state @ state) + torch.randn(HIDDEN) / 4
