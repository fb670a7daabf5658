# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
#
# torch.nn's modules with packed activations: each keeps what its backward pass needs, and no more.
#
# Rounding without bias is safe where a backward pass is linear in what was kept: the inputs of
# linear layers and convolutions. Everything else is kept so that it becomes linear, or exactly: a
# ReLU keeps its mask, a GELU its derivative, max-pooling its winners. Only normalisations use what
# they kept twice in a product, a value and a mean that it is part of: a bias of 1 / M of the
# noise's variance, for means over M values. Where one tensor is the business of several modules, a
# note on it (`Shared`) lets them keep one packed copy together.
import collections
import dataclasses

import torch
from torch.autograd.function import once_differentiable
import torch.nn.functional as F

from . import _native
from ._native import Kept
from .packed import (Form, Options, Part, dense, describe, drawn_stream, empty_mask, pack,
                     pack_codes, prepare, unpack_codes, with_stride)

aten = torch.ops.aten

# Decoded elements that a weight gradient takes at a time: more than a GPU needs to be busy, less
# than the activations of a large batch.
tile_numel = 1 << 25


class PackedInput:
    """An operation's input, out of one packed tensor."""

    def __init__(self, packed, part=Part.ALL):
        self.packed = packed
        self.part = part

    def load(self, tensors, dtype):
        return self.packed.decode(tensors[0], dtype, self.part)

    def load_slices(self, tensors, first, last, dtype):
        """Slices [first, last) of the outermost dimension."""
        shape, stride = self.packed.shape, self.packed.stride
        out = torch.empty_strided((last - first, *shape[1:]), stride, dtype=dtype,
                                  device=self.packed.device)
        return self.packed.decode_range(tensors[0], first * stride[0], out, self.part)

    def has_slices(self):
        """Whether the outermost dimension is that of memory, too."""
        packed = self.packed
        return (len(packed.shape) > 1 and packed.shape[0] > 1
                and packed.stride[0] * packed.shape[0] == packed.numel())


class NormalizedInput(PackedInput):
    """The output of a layer normalisation over so many dimensions, out of the packed input of
    that."""

    def __init__(self, packed, dimensions):
        super().__init__(packed)
        self.dimensions = dimensions

    def has_slices(self):
        return super().has_slices() and self.dimensions < len(self.packed.shape)

    def load(self, tensors, dtype):
        return self._normalize(super().load(tensors[:1], torch.float32), *tensors[1:]).to(dtype)

    def load_slices(self, tensors, first, last, dtype):
        x = super().load_slices(tensors[:1], first, last, torch.float32)
        mean, rstd, *affine = tensors[1:]
        return self._normalize(x, mean[first:last], rstd[first:last], *affine).to(dtype)

    @staticmethod
    def _normalize(x, mean, rstd, weight=None, bias=None):
        x.sub_(mean).mul_(rstd)
        if weight is not None:
            x.mul_(weight)
        return x if bias is None else x.add_(bias)


@dataclasses.dataclass
class Shared:
    """A note on a tensor: where its values can be had from in the backward pass."""

    source: PackedInput
    tensors: tuple  # what `source` loads from
    options: Options
    version: int  # of the tensor: once it has been changed in place, the note does not hold
    awaits_relu: bool = False  # a batch normalisation has applied the ReLU that comes next

    @staticmethod
    def on(tensor):
        shared = getattr(tensor, "_actpack_shared", None)
        is_valid = isinstance(shared, Shared) and shared.version == tensor._version
        return shared if is_valid else None

    def __reduce__(self):
        # A tensor that is saved leaves its note behind, for nothing that torch.load would mistrust.
        return collections.OrderedDict, ()


def share(tensor, source, options, *tensors):
    tensor._actpack_shared = Shared(source, tensors, options, tensor._version)


