# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
#
# Batch normalisation, on one context with the ReLU and the convolution around it.
import dataclasses

import torch
from torch.autograd.function import once_differentiable

from .. import _native
from .._native import SavedValue
from ..packed import DecodeAs, Form, dense, describe, prepare, with_stride
from .activation import RELUS
from .base import Compressed, is_recorded, memory_format, saved_tensors
from .convolution import CONVOLUTIONS
from .sharing import PackedInput, share


@dataclasses.dataclass
class _Normalization:
    """The settings of one call of a batch normalisation."""

    saved: SavedValue
    overwrites_input: bool
    depends_on_input: bool  # through the statistics: in training
    eps: float
    smallest_gamma: float  # a smaller |gamma| counts as this when x̂ is recovered from y
    name: str

    def native(self, x, by_channel, *tensors):
        """`tensors`: mean, variance, gamma and beta, in the forward pass."""
        inner = x.stride(1) if x.shape[1] > 1 else x.numel()
        pointers = [None if t is None else t.data_ptr() for t in tensors or [None] * 4]
        return _native.Normalization(x.shape[1], inner, self.saved, self.eps, self.smallest_gamma,
                                     *pointers, by_channel.data_ptr())


class _BatchNorm(torch.autograd.Function):
    """Batch normalisation that saves its input, or its output, whose channels have one scale.

    With a ReLU behind it, a sign-magnitude context of the output serves both and the next
    convolution. The backward pass decodes as it goes: it needs memory for dz and dx, and nothing
    else of that size.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, values, mean, variance, how, packed, packed_bytes):
        if how.overwrites_input and values.data_ptr() == x.data_ptr():
            ctx.mark_dirty(x)
            y = x
        else:
            y = torch.empty_like(values)
        ctx.how, ctx.packed, ctx.name = how, packed, how.name
        by_channel = torch.empty(x.shape[1], 4, dtype=torch.float32, device=x.device)
        tensors = [None if t is None else dense(t.float())
                   for t in (mean, variance, weight, bias)]
        _native.batch_norm(values, how.native(values, by_channel, *tensors),
                           packed.at(packed_bytes), y)
        ctx.save_for_backward(packed_bytes, by_channel)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, dz):
        packed_bytes, by_channel = saved_tensors(ctx)
        packed = ctx.packed
        dz = with_stride(dz, packed.stride)
        dx = torch.empty_like(dz) if ctx.needs_input_grad[0] else None
        gradients = torch.empty(2, dz.shape[1], dtype=torch.float32, device=dz.device)
        elements = dz.numel() // dz.shape[1] if ctx.how.depends_on_input else 0
        _native.batch_norm_backward(dz, ctx.how.native(dz, by_channel), packed.at(packed_bytes),
                                    packed.is_subtractive, elements, gradients, dx)
        _, needs_dw, needs_db = ctx.needs_input_grad[:3]
        return (dx, gradients[0] if needs_dw else None, gradients[1] if needs_db else None,
                *(None,) * 6)


@dataclasses.dataclass(frozen=True)
class Surroundings:
    """A batch normalisation's neighbours: who else reads its input, and who reads its output.

    rectifies: a ReLU module alone reads the output. So the batch normalisation applies the ReLU,
    one context serves both and the next convolution, and the ReLU returns its input.
    overwrites_input: nobody else reads the input, so the output may overwrite it.
    neighbours: the convolution and the ReLU for which these hold.
    """

    rectifies: bool = False
    overwrites_input: bool = False
    neighbours: tuple = ()

    @staticmethod
    def between(before, after):
        """The surroundings of a module that alone reads `before`'s output and that `after` alone
        reads."""
        overwrites = type(before) in CONVOLUTIONS
        rectifies = type(after) in RELUS
        return Surroundings(rectifies, overwrites,
                            (before,) * overwrites + (after,) * rectifies)

    def are_watched(self, module):
        """Whether hooks would see other values than without compression."""
        return any(watched._forward_hooks or watched._forward_pre_hooks or watched._backward_hooks
                   or getattr(watched, "_backward_pre_hooks", None)
                   for watched in (module, *self.neighbours))


class CompressedBatchNorm(Compressed):
    """The batch normalisations of any number of dimensions. `convert` sets their surroundings, or
    `actpack.nn.Sequential` does before every call."""

    surroundings = Surroundings()

    # Below this share of the largest |gamma|, a channel's normalised input cannot be recovered from
    # the output as precisely as the others'.
    least_share = 2.0**-6

    # On a GPU, reading gamma makes the host wait, so it is read once in so many steps.
    steps_between_checks = 64
    _steps = 0
    _smallest_gamma = 0.0
    _is_invertible = False

    def forward(self, x):
        surroundings = self._surroundings(x)
        if not (x.numel() > 0 and is_recorded(x, self.weight, self.bias)):
            return super().forward(x)
        self._check(x)
        is_training = self.training or self.running_mean is None
        if is_training and x.numel() == x.shape[1]:
            raise ValueError(f"actpack: {self._describe()} needs more than one value of each"
                             f" channel in training; its input is {describe(x)}")
        keeps_output = self._options.context == "sign_magnitude" and self._can_invert()
        rectifies = surroundings.rectifies and keeps_output
        how = _Normalization(SavedValue.OUTPUT if keeps_output else SavedValue.INPUT,
                             surroundings.overwrites_input, is_training, self.eps,
                             self._smallest_gamma if keeps_output else 0.0, self._describe())
        values = x.detach().resolve_neg().contiguous(memory_format=memory_format(x))
        packed, packed_bytes = prepare(
            values, Form.SIGN_MAGNITUDE if rectifies else Form.AFFINE, self._options.bits,
            self._options, f"the {'output' if keeps_output else 'input'} of {how.name}")
        mean, variance = (self._update_statistics(values) if is_training
                          else (self.running_mean, self.running_var))
        y = _BatchNorm.apply(x, self.weight, self.bias, values, mean, variance, how, packed,
                             packed_bytes)
        if keeps_output:
            decode_as = DecodeAs.RELU if rectifies else DecodeAs.VALUES
            share(y, PackedInput(packed, decode_as), self._options, packed_bytes)
            y._actpack_shared.awaits_relu = rectifies
        return y

    def _surroundings(self, x):
        surroundings = x.__dict__.pop("_actpack_surroundings", self.surroundings)
        return Surroundings() if surroundings.are_watched(self) else surroundings

    def _check(self, x):
        self._check_input_dim(x)
        for name in ("weight", "bias", "running_mean", "running_var"):
            tensor = getattr(self, name)
            if tensor is not None and (tensor.numel() != x.shape[1] or tensor.device != x.device):
                raise ValueError(f"actpack: the {name} of {self._describe()} is of"
                                 f" {tensor.numel()} channels on {tensor.device}; its input is"
                                 f" {describe(x)}")

    def _update_statistics(self, x):
        """The batch's mean and variance; updates the running ones as torch does."""
        if not (self.training and self.track_running_stats):
            return torch.batch_norm_update_stats(x, None, None, 0.0)
        momentum = self.momentum
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if momentum is None:
                momentum = 1.0 / float(self.num_batches_tracked)
        return torch.batch_norm_update_stats(x, self.running_mean, self.running_var,
                                             momentum or 0.0)

    def _can_invert(self):
        if self.weight is None:
            return True
        if not self.weight.is_cuda or self._steps % self.steps_between_checks == 0:
            sizes = self.weight.detach().abs()
            least, largest = torch.stack((sizes.min(), sizes.max())).tolist()
            self._smallest_gamma = self.least_share * largest
            self._is_invertible = least >= self._smallest_gamma > 0
        self._steps += 1
        return self._is_invertible


class BatchNorm1d(CompressedBatchNorm, torch.nn.BatchNorm1d):
    """torch.nn.BatchNorm1d that keeps its output, or its input, in packed form."""


class BatchNorm2d(CompressedBatchNorm, torch.nn.BatchNorm2d):
    """torch.nn.BatchNorm2d that keeps its output, or its input, in packed form."""


class BatchNorm3d(CompressedBatchNorm, torch.nn.BatchNorm3d):
    """torch.nn.BatchNorm3d that keeps its output, or its input, in packed form."""


NORMALIZATIONS = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.BatchNorm3d, BatchNorm1d,
                  BatchNorm2d, BatchNorm3d)
