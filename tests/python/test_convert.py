# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
#
# actpack.convert: the same model and function, an unbiased gradient, and a fraction of the memory.
import copy
import pickle
import unittest
from unittest import mock

import actpack
import torch
import torch.nn.functional as F
from actpack import _native, nn
from support import (
    Chain,
    Draws,
    MemoryCase,
    StatisticalCase,
    is_close,
    joined,
    on_devices,
    parameter_gradients,
    relative_error,
    restart_streams,
)
from torch.utils.checkpoint import checkpoint


def convolutional_net():
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, padding=1, bias=False), torch.nn.BatchNorm2d(16),
        torch.nn.ReLU(), torch.nn.MaxPool2d(2), torch.nn.Conv2d(16, 16, 3, padding=1),
        torch.nn.BatchNorm2d(16), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(256, 32),
        torch.nn.GELU(), torch.nn.Linear(32, 10))


class Block(torch.nn.Module):
    """ResNet's residual block: one ReLU module, called after either normalisation."""

    def __init__(self, channels=16, is_inplace=True):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(channels)
        self.conv2 = torch.nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = torch.nn.BatchNorm2d(channels)
        self.relu = torch.nn.ReLU(inplace=is_inplace)

    def forward(self, x):
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += x
        return self.relu(y)


def residual_net():
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, padding=1), Block(), Block(), torch.nn.AdaptiveAvgPool2d(2),
        torch.nn.Flatten(), torch.nn.Linear(64, 10))


class Attention(torch.nn.Module):
    """softmax(q kᵀ / √d) v."""

    def forward(self, q, k, v):
        return (q @ k.transpose(-2, -1) / q.shape[-1]**0.5).softmax(-1) @ v


class TransformerBlock(torch.nn.Module):

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = torch.nn.LayerNorm(width), torch.nn.LayerNorm(width)
        self.qkv = torch.nn.Linear(width, 3 * width)
        self.attention = Attention()
        self.projection = torch.nn.Linear(width, width)
        self.mlp = torch.nn.Sequential(torch.nn.Linear(width, 2 * width), torch.nn.GELU(),
                                       torch.nn.Linear(2 * width, width))

    def forward(self, x):
        batch, tokens, width = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        y = self.attention(q, k, v).transpose(1, 2).reshape(batch, tokens, width)
        x = x + self.projection(y)
        return x + self.mlp(self.norm2(x))


class Transformer(torch.nn.Module):
    """A transformer on images in patches."""

    width = 96

    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Linear(48, self.width)
        self.block = TransformerBlock(self.width, heads=4)
        self.norm = torch.nn.LayerNorm(self.width)
        self.head = torch.nn.Linear(self.width, 10)

    def forward(self, x):
        patches = F.unfold(x, 4, stride=4).transpose(1, 2)
        return self.head(self.norm(self.block(self.embedding(patches))).mean(1))


def transformer_problem(device):
    return Classification(Transformer(), device, images=(8, 3, 16, 16), attention_bits=8,
                          replace={Attention: nn.ScaledDotProductAttention})


class Classification:
    """A net and its converted twin on one batch."""

    def __init__(self, net, device, images=(32, 3, 8, 8), **options):
        self.net = net.to(device)
        self.twin = actpack.convert(copy.deepcopy(self.net), **options)
        self.images = torch.randn(images, device=device)
        self.labels = torch.randint(10, images[:1], device=device)

    def loss(self, net):
        return F.cross_entropy(net(self.images), self.labels)

    def gradient(self, net):
        return parameter_gradients(net, lambda: self.loss(net))

    def draws(self, **options):
        return Draws(lambda: self.gradient(self.twin), self.gradient(self.net), **options)