def is_recorded(*tensors):
    """Whether a backward pass may come."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def saved_tensors(ctx):
    try:
        return ctx.saved_tensors
    except RuntimeError as error:
        if "second time" in str(error) or "freed" in str(error):
            raise RuntimeError(
                f"actpack: {ctx.name} has no packed activations any more: a backward pass through"
                " it has freed them; the first needs retain_graph=True if a second is to follow"
                f" ({error})") from error
        if "inplace" in str(error):
            raise RuntimeError(f"actpack: a tensor that {ctx.name} needs in its backward pass, its"
                               f" weight for one, has changed in place ({error})") from error
        raise


def deliver(ctx, x, y, is_inplace):
    """An operation's result: y, or x with y's values in it if the operation is one in place."""
    if not is_inplace:
        return y
    ctx.mark_dirty(x)
    return x if y is x else x.copy_(y)


class _Compressed:
    """What the modules have in common: the options, and a name for errors."""

    _options = Options()
    _name = None

    def _describe(self):
        return self._name or f"this {type(self).__name__}"

    def _input(self, x):
        """The packed form of an operation's input: what its maker shares, or a copy, shared with
        all that will read the same tensor."""
        shared = Shared.on(x) if self._options.context == "sign_magnitude" else None
        if shared is None or shared.options != self._options:
            # Detached: an input may be a parameter, as learned queries are.
            packed, packed_bytes = pack(x.detach(), Form.AFFINE, self._options.bits, self._options,
                                        f"the input of {self._describe()}")
            shared = Shared(PackedInput(packed), (packed_bytes,), self._options, x._version)
            if x.grad_fn is not None:  # a leaf outlives the step: each must round it afresh
                x._actpack_shared = shared
        return shared


class _Linear(torch.autograd.Function):

    @staticmethod
    def forward(ctx, x, weight, bias, shared, name):
        ctx.name = name
        ctx.source = shared.source if shared else None
        ctx.save_for_backward(weight, *(shared.tensors if shared else ()))
        y = F.linear(x, weight, bias)
        # Before PyTorch 2.0 it may be a view, which nobody could change in place afterwards.
        return y.new_empty(0).set_(y) if y._is_view() else y

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        weight, *tensors = saved_tensors(ctx)
        needs_dx, needs_dw, needs_db = ctx.needs_input_grad[:3]
        dx = dy.matmul(weight.to(dy.dtype)) if needs_dx else None
        dw = _linear_weight_gradient(dy, weight, ctx.source, tensors) if needs_dw else None
        db = dy.reshape(-1, dy.shape[-1]).sum(0) if needs_db else None
        return dx, dw, db, None, None


def _rows(x):
    return x.reshape(-1, x.shape[-1])


def _linear_weight_gradient(dy, weight, source, tensors):
    numel = dy.numel() // weight.shape[0] * weight.shape[1]
    if numel <= tile_numel or not source.has_slices():
        return _rows(dy).t().mm(_rows(source.load(tensors, dy.dtype)))
    dw = torch.zeros_like(weight, dtype=torch.float32)
    for first, last in _tiles(dy.shape[0], numel):
        x = source.load_slices(tensors, first, last, dy.dtype)
        dw += _rows(dy[first:last]).t().mm(_rows(x))
    return dw


def _tiles(size, numel):
    """Ranges of the outermost dimension of a tensor, of about tile_numel elements each."""
    step = max(1, size * tile_numel // numel)
    return [(first, min(first + step, size)) for first in range(0, size, step)]


class Linear(_Compressed, torch.nn.Linear):
    """torch.nn.Linear that keeps its input in packed form, if its weight is trained at all."""

    def forward(self, x):
        if not is_recorded(x, self.weight, self.bias):
            return super().forward(x)
        shared = self._input(x) if self.weight.requires_grad else None
        return _Linear.apply(x, self.weight, self.bias, shared, self._describe())


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
        if needs_dw and (source.packed.numel() <= tile_numel or not source.has_slices()):
            x = source.load(tensors, dy.dtype)
            return *gradients(dy, x, needs_dx, True, needs_db), None, None, None
        # Of the input, the gradient with respect to it needs the shape alone.
        dx, _, db = gradients(dy, dy.new_empty(1).expand(ctx.shape), needs_dx, False, needs_db)
        dw = None
        if needs_dw:
            dw = torch.zeros_like(weight, dtype=torch.float32)
            for first, last in _tiles(ctx.shape[0], source.packed.numel()):
                x = source.load_slices(tensors, first, last, dy.dtype)
                dw += gradients(dy[first:last], x, False, True, False)[1]
        return dx, dw, db, None, None, None


class _CompressedConvolution(_Compressed):

    def forward(self, x):
        if x.dim() != self.weight.dim() or not is_recorded(x, self.weight, self.bias):
            return super().forward(x)
        x, padding = self._pad(x)
        shared = self._input(x) if self.weight.requires_grad else None
        weight, bias = self.weight, self.bias
        geometry = (self.stride, padding, self.dilation, False, (0,) * len(self.stride),
                    self.groups)
        dtype = _autocast_dtype(x)
        if dtype is not None:
            x, weight = x.to(dtype), weight.to(dtype)
            bias = bias if bias is None else bias.to(dtype)
        return _Convolution.apply(x, weight, bias, geometry, shared, self._describe())

    def _pad(self, x):
        """The input, padded as a convolution cannot do it, and the padding that is left to that."""
        ends = self._reversed_padding_repeated_twice  # of the last dimension, of the one before, …
        if self.padding_mode != "zeros":
            x = _pad_with_own_values(x, ends, self.padding_mode)
        elif ends[::2] == ends[1::2]:
            return x, tuple(reversed(ends[::2]))
        else:
            x = F.pad(x, ends)
        return x, (0,) * len(self.stride)


def _pad_with_own_values(x, ends, mode):
    """As F.pad, whose backward pass would keep the input; this one keeps where values are from."""
    is_last = _memory_format(x) != torch.contiguous_format
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


def _autocast_dtype(x):
    """The type that operations on x are to run in; None outside of autocast."""
    if _is_autocast_by_device:
        device = x.device.type
        return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    if x.is_cuda:
        return torch.get_autocast_gpu_dtype() if torch.is_autocast_enabled() else None
    return torch.get_autocast_cpu_dtype() if torch.is_autocast_cpu_enabled() else None


_is_autocast_by_device = hasattr(torch, "get_autocast_dtype")  # since 2.4; before, a pair for each


class Conv1d(_CompressedConvolution, torch.nn.Conv1d):
    """torch.nn.Conv1d that keeps its input in packed form, if its weight is trained at all."""


class Conv2d(_CompressedConvolution, torch.nn.Conv2d):
    """torch.nn.Conv2d that keeps its input in packed form, if its weight is trained at all."""


class Conv3d(_CompressedConvolution, torch.nn.Conv3d):
    """torch.nn.Conv3d that keeps its input in packed form, if its weight is trained at all."""


def _memory_format(x):
    """Channels last if x lies so, else contiguous: what torch's own operations give their results.
    """
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.dim())
    is_last = last is not None and x.is_contiguous(memory_format=last)
    return last if is_last else torch.contiguous_format


@dataclasses.dataclass
class _Normalization:
    """How one call of a batch normalisation is to go, beside its tensors."""

    kept: Kept
    overwrites_input: bool
    depends_on_input: bool  # by its statistics: in training
    eps: float
    least_weight: float  # channels whose |gamma| is below it are taken to have less x̂
    name: str

    def native(self, x, by_channel, *tensors):
        """`tensors`: mean, variance, gamma and beta, in the forward pass."""
        inner = x.stride(1) if x.shape[1] > 1 else x.numel()
        pointers = [None if t is None else t.data_ptr() for t in tensors or [None] * 4]
        return _native.Normalization(x.shape[1], inner, self.kept, self.eps, self.least_weight,
                                     *pointers, by_channel.data_ptr())


class _BatchNorm(torch.autograd.Function):
    """Batch normalisation that keeps its input; or its output, where channels have come to one
    scale, and with the ReLU behind it a sign-magnitude context, which serves both, and the next
    convolution. Its backward pass decodes as it goes: beside dz there is dx, and nothing else of
    that size."""

    @staticmethod
    def forward(ctx, x, weight, bias, values, mean, variance, how, packed, packed_bytes):
        if how.overwrites_input and values.data_ptr() == x.data_ptr():
            ctx.mark_dirty(x)
            y = x
        else:
            y = torch.empty_like(values)
        ctx.how, ctx.packed, ctx.name = how, packed, how.name
        by_channel = torch.empty(x.shape[1], 4, dtype=torch.float32, device=x.device)
        tensors = [None if t is None else t.float() for t in (mean, variance, weight, bias)]
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
    """What stands around a batch normalisation: who else sees its input, and what reads its output.

    rectifies: a ReLU module, and nothing else, reads the output, so the module applies the ReLU
    itself, one context serves both and the next convolution, and the ReLU lets its input pass.
    overwrites_input: nobody but the module reads its input, whose place the output may take.
    neighbours: the convolution and the ReLU for which that is so.
    """

    rectifies: bool = False
    overwrites_input: bool = False
    neighbours: tuple = ()

    @staticmethod
    def between(before, after):
        """Of a module that reads all of `before`'s results alone and is read by `after` alone."""
        overwrites = type(before) in CONVOLUTIONS
        rectifies = type(after) in RELUS
        return Surroundings(rectifies, overwrites,
                            (before,) * overwrites + (after,) * rectifies)

    def are_watched(self, module):
        """Whether hooks would see something else than without compression."""
        return any(watched._forward_hooks or watched._forward_pre_hooks or watched._backward_hooks
                   or getattr(watched, "_backward_pre_hooks", None)
                   for watched in (module, *self.neighbours))


