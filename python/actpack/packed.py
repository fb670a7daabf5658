# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
#
# Packed tensors: they stand for a tensor between the forward and the backward pass.
import dataclasses
import itertools

import torch

from . import _native
from ._native import DecodeAs, Form


@dataclasses.dataclass(frozen=True)
class Options:
    """How tensors are packed.

    bits: of a code, 1, 2, 4 or 8; 256 values share a scale.
    context: "sign_magnitude" for one context that serves normalisation, ReLU and convolution;
    "affine" for a copy for each, as ActNN does.
    subtractive: decoding subtracts the dither again, which halves the variance.
    attention_bits: of queries and keys. Softmax makes nonlinear use of them, so rounding them
    biases the gradient, more so as attention becomes sharper.
    """

    bits: int = 2
    seed: int = 0
    context: str = "sign_magnitude"
    subtractive: bool = True
    attention_bits: int = 8

    def __post_init__(self):
        for name in ("bits", "attention_bits"):
            bits = getattr(self, name)
            if not isinstance(bits, int) or bits not in (1, 2, 4, 8):
                raise ValueError(f"actpack: {name} = {bits!r} is not 1, 2, 4 or 8")
        if self.context not in ("sign_magnitude", "affine"):
            raise ValueError(f"actpack: context = {self.context!r} is neither 'sign_magnitude' nor"
                             " 'affine'")
        if not isinstance(self.seed, int) or not 0 <= self.seed < 1 << 64:
            raise ValueError(f"actpack: seed = {self.seed!r} is no integer in [0, 2^64)")


_streams = itertools.count()


def next_stream():
    """An offset that no other tensor has, in this process or on another rank.

    Noise is a function of (seed, offset, element), so ranks with equal seeds, as data parallelism
    has them, still round independently.
    """
    return _first_stream() | next(_streams)


def drawn_stream():
    """An offset from torch's generator. Checkpointing restores the generator when it runs a forward
    pass again, and so gets the same noise again."""
    return _first_stream() | 1 << 43 | int(torch.randint(1 << 43, (), device="cpu"))


def _first_stream():
    """The first of a rank's 2^44 offsets. `next_stream` has the lower half of them, `drawn_stream`
    the upper."""
    distributed = torch.distributed
    is_one_of_many = distributed.is_available() and distributed.is_initialized()
    return (distributed.get_rank() if is_one_of_many else 0) << 44


def describe(tensor):
    """A name for a tensor in errors."""
    return f"a tensor of shape {tuple(tensor.shape)}, {tensor.dtype}, on {tensor.device}"


def is_dense(tensor):
    """Whether the elements fill their memory without gaps or overlaps, whatever the order of
    dimensions."""
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
    """The tensor itself if it is dense, else a contiguous copy. Memory holds its values: a view
    that torch negates as it reads is copied."""
    tensor = tensor.resolve_neg()
    return tensor if is_dense(tensor) else tensor.contiguous()


def with_stride(tensor, stride):
    """The tensor itself if its memory has its values in these strides, else a copy that has."""
    if tensor.stride() == stride and not tensor.is_neg():
        return tensor
    copy = torch.empty_strided(tensor.shape, stride, dtype=tensor.dtype, device=tensor.device)
    return copy.copy_(tensor)