def fusions(model, *arguments):
    """For each call of a batch normalisation in model(*arguments): "rectifies" if it applied the
    ReLU behind it, "overwrites" if its output overwrote its input."""
    batch_norm = _native.batch_norm
    calls = []

    def recorded(x, normalization, context, out):
        calls.append("rectifies " * (context.form == _native.Form.SIGN_MAGNITUDE)
                     + "overwrites" * (out.data_ptr() == x.data_ptr()))
        batch_norm(x, normalization, context, out)

    with mock.patch.object(_native, "batch_norm", recorded):
        model(*arguments)
    return [call.strip() for call in calls]


BOTH = "rectifies overwrites"


class UnbiasedTest(StatisticalCase):

    @on_devices
    def test_convolutional_net(self, device):
        for context in ("sign_magnitude", "affine"):
            with self.subTest(context=context):
                draws = Classification(convolutional_net(), device, context=context).draws()
                self.assert_unbiased(draws)
                self.assert_falls_as_root(draws)

    @on_devices
    def test_residual_net(self, device):
        self.assert_unbiased(Classification(residual_net(), device).draws())

    @on_devices
    def test_transformer(self, device):
        self.assert_unbiased(transformer_problem(device).draws())

    @on_devices
    def test_gamma_small_zero_and_negative(self, device):
        for gammas in ([1e-3, 1.0], [0.0, 1.0], [0.0, 0.0], [-0.7, 0.02], [-1.0, -2.0]):
            with self.subTest(gammas=gammas):
                problem = Classification(convolutional_net(), device)
                for net in (problem.net, problem.twin):
                    for index in (1, 5):
                        net[index].weight.data.view(-1, 2).copy_(torch.tensor(gammas))
                        net[index].bias.data.fill_(0.1)  # or nothing passes where gamma is 0
                self.assertTrue(is_close(problem.loss(problem.twin), problem.loss(problem.net)))
                self.assert_unbiased(problem.draws(count=32), detectable=0.2)

    @on_devices
    def test_branches_that_start_at_zero(self, device):
        net = residual_net()
        for block in (net[1], net[2]):
            torch.nn.init.zeros_(block.bn2.weight)
        self.assert_unbiased(Classification(net, device).draws(count=32), detectable=0.2)

    @on_devices
    def test_autocast(self, device):
        problems = {"residual": Classification(residual_net(), device),
                    "transformer": transformer_problem(device)}
        for name, problem in problems.items():
            with self.subTest(net=name):

                def forward(net):
                    with torch.autocast(device.type, dtype=torch.bfloat16):
                        return net(problem.images)

                try:
                    y = forward(problem.net)
                except RuntimeError:  # torch 1.13's normalisation on the CPU
                    continue
                y_of_twin = forward(problem.twin)
                self.assertEqual(y_of_twin.dtype, y.dtype)
                # Some layers of bfloat16's 8 bits.
                self.assertLess(relative_error(joined([y_of_twin]), joined([y])), 0.03)

                def gradient(net):
                    return parameter_gradients(
                        net, lambda: F.cross_entropy(forward(net).float(), problem.labels))

                self.assert_unbiased(Draws(lambda: gradient(problem.twin), gradient(problem.net),
                                           count=32))


