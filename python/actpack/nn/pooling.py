# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
#
# Max-pooling by the winner of each window.
import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from ..packed import pack_codes, unpack_codes
from .base import Compressed, is_recorded, memory_format, saved_tensors


class _MaxPool2d(torch.autograd.Function):
    """Max-pooling that keeps the index of each window's winner within the window."""

    @staticmethod
    def forward(ctx, x, kernel, stride, padding, ceil_mode, options, name):
        y, index = F.max_pool2d(x, kernel, stride, padding, 1, ceil_mode, return_indices=True)
        row, column = _corners(y.shape, stride, padding, x.device)
        index = index.to(torch.int32)
        winner = index // x.shape[-1]
        index.sub_(winner * x.shape[-1])
        winner.sub_(row).mul_(kernel[1]).add_(index).sub_(column)
        bits = next(b for b in (1, 2, 4, 8) if kernel[0] * kernel[1] <= 1 << b)
        ctx.codes, packed_bytes = pack_codes(winner, bits, options)
        ctx.name, ctx.geometry, ctx.shape = name, (kernel, stride, padding), x.shape
        ctx.memory_format = memory_format(x)
        ctx.save_for_backward(packed_bytes)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        packed_bytes, = saved_tensors(ctx)
        kernel, stride, padding = ctx.geometry
        winner = unpack_codes(ctx.codes, packed_bytes)
        row, column = _corners(dy.shape, stride, padding, dy.device)
        index = winner // kernel[1]
        winner.sub_(index * kernel[1])
        index.add_(row).mul_(ctx.shape[-1]).add_(winner).add_(column)
        dx = torch.empty(ctx.shape, dtype=dy.dtype, device=dy.device,
                         memory_format=ctx.memory_format).zero_()
        # In either memory format a plane flattens without a copy.
        dx.flatten(-2).scatter_add_(-1, index.flatten(-2).to(torch.int64), dy.flatten(-2))
        return dx, None, None, None, None, None, None


def _corners(output_shape, stride, padding, device):
    """The windows' first rows and columns, shaped to broadcast over the output."""
    rows, columns = (
        torch.arange(size, device=device, dtype=torch.int32) * step - border
        for size, step, border in zip(output_shape[-2:], stride, padding))
    return rows[:, None], columns


class MaxPool2d(Compressed, torch.nn.MaxPool2d):
    """torch.nn.MaxPool2d that keeps 2 bits for a window of 4 elements, 4 bits for one of 9."""

    def forward(self, x):
        kernel, stride, padding, dilation = (
            (value, value) if isinstance(value, int) else tuple(value)
            for value in (self.kernel_size, self.stride, self.padding, self.dilation))
        is_usual = dilation == (1, 1) and not self.return_indices and kernel[0] * kernel[1] <= 256
        if not is_usual or not is_recorded(x):
            return super().forward(x)
        return _MaxPool2d.apply(x, kernel, stride, padding, self.ceil_mode, self._options,
                                self._describe())
