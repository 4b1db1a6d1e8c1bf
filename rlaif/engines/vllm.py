"""The vLLM engine, in process: for judges and policies that fill a GPU.

Questions are rendered, tokenised and read exactly as the transformers engine does it, so the two agree; vLLM
writes and scores. A verdict is one token's worth of work: the answer tokens' log-probabilities at
`max_tokens=1`, raw and renormalised by us. Prefix caching reads a long shared part once for all its
principles; `prompt_logprobs` would bypass it. Texts have their request's own seed.
"""

from __future__ import annotations

import math
import os
import weakref
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from itertools import islice
from typing import Any, TypeVar

from rlaif import DISTRIBUTION
from rlaif.config import ModelConfig
from rlaif.engines import GenerateRequest, Generation, Scores
from rlaif.engines.transformers import NO_STATES, States, Task, TokenizedQuestion, TransformersEngine
from rlaif.errors import UserError, first_line
from rlaif.prompting.chat import HUMAN_STOP, end_of_turn

K = TypeVar("K")
_IN_FLIGHT = (
    2048  # requests handed to vLLM's scheduler at a time: more than it runs at once, and memory stays flat
)
_ANSWERS = 128  # answer tokens of one question: vLLM's own bound
# Read by vLLM when it is imported: results own stdout, nothing is reported to anybody, and its processes
# start clean whatever this one did with the GPU before.
_SETTINGS = {
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
}


def require(asked: str, otherwise: str) -> None:
    """Refuse what was `asked` for in a config where vLLM is not installed."""
    if find_spec("vllm") is None:
        raise UserError(
            f"{asked} needs the vllm package.",
            "the extra of that name, on a machine with a GPU",
            f'pip install "{DISTRIBUTION}[vllm]", or {otherwise}',
        )


