# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
#
# Loads the shared library by ctypes, and wraps each of its functions, which native/native.h
# describes, for dense tensors.
import ctypes
import enum
import os
import pathlib

import torch


class Form(enum.IntEnum):
    """The form of a packed tensor: codes between a group's extremes, or signs and magnitudes."""

    AFFINE = 0
    SIGN_MAGNITUDE = 1


class DecodeAs(enum.IntEnum):
    """What a sign-magnitude context is decoded to: y, or max(y, 0)."""

    VALUES = 0
    RELU = 1


class Context(ctypes.Structure):
    """One packed tensor, in bytes that the caller owns."""

    _fields_ = [
        ("numel", ctypes.c_int64),
        ("form", ctypes.c_int32),
        ("bits", ctypes.c_int32),
        ("is_stochastic", ctypes.c_int32),
        ("seed", ctypes.c_uint64),
        ("offset", ctypes.c_uint64),
        ("bytes", ctypes.c_void_p),
    ]


class SavedValue(enum.IntEnum):
    """What a batch normalisation saves: its input, or its output."""

    INPUT = 0
    OUTPUT = 1


class Normalization(ctypes.Structure):
    """A batch normalisation. Element e of memory belongs to channel e / inner % channels. All
    tensors are of floats; the forward pass writes `by_channel`, four for each channel."""

    _fields_ = [
        ("channels", ctypes.c_int64),
        ("inner", ctypes.c_int64),
        ("saved", ctypes.c_int32),
        ("epsilon", ctypes.c_float),
        ("smallest_gamma", ctypes.c_float),
        ("mean", ctypes.c_void_p),
        ("variance", ctypes.c_void_p),
        ("gamma", ctypes.c_void_p),
        ("beta", ctypes.c_void_p),
        ("by_channel", ctypes.c_void_p),
    ]


class _Execution(ctypes.Structure):
    """A call's element type, and where it runs: on a stream, or on so many threads."""

    _fields_ = [
        ("type", ctypes.c_int32),
        ("is_cuda", ctypes.c_int32),
        ("stream", ctypes.c_void_p),
        ("threads", ctypes.c_int32),
    ]


TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}

VERSION = 100  # of the library that this module knows: ACTPACK_VERSION of actpack/config.hpp


def _load():
    path = os.environ.get("ACTPACK_LIBRARY", pathlib.Path(__file__).with_name("libactpack.so"))
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise ImportError(
            f"actpack: {path} cannot be loaded ({error}); install the package with pip, build the"
            " target actpack_python_modules and put its folder on PYTHONPATH, or name the file in"
            " ACTPACK_LIBRARY") from error
    again = "build or install the library and the package together"
    try:
        version = library.actpack_version()
        if version != VERSION:
            raise ImportError(f"actpack: {path} is of version {_text(version)}, but the package is"
                              f" of {_text(VERSION)}: {again}")
        _declare(library)
    except AttributeError as error:
        raise ImportError(f"actpack: {path} lacks a function of version {_text(VERSION)} ({error}):"
                          f" {again}") from error
    error = library.actpack_check_sizes(*map(ctypes.sizeof, (_Execution, Context, Normalization)))
    if error is not None:
        raise ImportError(f"{error.decode()}: {path} is stale, {again}")
    return library


def _declare(library):
    pointer, int32, int64 = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64
    uint64, double = ctypes.c_uint64, ctypes.c_double
    execution, context = ctypes.POINTER(_Execution), ctypes.POINTER(Context)
    normalization, numel = ctypes.POINTER(Normalization), ctypes.POINTER(int64)
    for name, arguments in {
            "check_sizes": [int64, int64, int64],
            "size_bytes": [context, numel],
            "encode": [execution, pointer, context],
            "decode": [execution, context, int64, int64, pointer, int32, int32],
            "decode_keeping_signs": [execution, context, pointer],
            "apply_signs": [execution, pointer, context, pointer],
            "relu": [execution, pointer, int64, pointer, pointer],
            "dropout": [execution, pointer, int64, pointer, pointer, double, uint64, uint64],
            "apply_mask": [execution, pointer, pointer, int64, double, pointer],
            "batch_norm": [execution, normalization, pointer, context, pointer],
            "batch_norm_workspace": [execution, normalization, context, numel],
            "batch_norm_backward": [execution, normalization, pointer, context, int32, int64,
                                    *[pointer] * 4],
    }.items():
        function = getattr(library, "actpack_" + name)
        function.restype = ctypes.c_char_p  # null, or what was wrong
        function.argtypes = arguments


def _text(version):
    """10000 · major + 100 · minor + patch as a text."""
    return f"{version // 10000}.{version // 100 % 100}.{version % 100}"


_library = _load()
has_cuda = bool(_library.actpack_has_cuda())
version = _text(VERSION)


def _check(error):
    if error is not None:
        raise RuntimeError(error.decode())


def size_bytes(context):
    """The bytes that `context` takes."""
    size = ctypes.c_int64()
    _check(_library.actpack_size_bytes(context, size))
    return size.value


