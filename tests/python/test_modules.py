# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
#
# The modules of actpack.nn, one at a time, against those of torch.nn.
import copy
import io
import os
import subprocess
import sys
import unittest
from unittest import mock

import actpack
import torch
import torch.nn.functional as F
from actpack import nn, packed
from actpack.nn import base
from support import (
    Draws,
    MemoryCase,
    StatisticalCase,
    is_close,
    joined,
    on_devices,
    relative_error,
    restart_streams,
)


class RMSNorm(torch.nn.Module):
    """nn.RMSNorm in operations that autograd knows."""

    def __init__(self, size, eps=1e-6):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x):
        mean_square = x.float().square().mean(-1, keepdim=True)
        return (x * (mean_square + self.eps).rsqrt()).to(x.dtype) * self.weight


class Attention(torch.nn.Module):
    """nn.ScaledDotProductAttention in operations that autograd knows; x is q, k and v."""

    is_causal = False

    def forward(self, x):
        q, k, v = x.chunk(3, -1)
        scores = q @ k.transpose(-2, -1) / q.shape[-1]**0.5
        if self.is_causal:
            future = torch.ones_like(scores, dtype=torch.bool).triu(1)
            scores = scores.masked_fill(future, float("-inf"))
        return scores.softmax(-1) @ v


class PackedAttention(nn.ScaledDotProductAttention):
    is_causal = False

    def forward(self, x):
        return super().forward(*x.chunk(3, -1), self.is_causal)


REPLACE = {RMSNorm: nn.RMSNorm, Attention: PackedAttention}


def converted(module, **options):
    return actpack.convert(copy.deepcopy(module), replace=REPLACE, **options)


def randomized(module):
    """Moves all parameters from their initial values; normalisations' weights get either sign."""
    for parameter in module.parameters():
        signs = torch.randn_like(parameter).sign()
        parameter.data.copy_(signs * (0.5 + torch.rand_like(parameter)))
    return module


class Case:
    """A module, an input, and the weights of the output's sum, whose gradients are compared."""

    def __init__(self, module, shape, device, layout=None):
        self.module = randomized(module).to(device)
        x = torch.randn(shape, device=device)
        self.x = (layout(x) if layout else x).detach().requires_grad_()
        with torch.no_grad():
            self.dy = torch.randn_like(copy.deepcopy(self.module)(self.x))

    def run(self, module):
        """The output, and the gradients of the input and the parameters by name."""
        y = module(self.x)
        names = [name for name, p in module.named_parameters() if p.requires_grad]
        parameters = [p for p in module.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(y, [self.x, *parameters], self.dy.to(y.dtype))
        return y.detach(), dict(zip(["input", *names], gradients))

    def gradients(self, module):
        return self.run(module)[1]


# Modules whose backward pass is linear in what it saved. Normalisations' dx is not quite: it uses
# the rounded x̂ twice, which biases dy by Var(x̂) / M for M values that are normalised together. Its
# noise has a deviation of about (Var(x̂) / M)^½, so the excess of K draws grows by K · Var(x̂) / M:
# by at most 64 · 0.3 / 512 here, far below the 0.9 or more that is allowed.
CASES = {
    "Linear": lambda: (torch.nn.Linear(48, 24), (64, 48)),
    "Linear, 3 dimensions, no bias": lambda: (torch.nn.Linear(32, 24, bias=False), (4, 16, 32)),
    "Conv1d": lambda: (torch.nn.Conv1d(8, 16, 3, stride=2, padding=1), (8, 8, 33)),
    "Conv2d": lambda: (torch.nn.Conv2d(8, 16, 3, padding=1), (4, 8, 9, 10)),
    "Conv2d, groups": lambda: (torch.nn.Conv2d(8, 16, (3, 1), groups=4), (4, 8, 9, 10)),
    "Conv2d, stride, dilation": lambda: (
        torch.nn.Conv2d(8, 16, 3, stride=(2, 1), dilation=2, padding=(1, 2), bias=False),
        (4, 8, 12, 9)),
    "Conv2d, padding same": lambda: (
        torch.nn.Conv2d(8, 16, 3, padding="same"), (4, 8, 7, 7)),
    "Conv2d, padding same, uneven": lambda: (
        torch.nn.Conv2d(8, 16, (2, 4), padding="same"), (4, 8, 7, 7)),
    "Conv2d, padding valid": lambda: (torch.nn.Conv2d(8, 16, 3, padding="valid"), (4, 8, 7, 7)),
    "Conv2d, reflected": lambda: (
        torch.nn.Conv2d(8, 16, 5, padding=(2, 1), padding_mode="reflect"), (4, 8, 7, 6)),
    "Conv2d, replicated": lambda: (
        torch.nn.Conv2d(8, 16, 3, padding=(2, 1), padding_mode="replicate"), (4, 8, 7, 6)),
    "Conv1d, circular": lambda: (
        torch.nn.Conv1d(8, 16, 5, padding=2, padding_mode="circular"), (8, 8, 33)),
    "Conv3d": lambda: (torch.nn.Conv3d(4, 16, 3, padding=1), (4, 4, 5, 6, 7)),
    "BatchNorm1d": lambda: (torch.nn.BatchNorm1d(16), (512, 16)),
    "BatchNorm2d": lambda: (torch.nn.BatchNorm2d(16), (16, 16, 8, 8)),
    "BatchNorm2d, no affine": lambda: (torch.nn.BatchNorm2d(16, affine=False), (16, 16, 8, 8)),
    "BatchNorm3d": lambda: (torch.nn.BatchNorm3d(16), (4, 16, 4, 8, 8)),
    "BatchNorm2d and ReLU": lambda: (
        torch.nn.Sequential(torch.nn.BatchNorm2d(16), torch.nn.ReLU()), (16, 16, 8, 8)),
    "Conv2d and BatchNorm2d": lambda: (  # which overwrites the convolution's output
        torch.nn.Sequential(torch.nn.Conv2d(8, 16, 1, bias=False), torch.nn.BatchNorm2d(16)),
        (16, 8, 8, 8)),
    "Conv2d, BatchNorm2d and ReLU": lambda: (
        torch.nn.Sequential(torch.nn.Conv2d(8, 16, 1, bias=False), torch.nn.BatchNorm2d(16),
                            torch.nn.ReLU()),
        (16, 8, 8, 8)),
    "BatchNorm2d and Conv2d": lambda: (
        torch.nn.Sequential(torch.nn.BatchNorm2d(16), torch.nn.Conv2d(16, 16, 1)), (16, 16, 8, 8)),
    "LayerNorm": lambda: (torch.nn.LayerNorm(512), (16, 512)),
    "LayerNorm, 2 dimensions, no affine": lambda: (
        torch.nn.LayerNorm((16, 32), elementwise_affine=False), (16, 16, 32)),
    "LayerNorm and Linear": lambda: (
        torch.nn.Sequential(torch.nn.LayerNorm(512), torch.nn.Linear(512, 16)), (64, 512)),
    "RMSNorm": lambda: (RMSNorm(512), (16, 512)),
    "GELU": lambda: (torch.nn.GELU(), (16, 100)),
    "SiLU": lambda: (torch.nn.SiLU(), (16, 100)),
    "ReLU and Linear": lambda: (
        torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Linear(48, 24)), (64, 48)),
}
if "approximate" in torch.nn.GELU.__constants__:
    CASES["GELU, tanh"] = lambda: (torch.nn.GELU(approximate="tanh"), (16, 100))

