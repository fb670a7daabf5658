# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
#
# Normalisation over a tensor's last dimensions: layer norm and RMS norm.
import torch
from torch.autograd.function import once_differentiable

from ..packed import Form, pack
from .base import Compressed, autocast_dtype, is_recorded, rows, saved_tensors
from .sharing import NormalizedInput, share

aten = torch.ops.aten


class _LayerNorm(torch.autograd.Function):
    """Returns the statistics as well, from which the output can be computed again."""

    @staticmethod
    def forward(ctx, x, weight, bias, shape, eps, packed, packed_bytes, name):
        y, mean, rstd = torch.native_layer_norm(x, shape, weight, bias, eps)
        ctx.mark_non_differentiable(mean, rstd)
        ctx.packed, ctx.name, ctx.shape = packed, name, shape
        ctx.save_for_backward(packed_bytes, mean, rstd, weight, bias)
        return y, mean, rstd

    @staticmethod
    @once_differentiable
    def backward(ctx, dy, *_):
        packed_bytes, mean, rstd, weight, bias = saved_tensors(ctx)
        x = ctx.packed.decode(packed_bytes, dy.dtype)
        return *aten.native_layer_norm_backward(dy, x, ctx.shape, mean, rstd, weight, bias,
                                                list(ctx.needs_input_grad[:3])), *(None,) * 5


class LayerNorm(Compressed, torch.nn.LayerNorm):
    """torch.nn.LayerNorm on one packed copy of its input. The next linear layer, too, computes the
    output again from that copy."""

    def forward(self, x):
        if not is_recorded(x, self.weight, self.bias):
            return super().forward(x)
        if x.is_cuda and autocast_dtype(x) is not None:  # as autocast does
            x = x.float()
        packed, packed_bytes = pack(x.detach(), Form.AFFINE, self._options.bits, self._options,
                                    f"the input of {self._describe()}")
        y, mean, rstd = _LayerNorm.apply(x, self.weight, self.bias, self.normalized_shape, self.eps,
                                         packed, packed_bytes, self._describe())
        affine = [p.detach() for p in (self.weight, self.bias) if p is not None]
        share(y, NormalizedInput(packed, len(self.normalized_shape)), self._options, packed_bytes,
              mean, rstd, *affine)
        return y


def _inverse_root_mean_square(x, eps):
    return x.float().square().mean(-1, keepdim=True).add_(eps).rsqrt_()


class _RMSNorm(torch.autograd.Function):

    @staticmethod
    def forward(ctx, x, weight, eps, options, name):
        rstd = _inverse_root_mean_square(x, eps)
        ctx.packed, packed_bytes = pack(x.detach(), Form.AFFINE, options.bits, options,
                                        f"the input of {name}")
        ctx.name = name
        ctx.save_for_backward(packed_bytes, rstd, weight)
        return (x * rstd).to(x.dtype) * weight

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        packed_bytes, rstd, weight = saved_tensors(ctx)
        normalized = ctx.packed.decode(packed_bytes, torch.float32).mul_(rstd)
        dw = rows(dy * normalized).sum(0)
        scaled = dy.float() * weight
        dx = scaled - normalized * (scaled * normalized).mean(-1, keepdim=True)
        return dx.mul_(rstd), dw, None, None, None


class RMSNorm(Compressed, torch.nn.Module):
    """x / sqrt(mean(x²) + eps) · weight over the last dimension, on a packed copy of x."""

    def __init__(self, size, eps=1e-6):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x):
        if not is_recorded(x, self.weight):
            return (x * _inverse_root_mean_square(x, self.eps)).to(x.dtype) * self.weight
        return _RMSNorm.apply(x, self.weight, self.eps, self._options, self._describe())
