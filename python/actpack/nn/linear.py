# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
#
# The linear layer.
import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from .base import Compressed, is_recorded, needs_tiles, rows, saved_tensors, tiles


class _Linear(torch.autograd.Function):

    @staticmethod
    def forward(ctx, x, weight, bias, shared, name):
        ctx.name = name
        ctx.source = shared.source if shared else None
        ctx.save_for_backward(weight, *(shared.tensors if shared else ()))
        y = F.linear(x, weight, bias)
        # Before PyTorch 2.0 it may be a view, which must not be changed in place afterwards.
        return y.new_empty(0).set_(y) if y._is_view() else y

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        weight, *tensors = saved_tensors(ctx)
        needs_dx, needs_dw, needs_db = ctx.needs_input_grad[:3]
        dx = dy.matmul(weight.to(dy.dtype)) if needs_dx else None
        dw = _linear_weight_gradient(dy, weight, ctx.source, tensors) if needs_dw else None
        db = rows(dy).sum(0) if needs_db else None
        return dx, dw, db, None, None


def _linear_weight_gradient(dy, weight, source, tensors):
    numel = rows(dy).shape[0] * weight.shape[1]
    if not (needs_tiles(numel) and source.has_slices()):
        return rows(dy).t().mm(rows(source.load(tensors, dy.dtype)))
    dw = torch.zeros_like(weight, dtype=torch.float32)
    for first, last in tiles(dy.shape[0], numel):
        x = source.load_slices(tensors, first, last, dy.dtype)
        dw += rows(dy[first:last]).t().mm(rows(x))
    return dw


class Linear(Compressed, torch.nn.Linear):
    """torch.nn.Linear that keeps its input in packed form if its weight is trained."""

    def forward(self, x):
        if not is_recorded(x, self.weight, self.bias):
            return super().forward(x)
        shared = self._input(x) if self.weight.requires_grad else None
        return _Linear.apply(x, self.weight, self.bias, shared, self._describe())