# Modules whose gradients have no noise at all.
EXACT_CASES = {
    "ReLU": lambda: (torch.nn.ReLU(), (7, 300)),
    "ReLU, in place": lambda: (torch.nn.ReLU(inplace=True), (7, 300)),
    "MaxPool2d, 2x2": lambda: (torch.nn.MaxPool2d(2), (2, 3, 8, 9)),
    "MaxPool2d, 3x3": lambda: (torch.nn.MaxPool2d(3, stride=2, padding=1), (2, 3, 9, 8)),
    "MaxPool2d, ceil": lambda: (torch.nn.MaxPool2d(3, 2, ceil_mode=True), (2, 3, 8, 10)),
    "MaxPool2d, 5x3": lambda: (torch.nn.MaxPool2d((5, 3), (2, 3), (2, 1)), (2, 3, 16, 9)),
    "MaxPool2d, 16x16": lambda: (torch.nn.MaxPool2d(16, 1), (2, 3, 20, 18)),
    "MaxPool2d, dilation": lambda: (torch.nn.MaxPool2d(3, dilation=2), (2, 3, 9, 9)),
    "MaxPool2d, no batch": lambda: (torch.nn.MaxPool2d(2), (3, 8, 9)),
}


class UnbiasedTest(StatisticalCase):

    @on_devices
    def test_gradients(self, device):
        for name, make in CASES.items():
            with self.subTest(module=name):
                self._assert_unbiased(Case(*make(), device))

    @on_devices
    def test_gradients_with_affine_contexts(self, device):
        for name in (name for name in CASES if "and" in name):  # others have no other context
            with self.subTest(module=name):
                self._assert_unbiased(Case(*CASES[name](), device), context="affine")

    @on_devices
    def test_gradients_in_evaluation(self, device):
        # Batch norm's statistics do not depend on the input then.
        for name in (name for name in CASES if "BatchNorm" in name and "no affine" not in name):
            for context in ("sign_magnitude", "affine"):
                with self.subTest(module=name, context=context):
                    case = Case(*CASES[name](), device)
                    case.module(case.x)  # running statistics that are not 0 and 1
                    case.module.eval()
                    self._assert_unbiased(case, context=context)

    @on_devices
    def test_attention(self, device):
        # Nonlinear in queries and keys: with sharp scores, of deviation 4, their 8 bits leave no
        # bias that the draws could tell, and 2 bits do.
        for is_causal in (False, True):
            with self.subTest(is_causal=is_causal):
                case = Case(Attention(), (4, 2, 16, 3 * 24), device)
                case.module.is_causal = is_causal
                with torch.no_grad():
                    case.x.mul_(2)
                self._assert_unbiased(case, attention_bits=8)
                rounded = converted(case.module, attention_bits=2)
                draws = Draws(lambda: joined(case.gradients(rounded).values()),
                              joined(case.gradients(case.module).values()))
                self.assertFalse(draws.is_unbiased())

    def _assert_unbiased(self, case, **options):
        y, exact = case.run(case.module)
        module = converted(case.module, bits=2, **options)
        y_of_converted, first = case.run(module)
        self.assertTrue(torch.allclose(y, y_of_converted, rtol=1e-4, atol=1e-4))
        draws = [first, *(case.gradients(module) for _ in range(63))]
        has_noise = False
        for name, gradient in exact.items():
            drawn = Draws(iter([joined([d[name]]) for d in draws]).__next__, joined([gradient]))
            if not drawn.is_exact():
                has_noise = True
                with self.subTest(gradient=name):
                    self.assert_unbiased(drawn, detectable=0.3)
        self.assertTrue(has_noise)

    @on_devices
    def test_subtractive_decoding_halves_the_variance(self, device):
        case = Case(torch.nn.Linear(64, 64), (256, 64), device)
        exact = joined([case.gradients(case.module)["weight"]])
        subtractive, plain = (
            Draws(lambda: joined([case.gradients(module)["weight"]]), exact)
            for module in (converted(case.module), converted(case.module, subtractive=False)))
        # The mean of 64 sums of squares has the deviation sigma / √64, and there are two of them.
        # The ratio is 1 / 2 where values lie evenly between levels, as these nearly do.
        radius = 5 * (subtractive.sigma**2 + plain.sigma**2)**0.5 / 8
        self.assertLess(radius, 0.25)
        self.assertAlmostEqual(subtractive.variance / plain.variance, 0.5, delta=0.5 * radius)

    @on_devices
    def test_batch_norm_decodes_as_asked(self, device):
        case = Case(torch.nn.BatchNorm2d(16), (16, 16, 8, 8), device)
        gradients = []
        for subtractive in (True, False):
            restart_streams()  # the same codes
            gradients.append(case.gradients(converted(case.module, subtractive=subtractive)))
        self.assertFalse(torch.equal(joined(gradients[0].values()), joined(gradients[1].values())))

    @on_devices
    def test_batch_norm_of_an_input_without_gradient(self, device):
        module = converted(torch.nn.BatchNorm2d(16).to(device))
        x = torch.randn(4, 16, 8, 8, device=device)
        gradients = []
        for needs_gradient in (True, False):
            restart_streams()
            y = module(x.clone().requires_grad_(needs_gradient))
            gradients.append(joined(torch.autograd.grad(y.square().sum(), module.parameters())))
        self.assertTrue(torch.equal(*gradients))

    @on_devices
    def test_a_derivative_from_rounded_values_is_found_biased(self, device):
        # The modules avoid this: the same codes of a GELU's input instead of its derivative.
        class Rounded(torch.autograd.Function):

            @staticmethod
            def forward(ctx, x):
                ctx.packed, ctx.bytes = packed.pack(x, packed.Form.AFFINE, 2, packed.Options())
                return F.gelu(x)

            @staticmethod
            def backward(ctx, dy):
                with torch.enable_grad():
                    x = ctx.packed.decode(ctx.bytes).requires_grad_()
                    return torch.autograd.grad(F.gelu(x), x, dy)[0]

        case = Case(torch.nn.GELU(), (16, 100), device)
        exact = joined(case.gradients(case.module).values())
        draws = Draws(lambda: joined(torch.autograd.grad(Rounded.apply(case.x), case.x, case.dy)),
                      exact)
        self.assertFalse(draws.is_unbiased())


