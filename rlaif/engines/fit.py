"""What a judge fitted on people's labels adds to the model: a small safetensors file beside its name.

With l the log-odds of A over B that the model gives a pair, bounded as every verdict's are, the fitted
judge's log-odds that the response shown first is better are

    z = scale · (l − prior) + head · x

for each principle on its own. The prior is what the order and the letters A and B add to the log-odds
whatever the responses are; both are known only together, because the first response is always A (Zheng et
al., arXiv 2309.03882; Zhou et al., arXiv 2309.17249). 1/scale is a temperature (Guo et al., arXiv
1706.04599). x are hidden states: the difference of the two responses', each the mean over its tokens
(`responses`), or that of the verdict's position, less its mean over both orders (`verdicts`).

A fit of the kind `adapter` changes the model itself while it is asked about a pair: low-rank matrices beside
its linear layers (LoRA, arXiv 2106.09685; `engines.adapter`), whose log-odds l then are, with prior 0.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rlaif.errors import UserError
from rlaif.records import content_hash
from rlaif.runs.storage import CHECKSUM, write_bytes
from rlaif.stats import MAX_LOGIT

Kind = Literal["prior", "temperature", "responses", "verdicts", "adapter"]
KINDS: tuple[Kind, ...] = ("prior", "temperature", "responses", "verdicts")
HEADS = ("responses", "verdicts")
ADAPTER = "adapter"  # the kind, and what the names of its weights begin with in the file
FILE = "judge_fit.safetensors"
PARTIAL = f"{FILE}.partial"
FORMAT = "rlaif judge fit 1"
SHARED = ""  # the key of what holds under principles that have no numbers of their own
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class JudgeFit:
    """The numbers of a fit: a row for each principle, by the hash of what the model is shown of it, and one
    that holds for all others (`SHARED`).

    prior [G], scale [G]; head [G, D] and, of the kind `verdicts`, middle [G, D]: the mean state over both
    orders. D is 0 without a head. `adapter` has the weights of LoRA under peft's names, lora_A [r, in] and
    lora_B [out, r] of each layer, whose product is scaled by `alpha` / r. `model` is the fingerprint of the
    model it was fitted on, `wording` how pairs were asked about, `about` what was measured when it was
    fitted.
    """

    kind: Kind
    model: str
    wording: str
    keys: tuple[str, ...]
    prior: Floats
    scale: Floats
    head: Floats
    middle: Floats
    layer: int = 0
    about: dict[str, Any] | None = None
    sealed: bool = True  # False where it was read from a file without a checksum
    adapter: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    alpha: float = 0.0

    @cached_property
    def fingerprint(self) -> str:
        """Identity of the numbers, and of what they are used on."""
        arrays = self._arrays()
        numbers = [np.asarray(x, np.float32).tobytes().hex() for x in arrays.values()]
        own = [self.alpha, list(arrays)] if self.adapter else []
        return content_hash(self.kind, self.layer, self.model, self.wording, list(self.keys), numbers, *own)

    def row(self, suffix: str) -> int:
        """The row of a principle as the model is shown it; the shared one where it has none."""
        key = content_hash(suffix)
        return self.keys.index(key if key in self.keys else SHARED)

    def logit(self, row: int, raw: float, states: Floats | None = None) -> float:
        """z of one verdict from its raw log-odds and, with a head, x [D]."""
        bounded = min(MAX_LOGIT, max(-MAX_LOGIT, raw))
        z = float(self.scale[row]) * (bounded - float(self.prior[row]))
        if self.kind in HEADS:
            if states is None or not np.isfinite(states).all():
                return float("nan")
            x = states - self.middle[row] if self.kind == "verdicts" else states
            z += float(self.head[row] @ x)
        return z

    def _arrays(self) -> dict[str, NDArray[Any]]:
        own = {"prior": self.prior, "scale": self.scale, "head": self.head, "middle": self.middle}
        return own | {f"{ADAPTER}.{name}": x for name, x in sorted(self.adapter.items())}

    def save(self, folder: Path) -> None:
        """Write the fit into a folder, which is made."""
        names = ("kind", "model", "wording", "keys", "layer", "about", *(["alpha"] if self.adapter else []))
        facts = {name: getattr(self, name) for name in names}
        arrays = {name: np.ascontiguousarray(x, np.float32) for name, x in self._arrays().items()}
        folder.mkdir(parents=True, exist_ok=True)
        told = json.dumps(facts, ensure_ascii=True)
        known = {"format": FORMAT, "fit": told, CHECKSUM: checksum(told, arrays)}
        write_bytes(folder / FILE, packed(arrays, known))

    @classmethod
    def load(cls, path: Path) -> JudgeFit:
        """The fit of a folder or file; raises UserError where there is none or it is damaged."""
        from safetensors import SafetensorError, safe_open

        file = path / FILE if path.is_dir() else path
        if not file.is_file():
            raise UserError(
                f"{file}: no such file.", "a folder that `rlaif judge fit` wrote", "check the path"
            )
        try:
            with safe_open(file, "np") as opened:
                facts = opened.metadata() or {}
                names = opened.keys()
                arrays = {name: opened.get_tensor(name) for name in names}
            if facts.get("format") != FORMAT:
                raise ValueError("it has no numbers of a judge's fit")
            sealed = CHECKSUM in facts
            if sealed and facts[CHECKSUM] != checksum(facts["fit"], arrays):
                raise ValueError("its checksum is not that of its numbers: damaged, or changed by hand")
            own = {n.partition(".")[2]: x for n, x in arrays.items() if n.startswith(f"{ADAPTER}.")}
            plain = {n: x.astype(float) for n, x in arrays.items() if not n.startswith(f"{ADAPTER}.")}
            told = json.loads(facts["fit"])
            return cls(**{**told, **plain, "sealed": sealed, "adapter": own})._checked()
        except (SafetensorError, OSError, LookupError, ValueError, TypeError, AttributeError) as error:
            reason = str(error).split("\n")[0] or type(error).__name__
            raise UserError(
                f"{file}: not a fit of a judge that can be read ({reason}).",
                f"{FILE} as `rlaif judge fit` wrote it",
                "copy it again, or fit again",
            ) from None

    def _checked(self) -> JudgeFit:
        """The same with its keys as a tuple; raises ValueError for numbers that fit no judge."""
        rows, width = len(self.keys), self.head.shape[-1]
        shapes = (self.prior.shape, self.scale.shape, self.head.shape, self.middle.shape)
        if (
            self.kind not in (*KINDS, ADAPTER)
            or SHARED not in self.keys
            or type(self.layer) is not int
            or self.layer < 0
        ):
            raise ValueError("its kind, keys or layer are not those of a fit")
        if not (
            isinstance(self.model, str) and isinstance(self.wording, str) and len(set(self.keys)) == rows
        ):
            raise ValueError("its model, wording or keys are not those of a fit")
        if shapes != ((rows,), (rows,), (rows, width), (rows, width)):
            raise ValueError("its tensors have other shapes than their keys say")
        if not all(np.isfinite(x).all() for x in self._arrays().values()):
            raise ValueError("it holds numbers that are not finite")
        if (self.kind in HEADS) != bool(width):
            raise ValueError("its head is not that of its kind")
        if (self.kind == ADAPTER) != bool(self.adapter) or not (self.sealed or not self.adapter):
            raise ValueError("its adapter is not that of its kind, or has no checksum")
        return replace(self, keys=tuple(map(str, self.keys)))

    def require(self, fingerprint: str, where: Path) -> None:
        """UserError where the fit is of another model than this."""
        if _weights(self.model) != _weights(fingerprint):
            raise UserError(
                f"{where}: the fit of another model ({self.model}; this one is {fingerprint}).",
                "the model that it was fitted on",
                "name that model, or fit this one: rlaif judge fit",
            )


def packed(arrays: dict[str, NDArray[Any]], facts: dict[str, str]) -> bytes:
    """A safetensors file. The same content gives the same bytes, while the library puts the facts in any
    order; and a kill leaves no file of a name that the library drew."""
    from safetensors.numpy import save

    data = save(arrays, facts)
    end = 8 + int.from_bytes(data[:8], "little")
    head = json.dumps(json.loads(data[8:end]), sort_keys=True).encode()
    head += b" " * (-len(head) % 8)
    return len(head).to_bytes(8, "little") + head + data[end:]


def checksum(facts: str, arrays: dict[str, NDArray[Any]]) -> str:
    """What a file holds, as 16 hex digits: its facts as they stand there, and every number."""
    numbers = [[name, list(x.shape), x.tobytes().hex()] for name, x in sorted(arrays.items())]
    return content_hash(facts, numbers)


def is_unwritten(folder: Path) -> bool:
    """Whether a folder holds nothing, or only what a kill left of a fit that was being written."""
    return all(path.name == PARTIAL for path in folder.iterdir())


def _weights(fingerprint: str) -> str:
    """A model's fingerprint without its number format, which moves verdicts by rounding alone, and, where
    the content is hashed, without its folder's name."""
    plain = re.sub(r":(float32|bfloat16|float16)(?=:|$)", "", fingerprint)
    return re.sub(r"^\w+:[^@]*@", "@", plain)