class Packed:
    """Everything about a packed tensor except its bytes, which are a torch tensor.

    Operations save the bytes by save_for_backward, so that torch allocates and counts them as any
    tensor, and frees them as soon as the backward pass has used them.
    """

    def __init__(self, values, form, bits, options, name):
        self.name = name
        self.shape, self.stride = values.shape, values.stride()
        self.dtype, self.device = values.dtype, values.device
        self.is_subtractive = options.subtractive
        self.context = _native.Context(values.numel(), form, bits, True, options.seed,
                                       next_stream(), None)
        self.size_bytes = _native.size_bytes(self.context)

    def numel(self):
        return self.context.numel

    def decode(self, packed_bytes, dtype=None, decode_as=DecodeAs.VALUES):
        """The whole tensor, with its original strides."""
        return self.decode_range(packed_bytes, 0, self._empty(dtype or self.dtype), decode_as)

    def decode_range(self, packed_bytes, first, out, decode_as=DecodeAs.VALUES):
        """Writes elements [first, first + out.numel()), in the order of memory, to `out`."""
        _native.decode(self.at(packed_bytes), first, out, decode_as, self.is_subtractive)
        return out

    def decode_keeping_signs(self, packed_bytes):
        """The whole tensor, decoded plainly; positive values stay positive. Sign-magnitude contexts
        only."""
        out = self._empty(self.dtype)
        _native.decode_keeping_signs(self.at(packed_bytes), out)
        return out

    def _empty(self, dtype):
        return torch.empty_strided(self.shape, self.stride, dtype=dtype, device=self.device)

    def apply_signs(self, packed_bytes, dy):
        """dy where y > 0, else 0: a ReLU's exact backward pass. Sign-magnitude contexts only."""
        if dy.shape != self.shape:
            raise ValueError(f"actpack: a gradient of shape {tuple(dy.shape)} came back for"
                             f" {self.name}, which has shape {tuple(self.shape)}")
        dy = with_stride(dy, self.stride)
        out = self._empty(dy.dtype)
        _native.apply_signs(dy, self.at(packed_bytes), out)
        return out

    def at(self, packed_bytes):
        """The context in `packed_bytes`."""
        if packed_bytes.device != self.device:
            raise RuntimeError(f"actpack: {self.name} was packed on {self.device}, but its bytes"
                               f" came back on {packed_bytes.device}")
        if (packed_bytes.dtype != torch.uint8 or packed_bytes.shape != (self.size_bytes,)
                or not packed_bytes.is_contiguous()):
            raise RuntimeError(f"actpack: {self.name} was packed in {self.size_bytes} bytes, but"
                               f" they came back as {describe(packed_bytes)}")
        self.context.bytes = packed_bytes.data_ptr()
        return self.context


def pack(tensor, form, bits, options, name=None):
    """Packs `tensor`; returns a Packed and its bytes."""
    name = name or describe(tensor)
    if isinstance(tensor, torch.nn.Parameter):
        raise ValueError(f"actpack: {name} is a parameter: activations are packed, weights are not")
    values = dense(tensor.detach())
    packed, packed_bytes = prepare(values, form, bits, options, name)
    _native.encode(values, packed.at(packed_bytes))
    return packed, packed_bytes


def prepare(tensor, form, bits, options, name):
    """A Packed for a dense tensor, and memory for its bytes."""
    if tensor.dtype not in _native.TYPES:
        raise TypeError(f"actpack: {name} is not of float32, float16 or bfloat16")
    packed = Packed(tensor, form, bits, options, name)
    return packed, torch.empty(packed.size_bytes, dtype=torch.uint8, device=tensor.device)


def empty_mask(tensor):
    """Memory for one bit for each element of `tensor`."""
    return torch.empty(_native.mask_bytes(tensor.numel()), dtype=torch.uint8, device=tensor.device)


def pack_mask(tensor):
    """Packs a boolean tensor into one bit for each element."""
    values = torch.empty(tensor.shape, dtype=torch.float16, device=tensor.device).copy_(tensor)
    mask = empty_mask(tensor)
    _native.relu(values, values, mask)
    return mask


def unpack_mask(mask, shape):
    """The boolean tensor of this shape."""
    ones = torch.ones(shape, dtype=torch.float16, device=mask.device)
    _native.apply_mask(ones, mask, ones)
    return ones.to(torch.bool)


def pack_codes(codes, bits, options):
    """Packs integers in [0, 2^bits) exactly: a group's step is at most 1, so the nearest level is
    less than half away, and `unpack_codes` finds the integer by rounding."""
    values = codes.to(torch.float16)
    packed, packed_bytes = prepare(values, Form.AFFINE, bits, options, "codes")
    packed.context.is_stochastic = False
    _native.encode(values, packed.at(packed_bytes))
    return packed, packed_bytes


def unpack_codes(packed, packed_bytes):
    return packed.decode(packed_bytes, torch.float32).round_().to(torch.int32)
