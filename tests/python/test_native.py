# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
#
# The C functions refuse every bad argument with its name and value, and write nothing: called by
# ctypes in this process, between guard bytes. A library of another version is refused as well.
import ctypes
import itertools
import math
import pathlib
import tempfile
import threading
import types
import unittest
from unittest import mock

import actpack
import torch
from actpack import _native, packed
from actpack._native import DecodeAs, Form, SavedValue

NUMEL, CHANNELS, INNER = 1000, 4, 5
INT32, INT64 = 2**31 - 1, 2**63 - 1
ALIGNMENT = 16  # of contexts, the strictest


class Memory:
    """Bytes between guards. `kept()` says whether nothing at all has changed."""

    def __init__(self, size):
        self._size = size
        self._filled = b"\x3C" * (size + 4 * ALIGNMENT)  # of any type small positive numbers
        self._bytes = ctypes.create_string_buffer(self._filled, len(self._filled))
        start = ctypes.addressof(self._bytes)
        self.address = (start + 2 * ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
        self._inside = slice(self.address - start, self.address - start + size)

    def content(self):
        return self._bytes.raw[self._inside]

    def kept(self):
        return self._bytes.raw == self._filled

    def guards_kept(self):
        everything = bytearray(self._bytes.raw)
        everything[self._inside] = self._filled[self._inside]
        return everything == self._filled


# Each function's arguments by their names in native.h.
SIGNATURES = {
    "size_bytes": ["context", "size"],
    "encode": ["execution", "x", "context"],
    "decode": ["execution", "context", "first", "count", "x", "decode_as", "is_subtractive"],
    "decode_keeping_signs": ["execution", "context", "x"],
    "apply_signs": ["execution", "dy", "context", "dx"],
    "relu": ["execution", "x", "numel", "y", "mask"],
    "dropout": ["execution", "x", "numel", "y", "mask", "drop_probability", "seed", "offset"],
    "apply_mask": ["execution", "dy", "mask", "numel", "drop_probability", "dx"],
    "batch_norm": ["execution", "operation", "x", "context", "y"],
    "batch_norm_workspace": ["execution", "operation", "context", "numel_of_workspace"],
    "batch_norm_backward": ["execution", "operation", "dz", "context", "is_subtractive",
                            "elements", "workspace", "gamma_gradient", "beta_gradient", "dx"],
}
STRUCTS = {"execution": _native._Execution, "context": _native.Context,
           "operation": _native.Normalization}
NEEDS_SIGNS = {"decode_keeping_signs", "apply_signs"}


class Call:
    """A call of one function on `numel` values with good arguments, of which `changes` replace
    some: "count" an argument, "context.bits" a field; "x+1" moves a pointer by a byte."""

    def __init__(self, function, changes=None, form=Form.SIGN_MAGNITUDE, dtype=torch.float32,
                 numel=NUMEL, threads=2):
        self._function = function
        size = torch.tensor([], dtype=dtype).element_size()
        of_channels = ("mean", "variance", "gamma", "beta", "gamma_gradient", "beta_gradient")
        sizes = {"bytes": 2 * numel + 64, "mask": (numel + 31) // 32 * 4, "workspace": 0,
                 "by_channel": 16 * CHANNELS, "size": 8, "numel_of_workspace": 8,
                 **dict.fromkeys(of_channels, 4 * CHANNELS),
                 **dict.fromkeys(("x", "y", "dx", "dy", "dz"), size * numel)}
        self.memory = {name: Memory(size) for name, size in sizes.items()}
        values = {name: memory.address for name, memory in self.memory.items()}
        values.update({
            "first": 0, "count": numel, "decode_as": DecodeAs.VALUES, "is_subtractive": 1,
            "numel": numel, "drop_probability": 0.5, "seed": 1, "offset": 2,
            "elements": numel // CHANNELS})
        fields = {
            "execution": {"type": _native.TYPES[dtype], "is_cuda": 0, "stream": None,
                          "threads": threads},
            "context": {"numel": numel, "form": form, "bits": 2, "is_stochastic": 1, "seed": 1,
                        "offset": 2, "bytes": values["bytes"]},
            "operation": {"channels": CHANNELS, "inner": INNER, "saved": SavedValue.OUTPUT,
                          "epsilon": 1e-5, "smallest_gamma": 0.0,
                          **{name: values[name] for name in (
                              "mean", "variance", "gamma", "beta", "by_channel")}}}
        for name, value in (changes or {}).items():
            struct, _, field = name.rpartition(".")
            place = fields[struct] if struct else values
            if field.endswith("+1"):
                place[field[:-2]] += 1
            else:
                place[field] = value
        for name, struct in STRUCTS.items():
            values.setdefault(name, struct(*fields[name].values()))
        self.arguments = [values[name] for name in SIGNATURES[function]]

    def __call__(self):
        function = getattr(_native._library, "actpack_" + self._function)
        arguments = [
            ctypes.cast(value, kind) if isinstance(value, int) and issubclass(
                kind, ctypes._Pointer) else value
            for value, kind in zip(self.arguments, function.argtypes)]
        error = function(*arguments)
        return None if error is None else error.decode()

    def kept(self):
        return all(memory.kept() for memory in self.memory.values())

    def guards_kept(self):
        return all(memory.guards_kept() for memory in self.memory.values())


COUNTS = (-1, -NUMEL, -INT64 - 1, 2**48 + 1, 2**62, INT64)
FLAGS = (-1, 2, INT32, -INT32 - 1)
FRACTIONS = (math.nan, -0.5, 1.0, 2.0, math.inf, -math.inf)
SIZES = (math.nan, -1.0, -math.inf)
CHANNEL_COUNTS = (0, -1, 3, 7, NUMEL + 1, 2**62, INT64, -INT64 - 1)
NUMBERS = {
    "execution.type": (-1, 3, 7, INT32, -INT32 - 1), "execution.is_cuda": FLAGS,
    "execution.threads": (0, -5, -INT32 - 1), "context.numel": COUNTS,
    "context.form": FLAGS, "context.bits": (-1, 0, 3, 5, 16, 32, INT32, -INT32 - 1),
    "context.is_stochastic": FLAGS, "numel": COUNTS, "first": (*COUNTS, 1, NUMEL + 1),
    "count": (*COUNTS, NUMEL + 1), "decode_as": FLAGS, "is_subtractive": FLAGS,
    "drop_probability": FRACTIONS, "operation.channels": CHANNEL_COUNTS,
    "operation.inner": CHANNEL_COUNTS, "operation.saved": FLAGS, "operation.epsilon": SIZES,
    "operation.smallest_gamma": SIZES,
    "elements": (-1, 1, NUMEL, INT64, -INT64 - 1, NUMEL // CHANNELS + 1)}
ARRAYS = {"x", "y", "dy", "dx", "dz", "mask", "gamma_gradient", "beta_gradient", "size",
          "numel_of_workspace", "workspace"}


def fields_of(function):
    """The names of all arguments of a function, fields of structs included."""
    for name in SIGNATURES[function]:
        yield name
        if name in STRUCTS:
            yield from (f"{name}.{field}" for field, _ in STRUCTS[name]._fields_)


def wrong_calls(function):
    """The changes that make a function's arguments wrong, each with what the error must say."""
    for name in fields_of(function):
        shown = "numel" if name == "numel_of_workspace" else name
        for value in NUMBERS.get(name, ()):
            yield {name: value}, f"{shown} = "
        reads_arrays = function not in ("size_bytes", "batch_norm_workspace")
        is_read = {"context.bytes": reads_arrays, "operation.by_channel": reads_arrays,
                   "operation.mean": function == "batch_norm",
                   "operation.variance": function == "batch_norm"}.get(name, name in ARRAYS)
        may_be_null = name == "workspace" or (name, function) == ("dx", "batch_norm_backward")
        is_optional = function == "batch_norm" and name in ("operation.gamma", "operation.beta")
        if name in STRUCTS or (is_read and not may_be_null):
            yield {name: None}, f"{shown} is null"
        if is_read or is_optional:
            yield {name + "+1": True}, f"{shown} is not aligned to "
    if function in NEEDS_SIGNS:
        yield {"context.form": Form.AFFINE}, "context.form = 0 is affine"
    if function == "decode":
        yield {"context.form": Form.AFFINE, "decode_as": DecodeAs.RELU}, "decode_as = 1 "
        for first, count in ((-1, 5), (NUMEL - 1, 2), (INT64, 1), (NUMEL, -NUMEL), (5, -3)):
            yield {"first": first, "count": count}, f"first = {first} and count = {count} exceed"
    if "operation" in SIGNATURES[function]:
        yield {"operation.saved": SavedValue.INPUT}, "operation.saved = 0 "
        yield {"operation.channels": 2**40, "operation.inner": 2**40}, "operation.inner = "
        yield {"operation.channels": 5 * CHANNELS, "operation.inner": 7}, "operation.inner = "
    if "execution" in SIGNATURES[function] and not actpack.has_cuda:
        yield {"execution.is_cuda": 1}, "execution.is_cuda = 1, but this build has no device code"


class WrongArgumentsTest(unittest.TestCase):

    def test_every_argument_is_refused_by_name_before_anything_is_written(self):
        count = 0
        for function in SIGNATURES:
            for changes, text in wrong_calls(function):
                with self.subTest(function=function, changes=changes):
                    call = Call(function, changes)
                    error = call() or "no error"
                    self.assertTrue(call.kept())
                    self.assertTrue(error.startswith("actpack: "))
                    self.assertIn(text, error)
                    if text.endswith(" = "):
                        shown = error.partition(text)[2].split()[0]
                        value = [*changes.values()][-1]
                        self.assertTrue(float(shown) == value or shown == str(value), error)
                    count += 1
        self.assertGreater(count, 500)

    def test_structs_that_are_not_aligned(self):
        for function in SIGNATURES:
            for name in STRUCTS.keys() & set(SIGNATURES[function]):
                call = Call(function)
                i = SIGNATURES[function].index(name)
                call.arguments[i] = ctypes.addressof(call.arguments[i]) + 4
                self.assertEqual(call(), f"actpack: {name} is not aligned to 8 bytes")

    def test_every_function_and_field_is_tried(self):
        declared = {name[8:] for name in vars(_native._library) if name.startswith("actpack_")}
        self.assertEqual(declared - {"version", "has_cuda", "check_sizes"}, set(SIGNATURES))
        for function in SIGNATURES:
            tried = {name.replace("+1", "") for changes, _ in wrong_calls(function)
                     for name in changes}
            unchecked = {"seed", "offset", "context.seed", "context.offset", "execution.stream"}
            if function == "batch_norm_backward":
                unchecked |= {f"operation.{name}" for name in ("mean", "variance", "gamma", "beta")}
            if function in ("size_bytes", "batch_norm_workspace"):
                unchecked |= {name for name in fields_of(function) if name.rpartition(".")[2] in (
                    "bytes", "mean", "variance", "gamma", "beta", "by_channel")}
            self.assertEqual(set(fields_of(function)) - tried, unchecked & set(fields_of(function)))

    def test_good_arguments_write_between_the_guards(self):
        for function, form, dtype, numel, threads in itertools.product(
                SIGNATURES, Form, _native.TYPES, (0, 20, 40, NUMEL), (1, 2)):
            if function in NEEDS_SIGNS and form == Form.AFFINE:
                continue
            with self.subTest(function=function, form=form, dtype=dtype, numel=numel):
                call = Call(function, None, form, dtype, numel, threads)
                self.assertIsNone(call())
                self.assertTrue(call.guards_kept())
                self.assertEqual(call.kept(), numel == 0 and "operation" not in
                                 SIGNATURES[function] and function != "size_bytes")

    def test_arrays_without_elements_may_be_null(self):
        for function, signature in SIGNATURES.items():
            nulls = {name: None for name in signature
                     if name in ARRAYS and name.rpartition("_")[2] not in (
                         "gradient", "size", "workspace")}
            with self.subTest(function=function):
                self.assertIsNone(Call(function, {**nulls, "context.bytes": None}, numel=0)())

    def test_any_number_of_threads_gives_the_same_words(self):
        results = []
        for threads in (1, 3, 10**6, INT32):
            call = Call("encode", numel=200000, threads=threads)
            self.assertIsNone(call())
            results.append(call.memory["bytes"].content())
        self.assertEqual(results.count(results[0]), len(results))

    def test_a_sentence_outlives_the_calls_of_other_threads(self):
        function = _native._library.actpack_encode
        raw = ctypes.CFUNCTYPE(ctypes.c_void_p, *function.argtypes)(
            ctypes.cast(function, ctypes.c_void_p).value)
        address = raw(*Call("encode", {"context.bits": 3}).arguments)
        other = threading.Thread(target=Call("encode", {"context.bits": 5}))
        other.start()
        other.join()
        self.assertIn(b"context.bits = 3", ctypes.string_at(address))

    def test_memory_that_runs_out_is_an_error(self):
        call = Call("batch_norm_backward", {"operation.channels": 2**48, "operation.inner": 1},
                    numel=0)
        self.assertEqual(call(), "actpack: out of memory")


class AnotherLibraryTest(unittest.TestCase):

    def _refused(self, library, text):
        with mock.patch("ctypes.CDLL", return_value=library):
            self.assertRaisesRegex(ImportError, text, _native._load)

    def test_another_version(self):
        for version, text in ((101, "0.1.1"), (20304, "2.3.4"), (0, "0.0.0")):
            self._refused(types.SimpleNamespace(actpack_version=lambda version=version: version),
                          f"version {text}, but the package is of {actpack.__version__}")

    def test_a_library_without_a_function(self):
        self._refused(ctypes.CDLL(None), "actpack_version")
        self._refused(types.SimpleNamespace(actpack_version=lambda: _native.VERSION),
                      "lacks a function.*actpack_check_sizes")

    def test_structs_of_another_size(self):
        class Longer(ctypes.Structure):
            _fields_ = [("x", ctypes.c_int64 * 20)]

        for name in ("_Execution", "Context", "Normalization"):
            library = ctypes.CDLL(_native._library._name)
            with mock.patch.object(_native, name, Longer):
                self._refused(library, f"{name.strip('_').lower()} = 160 bytes")

    def test_a_file_that_is_no_library(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "libactpack.so")
            path.write_text("no library")
            with mock.patch.dict("os.environ", {"ACTPACK_LIBRARY": str(path)}):
                self.assertRaisesRegex(ImportError, "libactpack.so cannot be loaded", _native._load)


class TensorsTest(unittest.TestCase):
    """What the wrappers see and C cannot: sizes, types and devices of the arrays."""

    def test_sizes_and_types(self):
        context, packed_bytes = packed.pack(torch.randn(100), Form.SIGN_MAGNITUDE, 2,
                                            packed.Options())
        context = context.at(packed_bytes)
        x, mask = torch.randn(100), torch.zeros(16, dtype=torch.uint8)
        for call in (lambda y: _native.encode(y, context),
                     lambda y: _native.decode_keeping_signs(context, y),
                     lambda y: _native.apply_signs(x, context, y),
                     lambda y: _native.relu(x, y, mask),
                     lambda y: _native.dropout(x, y, mask, 0.5, 1, 2),
                     lambda y: _native.apply_mask(x, mask, y),
                     lambda y: _native.batch_norm(x, None, context, y),
                     lambda y: _native.batch_norm_backward(x, None, context, 1, 0, None, y)):
            for wrong in (torch.randn(99), torch.randn(101)):
                self.assertRaisesRegex(ValueError, f"{len(wrong)} elements .* instead of 100", call,
                                       wrong)
        self.assertRaisesRegex(ValueError, "of torch.float16 instead", _native.relu, x, x.half(),
                               mask)
        for wrong in (mask[:12], torch.zeros(16)):
            self.assertRaisesRegex(ValueError, "a mask of .* bytes", _native.relu, x, x, wrong)
        self.assertRaisesRegex(RuntimeError, "count = 101", _native.decode, context, 0,
                               torch.randn(101), DecodeAs.VALUES, True)

    def test_devices(self):
        meta = torch.randn(64, device="meta")
        self.assertRaisesRegex(TypeError, "a tensor on meta", packed.pack, meta, Form.AFFINE, 2,
                               packed.Options())
        x = torch.randn(64)
        self.assertRaisesRegex(RuntimeError, "on meta cannot be used with one on cpu", _native.relu,
                               x, meta, packed.empty_mask(x))


if __name__ == "__main__":
    unittest.main()
