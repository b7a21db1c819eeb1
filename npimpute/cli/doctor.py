"""``npimpute doctor``."""

from __future__ import annotations

import importlib.metadata
import os
import platform

import click

PACKAGES = ("numpy", "numba", "cyvcf2", "pysam", "safetensors", "torch", "mamba-ssm", "causal-conv1d")


@click.command("doctor")
@click.option("--compile", "compile_", is_flag=True, help="First compile the kernels of run, which takes a minute.")
def command(compile_):
    """Print what this machine will use: versions, cores, devices and kernels."""
    import torch

    from .. import __version__
    from ..scan.select import conv_backend, linear_backend, scan_backend
    from .kernels import compile_kernels, place_of_kernels

    if compile_:
        compile_kernels()

    rows = [("npimpute", __version__), ("python", platform.python_version())]
    rows += [(name, _version(name)) for name in PACKAGES]
    rows.append(("cores", f"{len(os.sched_getaffinity(0))} usable of {os.cpu_count()}"))
    rows.append(("compiled kernels", place_of_kernels()))
    devices = ["cpu"]
    if torch.cuda.is_available():
        devices.append("cuda")
        rows += [("gpu", torch.cuda.get_device_name(i)) for i in range(torch.cuda.device_count())]
    else:
        rows.append(("gpu", "none that torch can use"))
    for device in devices:
        rows.append((f"selective scan, {device}", "{} ({})".format(*scan_backend(device, torch.float32))))
        rows.append((f"linear scan, {device}", "{} ({})".format(*linear_backend(device, torch.float32))))
        rows.append((f"convolution, {device}", "{} ({})".format(*conv_backend(device, torch.float32, 4))))
    for name, value in rows:
        click.echo(f"{name}\t{value}")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
