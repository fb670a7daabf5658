# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
#
# Hooks that pack what autograd saves for the operations of an unmodified model.
#
# A hook sees a tensor, but neither which operation saves it nor why. So it packs all activations in
# the one form that suits every use: signs and magnitudes, decoded plainly. The mean is the value,
# zeros stay zero, and positive values stay positive. An operation that reads a mask off its output
# (a ReLU: result > 0) therefore reads the exact mask. A mask read off rounded values would bias the
# gradient, however many steps are averaged.
import contextlib
import weakref

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from . import _native
from .packed import Form, Options, describe, pack, pack_mask, unpack_mask


class compressed(contextlib.AbstractContextManager):  # noqa: N801 - read like a function
    """A region in which what autograd saves is packed: `with actpack.compressed(bits=2): ...`.

    Only the forward pass needs to be inside. Floating-point tensors that an operation computed take
    bits + 1.125 bits a value; boolean tensors take a bit, and integers the narrowest type that
    holds them, both exactly. A tensor that several operations save is packed once.

    These stay as they are: parameters, and their views and copies in another type; the tensors of
    `keep`, a module (its parameters and buffers) or an iterable; leaves, which are the caller's own
    or statistics with nonlinear uses; results that softmax, sigmoid, exp and their like save for a
    nonlinear use of their own; and tensors of fewer than `min_numel` elements.

    Rounding is unbiased. So is the gradient where operations are linear in what they saved or read
    a sign off it: convolutions, linear layers, ReLU, average pooling, max-pooling (which saves
    indices), dropout. Operations that compare what they saved with a bound or with their result
    (ReLU6, clamp, amax, an infinite norm), or divide by it (log, powers, quotients), get wrong
    gradients, up to NaN. GELU and attention get biased ones. For those, leave the region, choose
    more bits, or use the modules of `actpack.convert`.
    """

    def __init__(self, bits=2, seed=0, keep=(), min_numel=1024):
        if isinstance(keep, torch.nn.Module):
            keep = [*keep.parameters(), *keep.buffers()]
        self._options = Options(bits=bits, seed=seed, subtractive=False)
        self._keep = list(keep)  # alive, so that no other storage takes their addresses
        self._kept_storages = {_storage(tensor)._cdata for tensor in self._keep}
        self._min_numel = min_numel
        self._packed = _PackedOnce()

    def __enter__(self):
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, _unpack)
        self._hooks.__enter__()
        return self

    def __exit__(self, *exception):
        self._packed.clear()
        return self._hooks.__exit__(*exception)

    def _pack(self, tensor):
        stays = (tensor.numel() < max(self._min_numel, 1) or tensor.layout != torch.strided
                 or _storage(tensor)._cdata in self._kept_storages
                 or _is_parameter(tensor) or _is_result_to_keep(tensor))
        return _AsIs(tensor) if stays else self._packed.get(tensor, self._make)

    def _make(self, tensor):
        if tensor.dtype == torch.bool:
            return _PackedMask(tensor)
        if tensor.dtype in (torch.int16, torch.int32, torch.int64):
            return _NarrowIntegers(tensor)
        if tensor.dtype not in _native.TYPES:
            return _AsIs(tensor)
        if tensor.grad_fn is not None:
            return _PackedValues(tensor, self._options)
        levels = None if tensor.is_cuda else _two_levels(tensor)
        return _AsIs(tensor) if levels is None else _TwoLevels(tensor, *levels)


def _unpack(saved):
    return saved.unpack()


def _storage(tensor):
    return tensor.untyped_storage() if hasattr(tensor, "untyped_storage") else tensor.storage()


# Operations whose result is still the parameter: views, and copies in another type.
_COPIES = {"AliasBackward0", "ExpandBackward0", "PermuteBackward0", "ReshapeAliasBackward0",
           "SliceBackward0", "TBackward0", "ToCopyBackward0", "TransposeBackward0",
           "UnsafeViewBackward0", "UnsqueezeBackward0", "ViewBackward0"}