def _call(function, x, *arguments):
    """Calls a function on x's type and device. Tensors among the arguments must be on that device;
    their memory is what the function gets."""
    if x.dtype not in TYPES:
        raise TypeError(f"actpack: a tensor of {x.dtype} is not of float32, float16 or bfloat16")
    if x.device.type not in ("cpu", "cuda"):
        raise TypeError(f"actpack: a tensor on {x.device} is neither on the CPU nor on a CUDA"
                        " device")
    if not x.is_cuda:
        execution = _Execution(TYPES[x.dtype], 0, None, torch.get_num_threads())
    elif x.device.index == torch.cuda.current_device():
        execution = _Execution(TYPES[x.dtype], 1, torch.cuda.current_stream().cuda_stream, 1)
    else:
        with torch.cuda.device(x.device):
            _call(function, x, *arguments)
        return
    _check(function(execution, *(_memory(argument, x) for argument in arguments)))


def _memory(argument, x):
    if not isinstance(argument, torch.Tensor):
        return argument
    if argument.device != x.device:
        raise RuntimeError(f"actpack: a tensor on {argument.device} cannot be used with one on"
                           f" {x.device}")
    return argument.data_ptr()


def _check_values(numel, dtype, **tensors):
    for name, tensor in tensors.items():
        if tensor is not None and (tensor.numel() != numel or tensor.dtype != dtype):
            raise ValueError(f"actpack: {name} has {tensor.numel()} elements of {tensor.dtype}"
                             f" instead of {numel} of {dtype}")


def _check_mask(mask, numel):
    if mask.numel() * mask.element_size() != mask_bytes(numel):
        raise ValueError(f"actpack: a mask of {mask.numel() * mask.element_size()} bytes is not"
                         f" that of {numel} elements, which takes {mask_bytes(numel)}")


def encode(x, context):
    """Packs the dense tensor `x` into `context`."""
    _check_values(context.numel, x.dtype, x=x)
    _call(_library.actpack_encode, x, x, context)


def decode(context, first, out, decode_as, is_subtractive):
    """Writes values [first, first + out.numel()) to the dense tensor `out`."""
    _call(_library.actpack_decode, out, context, first, out.numel(), out, decode_as,
          is_subtractive)


def decode_keeping_signs(context, out):
    """Decodes a sign-magnitude context plainly to the dense tensor `out`, except that positive
    values that were rounded to 0 become the smallest positive number."""
    _check_values(context.numel, out.dtype, out=out)
    _call(_library.actpack_decode_keeping_signs, out, context, out)


def apply_signs(dy, context, out):
    """Writes dy where the context has y > 0, else 0, to `out`."""
    _check_values(context.numel, dy.dtype, dy=dy, out=out)
    _call(_library.actpack_apply_signs, dy, dy, context, out)


def mask_bytes(numel):
    """The bytes of a mask: a bit for each element, in words of 32 bits."""
    return (numel + 31) // 32 * 4


def relu(x, out, mask):
    """Writes max(x, 0) to `out` and x > 0 to `mask`."""
    _check_values(x.numel(), x.dtype, out=out)
    _check_mask(mask, x.numel())
    _call(_library.actpack_relu, x, x, x.numel(), out, mask)


def dropout(x, out, mask, drop_probability, seed, offset):
    """Writes x / (1 - p) or 0 to `out`, and to `mask` which of the two."""
    _check_values(x.numel(), x.dtype, out=out)
    _check_mask(mask, x.numel())
    _call(_library.actpack_dropout, x, x, x.numel(), out, mask, drop_probability, seed, offset)


def apply_mask(dy, mask, out, drop_probability=0.0):
    """Writes dy / (1 - p) where the mask is set, else 0, to `out`."""
    _check_values(dy.numel(), dy.dtype, out=out)
    _check_mask(mask, dy.numel())
    _call(_library.actpack_apply_mask, dy, dy, mask, dy.numel(), drop_probability, out)


def batch_norm(x, normalization, context, out):
    """Writes the normalised values of the dense tensor x to `out`, rectified if the context is a
    sign-magnitude one, and packs x or them. `out` may be x."""
    _check_values(context.numel, x.dtype, x=x, out=out)
    _call(_library.actpack_batch_norm, x, normalization, x, context, out)


def batch_norm_backward(dz, normalization, context, is_subtractive, elements, gradients, dx):
    """Writes the gradients of gamma and beta to the two rows of `gradients`, and that of x to `dx`
    unless it is None. `elements`: of a channel, or 0 where the statistics do not depend on x."""
    _check_values(context.numel, dz.dtype, dz=dz, dx=dx)
    numel = ctypes.c_int64()
    _call(_library.actpack_batch_norm_workspace, dz, normalization, context, numel)
    workspace = torch.empty(numel.value, dtype=torch.float32, device=dz.device)
    _call(_library.actpack_batch_norm_backward, dz, normalization, dz, context, is_subtractive,
          elements, workspace, gradients[0], gradients[1], dx)
