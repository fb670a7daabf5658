# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
#
# Notes on tensors, by which several modules use one packed copy.
import collections
import dataclasses

import torch

from ..packed import DecodeAs, Options


class PackedInput:
    """An operation's input, decoded from one packed tensor."""

    def __init__(self, packed, decode_as=DecodeAs.VALUES):
        self.packed = packed
        self.decode_as = decode_as

    def load(self, tensors, dtype):
        """The whole input."""
        return self.packed.decode(tensors[0], dtype, self.decode_as)

    def load_slices(self, tensors, first, last, dtype):
        """Slices [first, last) of the outermost dimension; precondition: has_slices()."""
        shape, stride = self.packed.shape, self.packed.stride
        out = torch.empty_strided((last - first, *shape[1:]), stride, dtype=dtype,
                                  device=self.packed.device)
        return self.packed.decode_range(tensors[0], first * stride[0], out, self.decode_as)

    def has_slices(self):
        """Whether the outermost dimension is also the outermost in memory."""
        packed = self.packed
        return (len(packed.shape) > 1 and packed.shape[0] > 1
                and packed.stride[0] * packed.shape[0] == packed.numel())


class NormalizedInput(PackedInput):
    """The output of a layer normalisation over the last dimensions, computed again from its packed
    input."""

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
    """A note on a tensor: the source of its values in the backward pass."""

    source: PackedInput
    tensors: tuple  # what `source` loads from
    options: Options
    version: int  # of the tensor: a change in place makes the note invalid
    awaits_relu: bool = False  # batch normalisation has already applied the ReLU that follows

    @staticmethod
    def on(tensor):
        """The valid note on `tensor`, or None."""
        shared = getattr(tensor, "_actpack_shared", None)
        is_valid = isinstance(shared, Shared) and shared.version == tensor._version
        return shared if is_valid else None

    def __reduce__(self):
        # torch.save writes an empty dictionary instead of the note, which torch.load would refuse.
        return collections.OrderedDict, ()


def share(tensor, source, options, *tensors):
    """Notes on `tensor` that `source` loads its values from `tensors`."""
    tensor._actpack_shared = Shared(source, tensors, options, tensor._version)