class ExactTest(unittest.TestCase):

    @on_devices
    def test_gradients(self, device):
        for name, make in EXACT_CASES.items():
            for context in ("sign_magnitude", "affine"):
                with self.subTest(module=name, context=context):
                    case = Case(*make(), device)
                    with torch.no_grad():  # zeros, and ties in windows
                        case.x.copy_(torch.randint(-2, 3, case.x.shape))
                    case.dy.mul_(4).round_()  # sums are exact in any order
                    first = Twice() if "in place" in name else torch.nn.Identity()
                    plain = torch.nn.Sequential(first, case.module)
                    y, exact = case.run(plain)
                    y_of_converted, gradients = case.run(converted(plain, context=context))
                    self.assertTrue(torch.equal(y_of_converted, y))
                    for gradient, expected in zip(gradients.values(), exact.values()):
                        self.assertTrue(torch.equal(gradient, expected))

    @on_devices
    def test_dropout(self, device):
        for p in (0.1, 0.5, 0.9):
            module = converted(torch.nn.Dropout(p))
            x = torch.rand(300, 1001, device=device).add_(0.5).requires_grad_()
            y = module(x)
            is_kept = y != 0
            self.assertTrue(torch.allclose(y, torch.where(is_kept, x / (1 - p), y * 0)))
            dx, = torch.autograd.grad(y, x, torch.ones_like(y))
            self.assertTrue(torch.equal(dx != 0, is_kept))
            self.assertTrue(torch.allclose(dx[is_kept], dx.new_tensor(1 / (1 - p))))
            # The share of kept elements has the deviation of a binomial; allow 5 of them.
            sigma = (p * (1 - p) / x.numel())**0.5
            self.assertLess(abs(is_kept.double().mean().item() - (1 - p)), 5 * sigma)
            # The next mask differs: the two agree as often as independent ones.
            agreement = 1 - 2 * p * (1 - p)
            same = ((module(x) != 0) == is_kept).double().mean().item()
            self.assertLess(abs(same - agreement),
                            5 * (agreement * (1 - agreement) / x.numel())**0.5)

    @on_devices
    def test_dropout_of_all_and_of_nothing(self, device):
        x = torch.randn(100, device=device, requires_grad=True)
        self.assertTrue(torch.equal(converted(torch.nn.Dropout(0.0))(x), x))
        self.assertTrue((converted(torch.nn.Dropout(1.0))(x) == 0).all())
        self.assertTrue(torch.equal(converted(torch.nn.Dropout(0.5)).eval()(x), x))

    @on_devices
    def test_codes_come_back(self, device):
        for bits in (1, 2, 4, 8):
            options = packed.Options()
            every = torch.arange(1 << bits, device=device)
            random = torch.randint(1 << bits, (7, 301), device=device)
            for codes in (every, every.flip(0), every.repeat(300), random, random.t(),
                          torch.full((65,), (1 << bits) - 1, device=device)):
                result = packed.unpack_codes(*packed.pack_codes(codes, bits, options))
                self.assertTrue(torch.equal(result, codes), bits)

    @on_devices
    def test_masks_come_back(self, device):
        for numel in (0, 1, 31, 32, 33, 1000):
            mask = torch.rand(numel, device=device) < 0.5
            self.assertTrue(torch.equal(packed.unpack_mask(packed.pack_mask(mask), mask.shape),
                                        mask))


class Twice(torch.nn.Module):
    """Turns a leaf, which cannot be changed in place, into an operation's result."""

    def forward(self, x):
        return x * 2


