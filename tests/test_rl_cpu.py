"""Linear layers in fp32 on a CPU: the numbers and gradients of torch's own, whoever computes them."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from rlaif.rl import cpu
from rlaif.rl.cpu import LinearLayers, keep_freed_memory, product


def drawn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("lead", [(5,), (2, 3)])
@pytest.mark.parametrize("learns", [(True, True), (True, False), (False, True)])
def test_a_product_and_its_gradients_are_those_of_a_linear_layer(lead, learns):
    x, weight, upstream = drawn(*lead, 8), drawn(6, 8), drawn(*lead, 6)
    found = []
    for compute in (product, F.linear):
        inputs = [t.clone().requires_grad_(on) for t, on in zip((x, weight), learns, strict=True)]
        out = compute(*inputs)
        out.backward(upstream)
        found.append([out.detach(), *(t.grad for t in inputs if t.requires_grad)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_the_same_bits_with_and_without_a_gradient():
    x, weight = drawn(7, 8), drawn(6, 8).requires_grad_()
    with torch.no_grad():
        quiet = product(x, weight)
    assert torch.equal(product(x, weight), quiet)


def test_other_dtypes_are_left_to_torch():
    x, weight = drawn(4, 8).double(), drawn(6, 8).double()
    assert torch.equal(product(x, weight), F.linear(x, weight))


def test_layers_without_a_bias_are_taken_over_and_others_not(monkeypatch):
    seen = []
    monkeypatch.setattr(cpu, "product", lambda x, w: seen.append(w) or F.linear(x, w))
    plain, biased = nn.Linear(8, 6, bias=False), nn.Linear(8, 6)
    x = drawn(3, 8)
    with LinearLayers():
        torch.testing.assert_close(plain(x), x @ plain.weight.T)
        torch.testing.assert_close(biased(x), x @ biased.weight.T + biased.bias)
    assert [w is plain.weight for w in seen] == [True]
    plain(x)
    assert len(seen) == 1


def test_memory_is_kept_without_harm():
    keep_freed_memory(torch.device("cpu"))
    assert float(torch.ones(1 << 22).sum()) == 1 << 22
