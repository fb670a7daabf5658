# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
#
# Attention on packed queries, keys and values.
import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from ..packed import Form, pack
from .base import Compressed, is_recorded, saved_tensors


def _attention(q, k, v, is_causal):
    if hasattr(F, "scaled_dot_product_attention"):
        return F.scaled_dot_product_attention(q, k, v, is_causal=is_causal)
    scores = q.matmul(k.transpose(-2, -1)) / q.shape[-1]**0.5
    if is_causal:
        ones = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device)
        scores = scores.masked_fill(ones.triu(1), float("-inf"))
    return scores.softmax(-1).matmul(v)


class _Attention(torch.autograd.Function):
    """Attention that keeps packed queries, keys and values, and computes the rest again."""

    @staticmethod
    def forward(ctx, q, k, v, is_causal, options, name):
        packs = [pack(x.detach(), Form.AFFINE, bits, options, f"the {what} of {name}")
                 for x, bits, what in ((q, options.attention_bits, "queries"),
                                       (k, options.attention_bits, "keys"),
                                       (v, options.bits, "values"))]
        ctx.packed = [packed for packed, _ in packs]
        ctx.name, ctx.is_causal = name, is_causal
        ctx.save_for_backward(*(packed_bytes for _, packed_bytes in packs))
        return _attention(q, k, v, is_causal)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        inputs = [packed.decode(packed_bytes).requires_grad_()
                  for packed, packed_bytes in zip(ctx.packed, saved_tensors(ctx))]
        with torch.enable_grad():
            y = _attention(*inputs, ctx.is_causal)
        return *torch.autograd.grad(y, inputs, dy.to(y.dtype)), None, None, None


class ScaledDotProductAttention(Compressed, torch.nn.Module):
    """softmax(q kᵀ / √d) v for q, k and v [..., tokens, channels]. It keeps q and k at
    `options.attention_bits`, because the softmax makes nonlinear use of them."""

    def forward(self, q, k, v, is_causal=False):
        if not is_recorded(q, k, v):
            return _attention(q, k, v, is_causal)
        return _Attention.apply(q, k, v, is_causal, self._options, self._describe())
