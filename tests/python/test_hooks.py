# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
#
# actpack.compressed: an unmodified model's gradient stays unbiased, and its memory small.
import contextlib
import gc
import unittest

import actpack
import torch
import torch.nn.functional as F
from actpack import packed
from support import (
    Chain,
    Draws,
    MemoryCase,
    StatisticalCase,
    joined,
    on_devices,
    parameter_gradients,
    relative_error,
)

nn = torch.nn


def plain_net():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Dropout(0.25),
        nn.Flatten(), nn.Linear(16 * 16, 32), nn.ReLU(), nn.Linear(32, 10))


class Classification:
    """A net and one batch; torch's own dropout is the same for each gradient."""

    def __init__(self, device, net=None):
        self.net = (net or plain_net()).to(device)
        self.images = torch.randn(32, 3, 8, 8, device=device)
        self.labels = torch.randint(10, (32,), device=device)

    def loss(self, forward=None):
        torch.manual_seed(1)
        return F.cross_entropy((forward or self.net)(self.images), self.labels)

    def gradient(self, region=None, forward=None):
        def loss():
            with region or contextlib.nullcontext():
                return self.loss(forward)

        return parameter_gradients(self.net, loss)

    def draws(self, make_region, **options):
        return Draws(lambda: self.gradient(make_region()), self.gradient(), **options)


class _Save(torch.autograd.Function):
    """Appends the saved tensors that a backward pass gets back to a list."""

    @staticmethod
    def forward(ctx, handle, results, *tensors):
        ctx.results = results
        ctx.save_for_backward(*tensors)
        return handle.clone()

    @staticmethod
    def backward(ctx, dy):
        ctx.results.extend(ctx.saved_tensors)
        return dy, *[None] * (1 + len(ctx.saved_tensors))


def through_hooks(*tensors, **options):
    """The tensors as a backward pass gets them back, if they are saved inside `compressed`."""
    results = []
    handle = torch.zeros((), requires_grad=True)
    with actpack.compressed(**{"min_numel": 64, **options}):
        saved = _Save.apply(handle, results, *tensors)
    saved.backward()
    return results if len(results) > 1 else results[0]


def computed(tensor):
    """The same values as the result of an operation, like an activation."""
    return tensor.detach().requires_grad_() * 1


class UnbiasedTest(StatisticalCase):

    @on_devices
    def test_gradient_of_a_convolutional_net(self, device):
        problem = Classification(device)
        draws = problem.draws(lambda: actpack.compressed(keep=problem.net))
        self.assert_unbiased(draws)
        self.assert_falls_as_root(draws)

    @on_devices
    def test_a_mask_from_rounded_values_is_found_biased(self, device):
        # The same codes with one difference: y > 0 is not exact.
        options = packed.Options(subtractive=False)

        def pack(tensor):
            if tensor.grad_fn is None or tensor.numel() < 1024:
                return tensor, None
            return packed.pack(tensor, packed.Form.AFFINE, 2, options)

        def unpack(kept):
            how, packed_bytes = kept
            return how if packed_bytes is None else how.decode(packed_bytes)

        problem = Classification(device)
        draws = problem.draws(lambda: torch.autograd.graph.saved_tensors_hooks(pack, unpack))
        self.assertFalse(draws.is_unbiased())
        self.assertGreater(abs(draws.excess(64) - 1), draws.allowed(64))

    @on_devices
    def test_gradient_in_bfloat16(self, device):
        problem = Classification(device)

        def forward(images):
            with torch.autocast(device.type, dtype=torch.bfloat16):
                return problem.net(images).float()

        # The exact gradient uses the same arithmetic, whose rounding is then no bias.
        draws = Draws(lambda: problem.gradient(actpack.compressed(keep=problem.net), forward),
                      problem.gradient(forward=forward))
        self.assert_unbiased(draws)