class InPlaceTest(unittest.TestCase):
    """In-place modules change their input, and their results may be changed afterwards."""

    @on_devices
    def test_the_input_is_the_output(self, device):
        layouts = {"dense": lambda x: x * 1, "a view": lambda x: (x * 1).view(4, 8, 16),
                   "with gaps": lambda x: (x * 1)[:, ::2]}
        for make in (torch.nn.ReLU, torch.nn.SiLU):
            for context in ("sign_magnitude", "affine"):
                for name, layout in layouts.items():
                    with self.subTest(module=make.__name__, context=context, layout=name):
                        x = torch.randn(32, 16, device=device, requires_grad=True)
                        plain = make(inplace=True)
                        results = []
                        for module in (plain, converted(plain, bits=8, context=context)):
                            y = layout(x)
                            z = module(y)
                            self.assertEqual(z.data_ptr(), y.data_ptr())
                            loss = (y * 3 + z).square().sum()  # 16 z²: y is z
                            results.append((y.detach().clone(), *torch.autograd.grad(loss, x)))
                        (y, dx), (y_of_converted, dx_of_converted) = results
                        self.assertTrue(is_close(y_of_converted, y))
                        self.assertLess(relative_error(joined([dx_of_converted]), joined([dx])),
                                        0.02)

    @on_devices
    def test_dropout(self, device):
        for layout in (lambda x: x * 1, lambda x: (x * 1)[:, ::2]):
            x = torch.ones(32, 64, device=device, requires_grad=True)
            y = layout(x)
            z = converted(torch.nn.Dropout(0.5, inplace=True))(y)
            self.assertTrue(torch.equal(y, z))
            self.assertTrue(((y == 0) | (y == 2)).all())
            dx, = torch.autograd.grad(z.sum(), x)
            self.assertEqual(dx.sum(), z.sum())

    @on_devices
    def test_results_may_be_changed(self, device):
        for shape in ((8, 16), (2, 3, 16), (2, 2, 2, 16)):
            for context in ("sign_magnitude", "affine"):
                x = torch.randn(shape, device=device, requires_grad=True)
                plain = torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.ReLU(inplace=True))
                plain = plain.to(device)
                results = []
                for net in (plain, converted(plain, bits=8, context=context)):
                    net(x).sum().backward()
                    y = net[0](x)
                    y += 1
                    results.append(torch.autograd.grad(y.square().sum(), net[0].weight)[0])
                self.assertLess(relative_error(joined(results[1:]), joined(results[:1])), 0.02)


class LikeTorchTest(unittest.TestCase):

    @on_devices
    def test_running_statistics(self, device):
        for options in ({}, {"momentum": None}, {"momentum": 0.0}, {"affine": False},
                        {"track_running_stats": False}):
            plain = torch.nn.Sequential(torch.nn.BatchNorm2d(5, **options), torch.nn.ReLU())
            module = converted(plain)
            for _ in range(3):
                x = torch.randn(4, 5, 3, 3, device=device, requires_grad=True)
                self.assertTrue(is_close(module.to(device)(x), plain.to(device)(x)))
            for (name, value), other in zip(plain.state_dict().items(),
                                            module.state_dict().values()):
                self.assertTrue(torch.equal(value, other), (options, name))
            plain.eval()
            module.eval()
            self.assertTrue(is_close(module(x), plain(x)))

    @on_devices
    def test_without_gradients(self, device):
        for name, make in {**CASES, **EXACT_CASES}.items():
            with self.subTest(module=name):
                case = Case(*make(), device)
                x = case.x.detach().clone()
                with torch.no_grad(), mock.patch.object(packed, "next_stream") as next_stream:
                    expected = case.module(x.clone())
                    y = converted(case.module)(x.clone())
                self.assertTrue(torch.equal(y, expected))
                next_stream.assert_not_called()  # nothing was packed

    @on_devices
    def test_evaluation(self, device):
        for name, make in CASES.items():
            with self.subTest(module=name):
                case = Case(*make(), device)
                case.module.eval()
                y, exact = case.run(case.module)
                y_of_converted, gradients = case.run(converted(case.module, bits=8))
                self.assertTrue(is_close(y_of_converted, y))
                self.assertLess(relative_error(joined(gradients.values()),
                                               joined(exact.values())), 0.02)

    @on_devices
    def test_without_a_batch(self, device):
        for module, shape in ((torch.nn.Linear(8, 4), (8,)), (torch.nn.Conv1d(3, 4, 3), (3, 9)),
                              (torch.nn.Conv2d(3, 4, 3), (3, 9, 9)), (RMSNorm(8), (8,)),
                              (torch.nn.LayerNorm(8), (8,))):
            with self.subTest(module=type(module).__name__):
                case = Case(module, shape, device)
                y, exact = case.run(case.module)
                y_of_converted, gradients = case.run(converted(case.module, bits=8))
                self.assertTrue(torch.equal(y, y_of_converted))
                self.assertLess(relative_error(joined(gradients.values()),
                                               joined(exact.values())), 0.02)

    @on_devices
    def test_a_parameter_as_input(self, device):
        # Like learned queries: the caller owns them, and they are packed like any leaf.
        linear = converted(torch.nn.Linear(8, 4)).to(device)
        queries = torch.nn.Parameter(torch.randn(5, 8, device=device))
        linear(queries).sum().backward()
        self.assertEqual(queries.grad.shape, queries.shape)


# Inputs with unusual strides: each gives the same gradients as a contiguous one.
LAYOUTS = {
    "transposed": lambda x: x.transpose(0, -1).contiguous().transpose(0, -1),
    "with gaps": lambda x: torch.stack([x, x], -1)[..., 0],
    "expanded": lambda x: x[:1].expand_as(x),
    "channels last": lambda x: (x.contiguous(memory_format=torch.channels_last) if x.dim() == 4
                                else x),
    "negated as it is read": lambda x: torch._neg_view(-x),
}