class _CompressedBatchNorm(_Compressed):
    """What surrounds it is told by `convert`, or by `actpack.nn.Sequential` from call to call."""

    surroundings = Surroundings()

    # Below this share of the largest |gamma|, a channel's normalised input is not to be had from
    # the output with the precision of the others.
    least_share = 2.0**-6

    # A GPU is asked for its gammas, which makes the host wait, once in so many steps.
    steps_between_checks = 64
    _steps = 0
    _least_weight = 0.0
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
        how = _Normalization(Kept.OUTPUT if keeps_output else Kept.INPUT,
                             surroundings.overwrites_input, is_training, self.eps,
                             self._least_weight, self._describe())
        values = x.detach().contiguous(memory_format=_memory_format(x))
        packed, packed_bytes = prepare(
            values, Form.SIGN_MAGNITUDE if rectifies else Form.AFFINE, self._options.bits,
            self._options, f"the {'output' if keeps_output else 'input'} of {how.name}")
        mean, variance = (self._update_statistics(values) if is_training
                          else (self.running_mean, self.running_var))
        y = _BatchNorm.apply(x, self.weight, self.bias, values, mean, variance, how, packed,
                             packed_bytes)
        if keeps_output:
            share(y, PackedInput(packed, Part.RELU if rectifies else Part.ALL), self._options,
                  packed_bytes)
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
        """Mean and variance of the batch; the running ones move as torch's do."""
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
            self._least_weight = self.least_share * largest
            self._is_invertible = least >= self._least_weight > 0
        self._steps += 1
        return self._is_invertible