class ExactTest(unittest.TestCase):

    @on_devices
    def test_booleans_and_integers_come_back(self, device):
        for numel in (64, 1000, 4097):
            values = torch.rand(numel, device=device) < 0.3
            self.assertTrue(torch.equal(through_hooks(values), values))
        for dtype in (torch.int16, torch.int32, torch.int64):
            limits = torch.iinfo(dtype)
            for low, high in ((0, 255), (-128, 127), (-129, 200), (0, 256), (-1, 255),
                              (limits.min, limits.max), (limits.max - 1, limits.max)):
                values = torch.randint(low, min(high + 1, torch.iinfo(torch.int64).max), (500,),
                                       device=device).to(dtype)
                values[0], values[-1] = low, high
                result = through_hooks(values)
                self.assertEqual(result.dtype, dtype)
                self.assertTrue(torch.equal(result, values), (dtype, low, high))

    @on_devices
    def test_tensors_of_two_values_come_back(self, device):
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            for low, high in ((0.0, 1 / 0.9), (-3.0, -3.0), (-0.1, 70.0)):
                mask = torch.rand(40, 33, device=device) < 0.5
                values = torch.where(mask, high, low).to(dtype)
                self.assertTrue(torch.equal(through_hooks(values), values))

    @on_devices
    def test_zeros_stay_zeros_and_positive_values_positive(self, device):
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            values = torch.randn(16, 1001, device=device)
            values[:, ::3] = 0
            values[:, 1::7] *= 1e-6  # rounds to zero, with its sign
            values = values.to(dtype)
            result = through_hooks(computed(values))
            self.assertEqual(result.dtype, dtype)
            self.assertTrue(torch.equal(result > 0, values > 0))
            self.assertTrue((result[values == 0] == 0).all())
            self.assertTrue((result[values < 0] <= 0).all())

    @on_devices
    def test_kept_as_they_are(self, device):
        weight = nn.Parameter(torch.randn(64, 64, device=device))
        buffer = torch.randn(64, 64, device=device)
        leaf = torch.randn(64, 64, device=device)
        small = computed(torch.randn(63, device=device))
        double = computed(torch.randn(64, 64, dtype=torch.float64, device=device))
        for tensor in (weight, weight.t(), weight[3:], weight.to(torch.bfloat16), leaf, small,
                       double):
            self.assertTrue(torch.equal(through_hooks(tensor), tensor))
        # A buffer that an operation wrote has a history like an activation's.
        self.assertFalse(torch.equal(through_hooks(computed(buffer)), buffer))
        buffer = computed(buffer)
        self.assertTrue(torch.equal(through_hooks(buffer, keep=[buffer]), buffer))

    @on_devices
    def test_results_that_are_used_nonlinearly_come_back(self, device):
        for name in ("exp", "sigmoid", "tanh", "sqrt", "rsqrt", "reciprocal"):
            with self.subTest(name=name):
                x = (1 + torch.rand(64, 64, device=device)).requires_grad_()
                computed = x + 1
                expected, = torch.autograd.grad(getattr(computed, name)().sum(), x)
                with actpack.compressed(bits=2):
                    y = getattr(x + 1, name)()
                actual, = torch.autograd.grad(y.sum(), x)
                self.assertTrue(torch.equal(actual, expected))
        for name in ("softmax", "log_softmax"):
            with self.subTest(name=name):
                x = torch.randn(64, 64, device=device, requires_grad=True)
                weights = torch.randn(64, 64, device=device)
                expected, = torch.autograd.grad(getattr(x + 1, name)(-1), x, weights)
                with actpack.compressed(bits=2):
                    y = getattr(x + 1, name)(-1)
                actual, = torch.autograd.grad(y, x, weights)
                self.assertTrue(torch.equal(actual, expected))

    @on_devices
    def test_one_tensor_is_packed_once(self, device):
        values = computed(torch.randn(4096, device=device))
        first, second = through_hooks(values, values)
        self.assertTrue(torch.equal(first, second))
        other, = through_hooks(computed(values)),
        self.assertFalse(torch.equal(first, other))

    @on_devices
    def test_a_view_that_is_negated_as_it_is_read_is_another_tensor(self, device):
        for order in (1, -1):
            values = computed(torch.randn(4096, device=device))
            tensors = (values, torch._neg_view(values))[::order]
            for result, tensor in zip(through_hooks(*tensors), tensors):
                self.assertTrue(torch.equal(result > 0, tensor > 0))

    @on_devices
    def test_what_has_changed_in_place_is_packed_again(self, device):
        values = computed(torch.rand(4096, device=device))
        with actpack.compressed(bits=8):
            first = values.square()  # saves values
            values.neg_()
            second = values.square()
        gradient, = torch.autograd.grad(first.sum() + second.sum(), values)
        # d/dv of v² where v is values after the change; the first square belongs to an older one.
        self.assertLess(relative_error(gradient, 2 * values.detach()), 0.02)


