# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
#
# Two processes with a share of the batch each: DistributedDataParallel over packed activations.
import contextlib
import pathlib
import tempfile
import unittest

import actpack
import torch
import torch.distributed
from actpack import packed
from support import Draws, StatisticalCase, joined, relative_error
from torch.nn.parallel import DistributedDataParallel

RANKS = 2
DRAWS = 24
DEVICE = torch.device("cpu")


def make_net():
    """A net without batch statistics, which would differ between ranks."""
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(16, 16, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten(),
        torch.nn.LayerNorm(256), torch.nn.Linear(256, 32), torch.nn.ReLU(),
        torch.nn.Linear(32, 10))


def batch():
    """The joined batch, equal in every process."""
    generator = torch.Generator().manual_seed(5)
    return torch.randn(32, 3, 8, 8, generator=generator)


def gradient(net, images, region=None):
    net.zero_grad(set_to_none=True)
    with region or contextlib.nullcontext():
        loss = net(images).square().mean()
    loss.backward()
    return joined([parameter.grad for parameter in net.parameters()])


def methods(bits):
    """For each method, a function that changes a net and one that makes a region."""
    return {
        "converted": (lambda net: actpack.convert(net, bits=bits), contextlib.nullcontext),
        "hooked": (lambda net: net, lambda: actpack.compressed(bits=bits)),
    }


def work(rank, folder):
    """One rank: writes its gradients to a file."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting",
                                         rank=rank, world_size=RANKS)
    images = batch()
    share = images.chunk(RANKS)[rank]
    seen = {}
    for bits, count in ((2, DRAWS), (8, 1)):
        for name, (change, make_region) in methods(bits).items():
            torch.manual_seed(0)  # equal on all ranks
            net = DistributedDataParallel(change(make_net()))
            seen[name, bits] = [gradient(net, share, make_region()) for _ in range(count)]
    torch.manual_seed(0)
    alone = actpack.convert(make_net())
    seen["alone"] = gradient(alone, images)  # the same weights, batch and seed on all ranks
    seen["streams"] = [packed.next_stream() for _ in range(100)]
    torch.save(seen, f"{folder}/{rank}")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@unittest.skipUnless(torch.distributed.is_available() and torch.distributed.is_gloo_available(),
                     "needs gloo")
class DataParallelTest(StatisticalCase):

    @classmethod
    def setUpClass(cls):
        with tempfile.TemporaryDirectory() as folder:
            torch.multiprocessing.spawn(work, (folder,), nprocs=RANKS)
            cls.seen = [torch.load(pathlib.Path(folder, str(rank))) for rank in range(RANKS)]
        torch.manual_seed(0)
        cls.exact = gradient(make_net(), batch())

    def test_ranks_agree(self):
        for key in ((name, bits) for bits in (2, 8) for name in methods(bits)):
            for first, second in zip(self.seen[0][key], self.seen[1][key]):
                self.assertTrue(torch.equal(first, second), key)

    def test_in_8_bits_as_one_process_with_the_joined_batch(self):
        for name in methods(8):
            drawn, = self.seen[0][name, 8]
            # The noise of 2 bits is a fraction of the gradient; that of 8 bits is 85 times less.
            self.assertLess(relative_error(drawn, self.exact), 0.01, name)

    def test_unbiased_in_2_bits(self):
        for name in methods(2):
            with self.subTest(method=name):
                draws = Draws(iter(self.seen[0][name, 2]).__next__, self.exact, DRAWS)
                self.assert_unbiased(draws, detectable=0.15)

    def test_ranks_round_independently(self):
        errors = torch.stack([seen["alone"] - self.exact for seen in self.seen])
        self.assertTrue((errors.norm(dim=1) > 1e-3 * self.exact.norm()).all())
        correlation = torch.corrcoef(errors)[0, 1].item()
        # It would be 1 with one stream. The correlated errors of many parameters are worth at least
        # some tens of independent ones, which is a deviation of 0.1 or less.
        self.assertLess(abs(correlation), 0.5)
        streams = [set(seen["streams"]) for seen in self.seen]
        self.assertEqual([len(rank) for rank in streams], [100, 100])
        self.assertFalse(streams[0] & streams[1])


if __name__ == "__main__":
    unittest.main()
