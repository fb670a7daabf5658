# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
#
# Convolutions, with every padding mode.
import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from .base import (
    Compressed,
    autocast_dtype,
    is_recorded,
    memory_format,
    needs_tiles,
    saved_tensors,
    tiles,
)

aten = torch.ops.aten


class _Convolution(torch.autograd.Function):

    @staticmethod
    def forward(ctx, x, weight, bias, geometry, shared, name):
        ctx.name, ctx.geometry, ctx.shape = name, geometry, x.shape
        ctx.source = shared.source if shared else None
        ctx.has_bias = bias is not None
        ctx.save_for_backward(weight, *(shared.tensors if shared else ()))
        stride, padding, dilation, transposed, output_padding, groups = geometry
        return torch.convolution(x, weight, bias, stride, padding, dilation, transposed,
                                 output_padding, groups)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        weight, *tensors = saved_tensors(ctx)
        needs_dx, needs_dw, needs_db = ctx.needs_input_grad[:3]
        weight = weight.to(dy.dtype)
        bias_sizes = [dy.shape[1]] if ctx.has_bias else None

        def gradients(dy, x, *needs):
            return aten.convolution_backward(dy, x, weight, bias_sizes, *ctx.geometry, list(needs))

        source = ctx.source
        if needs_dw and not (needs_tiles(source.packed.numel()) and source.has_slices()):
            x = source.load(tensors, dy.dtype)
            return *gradients(dy, x, needs_dx, True, needs_db), None, None, None
        # The gradient of the input depends on the input's shape alone.
        dx, _, db = gradients(dy, dy.new_empty(1).expand(ctx.shape), needs_dx, False, needs_db)
        dw = None
        if needs_dw:
            dw = torch.zeros_like(weight, dtype=torch.float32)
            for first, last in tiles(ctx.shape[0], source.packed.numel()):
                x = source.load_slices(tensors, first, last, dy.dtype)
                dw += gradients(dy[first:last], x, False, True, False)[1]
        return dx, dw, db, None, None, None


class CompressedConvolution(Compressed):
    """The convolutions of any number of dimensions."""

    def forward(self, x):
        if x.dim() != self.weight.dim() or not is_recorded(x, self.weight, self.bias):
            return super().forward(x)
        x, padding = self._pad(x)
        shared = self._input(x) if self.weight.requires_grad else None
        weight, bias = self.weight, self.bias
        geometry = (self.stride, padding, self.dilation, False, (0,) * len(self.stride),
                    self.groups)
        dtype = autocast_dtype(x)
        if dtype is not None:
            x, weight = x.to(dtype), weight.to(dtype)
            bias = bias if bias is None else bias.to(dtype)
        return _Convolution.apply(x, weight, bias, geometry, shared, self._describe())

    def _pad(self, x):
        """The input with the padding that a convolution cannot do, and the padding left to it."""
        ends = self._reversed_padding_repeated_twice  # last dimension first
        if self.padding_mode != "zeros":
            x = _pad_with_own_values(x, ends, self.padding_mode)
        elif ends[::2] == ends[1::2]:
            return x, tuple(reversed(ends[::2]))
        else:
            x = F.pad(x, ends)
        return x, (0,) * len(self.stride)


def _pad_with_own_values(x, ends, mode):
    """F.pad, but its backward pass keeps indices instead of the input."""
    is_last = memory_format(x) != torch.contiguous_format
    if is_last:
        x = x.movedim(1, -1)
    for i, (before, after) in enumerate(zip(ends[::2], ends[1::2])):
        dim = x.dim() - 1 - is_last - i
        last = x.shape[dim] - 1
        if max(before, after) > (last if mode == "reflect" else last + 1) and mode != "replicate":
            raise ValueError(f"actpack: {mode} padding by {max(before, after)} is too much for a"
                             f" dimension of size {last + 1}")
        index = torch.arange(-before, last + 1 + after, device=x.device)
        if mode == "reflect":
            index = last - (last - index.abs()).abs()
        elif mode == "replicate":
            index = index.clamp(0, last)
        else:  # "circular"
            index = index.remainder(last + 1)
        x = x.index_select(dim, index)
    return x.movedim(-1, 1) if is_last else x


class Conv1d(CompressedConvolution, torch.nn.Conv1d):
    """torch.nn.Conv1d that keeps its input in packed form if its weight is trained."""


class Conv2d(CompressedConvolution, torch.nn.Conv2d):
    """torch.nn.Conv2d that keeps its input in packed form if its weight is trained."""


class Conv3d(CompressedConvolution, torch.nn.Conv3d):
    """torch.nn.Conv3d that keeps its input in packed form if its weight is trained."""


CONVOLUTIONS = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d, Conv1d, Conv2d, Conv3d)