class TypesAndLayoutsTest(unittest.TestCase):

    @on_devices
    def test_strides_come_back(self, device):
        image = torch.randn(4, 6, 5, 7, device=device)
        row = torch.randn(1, 100, device=device)
        for tensor in (image.to(memory_format=torch.channels_last), image.transpose(0, 3),
                       image[:, 1::2], row.expand(20, 100), image[..., 0].unsqueeze(1)):
            result = through_hooks(tensor * 1 if tensor.requires_grad else
                                   tensor.requires_grad_().view_as(tensor), bits=8)
            self.assertEqual(result.shape, tensor.shape)
            # 8 bits: each magnitude within a step of max / 255, in bfloat16's precision.
            self.assertLess((result - tensor).abs().max().item(), tensor.abs().max().item() / 250)
            if packed.is_dense(tensor):
                self.assertEqual(result.stride(), tensor.stride())

    @on_devices
    def test_odd_shapes(self, device):
        for shape in ((0, 8), (1, 1), (1, 255), (3, 257), (1, 1, 1, 1)):
            values = computed(torch.randn(shape, device=device))
            result = through_hooks(values, min_numel=1)
            self.assertEqual(result.shape, values.shape)
            self.assertTrue(torch.equal(result > 0, values > 0))
        for dtype in (torch.bool, torch.int64, torch.float32):  # nothing to take a minimum of
            values = torch.zeros(0, 8, dtype=dtype, device=device)
            self.assertEqual(through_hooks(values, min_numel=0).shape, values.shape)

    @on_devices
    def test_what_is_not_finite_shows(self, device):
        for value in (float("nan"), float("inf"), -float("inf")):
            values = torch.randn(1024, device=device)
            values[300] = value
            result = through_hooks(computed(values))
            self.assertTrue(result[256:512].isnan().all())  # its group
            self.assertTrue(result[:256].isfinite().all() and result[512:].isfinite().all())


class LikeTorchTest(unittest.TestCase):

    @on_devices
    def test_results_and_running_statistics(self, device):
        problem = Classification(device)
        state = {name: value.clone() for name, value in problem.net.state_dict().items()}
        expected = problem.loss()
        after = {name: value.clone() for name, value in problem.net.state_dict().items()}
        problem.net.load_state_dict(state)
        with actpack.compressed(keep=problem.net):
            self.assertTrue(torch.equal(problem.loss(), expected))
        for name, value in problem.net.state_dict().items():
            self.assertTrue(torch.equal(value, after[name]), name)

    @on_devices
    def test_evaluation(self, device):
        problem = Classification(device)
        problem.net.eval()
        expected = problem.loss()
        with actpack.compressed(keep=problem.net):
            self.assertTrue(torch.equal(problem.loss(), expected))
            with torch.no_grad():
                self.assertTrue(torch.equal(problem.loss(), expected))
        result = problem.gradient(actpack.compressed(keep=problem.net, bits=8))
        self.assertLess(relative_error(result, problem.gradient()), 0.01)  # 8 bits' noise

    @on_devices
    def test_second_backward_pass(self, device):
        problem = Classification(device)
        parameters = list(problem.net.parameters())
        with actpack.compressed(keep=problem.net):
            loss = problem.loss()
        first = joined(torch.autograd.grad(loss, parameters, retain_graph=True))
        second = joined(torch.autograd.grad(loss, parameters))
        self.assertTrue(torch.equal(first, second))
        with self.assertRaises(RuntimeError):
            torch.autograd.grad(loss, parameters)


class MemoryTest(MemoryCase):

    @on_devices
    def test_stored_bytes_of_a_chain(self, device):
        chain, batch = Chain(8).to(device), Chain.batch(device)

        def forward():
            with actpack.compressed(keep=chain):
                return chain(batch).sum()

        plain = self.stored(lambda: chain(batch).sum(), device)
        # The input of normalisation and the output of ReLU take 2 + 1.125 bits each, instead of 32:
        # 10.24 times less, not counting statistics and whole pages.
        self.assertGreater(plain / self.stored(forward, device), 9.8)

    @on_devices
    def test_a_forward_pass_without_a_backward_pass_leaves_nothing(self, device):
        net = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)).to(device)
        batch = torch.randn(2048, 256, device=device)

        def forward():
            with actpack.compressed(keep=net):
                # Saves its result, too small to be packed: a tensor that leads back to all others.
                net(batch)[:8].log_softmax(-1)

        forward()
        gc.collect()
        before = self.allocated(device)
        for _ in range(3):
            forward()
        gc.collect()
        # Three times 2048 · 256 values of 3.125 bits would be 600 KiB.
        self.assertLess(self.allocated(device) - before, 1 << 16)


class WrongUseTest(unittest.TestCase):

    def test_options(self):
        for wrong in ({"bits": 3}, {"bits": 0}, {"seed": -1}, {"seed": 1 << 64}):
            name = next(iter(wrong))
            with self.assertRaisesRegex(ValueError, name):
                actpack.compressed(**wrong)

    @on_devices
    def test_a_weight_that_changes_before_the_backward_pass(self, device):
        net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)).to(device)
        with actpack.compressed(keep=net):
            loss = net(torch.randn(16, 64, device=device)).sum()
        with torch.no_grad():
            net[2].weight.mul_(2)
        with self.assertRaisesRegex(RuntimeError, r"\(64, 64\).*changed in place"):
            loss.backward()


if __name__ == "__main__":
    unittest.main()
