# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
#
# Packed tensors: what is kept of a tensor between the forward and the backward pass.
import dataclasses
import itertools

import torch

from . import _native
from ._native import Form, Part


@dataclasses.dataclass(frozen=True)
class Options:
    """How tensors are packed.

    bits: of a code, 1, 2, 4 or 8; 256 values share a scale. context: "sign_magnitude" for one
    context that serves normalisation, ReLU and convolution alike, "affine" for ActNN's way, a copy
    for each. subtractive: decoding takes the dither out again, for half the variance.
    attention_bits: of queries and keys, of which softmax makes nonlinear use: rounding them biases
    the gradient, the more, the sharper attention becomes.
    """

    bits: int = 2
    seed: int = 0
    context: str = "sign_magnitude"
    subtractive: bool = True
    attention_bits: int = 8

    def __post_init__(self):
        for name in ("bits", "attention_bits"):
            if getattr(self, name) not in (1, 2, 4, 8):
                raise ValueError(f"actpack: {name} = {getattr(self, name)} is not 1, 2, 4 or 8")
        if self.context not in ("sign_magnitude", "affine"):
            raise ValueError(f"actpack: context = {self.context!r} is neither 'sign_magnitude' nor"
                             " 'affine'")
        if not 0 <= self.seed < 1 << 64:
            raise ValueError(f"actpack: seed = {self.seed} is not in [0, 2^64)")


_streams = itertools.count()


def next_stream():
    """An offset that no other tensor of this run has: of this process, or of another rank's.

    Noise is a function of (seed, offset, element), so ranks that were seeded alike, as data
    parallel ones are, still round independently.
    """
    return _first_stream() | next(_streams)


def drawn_stream():
    """An offset out of torch's generator: who restores that, as checkpointing does when it runs a
    forward pass again, gets the same noise again."""
    return _first_stream() | 1 << 43 | int(torch.randint(1 << 43, (), device="cpu"))


def _first_stream():
    """Of a rank's 2^44; `next_stream` has the lower half of them, `drawn_stream` the upper."""
    distributed = torch.distributed
    is_one_of_many = distributed.is_available() and distributed.is_initialized()
    return (distributed.get_rank() if is_one_of_many else 0) << 44


def describe(tensor):
    """What an error calls a tensor that nobody gave a name."""
    return f"a tensor of shape {tuple(tensor.shape)}, {tensor.dtype}, on {tensor.device}"


def is_dense(tensor):
    """Whether the elements lie in memory without gaps or overlaps, in any order of dimensions."""
    if tensor.is_contiguous():
        return True
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape)):
        if size == 1:
            continue
        if stride != expected:
            return False
        expected *= size
    return True


def dense(tensor):
    """The tensor itself if it is dense, else a contiguous copy."""
    return tensor if is_dense(tensor) else tensor.contiguous()


def with_stride(tensor, stride):
    """The tensor itself if its strides are these, else a copy that has them."""
    if tensor.stride() == stride:
        return tensor
    copy = torch.empty_strided(tensor.shape, stride, dtype=tensor.dtype, device=tensor.device)
    return copy.copy_(tensor)


class Packed:
    """How one tensor is packed: all but the bytes, which are a torch tensor of their own.

    Operations keep those by save_for_backward: allocated and counted as every tensor, and freed as
    soon as the backward pass has used them.
    """

    def __init__(self, values, form, bits, options, name):
        self.name = name
        self.shape, self.stride = values.shape, values.stride()
        self.dtype, self.device = values.dtype, values.device
        self.is_subtractive = options.subtractive
        self.context = _native.Context(values.numel(), form, bits, True, options.seed,
                                       next_stream(), None)

    def numel(self):
        return self.context.numel

    def decode(self, packed_bytes, dtype=None, part=Part.ALL):
        """The whole tensor, with the strides it had."""
        return self.decode_range(packed_bytes, 0, self._empty(dtype or self.dtype), part)

    def decode_range(self, packed_bytes, first, out, part=Part.ALL):
        """Writes elements [first, first + out.numel()), in the order of memory, to `out`."""
        _native.decode(self.at(packed_bytes), first, out, part, self.is_subtractive)
        return out

    def decode_keeping_signs(self, packed_bytes):
        """The whole tensor, decoded plainly; what was positive stays so. A sign-magnitude
        context's."""
        out = self._empty(self.dtype)
        _native.decode_keeping_signs(self.at(packed_bytes), out)
        return out

    def _empty(self, dtype):
        return torch.empty_strided(self.shape, self.stride, dtype=dtype, device=self.device)

    def apply_signs(self, packed_bytes, dy):
        """dy where y > 0, else 0: a ReLU's backward pass, exactly. A sign-magnitude context's."""
        if dy.shape != self.shape:
            raise ValueError(f"actpack: a gradient of shape {tuple(dy.shape)} came back for"
                             f" {self.name}, which has shape {tuple(self.shape)}")
        dy = with_stride(dy, self.stride)
        out = self._empty(dy.dtype)
        _native.apply_signs(dy, self.at(packed_bytes), out)
        return out

    def at(self, packed_bytes):
        """The context, with its bytes."""
        if packed_bytes.device != self.device:
            raise RuntimeError(f"actpack: {self.name} was packed on {self.device}, but its bytes"
                               f" came back on {packed_bytes.device}")
        self.context.bytes = packed_bytes.data_ptr()
        return self.context


def pack(tensor, form, bits, options, name=None):
    """Packs `tensor`; returns how, and the bytes."""
    name = name or describe(tensor)
    if isinstance(tensor, torch.nn.Parameter):
        raise ValueError(f"actpack: {name} is a parameter: activations are packed, weights are not")
    values = dense(tensor.detach())
    packed, packed_bytes = prepare(values, form, bits, options, name)
    _native.encode(values, packed.at(packed_bytes))
    return packed, packed_bytes


def prepare(tensor, form, bits, options, name):
    """How a dense tensor is to be packed, and memory for the bytes."""
    if tensor.dtype not in _native.TYPES:
        raise TypeError(f"actpack: {name} is not of float32, float16 or bfloat16")
    packed = Packed(tensor, form, bits, options, name)
    packed_bytes = torch.empty(_native.size_bytes(packed.context), dtype=torch.uint8,
                               device=tensor.device)
    return packed, packed_bytes


def empty_mask(tensor):
    """Memory for one bit for each element."""
    return torch.empty(_native.mask_bytes(tensor.numel()), dtype=torch.uint8, device=tensor.device)


def pack_mask(tensor):
    """One bit for each element of a boolean tensor."""
    values = torch.empty(tensor.shape, dtype=torch.float16, device=tensor.device).copy_(tensor)
    mask = empty_mask(tensor)
    _native.relu(values, values, mask)
    return mask


def unpack_mask(mask, shape):
    """The boolean tensor again."""
    ones = torch.ones(shape, dtype=torch.float16, device=mask.device)
    _native.apply_mask(ones, mask, ones)
    return ones.to(torch.bool)


def pack_codes(codes, bits, options):
    """Integers in [0, 2^bits) exactly: a group's step is at most 1, so the nearest level is less
    than half away, and rounding finds the integer again (`unpack_codes`)."""
    values = codes.to(torch.float16)
    packed, packed_bytes = prepare(values, Form.AFFINE, bits, options, "codes")
    packed.context.is_stochastic = False
    _native.encode(values, packed.at(packed_bytes))
    return packed, packed_bytes


def unpack_codes(packed, packed_bytes):
    return packed.decode(packed_bytes, torch.float32).round_().to(torch.int32)