class TypesAndLayoutsTest(unittest.TestCase):

    # 8 bits of a batch norm's output have the largest noise: its channels, with deviations from 0.5
    # to 1.5 and means from -1.5 to 1.5, share steps of about 11 / 255. That is 1.4 % of a
    # normalised input in the mean over channels, 2.4 % in the worst. Wrong elements would be wrong
    # by 100 %.
    noise = 0.05

    @on_devices
    def test_layouts(self, device):
        for layout, change in LAYOUTS.items():
            for name, make in {**CASES, **EXACT_CASES}.items():
                if "in place" in name or (name, layout) == ("BatchNorm1d", "expanded"):
                    continue  # torch refuses the one; the other has no variance
                with self.subTest(module=name, layout=layout):
                    case = Case(*make(), device, layout=change)
                    y, exact = case.run(case.module)
                    y_of_converted, gradients = case.run(converted(case.module, bits=8))
                    self.assertTrue(torch.allclose(y, y_of_converted, atol=1e-5))
                    if layout == "channels last" and y.dim() == 4:
                        # Otherwise the next layer would copy, as PyTorch 1.13 does when it pads.
                        if getattr(case.module, "padding_mode", "zeros") != "zeros":
                            y, exact["input"] = (x.contiguous(memory_format=torch.channels_last)
                                                 for x in (y, exact["input"]))
                        self.assertEqual(gradients["input"].stride(), exact["input"].stride())
                    self.assertEqual(y.stride(), y_of_converted.stride())
                    for gradient, expected in zip(gradients.values(), exact.values()):
                        self.assertLess(relative_error(joined([gradient]), joined([expected])),
                                        self.noise)

    @on_devices
    def test_gradients_that_lie_otherwise(self, device):
        for name in ("BatchNorm2d", "BatchNorm2d and ReLU", "ReLU", "Dropout"):
            with self.subTest(module=name):
                make = CASES.get(name, lambda: (getattr(torch.nn, name)(), (4, 16, 8, 8)))
                case = Case(*make(), device, layout=LAYOUTS["channels last"])
                module = converted(case.module)
                results = []
                for dy in (case.dy, case.dy.contiguous(), case.dy.transpose(0, 1).contiguous()
                           .transpose(0, 1), torch._neg_view(-case.dy)):
                    restart_streams()
                    case.dy = dy
                    results.append(case.gradients(module))
                for result in results[1:]:
                    for gradient, expected in zip(result.values(), results[0].values()):
                        self.assertTrue(torch.equal(gradient, expected))

    @on_devices
    def test_parameters_of_a_batch_norm_with_gaps(self, device):
        for is_training in (True, False):
            case = Case(*CASES["BatchNorm2d"](), device)
            norm = converted(case.module.train(is_training), bits=8)
            restart_streams()
            y, gradients = case.run(norm)
            for name in ("weight", "bias", "running_mean", "running_var"):
                tensor = getattr(norm, name).detach()
                with_gaps = torch.stack([tensor, tensor + 1], -1)[:, 0]
                setattr(norm, name, torch.nn.Parameter(with_gaps) if name in norm._parameters
                        else with_gaps)
            restart_streams()
            y_with_gaps, gradients_with_gaps = case.run(norm)
            self.assertTrue(torch.equal(y, y_with_gaps))
            for gradient, expected in zip(gradients_with_gaps.values(), gradients.values()):
                self.assertTrue(torch.equal(gradient, expected))

    @on_devices
    def test_linear_layers_without_inputs_or_outputs(self, device):
        for inputs, outputs in ((0, 4), (4, 0)):
            linear = torch.nn.Linear(4, 4)
            linear.weight = torch.nn.Parameter(torch.ones(outputs, inputs))
            linear.bias = torch.nn.Parameter(torch.ones(outputs))
            x = torch.ones(3, inputs, device=device, requires_grad=True)
            linear = converted(linear).to(device)
            y = linear(x)
            y.sum().backward()
            self.assertTrue(torch.equal(y, torch.ones(3, outputs, device=device) * (1 + inputs)))
            self.assertEqual(linear.weight.grad.shape, (outputs, inputs))
            self.assertTrue((linear.bias.grad == 3).all())

    @on_devices
    def test_types(self, device):
        for dtype in (torch.bfloat16, torch.float16):
            for name, make in {**CASES, **EXACT_CASES}.items():
                if "in place" in name:
                    continue
                case = Case(*make(), device)
                case.module, case.x = case.module.to(dtype), case.x.to(dtype).detach()
                case.x.requires_grad_()
                try:
                    y, exact = case.run(case.module)
                except RuntimeError:  # torch has not all of it in half precision on the CPU
                    continue
                with self.subTest(module=name, dtype=dtype):
                    y_of_converted, gradients = case.run(converted(case.module, bits=8))
                    self.assertEqual(y_of_converted.dtype, y.dtype)
                    self.assertLess(relative_error(joined([y_of_converted]), joined([y])), 0.01)
                    for gradient, expected in zip(gradients.values(), exact.values()):
                        self.assertEqual(gradient.dtype, expected.dtype)
                        self.assertLess(relative_error(joined([gradient]), joined([expected])),
                                        self.noise)

    @on_devices
    def test_another_default_type(self, device):
        case = Case(*CASES["BatchNorm2d and ReLU"](), device)
        module = converted(case.module, bits=8)
        results = []
        for dtype in (torch.float32, torch.float64):
            torch.set_default_dtype(dtype)
            self.addCleanup(torch.set_default_dtype, torch.float32)
            restart_streams()
            results.append(case.gradients(module))
        for gradient, expected in zip(*(result.values() for result in results)):
            self.assertTrue(torch.equal(gradient, expected))

    @on_devices
    def test_batches_of_nothing_and_of_one(self, device):
        for size in (0, 1):
            for name, make in {**CASES, **EXACT_CASES}.items():
                if "in place" in name or "no batch" in name:
                    continue
                module, shape = make()
                case = Case(module, shape, device)
                case.x = case.x[:size].detach().requires_grad_()
                try:
                    with torch.no_grad():
                        case.dy = torch.randn_like(copy.deepcopy(case.module)(case.x))
                    y, exact = case.run(case.module)
                except (RuntimeError, ValueError):  # torch refuses the batch, too
                    continue
                with self.subTest(module=name, size=size):
                    y_of_converted, gradients = case.run(converted(case.module, bits=8))
                    self.assertTrue(is_close(y_of_converted, y))
                    for gradient, expected in zip(gradients.values(), exact.values()):
                        self.assertEqual(gradient.shape, expected.shape)
                        difference = (gradient - expected).norm().item()
                        self.assertLessEqual(difference, 0.05 * expected.norm().item())

    @on_devices
    def test_what_is_not_finite_shows(self, device):
        for value in (float("nan"), float("inf")):
            for name in ("Linear", "Conv2d", "LayerNorm", "RMSNorm", "BatchNorm2d and ReLU",
                         "GELU"):
                with self.subTest(module=name, value=value):
                    case = Case(*CASES[name](), device)
                    with torch.no_grad():
                        case.x.view(-1)[5] = value
                    gradients = case.gradients(converted(case.module))
                    self.assertFalse(joined(gradients.values()).isfinite().all())
            with self.subTest(weight=value):
                case = Case(*CASES["BatchNorm2d and ReLU"](), device)
                torch.nn.init.constant_(case.module[0].weight, value)
                y, gradients = case.run(converted(case.module))
                self.assertFalse(y.isfinite().all())
                self.assertFalse(joined(gradients.values()).isfinite().all())


