"""The device that networks run on."""

from __future__ import annotations

import os

import torch

from ..config import check_device
from ..errors import ConfigError


def choose_device(wanted: str | None, threads: int) -> str:
    """``wanted``, or, where it is None, this process's GPU if there is one, else the CPU; sets torch's threads.

    Raises ConfigError for a device that is not there.
    """
    check_device(wanted)
    torch.set_num_threads(threads)
    if wanted is None:
        # torchrun numbers the processes of a machine.
        return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"--device {wanted}: torch finds no GPU; see 'npimpute doctor'")
    return wanted