def _is_parameter(tensor):
    function = tensor.grad_fn
    while function is not None and function.name() in _COPIES:
        function = function.next_functions[0][0]
    if function is None:
        return tensor.requires_grad or isinstance(tensor, torch.nn.Parameter)
    return function.name() == "torch::autograd::AccumulateGrad"


# Operations that save their own result for a nonlinear use.
_RESULTS = {"CumprodBackward0", "ExpBackward0", "Expm1Backward0", "LogSoftmaxBackward0",
            "LogsumexpBackward0", "ReciprocalBackward0", "RsqrtBackward0", "SigmoidBackward0",
            "SoftmaxBackward0", "SqrtBackward0", "TanBackward0", "TanhBackward0"}


def _is_result_to_keep(tensor):
    return tensor.grad_fn is not None and tensor.grad_fn.name() in _RESULTS


def _two_levels(tensor):
    """The two values that make up the tensor, a dropout mask for one; None if there are more."""
    low, high = (bound.to(tensor.dtype) for bound in torch.aminmax(tensor.float()))
    is_mask = bool(((tensor == low) | (tensor == high)).all())
    return (low, high) if is_mask else None


class _PackedOnce:
    """One packed copy of each tensor, whoever saves it, as long as someone holds the copy.

    Tensors are equal if they agree in storage, geometry, sign and version: a ReLU's result and the
    next convolution's input are different tensors on one storage.
    """

    def __init__(self):
        self._storages = {}

    def clear(self):
        self._storages.clear()

    def get(self, tensor, make):
        storage = _storage(tensor)
        known = self._storages.get(storage._cdata)
        if known is None or known[0].expired():  # another storage has its address now
            known = StorageWeakRef(storage), weakref.WeakValueDictionary()
            self._storages[storage._cdata] = known
        key = (tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype,
               tensor.is_neg(), tensor._version)
        packed = known[1].get(key)
        if packed is None:
            packed = make(tensor)
            if not isinstance(packed, _AsIs):  # which would keep the storage alive
                known[1][key] = packed
        return packed


class _AsIs:
    """A tensor as it is. Changing it in place before the backward pass is an error, as without
    hooks."""

    def __init__(self, tensor):
        # An operation's output holds the operation, which holds this. Detaching breaks the cycle.
        self._tensor = tensor if tensor.grad_fn is None else tensor.detach()
        self._version = tensor._version

    def unpack(self):
        if self._tensor._version != self._version:
            raise RuntimeError(
                f"actpack: {describe(self._tensor)}, which the backward pass needs, has changed"
                f" in place: it is at version {self._tensor._version} instead of {self._version}")
        return self._tensor


class _PackedValues:
    """Signs and magnitudes, decoded plainly; positive values stay positive."""

    def __init__(self, tensor, options):
        self._packed, self._bytes = pack(tensor, Form.SIGN_MAGNITUDE, options.bits, options)

    def unpack(self):
        return self._packed.decode_keeping_signs(self._bytes)


class _PackedMask:
    """A bit for each element of a boolean tensor."""

    def __init__(self, tensor):
        self._shape = tensor.shape
        self._bytes = pack_mask(tensor.contiguous())

    def unpack(self):
        return unpack_mask(self._bytes, self._shape)


class _TwoLevels(_PackedMask):
    """A bit for each element of a tensor of two values."""

    def __init__(self, tensor, low, high):
        super().__init__(tensor > low)
        self._low, self._high = low, high

    def unpack(self):
        return torch.where(super().unpack(), self._high, self._low)


class _NarrowIntegers:
    """Integers in the narrowest type that holds them."""

    def __init__(self, tensor):
        low, high = (int(bound) for bound in torch.aminmax(tensor))
        self._type = tensor.dtype
        narrow = next((t for t in (torch.uint8, torch.int8, torch.int16, torch.int32)
                       if torch.iinfo(t).min <= low and high <= torch.iinfo(t).max), tensor.dtype)
        self._values = tensor.to(narrow)

    def unpack(self):
        return self._values.to(self._type)