class SharedTest(unittest.TestCase):
    """Notes on tensors: one packed copy for all readers, and never an outdated one."""

    @on_devices
    def test_a_change_in_place_is_seen(self, device):
        relu, linear = converted(torch.nn.ReLU()), converted(torch.nn.Linear(32, 8), bits=8)
        linear.to(device)
        x = torch.randn(16, 32, device=device, requires_grad=True)
        y = relu(x)
        y.add_(10)
        dw, = torch.autograd.grad(linear(y).sum(), linear.weight)
        expected = y.detach().sum(0).expand_as(dw)
        self.assertLess(relative_error(joined([dw]), joined([expected])), 0.01)

    @on_devices
    def test_a_leaf_is_rounded_afresh(self, device):
        linear = converted(torch.nn.Linear(32, 8)).to(device)
        leaf = torch.randn(16, 32, device=device)
        first, second = (torch.autograd.grad(linear(leaf).sum(), linear.weight)[0]
                         for _ in range(2))
        self.assertFalse(torch.equal(first, second))

    @on_devices
    def test_two_readers_share(self, device):
        linear = converted(torch.nn.Linear(32, 8)).to(device)
        other = copy.deepcopy(linear)
        x = torch.randn(16, 32, device=device, requires_grad=True) * 1
        first, second = (torch.autograd.grad(reader(x).sum(), reader.weight)[0]
                         for reader in (linear, other))
        self.assertTrue(torch.equal(first, second))

    @on_devices
    def test_readers_of_other_options_do_not_share(self, device):
        linear = torch.nn.Linear(256, 8).to(device)
        coarse, fine = (converted(linear, bits=bits) for bits in (1, 8))
        x = torch.randn(16, 256, device=device, requires_grad=True) * 1
        expected, coarse, fine = (torch.autograd.grad(reader(x).square().sum(), reader.weight)[0]
                                  for reader in (linear, coarse, fine))
        # Each bit less doubles the steps; the noise of 1 bit is some 255 times that of 8.
        self.assertGreater(relative_error(joined([coarse]), joined([expected])), 0.1)
        self.assertLess(relative_error(joined([fine]), joined([expected])), 0.01)

    @on_devices
    def test_a_relu_of_a_relu_is_another_tensor(self, device):
        net = torch.nn.Sequential(torch.nn.BatchNorm1d(8), torch.nn.ReLU(), torch.nn.ReLU())
        twin = converted(net).to(device)
        x = torch.randn(16, 8, device=device)
        y = twin[:2](x)
        before = y.detach().clone()
        twin[2](y).mul_(2)
        self.assertTrue(torch.equal(y, before))

    @on_devices
    def test_a_shared_tensor_can_be_saved(self, device):
        for module in (torch.nn.BatchNorm1d(8), torch.nn.ReLU(), torch.nn.LayerNorm(8)):
            y = converted(module).to(device)(torch.randn(16, 8, device=device, requires_grad=True))
            file = io.BytesIO()
            torch.save(y, file)
            file.seek(0)
            self.assertTrue(torch.equal(torch.load(file), y))

    @on_devices
    def test_only_the_positive_part_reaches_the_next_layer(self, device):
        case = Case(torch.nn.Sequential(torch.nn.BatchNorm1d(16), torch.nn.ReLU(),
                                        torch.nn.Linear(16, 8)), (512, 16), device)
        exact = case.gradients(case.module)
        gradients = case.gradients(converted(case.module, bits=8))
        for name, gradient in gradients.items():
            self.assertLess(relative_error(joined([gradient]), joined([exact[name]])), 0.01, name)