class SameModelTest(unittest.TestCase):

    @on_devices
    def test_parameters_state_and_hooks_are_kept(self, device):
        net = convolutional_net().to(device)
        parameters = dict(net.named_parameters())
        modules = dict(net.named_modules())
        state = {name: value.clone() for name, value in net.state_dict().items()}
        calls = []
        net[0].register_forward_hook(lambda module, x, y: calls.append("forward"))
        net[4].register_forward_pre_hook(lambda module, x: calls.append("before"))
        net[8].register_full_backward_hook(lambda module, dx, dy: calls.append("backward"))

        self.assertIs(actpack.convert(net), net)
        for name, parameter in net.named_parameters():
            self.assertIs(parameter, parameters[name])
        for name, module in net.named_modules():
            self.assertIs(module, modules[name])
        self.assertEqual(list(net.state_dict()), list(state))
        for name, value in net.state_dict().items():
            self.assertTrue(torch.equal(value, state[name]))
        net(torch.randn(4, 3, 8, 8, device=device)).sum().backward()
        self.assertEqual(calls, ["forward", "before", "backward"])

    @on_devices
    def test_outputs_are_equal(self, device):
        # Normalisations round differently; attention may use another kernel.
        problems = {"convolutional": (Classification(convolutional_net(), device), 1e-6),
                    "residual": (Classification(residual_net(), device), 1e-6),
                    "transformer": (transformer_problem(device), 1e-5)}
        for name, (problem, tolerance) in problems.items():
            with self.subTest(net=name):
                for is_training in (True, False):
                    problem.net.train(is_training)
                    problem.twin.train(is_training)
                    for is_recorded in (True, False):
                        with torch.set_grad_enabled(is_recorded):
                            expected, result = (net(problem.images)
                                                for net in (problem.net, problem.twin))
                        self.assertLessEqual(relative_error(joined([result]), joined([expected])),
                                             tolerance)
                for value, other in zip(problem.net.state_dict().values(),
                                        problem.twin.state_dict().values()):
                    self.assertTrue(is_close(other, value))

    @on_devices
    def test_converting_again_changes_the_options(self, device):
        net = actpack.convert(convolutional_net().to(device), bits=2)
        actpack.convert(net, bits=8)
        self.assertEqual(fusions(net, torch.randn(4, 3, 8, 8, device=device)), [BOTH, BOTH])
        self.assertTrue(all(module._options.bits == 8 for module in net.modules()
                            if hasattr(module, "_options")))
        block = actpack.convert(actpack.convert(Block().to(device)))
        self.assertEqual(fusions(block, torch.randn(4, 16, 8, 8, device=device)),
                         [BOTH, "overwrites"])

    @on_devices
    def test_replace(self, device):
        class Mine(torch.nn.Linear):
            pass

        net = torch.nn.Sequential(Mine(8, 8), torch.nn.Linear(8, 8), torch.nn.Tanh())
        actpack.convert(net)
        self.assertEqual([type(module) for module in net], [Mine, nn.Linear, torch.nn.Tanh])
        actpack.convert(net, replace={Mine: nn.Linear})
        kept = actpack.convert(torch.nn.Sequential(torch.nn.BatchNorm1d(8)),
                               replace={torch.nn.BatchNorm1d: torch.nn.BatchNorm1d})
        self.assertIs(type(kept[0]), torch.nn.BatchNorm1d)
        self.assertEqual([type(module) for module in net], [nn.Linear, nn.Linear, torch.nn.Tanh])

    @on_devices
    def test_one_module_in_two_places(self, device):
        layer = torch.nn.Linear(32, 32)
        problem = Classification(
            torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 32), layer,
                                torch.nn.ReLU(), layer, torch.nn.Linear(32, 10)), device, bits=8)
        self.assertIs(problem.twin[2], problem.twin[4])
        self.assertLess(relative_error(problem.gradient(problem.twin),
                                       problem.gradient(problem.net)), 0.01)  # 8 bits' noise


