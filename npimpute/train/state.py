"""What training resumes from: weights, optimiser and step in one safetensors file, and the metrics so far."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from ..engine.checkpoint import fill, write_tensors
from ..errors import ConfigError, InputError
from ..outputs import file_errors

STATE, METRICS = "training.safetensors", "metrics.jsonl"


def save_state(out: Path, network: nn.Module, optimizer: torch.optim.Optimizer, settings: dict, step: int) -> None:
    """Writes the state under its name once it is complete."""
    tensors = {f"network.{name}": value for name, value in network.state_dict().items()}
    for i, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{i}.{name}": value for name, value in values.items()}
    path = out / STATE
    with file_errors(path):
        write_tensors(path, tensors, {"step": str(step), "settings": json.dumps(settings)})


def load_state(out: Path, network: nn.Module, optimizer: torch.optim.Optimizer, settings: dict[str, Any]) -> int:
    """Fills network and optimiser; returns the saved step.

    Raises InputError where there is no whole state, ConfigError where it is of a run with other settings.
    """
    path = out / STATE
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be resumed from ({error}); leave --resume away to start anew") from error
    if not {"step", "settings"} <= metadata.keys():
        raise InputError(f"{path}: not the state of a training run; leave --resume away to start anew")
    _check_settings(path, json.loads(metadata["settings"]), settings)
    fill(network, {name[8:]: value for name, value in tensors.items() if name.startswith("network.")}, path)
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, i, key = name.split(".")
            state.setdefault(int(i), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return int(metadata["step"])


def _check_settings(path: Path, saved: dict[str, Any], settings: dict[str, Any]) -> None:
    # As JSON has them: tuples are lists there.
    theirs, ours = _flat(saved), _flat(json.loads(json.dumps(settings)))
    for name in sorted(theirs.keys() | ours.keys()):
        if theirs.get(name) != ours.get(name):
            raise ConfigError(
                f"{path}: of a run with {name} {theirs.get(name)}, not {ours.get(name)}; "
                "resume with the settings it was started with"
            )


def _flat(values: dict[str, Any], before: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in values.items():
        flat |= _flat(value, f"{before}{name}.") if isinstance(value, dict) else {f"{before}{name}": value}
    return flat


def validated(path: Path) -> list[float]:
    """Pooled r2 of every validation in the metrics."""
    found = (json.loads(line).get("validation") for line in path.read_text().splitlines())
    r2 = (validation["all"]["pooled"] for validation in found if validation is not None)
    return [value for value in r2 if value is not None]


def cut_metrics(path: Path, step: int) -> None:
    """Drops what was measured after ``step``, and a last line that was never finished."""
    if not path.exists():
        return
    whole, _, _ = path.read_text().rpartition("\n")
    lines = [line for line in whole.splitlines() if json.loads(line)["step"] <= step]
    path.write_text("".join(f"{line}\n" for line in lines))