def package() -> Any:
    """vLLM, imported under our settings."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    return import_module("vllm")


def load_llm(vllm: Any, name: str, room: str, **settings: Any) -> Any:
    """A `vllm.LLM`; raises UserError where vLLM cannot run the model here, with the options that give it
    `room`."""
    try:
        return vllm.LLM(
            load_format="safetensors",
            trust_remote_code=False,
            seed=0,
            disable_log_stats=True,
            use_tqdm_on_load=False,
            **settings,
        )
    except Exception as error:  # memory, architecture and driver troubles come in many classes
        raise UserError(
            f"{name}: vLLM cannot load it here ({first_line(error)}).",
            "a model vLLM knows, and room for its weights and for one context of keys and values",
            f"see vLLM's own words above; set {room}",
        ) from None


class VllmEngine(TransformersEngine):
    """A model folder or hub id that vLLM runs; it is loaded at the first question and freed with the
    engine."""

    kind = "vllm"

    def __init__(self, config: ModelConfig) -> None:
        require("engine: vllm", "serve the model elsewhere and use engine: openai")
        if config.device != "auto":
            raise UserError(
                f"device: {config.device} cannot be chosen for engine: vllm.",
                "device: auto",
                "CUDA_VISIBLE_DEVICES=1 rlaif run … chooses a GPU",
            )
        super().__init__(config)

    @cached_property
    def vllm(self) -> Any:
        """The package, imported at the first question."""
        return package()

    @cached_property
    def llm(self) -> Any:
        """The loaded `vllm.LLM`; raises UserError where vLLM cannot run the model here."""
        llm = load_llm(
            self.vllm,
            self.config.model,
            "gpu_memory or max_model_len",
            model=str(self.folder),
            dtype=self.dtype,
            enable_prefix_caching=True,
            enforce_eager=self.device.type == "cpu",
            gpu_memory_utilization=self.config.gpu_memory,
            max_model_len=self.config.max_model_len,
            max_logprobs=_ANSWERS,
        )
        weakref.finalize(self, llm.llm_engine.engine_core.shutdown)
        return llm

    @property
    def limit(self) -> int:
        """The most tokens a question and its answer may have."""
        return int(self.llm.llm_engine.model_config.max_model_len)

    def _generate(self, tasks: list[Task]) -> Iterator[tuple[int, Generation]]:
        prompts = {index: prompt for index, _, prompt in tasks}
        fitting = [(i, r) for i, r, prompt in tasks if len(prompt) + r.max_tokens <= self.limit]
        for index in prompts.keys() - {index for index, _ in fitting}:
            yield index, Generation("", "too_long", len(prompts[index]))
        for index, output in self._run((i, prompts[i], self._writing(r)) for i, r in fitting):
            if not all(map(math.isfinite, sampled_log_probs(output))):
                raise self._not_finite()
            self._count(len(prompts[index]), len(output.token_ids))
            stopped = output.finish_reason == "stop"
            yield index, self._finish(list(output.token_ids), stopped, len(prompts[index]))

    def _writing(self, request: GenerateRequest) -> dict[str, Any]:
        """Sampling settings of one text; vLLM adds the end tokens of the model's generation config.

        The sampled tokens' log-probabilities tell whether the logits were numbers.
        """
        ends = {self.tokenizer.eos_token_id, end_of_turn(self.tokenizer)} - {None}
        stops = {"stop": [HUMAN_STOP]} if self.plain_turns else {"detokenize": False}
        return {
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "seed": request.seed & (2**63 - 1),
            "stop_token_ids": sorted(ends),
            "logprobs": 0,
            **stops,
        }

    def _score(
        self, questions: list[TokenizedQuestion], layers: Sequence[int]
    ) -> Iterator[tuple[int, Scores, States]]:
        fitting = {q.index: q for q in questions if q.longest < self.limit}  # the answer takes a place, too
        for question in questions:
            if question.index not in fitting:
                yield question.index, Scores((), len(question.prefix), too_long=True), NO_STATES
        rows: dict[int, dict[int, tuple[float, ...]]] = {index: {} for index in fitting}
        for (index, place), output in self._run(self._verdicts(fitting.values())):
            question = fitting[index]
            rows[index][place] = _sums(output.logprobs[0], self._variants(question.request.choices))
            if len(rows[index]) == len(question.suffixes):
                found = rows.pop(index)
                self.usage.shared_tokens += question.unshared - question.tokens
                self._count(question.unshared, 0, len(found))
                yield index, Scores(tuple(found[at] for at in sorted(found)), question.tokens), NO_STATES

    def _verdicts(
        self, questions: Iterable[TokenizedQuestion]
    ) -> Iterator[tuple[tuple[int, int], list[int], dict[str, Any]]]:
        """One-token requests, the suffixes of a prefix one after the other so that its blocks are still
        cached."""
        for question in questions:
            tokens = sorted({token for ids in self._variants(question.request.choices) for token in ids})
            settings = {
                "max_tokens": 1,
                "temperature": 0.0,
                "detokenize": False,
                "ignore_eos": True,
                "logprobs": len(tokens),
                "logprob_token_ids": tokens,
            }
            for place, suffix in enumerate(question.suffixes):
                yield (question.index, place), question.prefix + suffix, settings

    def _run(self, tasks: Iterable[tuple[K, list[int], dict[str, Any]]]) -> Iterator[tuple[K, Any]]:
        """(key, output) of (key, prompt ids, sampling settings) in the order they finish."""
        engine, settle, tokens = self.llm.llm_engine, self.vllm.SamplingParams, self.vllm.inputs.tokens_input
        waiting, asked = enumerate(tasks), dict[str, K]()
        try:
            while True:
                for number, (key, ids, settings) in islice(waiting, _IN_FLIGHT - len(asked)):
                    asked[str(number)] = key
                    engine.add_request(str(number), tokens(ids), settle(**settings))
                if not asked:
                    return
                for output in engine.step():
                    if output.finished:
                        yield asked.pop(output.request_id), output.outputs[0]
        finally:
            if asked:
                engine.abort_request(list(asked))


def sampled_log_probs(output: Any) -> list[float]:
    """The log-probability of each token of an output, where they were asked for."""
    return [
        found[token].logprob for token, found in zip(output.token_ids, output.logprobs or (), strict=True)
    ]


def _sums(found: Any, variants: tuple[list[int], ...]) -> tuple[float, ...]:
    """Each choice's log-probability: its tokens' (token id → vllm.Logprob) summed."""
    rows = [[found[i].logprob for i in ids] for ids in variants]
    tops = [max(row) for row in rows]
    return tuple(
        top + math.log(sum(math.exp(x - top) for x in row)) if math.isfinite(top) else top
        for top, row in zip(tops, rows, strict=True)
    )