class BatchNorm1d(_CompressedBatchNorm, torch.nn.BatchNorm1d):
    """torch.nn.BatchNorm1d that keeps its output in packed form, or its input."""


class BatchNorm2d(_CompressedBatchNorm, torch.nn.BatchNorm2d):
    """torch.nn.BatchNorm2d that keeps its output in packed form, or its input."""


class BatchNorm3d(_CompressedBatchNorm, torch.nn.BatchNorm3d):
    """torch.nn.BatchNorm3d that keeps its output in packed form, or its input."""


class _ReLU(torch.autograd.Function):
    """A ReLU on a sign-magnitude context of its output, for whoever reads that next."""

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


def _masked(dy, mask, stride, drop_probability=0.0):
    """dy / (1 - p) where the mask of a tensor of these strides is set, else 0."""
    dy = with_stride(dy, stride)
    dx = torch.empty_strided(dy.shape, stride, dtype=dy.dtype, device=dy.device)
    _native.apply_mask(dy, mask, dx, drop_probability)
    return dx


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
        return _masked(dz, mask, ctx.stride), None, None


class ReLU(_Compressed, torch.nn.ReLU):
    """torch.nn.ReLU with an exact mask; what a normalisation has rectified for it passes."""

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
        share(z, PackedInput(packed, Part.RELU), self._options, packed_bytes)
        return z


