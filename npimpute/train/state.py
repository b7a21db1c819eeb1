"""What training resumes from: weights, optimiser and step in one safetensors file, and the metrics so far."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from ..errors import ConfigError, InputError
from ..outputs import file_errors, temporary

STATE, METRICS = "training.safetensors", "metrics.jsonl"


def save_state(out: Path, network: nn.Module, optimizer: torch.optim.Optimizer, settings: dict, step: int) -> None:
    """Writes the state under its name once it is complete."""
    tensors = {f"network.{name}": value for name, value in network.state_dict().items()}
    for i, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{i}.{name}": value for name, value in values.items()}
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    path = out / STATE
    with file_errors(path):
        temp = temporary(path)
        save_file(tensors, temp, {"step": str(step), "settings": json.dumps(settings)})
        os.replace(temp, path)


def load_state(out: Path, network: nn.Module, optimizer: torch.optim.Optimizer, settings: dict[str, Any]) -> int:
    """Fills network and optimiser and cuts the metrics back to the saved step, which is returned.

    Raises InputError where there is no whole state, ConfigError where it is of a run with other settings.
    """
    path = out / STATE
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be resumed from ({error}); leave --resume away to start anew") from error
    _check_settings(path, json.loads(metadata["settings"]), settings)
    network.load_state_dict({name[8:]: value for name, value in tensors.items() if name.startswith("network.")})
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, i, key = name.split(".")
            state.setdefault(int(i), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    step = int(metadata["step"])
    _cut_metrics(out / METRICS, step)
    return step


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


def _cut_metrics(path: Path, step: int) -> None:
    if path.exists():
        lines = [line for line in path.read_text().splitlines() if json.loads(line)["step"] <= step]
        path.write_text("".join(f"{line}\n" for line in lines))
