# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
#
# Loads the shared library by ctypes, and wraps each of its functions for dense tensors.
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


def _load():
    path = os.environ.get("ACTPACK_LIBRARY", pathlib.Path(__file__).with_name("libactpack.so"))
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise ImportError(
            f"actpack: {path} cannot be loaded ({error}); install the package with pip, build the"
            " target actpack_python_modules and put its folder on PYTHONPATH, or name the file in"
            " ACTPACK_LIBRARY") from error
    pointer, int32, int64 = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64
    uint64, double = ctypes.c_uint64, ctypes.c_double
    execution, context = ctypes.POINTER(_Execution), ctypes.POINTER(Context)
    normalization = ctypes.POINTER(Normalization)
    library.actpack_size_bytes.restype = int64
    library.actpack_size_bytes.argtypes = [context]
    for name, arguments in {
            "encode": [pointer, context],
            "decode": [context, int64, int64, pointer, int32, int32],
            "decode_keeping_signs": [context, pointer],
            "apply_signs": [pointer, context, pointer],
            "relu": [pointer, int64, pointer, pointer],
            "dropout": [pointer, int64, pointer, pointer, double, uint64, uint64],
            "apply_mask": [pointer, pointer, int64, double, pointer],
            "batch_norm": [normalization, pointer, context, pointer],
            "batch_norm_workspace": [normalization, context, ctypes.POINTER(int64)],
            "batch_norm_backward": [normalization, pointer, context, int32, int64, *[pointer] * 4],
    }.items():
        function = getattr(library, "actpack_" + name)
        function.restype = ctypes.c_char_p
        function.argtypes = [execution, *arguments]
    return library


_library = _load()
has_cuda = bool(_library.actpack_has_cuda())
_version = _library.actpack_version()  # 10000 · major + 100 · minor + patch
version = f"{_version // 10000}.{_version // 100 % 100}.{_version % 100}"


def size_bytes(context):
    """The bytes that `context` takes."""
    size = _library.actpack_size_bytes(context)
    if size < 0:
        raise ValueError(
            f"actpack: there is no context of {context.numel} values at {context.bits} bits: bits"
            " are 1, 2, 4 or 8")
    return size


def _call(function, x, *arguments):
    if x.dtype not in TYPES:
        raise TypeError(f"actpack: a tensor of {x.dtype} is not of float32, float16 or bfloat16")
    if not x.is_cuda:
        execution = _Execution(TYPES[x.dtype], 0, None, torch.get_num_threads())
        error = function(execution, *arguments)
    elif x.device.index == torch.cuda.current_device():
        execution = _Execution(TYPES[x.dtype], 1, torch.cuda.current_stream().cuda_stream, 1)
        error = function(execution, *arguments)
    else:
        with torch.cuda.device(x.device):
            _call(function, x, *arguments)
        return
    if error is not None:
        raise RuntimeError(error.decode())


def encode(x, context):
    """Packs the dense tensor `x` into `context`."""
    _call(_library.actpack_encode, x, x.data_ptr(), context)


def decode(context, first, out, decode_as, is_subtractive):
    """Writes values [first, first + out.numel()) to the dense tensor `out`."""
    _call(_library.actpack_decode, out, context, first, out.numel(), out.data_ptr(), decode_as,
          is_subtractive)


def decode_keeping_signs(context, out):
    """Decodes a sign-magnitude context plainly to the dense tensor `out`, except that positive
    values that were rounded to 0 become the smallest positive number."""
    _call(_library.actpack_decode_keeping_signs, out, context, out.data_ptr())


def apply_signs(dy, context, out):
    """Writes dy where the context has y > 0, else 0, to `out`."""
    _call(_library.actpack_apply_signs, dy, dy.data_ptr(), context, out.data_ptr())


def mask_bytes(numel):
    """The bytes of a mask: a bit for each element, in words of 32 bits."""
    return (numel + 31) // 32 * 4


def relu(x, out, mask):
    """Writes max(x, 0) to `out` and x > 0 to `mask`."""
    _call(_library.actpack_relu, x, x.data_ptr(), x.numel(), out.data_ptr(), mask.data_ptr())


def dropout(x, out, mask, drop_probability, seed, offset):
    """Writes x / (1 - p) or 0 to `out`, and to `mask` which of the two."""
    _call(_library.actpack_dropout, x, x.data_ptr(), x.numel(), out.data_ptr(), mask.data_ptr(),
          drop_probability, seed, offset)


def apply_mask(dy, mask, out, drop_probability=0.0):
    """Writes dy / (1 - p) where the mask is set, else 0, to `out`."""
    _call(_library.actpack_apply_mask, dy, dy.data_ptr(), mask.data_ptr(), dy.numel(),
          drop_probability, out.data_ptr())


def batch_norm(x, normalization, context, out):
    """Writes the normalised values of the dense tensor x to `out`, rectified if the context is a
    sign-magnitude one, and packs x or them. `out` may be x."""
    _call(_library.actpack_batch_norm, x, normalization, x.data_ptr(), context, out.data_ptr())


def batch_norm_backward(dz, normalization, context, is_subtractive, elements, gradients, dx):
    """Writes the gradients of gamma and beta to the two rows of `gradients`, and that of x to `dx`
    unless it is None. `elements`: of a channel, or 0 where the statistics do not depend on x."""
    numel = ctypes.c_int64()
    _call(_library.actpack_batch_norm_workspace, dz, normalization, context, numel)
    workspace = torch.empty(numel.value, dtype=torch.float32, device=dz.device)
    _call(_library.actpack_batch_norm_backward, dz, normalization, dz.data_ptr(), context,
          is_subtractive, elements, workspace.data_ptr(), gradients[0].data_ptr(),
          gradients[1].data_ptr(), None if dx is None else dx.data_ptr())