class _MaxPool2d(torch.autograd.Function):
    """Max-pooling that keeps, for each window, the place of its winner in it."""

    @staticmethod
    def forward(ctx, x, kernel, stride, padding, ceil_mode, options, name):
        y, index = F.max_pool2d(x, kernel, stride, padding, 1, ceil_mode, return_indices=True)
        row, column = _corners(y.shape, stride, padding, x.device)
        index = index.to(torch.int32)
        place = index // x.shape[-1]
        index.sub_(place * x.shape[-1])
        place.sub_(row).mul_(kernel[1]).add_(index).sub_(column)
        bits = next(b for b in (1, 2, 4, 8) if kernel[0] * kernel[1] <= 1 << b)
        ctx.codes, packed_bytes = pack_codes(place, bits, options)
        ctx.name, ctx.geometry, ctx.shape = name, (kernel, stride, padding), x.shape
        ctx.memory_format = _memory_format(x)
        ctx.save_for_backward(packed_bytes)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        packed_bytes, = saved_tensors(ctx)
        kernel, stride, padding = ctx.geometry
        place = unpack_codes(ctx.codes, packed_bytes)
        row, column = _corners(dy.shape, stride, padding, dy.device)
        index = place // kernel[1]
        place.sub_(index * kernel[1])
        index.add_(row).mul_(ctx.shape[-1]).add_(place).add_(column)
        dx = torch.empty(ctx.shape, dtype=dy.dtype, device=dy.device,
                         memory_format=ctx.memory_format).zero_()
        # Planes are flat without a copy, in both orders.
        dx.flatten(-2).scatter_add_(-1, index.flatten(-2).to(torch.int64), dy.flatten(-2))
        return dx, None, None, None, None, None, None


def _corners(output_shape, stride, padding, device):
    """Where the windows start: rows, and columns, to be broadcast over the output."""
    rows, columns = (
        torch.arange(size, device=device, dtype=torch.int32) * step - border
        for size, step, border in zip(output_shape[-2:], stride, padding))
    return rows[:, None], columns


class MaxPool2d(_Compressed, torch.nn.MaxPool2d):
    """torch.nn.MaxPool2d that keeps 2 bits for a window of 4, and 4 for one of 9."""

    def forward(self, x):
        kernel, stride, padding, dilation = (
            (value, value) if isinstance(value, int) else tuple(value)
            for value in (self.kernel_size, self.stride, self.padding, self.dilation))
        is_usual = dilation == (1, 1) and not self.return_indices and kernel[0] * kernel[1] <= 256
        if not is_usual or not is_recorded(x):
            return super().forward(x)
        return _MaxPool2d.apply(x, kernel, stride, padding, self.ceil_mode, self._options,
                                self._describe())


class _LayerNorm(torch.autograd.Function):
    """Also returns the statistics, by which the output can be computed again."""

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


class LayerNorm(_Compressed, torch.nn.LayerNorm):
    """torch.nn.LayerNorm on one packed copy of its input, which serves the next linear layer, too:
    its output is computed from that again."""

    def forward(self, x):
        if not is_recorded(x, self.weight, self.bias):
            return super().forward(x)
        if x.is_cuda and _autocast_dtype(x) is not None:  # where autocast would have it so
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
        dw = _rows(dy * normalized).sum(0)
        scaled = dy.float() * weight
        dx = scaled - normalized * (scaled * normalized).mean(-1, keepdim=True)
        return dx.mul_(rstd), dw, None, None, None


