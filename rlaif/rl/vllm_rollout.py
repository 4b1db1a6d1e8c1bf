"""PPO's responses from vLLM: the policy's weights go into its engine, tokens and their log-probabilities come
back.

vLLM runs in a process of its own, on the same GPU, and changes nothing in this one. Weights travel in memory,
as safetensors; no prefix is cached, since its keys and values would be of older weights.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator, Sequence
from functools import cached_property
from importlib import import_module
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from rlaif.engines.vllm import load_llm, package, require, sampled_log_probs
from rlaif.errors import UserError, first_line
from rlaif.options import PpoOptions
from rlaif.rl.episodes import Episodes, join
from rlaif.rl.lora import merged
from rlaif.rl.numerics import UpdateNotFinite
from rlaif.rl.rollout import Stops
from rlaif.runs.seeds import derive_seed


class VllmSampler:
    """One response to each prompt by vLLM, with the weights that the policy has when it is called.

    It is loaded at the first call, when everything else has its memory, from `folder` in `dtype`, with room
    for `longest` tokens of prompt and response. Row for row the same for the same weights, prompts and seed,
    as far as vLLM's kernels repeat.
    """

    def __init__(
        self,
        folder: str,
        options: PpoOptions,
        eos: Sequence[int],
        pad: int,
        stops: Stops | None,
        dtype: torch.dtype,
        longest: int,
    ) -> None:
        require("ppo.rollouts: vllm", "leave ppo.rollouts out")
        self.folder, self.options, self.eos, self.pad = folder, options, sorted(eos), pad
        self.stops, self.dtype, self.longest = stops, dtype, longest

    @cached_property
    def vllm(self) -> Any:
        """The package, imported at the first call."""
        return package()

    @cached_property
    def llm(self) -> Any:
        """The loaded `vllm.LLM`; its log-probabilities are those at the temperature."""
        llm = load_llm(
            self.vllm,
            self.folder,
            "ppo.rollout_memory, or leave ppo.rollouts out",
            model=self.folder,
            dtype=str(self.dtype).removeprefix("torch."),
            enforce_eager=not torch.cuda.is_available(),
            enable_prefix_caching=False,
            gpu_memory_utilization=self.options.rollout_memory,
            max_model_len=self.longest,
            skip_tokenizer_init=True,
            logprobs_mode="processed_logprobs",
            worker_extension_cls=f"{__name__}.Receiver",
        )
        weakref.finalize(self, llm.llm_engine.engine_core.shutdown)
        return llm

    def __call__(self, policy: Any, prompts: list[list[int]], seed: int) -> Episodes:
        """Responses with `behaviour_BR`, ended as the decode loop ends them, on the policy's device.

        Raises UpdateNotFinite where a sampled token has no log-probability: vLLM's logits were NaN or
        infinite.
        """
        self._send(policy)
        asked = [{"prompt_token_ids": list(ids)} for ids in prompts]
        settings = [self._settings(derive_seed(seed, row)) for row in range(len(prompts))]
        found = [x.outputs[0] for x in self.llm.generate(asked, settings, use_tqdm=False)]
        ends = [self._end(list(x.token_ids)) for x in found]
        behaviour_BR = torch.zeros(len(prompts), max(len(response) for response, _ in ends))
        for row, (output, (response, _)) in enumerate(zip(found, ends, strict=True)):
            said = sampled_log_probs(output)[: len(response)]
            if bad := [value for value in said if not math.isfinite(value)]:
                raise UpdateNotFinite("the log-probability of a token that vLLM sampled", bad[0])
            behaviour_BR[row, : len(said)] = torch.tensor(said)
        responses, ended = zip(*ends, strict=True)
        ended_B = torch.tensor(ended, device=policy.device)
        return join(prompts, responses, ended_B, self.pad, behaviour_BR.to(policy.device))

    def close(self) -> None:
        """End vLLM's process and free its memory; another call would load it anew."""
        if "llm" in vars(self):
            vars(self).pop("llm").llm_engine.engine_core.shutdown()

    def _settings(self, seed: int) -> Any:
        """Sampling at the temperature and nothing else; `ignore_eos` leaves the ends to us alone."""
        o = self.options
        return self.vllm.SamplingParams(
            max_tokens=o.max_tokens,
            temperature=o.temperature,
            top_p=1.0,
            top_k=0,
            min_p=0.0,
            seed=seed,
            stop_token_ids=self.eos,
            ignore_eos=True,
            detokenize=False,
            logprobs=0,
        )

    def _end(self, response: list[int]) -> tuple[list[int], bool]:
        """A response up to the end that `stops` finds in it, and whether it has an end at all."""
        stop = self.stops(response) if self.stops else None
        return response[:stop], stop is not None or response[-1] in self.eos

    def _send(self, policy: Any) -> None:
        """Put the policy's weights, adapters merged in, into vLLM's model."""
        try:
            for name, weight in _in_dtype(policy, self.dtype):
                self.llm.collective_rpc("receive_weights_from_rlaif", args=(save({name: weight}),))
            (missed,) = self.llm.collective_rpc("put_in_weights_from_rlaif")
        except UserError:
            raise
        except Exception as error:  # vLLM's, from its process
            raise self._refused(first_line(error)) from error
        if missed:
            raise self._refused(f"{len(missed)} of its weights have no counterpart, {missed[0]} first")

    def _refused(self, why: str) -> UserError:
        return UserError(
            f"{self.folder}: vLLM did not take the weights of the policy under training ({why}).",
            "an architecture whose weights vLLM and transformers name alike",
            "leave ppo.rollouts out",
        )


@torch.no_grad()
def _in_dtype(policy: Any, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    for name, weight in merged(policy):
        yield name, weight.detach().to("cpu", dtype).contiguous()


class Receiver:
    """What vLLM's worker learns for this: to collect weights, and to put them in as if it read them from a
    folder."""

    def receive_weights_from_rlaif(self, data: bytes) -> None:
        """Keep some weights, as safetensors, until all have come."""
        vars(self).setdefault("weights_from_rlaif", []).append(data)

    @torch.inference_mode()
    def put_in_weights_from_rlaif(self: Any) -> list[str]:
        """Replace the model's weights by those received; → those that got none."""
        reload = import_module("vllm.model_executor.model_loader.reload")
        heads = import_module("vllm.model_executor.layers.vocab_parallel_embedding").ParallelLMHead
        model, parts = self.get_model(), vars(self).pop("weights_from_rlaif")
        wanted = {name for name, _ in model.named_parameters()}
        with import_module("vllm.config").set_current_vllm_config(self.vllm_config):
            reload.initialize_layerwise_reload(model)
            done = model.load_weights(pair for part in parts for pair in load(part).items())
            reload.finalize_layerwise_reload(model, self.model_config)
            # A head tied to the embeddings has received nothing, and on a CPU holds a packed copy of the old
            # ones.
            for head in (layer for layer in model.modules() if isinstance(layer, heads)):
                head.quant_method.process_weights_after_loading(head)
        return sorted(wanted - done)
