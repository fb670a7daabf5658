# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
#
# Dropout by a bit for each element.
import torch
from torch.autograd.function import once_differentiable

from .. import _native
from ..packed import dense, drawn_stream, empty_mask
from .base import Compressed, deliver, masked, saved_tensors


class _Dropout(torch.autograd.Function):

    @staticmethod
    def forward(ctx, x, p, seed, stream, is_inplace, name):
        values = dense(x)
        y, mask = values if is_inplace else torch.empty_like(values), empty_mask(values)
        _native.dropout(values, y, mask, p, seed, stream)
        ctx.name, ctx.p, ctx.stride = name, p, y.stride()
        ctx.save_for_backward(mask)
        return deliver(ctx, x, y, is_inplace)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        mask, = saved_tensors(ctx)
        return masked(dy, mask, ctx.stride, ctx.p), *(None,) * 5


class Dropout(Compressed, torch.nn.Dropout):
    """torch.nn.Dropout that keeps a bit for each element. Its masks depend on the seed and on a
    number from torch's generator; they differ from those of torch.nn.Dropout."""

    def forward(self, x):
        # Also without gradients, so that checkpointing gets the same mask in both passes.
        if not (self.training and 0 < self.p < 1):
            return super().forward(x)
        return _Dropout.apply(x, self.p, self._options.seed, drawn_stream(), self.inplace,
                              self._describe())