class TiledTest(unittest.TestCase):

    @on_devices
    def test_tiles_give_the_same_gradients(self, device):
        cases = {
            "Linear": (torch.nn.Linear(48, 24), (64, 48)),
            "Linear, 3 dimensions": (torch.nn.Linear(48, 24), (13, 5, 48)),
            "Conv2d": (torch.nn.Conv2d(8, 16, 3, padding=1), (7, 8, 9, 10)),
            "Conv2d, frozen": (torch.nn.Conv2d(8, 16, 3).requires_grad_(False), (7, 8, 9, 10)),
            "LayerNorm and Linear": (
                torch.nn.Sequential(torch.nn.LayerNorm(48), torch.nn.Linear(48, 24)), (64, 48)),
            "ReLU and Conv2d": (
                torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Conv2d(8, 16, 3)), (7, 8, 9, 10)),
            "BatchNorm2d, ReLU and Conv2d": (  # which decodes the positive part
                torch.nn.Sequential(torch.nn.BatchNorm2d(8), torch.nn.ReLU(),
                                    torch.nn.Conv2d(8, 16, 3)), (7, 8, 9, 10)),
        }
        layouts = {"contiguous": None, "channels last": LAYOUTS["channels last"],
                   "transposed": LAYOUTS["transposed"]}
        for name, (module, shape) in cases.items():
            for layout, change in layouts.items():
                case = Case(module, shape, device, layout=change)
                module_of_case = converted(case.module)
                restart_streams()
                whole = case.gradients(module_of_case)
                for tile_numel in (1, 1500):
                    restart_streams()
                    with mock.patch.object(base, "tile_numel", tile_numel):
                        tiled = case.gradients(module_of_case)
                    for gradient, expected in zip(tiled.values(), whole.values()):
                        with self.subTest(module=name, layout=layout, tile_numel=tile_numel):
                            self.assertEqual(gradient.dtype, expected.dtype)
                            # Only the order of the sums differs.
                            self.assertLess(relative_error(joined([gradient]), joined([expected])),
                                            1e-5)


