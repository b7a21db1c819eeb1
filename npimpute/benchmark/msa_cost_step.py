"""Forward passes or training steps of a network over alignments, timed in a process of their own.

Run as a module with the names of two JSON files: what to run, and where to write what it took.
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..msa.config import MSAModelConfig
from ..msa.model_files import new_network
from ..msa.windows import MaskingConfig, hide, skipped

OUT_OF_MEMORY = 3
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def run(spec: dict[str, Any]) -> dict[str, float]:
    """spec: architecture, body, rows, length, sparsity, recompute, training, repeat, threads, device, precision, seed,
    limit_gb.

    "seconds": the median over ``repeat`` runs after one that is not counted; "cpu_seconds": the same of this process's
    time on the CPU, which other programs do not lengthen. "base_mb": this process's memory before them, of 10^6 bytes.
    On a GPU also "peak_mb", what tensors took there at most.
    """
    torch.set_num_threads(spec["threads"])
    torch.manual_seed(spec["seed"])
    config = MSAModelConfig(
        spec["architecture"], spec["body"], tuple(map(str, range(spec["rows"]))), length=spec["length"]
    )
    network = new_network(config).to(spec["device"])
    network.recompute = spec["recompute"]
    optimizer = torch.optim.AdamW(network.parameters())
    rng = np.random.default_rng(spec["seed"])
    # Kernels are compiled, and the optimiser's memory taken, before anything is measured.
    _once(network, optimizer, _batch(spec | {"length": 16}, rng), spec)
    found = {"base_mb": _peak_mb()}
    if spec["limit_gb"] is not None and spec["device"] == "cpu":
        limit = int(spec["limit_gb"] * 1e9)  # only now: what cannot be imported for want of memory is told otherwise
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    batch, seconds, worked = _batch(spec, rng), [], []
    if cuda := spec["device"].startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(spec["device"])
    for _ in range(spec["repeat"] + 1):
        started, before = time.perf_counter(), time.process_time()
        _once(network, optimizer, batch, spec)
        if cuda:
            torch.cuda.synchronize(spec["device"])
        seconds.append(time.perf_counter() - started)
        worked.append(time.process_time() - before)
    if cuda:
        found |= {"base_mb": 0.0, "peak_mb": torch.cuda.max_memory_allocated(spec["device"]) / 1e6}
    return found | {"seconds": statistics.median(seconds[1:]), "cpu_seconds": statistics.median(worked[1:])}


def _batch(spec: dict[str, Any], rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """One window: tokens, the reference's bases, which are asked for, and which rows skip the row mixer."""
    codes = rng.integers(4, size=(1, spec["rows"], spec["length"]), dtype=np.uint8)
    tokens, asked = hide(codes, MaskingConfig(), rng)
    skip = skipped(codes.shape[:2], spec["sparsity"], rng) if spec["sparsity"] else None
    parts = [torch.from_numpy(x).to(spec["device"]) for x in (tokens, codes[:, 0].copy(), asked)]
    return (*parts, skip if skip is None else torch.from_numpy(skip).to(spec["device"]))


def _once(network: nn.Module, optimizer: torch.optim.Optimizer, batch: tuple, spec: dict[str, Any]) -> None:
    tokens, bases, asked, skip = batch
    precision = PRECISIONS[spec["precision"]]
    kind = spec["device"].split(":")[0]
    with torch.set_grad_enabled(spec["training"]):
        with torch.autocast(kind, precision, enabled=precision != torch.float32):
            logits = network(tokens.long(), skip)
        if spec["training"]:
            F.cross_entropy(logits[asked], bases[asked].long()).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


def _peak_mb() -> float:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _main(spec: str, result: str) -> int:
    try:
        found = run(json.loads(Path(spec).read_text()))
    except (MemoryError, torch.OutOfMemoryError):
        return OUT_OF_MEMORY
    except RuntimeError as error:  # torch's own for memory of the CPU
        if "memory" not in str(error):
            raise
        return OUT_OF_MEMORY
    Path(result).write_text(json.dumps(found))
    return 0


if __name__ == "__main__":
    raise SystemExit(_main(*sys.argv[1:]))