class OverwritingTest(unittest.TestCase):
    """A batch normalisation overwrites a convolution's output that nobody else needs."""

    @on_devices
    def test_same_memory_and_same_gradients(self, device):
        for rectifies in (False, True):
            for context in ("sign_magnitude", "affine"):
                with self.subTest(rectifies=rectifies, context=context):
                    net = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3, bias=False),
                                              torch.nn.BatchNorm2d(16))
                    net = actpack.convert(net.to(device), context=context)
                    x = torch.randn(4, 3, 8, 8, device=device)
                    results = []
                    for overwrites_input in (True, False):
                        net[1].surroundings = nn.Surroundings(rectifies, overwrites_input)
                        restart_streams()
                        y = net[0](x)
                        z = net[1](y)
                        self.assertEqual(z.data_ptr() == y.data_ptr(), overwrites_input)
                        results.append((z.detach().clone(), *torch.autograd.grad(
                            z.square().sum(), list(net.parameters()))))
                    for one, other in zip(*results):
                        self.assertTrue(torch.equal(one, other))

    @on_devices
    def test_an_output_that_autograd_has_kept(self, device):
        net = actpack.convert(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1),
                                                  torch.nn.BatchNorm2d(4))).to(device)
        net[1].surroundings = nn.Surroundings(overwrites_input=True)
        y = net[0](torch.randn(2, 3, 4, 4, device=device))
        sine = y.sin()  # its derivative needs y
        loss = net[1](y).sum() + sine.sum()
        with self.assertRaisesRegex(RuntimeError, "modified by an inplace operation"):
            loss.backward()

    @on_devices
    def test_in_evaluation_without_gradients_nothing_is_overwritten(self, device):
        net = actpack.convert(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1),
                                                  torch.nn.BatchNorm2d(4))).to(device).eval()
        net[1].surroundings = nn.Surroundings(overwrites_input=True)
        with torch.no_grad():
            y = net[0](torch.randn(2, 3, 4, 4, device=device))
            before = y.clone()
            net[1](y)
        self.assertTrue(torch.equal(y, before))


class Pair(torch.nn.Module):
    """A convolution and a normalisation, which a test calls in `use`."""

    def __init__(self, use=None):
        super().__init__()
        self.conv, self.bn = torch.nn.Conv2d(3, 3, 1), torch.nn.BatchNorm2d(3)
        self.relu, self.head = torch.nn.ReLU(), torch.nn.Conv2d(3, 3, 1)
        self.use = use

    def forward(self, x):
        return self.use(self, x)


class Branching(Pair):
    """In exactly one case others read the results of convolution and normalisation."""

    def __init__(self, is_exceptional):
        super().__init__()
        self.is_exceptional = is_exceptional

    def forward(self, x, skip=None):
        y = self.conv(x)
        z = self.bn(y)
        return self.relu(z) + self.head(z) + y if self.is_exceptional(self, x, skip) else \
            self.relu(z)


