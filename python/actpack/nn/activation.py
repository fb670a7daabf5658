# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
#
# ReLU by its exact mask; GELU and SiLU by their derivatives.
import torch
from torch.autograd.function import once_differentiable

from .. import _native
from ..packed import DecodeAs, Form, dense, empty_mask, pack, prepare
from .base import Compressed, deliver, is_recorded, masked, saved_tensors
from .sharing import PackedInput, Shared, share

aten = torch.ops.aten


class _ReLU(torch.autograd.Function):
    """A ReLU on a sign-magnitude context of its output, which the next module shares."""

    @staticmethod
    def forward(ctx, x, values, is_inplace, packed, packed_bytes, name):
        is_own = values.data_ptr() == x.data_ptr()
        z = torch.relu_(x) if is_inplace and is_own else torch.relu(values)
        _native.encode(z, packed.at(packed_bytes))
        ctx.packed, ctx.name = packed, name
        ctx.save_for_backward(packed_bytes)
        return deliver(ctx, x, z, is_inplace)

    @staticmethod
    @once_differentiable
    def backward(ctx, dz):
        packed_bytes, = saved_tensors(ctx)
        return ctx.packed.apply_signs(packed_bytes, dz), *(None,) * 5


class _MaskedReLU(torch.autograd.Function):
    """A ReLU that keeps a bit for each element."""

    @staticmethod
    def forward(ctx, x, is_inplace, name):
        values = dense(x)
        z, mask = values if is_inplace else torch.empty_like(values), empty_mask(values)
        _native.relu(values, z, mask)
        ctx.name, ctx.stride = name, z.stride()
        ctx.save_for_backward(mask)
        return deliver(ctx, x, z, is_inplace)

    @staticmethod
    @once_differentiable
    def backward(ctx, dz):
        mask, = saved_tensors(ctx)
        return masked(dz, mask, ctx.stride), None, None


class ReLU(Compressed, torch.nn.ReLU):
    """torch.nn.ReLU with an exact mask. It returns its input if batch normalisation has already
    rectified that."""

    def forward(self, x):
        if not is_recorded(x):
            return super().forward(x)
        shared = Shared.on(x)
        if shared is not None and shared.awaits_relu:
            shared.awaits_relu = False
            return x
        if self._options.context == "affine":
            return _MaskedReLU.apply(x, self.inplace, self._describe())
        values = dense(x.detach())
        packed, packed_bytes = prepare(values, Form.SIGN_MAGNITUDE, self._options.bits,
                                       self._options, f"the output of {self._describe()}")
        z = _ReLU.apply(x, values, self.inplace, packed, packed_bytes, self._describe())
        share(z, PackedInput(packed, DecodeAs.RELU), self._options, packed_bytes)
        return z


class _Pointwise(torch.autograd.Function):
    """A smooth function that keeps its derivative, in which the backward pass is linear. Rounding
    the input instead would bias the gradient."""

    @staticmethod
    def forward(ctx, x, function, derivative, is_inplace, options, name):
        ctx.name = name
        slope = derivative(x.new_ones(()).expand_as(x), x)
        ctx.packed, packed_bytes = pack(slope, Form.AFFINE, options.bits, options,
                                        f"the derivative of {name}")
        ctx.save_for_backward(packed_bytes)
        return deliver(ctx, x, function(x), is_inplace)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        packed_bytes, = saved_tensors(ctx)
        return ctx.packed.decode(packed_bytes, dy.dtype) * dy, *(None,) * 5


class GELU(Compressed, torch.nn.GELU):
    """torch.nn.GELU that keeps its derivative in packed form."""

    def forward(self, x):
        if not is_recorded(x):
            return super().forward(x)

        def derivative(ones, x):
            return aten.gelu_backward(ones, x, approximate=self.approximate)

        return _Pointwise.apply(x, super().forward, derivative, False, self._options,
                                self._describe())


class SiLU(Compressed, torch.nn.SiLU):
    """torch.nn.SiLU that keeps its derivative in packed form."""

    def forward(self, x):
        if not is_recorded(x):
            return super().forward(x)
        return _Pointwise.apply(x, super().forward, aten.silu_backward, self.inplace,
                                self._options, self._describe())


RELUS = (torch.nn.ReLU, ReLU)