class RMSNorm(_Compressed, torch.nn.Module):
    """x / sqrt(mean(x²) + eps) · weight over the last dimension, on a packed copy of its input."""

    def __init__(self, size, eps=1e-6):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x):
        if not is_recorded(x, self.weight):
            return (x * _inverse_root_mean_square(x, self.eps)).to(x.dtype) * self.weight
        return _RMSNorm.apply(x, self.weight, self.eps, self._options, self._describe())


class _Pointwise(torch.autograd.Function):
    """A smooth function that keeps its derivative, in which its backward pass is linear: rounding
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


class GELU(_Compressed, torch.nn.GELU):
    """torch.nn.GELU that keeps its derivative in packed form."""

    def forward(self, x):
        if not is_recorded(x):
            return super().forward(x)

        def derivative(ones, x):
            return aten.gelu_backward(ones, x, approximate=self.approximate)

        return _Pointwise.apply(x, super().forward, derivative, False, self._options,
                                self._describe())


class SiLU(_Compressed, torch.nn.SiLU):
    """torch.nn.SiLU that keeps its derivative in packed form."""

    def forward(self, x):
        if not is_recorded(x):
            return super().forward(x)
        return _Pointwise.apply(x, super().forward, aten.silu_backward, self.inplace,
                                self._options, self._describe())


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
        return _masked(dy, mask, ctx.stride, ctx.p), *(None,) * 5


class Dropout(_Compressed, torch.nn.Dropout):
    """torch.nn.Dropout that keeps a bit for each element. Its masks are a function of the seed and
    of a number from torch's generator, and others than torch's own."""

    def forward(self, x):
        # Without gradients, too: checkpointing is to get the same mask in either pass.
        if not (self.training and 0 < self.p < 1):
            return super().forward(x)
        return _Dropout.apply(x, self.p, self._options.seed, drawn_stream(), self.inplace,
                              self._describe())


def _attention(q, k, v, is_causal):
    if hasattr(F, "scaled_dot_product_attention"):
        return F.scaled_dot_product_attention(q, k, v, is_causal=is_causal)
    scores = q.matmul(k.transpose(-2, -1)) / q.shape[-1]**0.5
    if is_causal:
        ones = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device)
        scores = scores.masked_fill(ones.triu(1), float("-inf"))
    return scores.softmax(-1).matmul(v)


class _Attention(torch.autograd.Function):
    """Attention that keeps queries, keys and values in packed form and computes the rest again."""

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


class ScaledDotProductAttention(_Compressed, torch.nn.Module):
    """softmax(q kᵀ / √d) v of q, k and v [..., tokens, channels]. It keeps q and k, of which the
    softmax makes nonlinear use, at `options.attention_bits`."""

    def forward(self, q, k, v, is_causal=False):
        if not is_recorded(q, k, v):
            return _attention(q, k, v, is_causal)
        return _Attention.apply(q, k, v, is_causal, self._options, self._describe())


class Sequential(torch.nn.Sequential):
    """torch.nn.Sequential that tells a batch normalisation what surrounds it: of what passes
    between its modules, nobody else knows."""

    def forward(self, x):
        modules = list(self)
        for before, module, after in zip([None, *modules], modules, [*modules[1:], None]):
            if isinstance(module, _CompressedBatchNorm) and isinstance(x, torch.Tensor):
                x._actpack_surroundings = Surroundings.between(before, after)
            x = module(x)
        return x


class ConvBatchNormReLU(Sequential):
    """Convolution, batch normalisation and ReLU on one context, which the next convolution reads,
    too: 3.125 bits instead of 64 a value at 2 bits. `convolution` are Conv2d's arguments."""

    def __init__(self, in_channels, out_channels, kernel_size, **convolution):
        super().__init__(
            Conv2d(in_channels, out_channels, kernel_size, **{"bias": False, **convolution}),
            BatchNorm2d(out_channels), ReLU())


CONVOLUTIONS = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d, Conv1d, Conv2d, Conv3d)
NORMALIZATIONS = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.BatchNorm3d, BatchNorm1d,
                  BatchNorm2d, BatchNorm3d)
RELUS = (torch.nn.ReLU, ReLU)