class FusionTest(unittest.TestCase):
    """A normalisation shares a context with the ReLU behind it and overwrites a convolution's
    output if nobody else reads the values between them."""

    @on_devices
    def test_sequences(self, device):
        conv, bn, relu = torch.nn.Conv2d(3, 3, 1), torch.nn.BatchNorm2d(3), torch.nn.ReLU()
        sigmoid = torch.nn.Sigmoid()
        for layers, expected in (
            ((conv, bn, relu), [BOTH]), ((bn, relu), ["rectifies"]), ((conv, bn), ["overwrites"]),
            ((bn,), [""]), ((relu, bn), [""]), ((bn, sigmoid, relu), [""]),
            ((sigmoid, bn, sigmoid, relu), [""]), ((conv, bn, relu, bn), [BOTH, ""]),
            ((torch.nn.Sequential(conv, bn), relu), ["overwrites"]),
        ):
            self._assert_same(torch.nn.Sequential(*layers), expected, device)
            # A model that cannot be traced runs them just the same.
            chain = torch.nn.Sequential(*layers)
            self._assert_same(Pair(lambda net, x: chain(x if x.sum() > 0 else -x)), [], device)
            untraced = Pair(lambda net, x: net.layers(x if x.sum() > 0 else -x))
            untraced.layers = chain
            self._assert_same(untraced, expected, device)

    @on_devices
    def test_residual_blocks(self, device):
        self._assert_same(Block(), [BOTH, "overwrites"], device, channels=16)
        self._assert_same(residual_net(), [BOTH, "overwrites"] * 2, device)

    def test_ready_made(self):
        block = nn.ConvBatchNormReLU(3, 16, 3, padding=1)
        x = torch.randn(2, 3, 8, 8)
        self.assertEqual(fusions(block, x), [BOTH])
        plain = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3, padding=1, bias=False),
                                    torch.nn.BatchNorm2d(16), torch.nn.ReLU())
        plain.load_state_dict(block.state_dict())
        block.eval()
        plain.eval()
        self.assertTrue(is_close(block(x), plain(x)))

    @on_devices
    def test_traces(self, device):

        def remembers(net, x):
            net.feature = net.conv(x)
            return net.relu(net.bn(net.feature))

        def lists(net, x):
            net.features = [{"y": net.bn(net.conv(x))}]
            return net.relu(net.features[0]["y"])

        for use, expected in (
            (lambda net, x: net.relu(net.bn(net.conv(x))), [BOTH]),
            (lambda net, x: net.bn(net.relu(net.bn(x))), ["", ""]),
            (lambda net, x: net.relu(net.bn(x)) + net.bn(x).sigmoid(), ["", ""]),
            (lambda net, x: (lambda y: net.relu(y) + y.sigmoid())(net.bn(x)), [""]),
            (lambda net, x: (lambda y: net.bn(y) + y)(net.conv(x)), [""]),
            # Two results, either of which may be changed.
            (lambda net, x: (lambda y: net.relu(y).add_(1) + net.relu(y))(net.bn(x)), [""]),
            (remembers, ["rectifies"]), (lists, ["overwrites"]),
        ):
            self._assert_same(Pair(use), expected, device)

    @on_devices
    def test_a_layer_of_another_parent(self, device):
        # A hook on that parent may keep its result.
        net = Pair(lambda net, x: net.act(net.bn(net.stem(x))))
        net.stem, net.act = Pair(lambda net, x: net.conv(x)), Pair(lambda net, x: net.relu(x))
        self._assert_same(net, [""], device)

    @on_devices
    def test_layers_called_one_by_one(self, device):
        net = Pair(lambda net, x: sum(net.taps(x)))
        net.layers = torch.nn.Sequential(net.conv, net.bn, net.relu)

        def taps(x):
            if x.sum() < -1e9:  # which cannot be traced
                return []
            results = []
            for layer in net.layers:
                x = layer(x)
                results.append(x)
            return results

        net.taps = taps
        converted = actpack.convert(net)
        self.assertIs(type(converted.layers), nn.Sequential)
        x = torch.randn(4, 3, 8, 8, device=device)
        net.to(device)
        self.assertEqual(fusions(net, x), [""])
        self.assertEqual(fusions(net.layers, x), [BOTH])
        self.assertEqual(fusions(net.layers[:2], x), ["overwrites"])
        # A traced sequence need not run as one later, and its former note must not count then.
        layers = actpack.convert(torch.nn.Sequential(*net.layers))
        self.assertEqual(fusions(lambda x: layers[1](layers[0](x)), x), [""])
        self.assertEqual(fusions(lambda x: (layers[1:](x), layers[1](x)), x), ["rectifies", ""])

    @on_devices
    def test_branches(self, device):
        x = torch.randn(4, 3, 8, 8, device=device)
        for name, is_exceptional in {
                "training": lambda net, x, skip: net.training,
                "evaluation": lambda net, x, skip: not net.training,
                "with an argument": lambda net, x, skip: skip is not None,
                "without one": lambda net, x, skip: skip is None,
                "what cannot be traced": lambda net, x, skip: net.training and x.sum() > 0,
        }.items():
            for is_training in (True, False):  # when it is converted
                net = Branching(is_exceptional).to(device)
                twin = actpack.convert(copy.deepcopy(net).train(is_training), bits=8)
                for training in (True, False):
                    for arguments in ((x,), (x, x), (-x,)):
                        with self.subTest(exception=name, is_training=is_training):
                            net.train(training)
                            twin.train(training)
                            self.assertTrue(is_close(twin(*arguments), net(*arguments)))
                            self.assertEqual(fusions(twin, *arguments), [""])
                            net(*arguments)  # the running statistics go on together
        self._assert_same(Branching(lambda net, x, skip: False), [BOTH], device)

    @on_devices
    def test_hooks_see_what_they_saw(self, device):

        def forward_hook(module, seen):
            return module.register_forward_hook(
                lambda module, x, y: seen.append((x[0].clone(), y.clone())))

        def pre_hook(module, seen):
            return module.register_forward_pre_hook(
                lambda module, x: seen.append((x[0].clone(),)))

        def backward_hook(module, seen):  # the gradient itself has noise
            return module.register_full_backward_hook(
                lambda module, dx, dy: seen.append((torch.ones_like(dy[0]),)))

        x = torch.randn(4, 3, 8, 8, device=device)
        for make in (lambda: torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1), torch.nn.BatchNorm2d(3),
                                                 torch.nn.ReLU()),
                     lambda: Pair(lambda net, x: net.relu(net.bn(net.conv(x))))):
            for watch in (forward_hook, pre_hook, backward_hook):
                for index in range(3):
                    for is_before in (True, False):
                        with self.subTest(watch=watch.__name__, index=index, is_before=is_before):
                            net = make().to(device)
                            twin = copy.deepcopy(net)
                            results = []
                            for model in (net, twin):
                                watched, seen = list(model.children())[index], []
                                if is_before:
                                    hook = watch(watched, seen)
                                if model is twin:
                                    actpack.convert(model, bits=8)
                                if not is_before:
                                    hook = watch(watched, seen)
                                model(x).sum().backward()
                                results.append(seen)
                                self.assertEqual(len(seen), 1)
                            for expected, result in zip(*results):
                                for one, other in zip(expected, result):
                                    self.assertTrue(is_close(other, one))
                            self.assertEqual(fusions(twin, x), [""])
                            hook.remove()
                            self.assertEqual(fusions(twin, x), [BOTH])

    @on_devices
    def test_classes_that_are_derived(self, device):

        class Shifted(torch.nn.ReLU):

            def forward(self, x):
                return super().forward(x + 1)

        class Sigmoid(torch.nn.Conv2d):

            def forward(self, x):
                return super().forward(x).sigmoid()

        self._assert_same(torch.nn.Sequential(Sigmoid(3, 3, 1), torch.nn.BatchNorm2d(3), Shifted()),
                          [""], device)

    def test_a_trace_leaves_nothing_behind(self):

        def use(net, x):
            net.calls += 1
            net.last = net.block(net.conv(x))
            return net.bn(net.last)

        net = Pair(use)
        net.calls, net.last, net.block = 0, None, Pair(lambda net, x: net.head(x))
        net.conv.name, net.conv.options = "stem", {"a": 1}
        hooked = []
        net.register_forward_hook(lambda *arguments: hooked.append(arguments))
        net.block.register_forward_hook(lambda *arguments: hooked.append(arguments))
        net.block.register_forward_pre_hook(lambda *arguments: hooked.append(arguments))
        actpack.convert(net.eval())
        self.assertEqual((net.calls, net.last, hooked, net.training), (0, None, [], False))
        self.assertEqual((net.conv.name, net.conv.options), ("stem", {"a": 1}))

    @on_devices
    def test_copies(self, device):
        x = torch.randn(4, 3, 8, 8, device=device)
        net = actpack.convert(residual_net().to(device))
        for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
            self.assertEqual(fusions(twin, x), [BOTH, "overwrites"] * 2)
            # A hook on the copy's layers is the copy's.
            twin[1].conv1.register_forward_hook(lambda *arguments: None)
            self.assertEqual(fusions(twin, x), ["", "overwrites", BOTH, "overwrites"])
            self.assertEqual(fusions(net, x), [BOTH, "overwrites"] * 2)

    def _assert_same(self, net, expected, device, channels=3):
        """Asserts the same outputs and, if any are expected, these `fusions`."""
        net = net.to(device)
        twin = actpack.convert(copy.deepcopy(net), bits=8)
        x = torch.randn(4, channels, 8, 8, device=device)
        with self.subTest(net=net):
            if expected:
                self.assertEqual(fusions(twin, x), expected)
                net(x)
            self.assertTrue(is_close(twin(x), net(x)))