class MemoryTest(MemoryCase):

    numel = 1 << 20
    delta = 0.2  # 25 KiB: whole pages of up to three contexts, statistics, and the graph itself

    def _bits(self, module, device, **options):
        """The bits that one layer stores for each value of its input."""
        module = converted(module, **options).to(device)
        x = torch.randn(4, 16, self.numel // 64 // 128, 128, device=device, requires_grad=True)
        return 8 * self.stored(lambda: module(x).sum(), device) / x.numel()

    @on_devices
    def test_stored_bits(self, device):
        sequence = torch.nn.Sequential
        for module, bits in (
                (torch.nn.Conv2d(16, 16, 1), 2.125),
                (torch.nn.Conv2d(16, 16, 3, padding=1, padding_mode="reflect"), 2.125),
                (torch.nn.Linear(128, 128), 2.125),
                (torch.nn.BatchNorm2d(16), 2.125), (torch.nn.BatchNorm2d(16).eval(), 2.125),
                (torch.nn.LayerNorm(128), 2.125 + 64 / 128),
                (torch.nn.GELU(), 2.125), (torch.nn.SiLU(), 2.125), (torch.nn.Dropout(0.5), 1),
                (torch.nn.MaxPool2d(2), 2.125 / 4), (torch.nn.ReLU(), 3.125),
                (sequence(torch.nn.BatchNorm2d(16), torch.nn.ReLU()), 3.125)):
            with self.subTest(module=module):
                self.assertAlmostEqual(self._bits(module, device), bits, delta=self.delta)

    @on_devices
    def test_what_stores_nothing_of_its_own(self, device):
        sequence = torch.nn.Sequential
        relu, conv = torch.nn.ReLU(), torch.nn.Conv2d(16, 16, 1)
        linear = torch.nn.Linear(128, 128)
        for module, bits in (
                (sequence(relu, conv), 3.125),  # the ReLU's signs and magnitudes serve both
                (sequence(torch.nn.BatchNorm2d(16), relu, conv), 3.125),
                (sequence(torch.nn.BatchNorm2d(16), conv), 2.125),
                (sequence(torch.nn.LayerNorm(128), linear), 2.125 + 64 / 128)):
            with self.subTest(module=module):
                self.assertAlmostEqual(self._bits(module, device), bits, delta=self.delta)

    @on_devices
    def test_peak_of_batch_norm(self, device):
        # The output, the input's gradient and a context. A decoded tensor or a masked gradient
        # would be one more. A GPU's sums take another 32 MiB.
        batch = 16384 if device.type == "cuda" else 256
        for layers in ([], [torch.nn.ReLU()]):
            for context in ("sign_magnitude", "affine") if not layers else ("sign_magnitude",):
                with self.subTest(layers=layers, context=context):
                    module = converted(torch.nn.Sequential(torch.nn.BatchNorm2d(16), *layers),
                                       context=context).to(device)
                    x = torch.randn(batch, 16, 32, 32, device=device, requires_grad=True)
                    dy = torch.randn_like(x)

                    def step():
                        module(x).backward(dy)
                        x.grad = None

                    self.assertLess(self.peak(step, device) / (4 * x.numel()), 2.3)

    @on_devices
    def test_affine_contexts(self, device):
        sequence = torch.nn.Sequential
        for module, bits in ((torch.nn.ReLU(), 1),
                             (sequence(torch.nn.BatchNorm2d(16), torch.nn.ReLU()), 2.125 + 1),
                             (sequence(torch.nn.BatchNorm2d(16), torch.nn.ReLU(),
                                       torch.nn.Conv2d(16, 16, 1)), 2.125 + 1 + 2.125)):
            with self.subTest(module=module):
                self.assertAlmostEqual(self._bits(module, device, context="affine"), bits,
                                       delta=self.delta)

    @on_devices
    def test_frozen_weights_keep_nothing(self, device):
        for module in (torch.nn.Linear(128, 128), torch.nn.Conv2d(16, 16, 1)):
            for has_bias in (True, False):
                with self.subTest(module=module, has_bias=has_bias):
                    module.weight.requires_grad_(False)
                    module.bias.requires_grad_(has_bias)
                    self.assertLess(self._bits(module, device), self.delta)


class WrongUseTest(unittest.TestCase):

    def test_options(self):
        for wrong in ({"bits": 3}, {"bits": 16}, {"bits": 2.0}, {"attention_bits": 5}, {"seed": -1},
                      {"seed": 1 << 64}, {"seed": 0.5}, {"seed": float("nan")},
                      {"context": "linear"}):
            name = next(iter(wrong))
            with self.assertRaisesRegex(ValueError, name):
                packed.Options(**wrong)
            with self.assertRaisesRegex(ValueError, name):
                actpack.convert(torch.nn.ReLU(), **wrong)

    @on_devices
    def test_packing_a_parameter(self, device):
        weight = torch.nn.Parameter(torch.randn(64, device=device))
        with self.assertRaisesRegex(ValueError, "parameter"):
            packed.pack(weight, packed.Form.AFFINE, 2, packed.Options())

    @on_devices
    def test_types(self, device):
        for dtype in (torch.float64, torch.int32, torch.complex64):
            tensor = torch.zeros(64, dtype=dtype, device=device)
            with self.assertRaisesRegex(TypeError, "float32, float16 or bfloat16"):
                packed.pack(tensor, packed.Form.AFFINE, 2, packed.Options())
        linear = converted(torch.nn.Linear(8, 8).double()).to(device)
        with self.assertRaisesRegex(TypeError, "input of this Linear"):
            linear(torch.randn(4, 8, dtype=torch.float64, device=device))
        norm = converted(torch.nn.BatchNorm1d(8).double()).to(device)
        with self.assertRaisesRegex(TypeError, "output of this BatchNorm1d"):
            norm(torch.randn(4, 8, dtype=torch.float64, device=device))
        self.assertEqual(norm.num_batches_tracked.item(), 0)  # nothing has moved
        self.assertTrue((norm.running_mean == 0).all())

    @on_devices
    def test_channels_of_a_batch_norm(self, device):
        x = torch.randn(2, 4, 4, 4, device=device)
        for options in ({}, {"affine": False}, {"track_running_stats": False}):
            norm = converted(torch.nn.BatchNorm2d(3, **options)).to(device)
            for is_training in (True, False):
                before = copy.deepcopy(norm.train(is_training).state_dict())
                with self.assertRaisesRegex(ValueError, "this BatchNorm2d is of 3 channels"):
                    norm(x.requires_grad_())
                for name, value in norm.state_dict().items():  # nothing has moved
                    self.assertTrue(torch.equal(value, before[name]))

    @on_devices
    def test_parameters_on_another_device(self, device):
        norm = converted(torch.nn.BatchNorm2d(3)).to(device)
        norm.weight = torch.nn.Parameter(torch.ones(3, device="meta"))
        with self.assertRaisesRegex(ValueError, "weight of this BatchNorm2d is .* on meta"):
            norm(torch.randn(2, 3, 4, 4, device=device))

    def test_bytes_that_came_back_changed(self):
        for change in (lambda b: b[1:], lambda b: b.repeat(2), lambda b: b.int(), lambda b: b[None],
                       lambda b: b.repeat_interleave(2)[::2]):
            def change_bytes(tensor, change=change):
                return change(tensor) if tensor.dtype == torch.uint8 else tensor

            with torch.autograd.graph.saved_tensors_hooks(change_bytes, lambda saved: saved):
                y = converted(torch.nn.Linear(8, 8))(torch.randn(64, 8))
            with self.assertRaisesRegex(RuntimeError, "this Linear was packed in .* bytes"):
                y.sum().backward()

    def test_padding_beyond_the_input(self):
        for mode, least in (("reflect", 4), ("circular", 5)):
            convolution = torch.nn.Conv1d(2, 2, 3, padding=least, padding_mode=mode)
            x = torch.randn(1, 2, 4)
            with self.assertRaises(RuntimeError):
                convolution(x)
            with self.assertRaisesRegex(ValueError, f"{mode} padding by {least}.*size 4"):
                converted(convolution)(x)
            convolution = torch.nn.Conv1d(2, 2, 3, padding=least - 1, padding_mode=mode)
            self.assertTrue(torch.equal(converted(convolution)(x), convolution(x)))

    @on_devices
    def test_a_weight_that_changes_before_the_backward_pass(self, device):
        net = torch.nn.Sequential()
        net.add_module("the_layer", torch.nn.Linear(8, 8))
        net = converted(net).to(device)
        y = net(torch.randn(4, 8, device=device, requires_grad=True))
        with torch.no_grad():
            net.the_layer.weight.add_(1)
        with self.assertRaisesRegex(RuntimeError, "the_layer .*changed in place"):
            y.sum().backward()

    @on_devices
    def test_second_backward_pass(self, device):
        for name, make in {**CASES, **EXACT_CASES}.items():
            if "reflect" in name or "same" in name or "in place" in name or "dilation" in name:
                continue  # torch's own operations
            with self.subTest(module=name):
                case = Case(*make(), device)
                net = torch.nn.Sequential()
                net.add_module("the_layer", case.module)
                y = converted(net)(case.x)
                first, = torch.autograd.grad(y, case.x, case.dy, retain_graph=True)
                second, = torch.autograd.grad(y, case.x, case.dy)
                self.assertTrue(torch.equal(first, second))
                with self.assertRaisesRegex(RuntimeError, "the_layer.*retain_graph"):
                    torch.autograd.grad(y, case.x, case.dy)

    def test_a_library_that_is_not_there(self):
        environment = {**os.environ, "ACTPACK_LIBRARY": "/nowhere/libactpack.so"}
        run = subprocess.run([sys.executable, "-c", "import actpack"], env=environment,
                             stderr=subprocess.PIPE, text=True, check=False)
        self.assertNotEqual(run.returncode, 0)
        self.assertRegex(run.stderr, "ImportError: .*/nowhere/libactpack.so.*actpack_python")


if __name__ == "__main__":
    unittest.main()
