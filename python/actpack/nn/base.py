# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
#
# The modules' common base class, and helpers of their forward and backward passes.
import math

import torch

from .. import _native
from ..packed import Form, Options, pack, with_stride
from .sharing import PackedInput, Shared

# Elements that a weight gradient decodes at a time: enough to keep a GPU busy, fewer than a large
# batch has.
tile_numel = 1 << 25


class Compressed:
    """The modules' common base: options, and a name for errors."""

    _options = Options()
    _name = None

    def _describe(self):
        return self._name or f"this {type(self).__name__}"

    def _input(self, x):
        """An operation's packed input: the one that its maker shares, or a new one, which whoever
        reads the same tensor next will share."""
        shared = Shared.on(x) if self._options.context == "sign_magnitude" else None
        if shared is None or shared.options != self._options:
            # Detached, for an input may be a parameter, as learned queries are.
            packed, packed_bytes = pack(x.detach(), Form.AFFINE, self._options.bits, self._options,
                                        f"the input of {self._describe()}")
            shared = Shared(PackedInput(packed), (packed_bytes,), self._options, x._version)
            if x.grad_fn is not None:  # a leaf outlives the step, and each step rounds it afresh
                x._actpack_shared = shared
        return shared


def is_recorded(*tensors):
    """Whether a backward pass may follow."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def saved_tensors(ctx):
    """ctx.saved_tensors, with errors that name the module."""
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
    """An operation's result: y, or x with y's values if the operation works in place."""
    if not is_inplace:
        return y
    ctx.mark_dirty(x)
    return x if y is x else x.copy_(y)


def masked(dy, mask, stride, drop_probability=0.0):
    """dy / (1 - p) where the mask, of a tensor with these strides, is set, else 0."""
    dy = with_stride(dy, stride)
    dx = torch.empty_strided(dy.shape, stride, dtype=dy.dtype, device=dy.device)
    _native.apply_mask(dy, mask, dx, drop_probability)
    return dx


def rows(x):
    """x as a matrix, whose rows are the last dimension."""
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])  # -1 would not do for empty rows


def needs_tiles(numel):
    """Whether so many elements are too many to decode at once."""
    return numel > tile_numel


def tiles(size, numel):
    """Splits the outermost dimension, of `size`, into ranges of about tile_numel elements each."""
    step = max(1, size * tile_numel // numel)
    return [(first, min(first + step, size)) for first in range(0, size, step)]


def memory_format(x):
    """Channels last if x is, else contiguous: the format of the results of torch's operations."""
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.dim())
    is_last = last is not None and x.is_contiguous(memory_format=last)
    return last if is_last else torch.contiguous_format


def autocast_dtype(x):
    """The type in which operations on x run under autocast; None outside of it."""
    if _is_autocast_by_device:
        device = x.device.type
        return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    if x.is_cuda:
        return torch.get_autocast_gpu_dtype() if torch.is_autocast_enabled() else None
    return torch.get_autocast_cpu_dtype() if torch.is_autocast_cpu_enabled() else None


# Since 2.4; before, each device has functions of its own.
_is_autocast_by_device = hasattr(torch, "get_autocast_dtype")
