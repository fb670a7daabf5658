# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
#
# What the tests share: devices, whether a mean of rounded gradients is off, bytes by the allocator.
import ctypes
import functools
import gc
import itertools
import math
import unittest

import actpack
import torch
from actpack import packed

torch.set_num_threads(2)
torch.backends.cudnn.allow_tf32 = False
torch.backends.cudnn.deterministic = True

DEVICES = [torch.device("cpu")]
if torch.cuda.is_available() and actpack.has_cuda:
    DEVICES.append(torch.device("cuda"))


def on_devices(test):
    """Runs a test, which takes `device`, on each that there is, with torch's seed set."""

    @functools.wraps(test)
    def run(self):
        for device in DEVICES:
            with self.subTest(device=device.type):
                torch.manual_seed(0)
                test(self, device)

    return run


def joined(tensors):
    """All elements in one vector, in double precision."""
    return torch.cat([tensor.detach().double().reshape(-1).cpu() for tensor in tensors])


def parameter_gradients(model, forward):
    """The gradients of forward()'s sum for all parameters that are trained, joined."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return joined(torch.autograd.grad(forward().float().sum(), parameters))


def relative_error(result, exact):
    return ((result - exact).norm() / exact.norm()).item()


def is_close(result, exact):
    """Equal, but for how a normalisation's few operations on floats round."""
    if result.shape != exact.shape:
        return False
    largest = max([1.0, *exact.detach().abs().flatten().tolist()])
    return bool(((result - exact).abs() <= 2.0**-20 * largest).all())


class Draws:
    """Gradients of one batch, each with noise of its own, beside the exact one.

    V = sum ||g_k - mean||² / (K - 1) estimates the variance of one draw, so without bias
    k · ||mean of k draws - exact||² / V, the `excess`, is 1 on average. It is a sum of squares of
    independent normal variables whose variances are the covariance's eigenvalues, to be had from
    the draws' Gram matrix, and its deviation for one mean is `sigma`.
    """

    deviations_allowed = 5

    def __init__(self, draw, exact, count=64):
        self.count, self.exact = count, exact
        self._draws = torch.stack([draw() for _ in range(count)])
        centred = self._draws - self._draws.mean(0)
        gram = centred @ centred.t()
        self.variance = gram.trace().item() / (count - 1)
        # tr(S²) of a sample exceeds that of the covariance: sigma errs on the safe side.
        self.sigma = math.sqrt(2) * gram.norm().item() / max(gram.trace().item(), 1e-300)

    def excess(self, k=None):
        k = k or self.count
        means = self._draws.reshape(self.count // k, k, -1).mean(1)
        errors = (means - self.exact).square().sum(1)
        return (k * errors.mean() / self.variance).item()

    def allowed(self, k=None):
        """How far the excess may be from 1: an average over the disjoint means of k draws."""
        return self.deviations_allowed * self.sigma * math.sqrt((k or self.count) / self.count)

    def noise(self):
        """The deviation of one draw, relative to the gradient."""
        return math.sqrt(self.variance) / self.exact.norm().item()

    def detectable(self):
        """The least bias, relative to the gradient, that would more likely be found than not."""
        return self.noise() * math.sqrt(self.allowed() / self.count)

    def is_exact(self):
        """No noise, and no error beyond what sums in float have."""
        return self.noise() < 1e-6 and relative_error(self._draws[0], self.exact) < 1e-5

    def is_unbiased(self):
        return self.excess() <= 1 + self.allowed()


class StatisticalCase(unittest.TestCase):

    def assert_unbiased(self, draws, detectable=0.1):
        """Also that there was noise, and that a bias of `detectable` would have been noticed."""
        self.assertGreater(draws.noise(), 1e-6, "there was no noise to average out")
        self.assertLess(draws.detectable(), detectable, "the test has too little power")
        self.assertLessEqual(draws.excess(), 1 + draws.allowed())

    def assert_falls_as_root(self, draws):
        """That the error of a mean of k draws falls as 1 / √k."""
        k = 1
        while k <= draws.count:
            self.assertLessEqual(abs(draws.excess(k) - 1), draws.allowed(k), f"mean of {k}")
            k *= 4


def restart_streams():
    """From now on there is the same noise as after the last call."""
    packed._streams = itertools.count()
    torch.manual_seed(0)


class _Mallinfo2(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks",
        "fordblks", "keepcost")]


def _glibc():
    """The C library, told to map every block of 64 KiB or more by itself, so that its pages come
    and go with it; a free rest of the heap large enough for one would be used first. None if the
    library is another one."""
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallinfo2"):
        return None
    library.mallinfo2.restype = _Mallinfo2
    m_trim_threshold, m_top_pad, m_mmap_threshold = -1, -2, -3
    library.mallopt(m_mmap_threshold, 1 << 16)
    library.mallopt(m_trim_threshold, 1 << 15)
    library.mallopt(m_top_pad, 0)
    return library


_libc = _glibc()  # now, while the heap is small


class MemoryCase(unittest.TestCase):
    """Bytes, as the allocator counts them: of tensors on a GPU, and all of the process on the CPU,
    where a few KiB are other things."""

    @classmethod
    def setUpClass(cls):
        if _libc is None:
            raise unittest.SkipTest("needs glibc, 2.33 or newer")

    @staticmethod
    def allocated(device):
        if device.type == "cuda":
            return torch.cuda.memory_allocated(device)
        info = _libc.mallinfo2()
        return info.uordblks + info.hblkhd  # in use in the heaps of all threads, and mapped

    def stored(self, forward, device):
        """What lives after forward() that did not before, with what it returns. The first time it
        runs, libraries may keep something for good."""
        forward()
        gc.collect()
        before = self.allocated(device)
        result = forward()
        stored = self.allocated(device) - before
        del result
        return stored

    def peak(self, step, device):
        """The most that lives at any time of step(), beyond what was there before.

        On the CPU it is the kernel's record of resident pages: no sampling, and nothing is missed.
        Large blocks come and go with their pages; step() runs once before, so that smaller ones
        and code are resident already.
        """
        step()
        gc.collect()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
            step()
            return torch.cuda.max_memory_allocated(device) - before
        with open("/proc/self/clear_refs", "w") as record:
            record.write("5")
        before = _resident("VmHWM")
        step()
        return _resident("VmHWM") - before


def _resident(name):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(name))


class Chain(torch.nn.Sequential):
    """So many times convolution, batch normalisation and ReLU, of one shape all through."""

    channels = 16

    def __init__(self, depth):
        layers = []
        for _ in range(depth):
            layers += [torch.nn.Conv2d(self.channels, self.channels, 1, bias=False),
                       torch.nn.BatchNorm2d(self.channels), torch.nn.ReLU()]
        super().__init__(*layers)

    @classmethod
    def batch(cls, device, size=8):
        if device.type == "cuda":
            size *= 16  # beside what cuDNN takes for itself
        return torch.randn(size, cls.channels, 64, 64, device=device)
