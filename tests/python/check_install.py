# SPDX-FileCopyrightText: The actpack authors
# SPDX-License-Identifier: MIT
#
# Installs the package with pip, as a user does, and checks that the wheel is complete and works.
# Exits with 77 where the Python at hand has no pip or no scikit-build-core.
import argparse
import copy
import importlib.util
import os
import pathlib
import subprocess
import sys
import tempfile

# Files that pip may add beside the package.
RECORDS = {"INSTALLER", "METADATA", "RECORD", "REQUESTED", "WHEEL", "direct_url.json",
           "licenses/LICENSE"}


def install(source, build, target):
    """Compiles without optimisation: this tests the packaging, and runs one small model."""
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
         "--root-user-action=ignore", "--no-deps", "--no-build-isolation", "--target", target,
         source, f"--config-settings=build-dir={build}",
         "--config-settings=cmake.define.CMAKE_CXX_FLAGS_RELEASE=-O0",
         "--config-settings=cmake.define.ACTPACK_BUILD_CUDA=OFF"],
        check=True)


def check_files(source, target):
    """Compares the installed files with those of the source tree; returns the version."""
    records, = target.glob("*.dist-info")
    name, version = records.name[:-len(".dist-info")].split("-")

    def files(folder, pattern="*"):
        return {path.relative_to(folder).as_posix() for path in folder.rglob(pattern)
                if path.is_file() and "__pycache__" not in path.parts}

    assert name == "actpack", name
    assert {path.name for path in target.iterdir()} == {"actpack", records.name}
    modules = files(source / "actpack", "*.py")
    assert files(target / "actpack") == modules | {"libactpack.so"}, files(target / "actpack")
    assert "licenses/LICENSE" in files(records) <= RECORDS, files(records)
    return version


def check_training(target, version):
    """Compares a converted model's gradient with torch's own."""
    import actpack
    import torch
    assert pathlib.Path(actpack.__file__).parent == target / "actpack", actpack.__file__
    assert actpack.__version__ == version, (actpack.__version__, version)

    torch.manual_seed(1)
    exact = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, bias=False), torch.nn.BatchNorm2d(8), torch.nn.ReLU(),
        torch.nn.Flatten(), torch.nn.Linear(8 * 36, 10))
    packed = actpack.convert(copy.deepcopy(exact), bits=8)
    x = torch.randn(16, 3, 8, 8)
    gradients = []
    for model in (exact, packed):
        model(x).square().sum().backward()
        gradients.append(torch.cat([p.grad.reshape(-1) for p in model.parameters()]))
    error = (gradients[1] - gradients[0]).norm() / gradients[0].norm()
    assert 0 < error < 0.01, error  # a step is 1 / 255 of a group's range


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("source", type=pathlib.Path, help="the folder of pyproject.toml")
    parser.add_argument("build", help="a folder for CMake, which the next run reuses")
    parser.add_argument("--torch-python", help="a Python that has torch, to train with")
    parser.add_argument("--check-training", nargs=2, metavar=("TARGET", "VERSION"))
    arguments = parser.parse_args()
    if arguments.check_training:
        target, version = arguments.check_training
        check_training(pathlib.Path(target), version)
        return 0
    for module in ("pip", "scikit_build_core"):
        if importlib.util.find_spec(module) is None:
            print(f"skipped: {sys.executable} has no {module}")
            return 77
    with tempfile.TemporaryDirectory() as folder:
        target = pathlib.Path(folder)
        install(arguments.source, arguments.build, target)
        version = check_files(arguments.source, target)
        if arguments.torch_python:
            subprocess.run([arguments.torch_python, "-B", *sys.argv, "--check-training", folder,
                            version], check=True, env={**os.environ, "PYTHONPATH": folder})
    return 0


if __name__ == "__main__":
    sys.exit(main())