class CheckpointTest(unittest.TestCase):

    @on_devices
    def test_dropout_has_one_mask(self, device):
        for use_reentrant in (True, False):
            net = actpack.convert(torch.nn.Sequential(torch.nn.Dropout(0.5)))
            x = torch.ones(1000, device=device, requires_grad=True)
            y = checkpoint(net, x, use_reentrant=use_reentrant)
            y.sum().backward()
            self.assertTrue(torch.equal(x.grad, y))

    @on_devices
    def test_the_forward_pass_runs_twice(self, device):
        net = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 8),
                                  torch.nn.ReLU(), torch.nn.BatchNorm1d(8), torch.nn.ReLU())
        twin = actpack.convert(copy.deepcopy(net), bits=8).to(device)
        net = net.to(device)
        x = torch.randn(64, 8, device=device, requires_grad=True)
        for model in (net, twin):
            checkpoint(model, x, use_reentrant=False).square().sum().backward()
            self.assertEqual(int(model[4].num_batches_tracked), 2)
        self.assertLess(relative_error(joined(p.grad for p in twin.parameters()),
                                       joined(p.grad for p in net.parameters())), 0.05)


class MemoryTest(MemoryCase):

    @on_devices
    def test_stored_bytes_of_a_chain(self, device):
        chain, batch = Chain(8).to(device), Chain.batch(device)
        plain = self.stored(lambda: chain(batch).sum(), device)
        actpack.convert(chain)
        # One context of 3.125 bits a layer for two tensors of 32; the first convolution's input is
        # the caller's, and takes 2.125: 64 · 8 / (3.125 · 8 + 2.125) = 18.9.
        self.assertGreater(plain / self.stored(lambda: chain(batch).sum(), device), 18.2)

    @on_devices
    def test_peak_of_a_deep_chain(self, device):
        chain, batch = Chain(32).to(device), Chain.batch(device, size=3)

        def step():
            chain.zero_grad(set_to_none=True)
            chain(batch).sum().backward()

        def compressed_step():
            chain.zero_grad(set_to_none=True)
            with actpack.compressed(keep=chain):
                loss = chain(batch).sum()
            loss.backward()

        plain = self.peak(step, device)
        compressed = self.peak(compressed_step, device)
        actpack.convert(chain)
        converted = self.peak(step, device)
        # In tensors of a layer's size: 2 · 32 stored, and the 2 or 3 of a layer's backward pass.
        # Packed, 6.25 or 3.125 instead of the 64, beside the 4 or 5 of a layer's backward pass.
        self.assertGreater(plain / compressed, 5.8)
        self.assertGreater(plain / converted, 8)

    @on_devices
    def test_contexts_are_freed_layer_by_layer(self, device):
        depth = 6
        chain, batch = actpack.convert(Chain(depth).to(device)), Chain.batch(device)
        chain(batch).sum().backward()  # gradients are there
        allocated = []
        y = batch
        for module in chain:
            y = module(y)
            if isinstance(module, torch.nn.ReLU):
                y.register_hook(lambda dy: allocated.append(self.allocated(device)))
        y.sum().backward()
        context = batch.numel() * 3.125 / 8
        freed = [before - after for before, after in zip(allocated[1:], allocated[2:])]
        self.assertEqual(len(freed), depth - 2)
        for difference in freed:
            self.assertAlmostEqual(difference / context, 1, delta=0.05)


if __name__ == "__main__":
    unittest.main()
