"""The published NPSSM's ablations on a user's panels: each row a named change of one base configuration, trained anew.

Rows that come to the same settings share a run. Runs are trained in this process, one after another: what goes wrong
is then the exception that it is, and an interruption at any time costs no more than the steps since the last state,
which ``train`` keeps anyway; a process of its own for each run would add only the time that torch takes to load.
"""

from __future__ import annotations

import datetime
import json
import logging
import math
import tempfile
import time
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from .. import __version__
from ..config import check_device
from ..engine.blockwise import BlockEngine
from ..engine.checkpoint import load_model
from ..engine.device import choose_device
from ..engine.network import NetworkPredictor
from ..errors import ConfigError, InputError
from ..outputs import file_errors
from ..panel.genetic_map import read_genetic_map
from ..train.run import TrainConfig, read_held_out, train
from ..train.settings import train_config
from ..train.state import METRICS, STATE
from ..train.validate import HeldOut, validate
from .ablation_tables import SMALL, TABLES, merged, rows_of
from .machine import machine
from .score import plain
from .trials import check_settings, fingerprint, write_json

log = logging.getLogger(__name__)

ARCHITECTURE, BASE = "npssm-paper", "base"
RUNS, PLAN, RESULT = "runs", "plan.json", "result.json"
OWN = ("steps", "seed", "validate_every")  # of the loop: what the ablation sets itself
LEAST_STEPS = 50
PROBE_STEPS, PROBE_START = 40, 5  # the first steps compile, and are not timed


@dataclass(frozen=True)
class AblationConfig:
    """Which tables, on what, and for how long. Raises ConfigError, also where a row's settings are not legal.

    panels, map, validate, hold_out, hold_out_rows: see ``TrainConfig``. base: settings that replace those of ``SMALL``.
    Every run has ``steps`` steps; without it, as many as let all be done in about ``budget`` minutes.
    """

    panels: tuple[Path, ...]
    out: Path
    map: Path | None = None
    validate: tuple[Path, ...] = ()
    tables: tuple[str, ...] = tuple(TABLES)
    budget: float = 60.0
    steps: int | None = None
    base: dict[str, Any] = field(default_factory=dict)
    hold_out: int = 30
    hold_out_rows: int = 400
    device: str | None = None
    threads: int = 1
    seed: int = 1

    def __post_init__(self) -> None:
        if not self.panels:
            raise ConfigError("nothing to train on: give --panel")
        if unknown := [name for name in self.tables if name not in TABLES]:
            raise ConfigError(f"--tables {unknown[0]}: choose from {', '.join(TABLES)}")
        if not self.tables or len(set(self.tables)) < len(self.tables):
            raise ConfigError("--tables: name at least one, and each once")
        if not 0 < self.budget < math.inf:
            raise ConfigError(f"--budget {self.budget}: minutes, above 0")
        for name in ("steps", "hold_out", "hold_out_rows", "threads"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ConfigError(f"--{name.replace('_', '-')} {value}: 1 or more")
        check_device(self.device)
        self._check_base()
        assign_runs(self, self.steps or LEAST_STEPS)

    def _check_base(self) -> None:
        known = ("model", "objective", "data", "loop")
        if unknown := sorted(set(self.base) - set(known)):
            raise ConfigError(f"no table of settings {', '.join(unknown)}; there are {', '.join(known)}")
        loop = self.base.get("loop", {})
        if own := [name for name in OWN if isinstance(loop, dict) and name in loop]:
            raise ConfigError(f"loop.{own[0]}: is the same for all runs, and set by the ablation; leave it away")

    def run_config(self, changes: dict[str, Any], steps: int, out: Path) -> TrainConfig:
        """Of a run of the base with ``changes``. Raises ConfigError."""
        values = merged(merged(SMALL, self.base), changes)
        options = {"panels": self.panels, "map": self.map, "validate": self.validate}
        options |= {"hold_out": self.hold_out, "hold_out_rows": self.hold_out_rows}
        config = train_config(ARCHITECTURE, values, out, None, **options)
        warmup = min(config.loop.warmup, steps // 10)
        loop = replace(config.loop, steps=steps, warmup=warmup, validate_every=steps, seed=self.seed)
        return replace(config, loop=loop)

    def identity(self) -> dict[str, Any]:
        """What an ablation that is gone on with must share, by option. Raises InputError for a file that is missing."""
        files = {"panel": self.panels, "validate": self.validate, "map": (self.map,)}
        names = ("steps", "hold_out", "hold_out_rows", "device", "threads", "seed")
        settings: dict[str, Any] = {name: [fingerprint(path) for path in paths] for name, paths in files.items()}
        settings |= {"tables": list(self.tables), "config": self.base}
        settings["budget"] = self.budget if self.steps is None else None
        return settings | {name.replace("_", "-"): getattr(self, name) for name in names}

    def settings(self) -> dict[str, str | None]:
        """As the report tells them: texts."""
        out: dict[str, str | None] = {}
        for name, value in vars(self).items():
            if isinstance(value, tuple):
                value = ", ".join(map(str, value)) or None
            out[name] = json.dumps(value) if isinstance(value, dict) else None if value is None else str(value)
        return out


def assign_runs(config: AblationConfig, steps: int) -> tuple[dict[str, TrainConfig], dict[tuple[str, str], str]]:
    """The runs by name, and which of them each (table, row) is. Raises ConfigError, naming the row."""
    place = config.out / RUNS
    base = config.run_config({}, steps, place)
    runs: dict[str, TrainConfig] = {}
    of_row = {}
    for table in config.tables:
        for row in rows_of(table, base.model.context):
            try:
                wanted = config.run_config({} if table == "context" else row.settings, steps, place)
            except ConfigError as error:
                raise ConfigError(f"{table} {row.name}: {error}") from error
            same = next((name for name, other in runs.items() if other == wanted), None)
            name = same or (BASE if wanted == base else f"{table}-{row.name}")
            runs[name], of_row[table, row.name] = wanted, name
    return {name: replace(run, out=place / name) for name, run in runs.items()}, of_row


def ablation(config: AblationConfig) -> dict[str, Any]:
    """Trains what is not trained yet and returns the results, plain values.

    Raises InputError or ConfigError; ConfigError also where the budget is too small or ``out`` is of other options. A
    run whose loss is no longer a number is told of in the log, and has no results.
    """
    plan = _plan(config)
    runs, of_row = assign_runs(config, plan["steps"])
    results = {}
    for number, (name, run) in enumerate(runs.items(), 1):
        results[name] = _trained(config, run, f"{name} (run {number} of {len(runs)})")
    if all(result["reason"] for result in results.values()):
        raise ConfigError(f"{config.out}: no run came to its end ({next(iter(results.values()))['reason']})")
    tables = [_table(config, table, runs, of_row, results) for table in config.tables]
    # As JSON has them: tuples are lists there.
    base = json.loads(json.dumps(config.run_config({}, plan["steps"], config.out).settings()))
    return {
        "kind": "ablation",
        "npimpute": __version__,
        "date": datetime.date.today().isoformat(),
        "machine": machine(config.threads),
        "settings": config.settings(),
        "base": {name: base[name] for name in ("model", "objective", "data", "loop")},
        "plan": plan,
        "tables": tables,
    }


def _plan(config: AblationConfig) -> dict[str, Any]:
    """The plan in ``out``, or one that is made now. Options that come to no plan leave nothing behind."""
    path = config.out / PLAN
    if path.exists():
        check_settings(config.out, config.identity())
        return _read(path)
    identity = config.identity()
    plan = _steps_in_budget(config)
    check_settings(config.out, identity)
    write_json(path, plan)
    return plan


def _steps_in_budget(config: AblationConfig) -> dict[str, Any]:
    """ "runs", "steps"; of a budget also "seconds_per_step", "seconds_besides" of each run, to read and to validate,
    and "minutes", of all. Raises ConfigError for too small a budget."""
    runs, of_row = assign_runs(config, LEAST_STEPS)
    if config.steps is not None:
        return {"runs": len(runs), "steps": config.steps}
    log.info("timing %d steps of the base configuration", PROBE_STEPS)
    started = time.monotonic()
    per_step, besides, validation = _probe(config)
    context = config.run_config({}, LEAST_STEPS, config.out).model.context
    # A table's time goes with its rows.
    extra = sum(int(row) / context for table, row in of_row if table == "context" and int(row) != context) * validation
    fixed = time.monotonic() - started + len(runs) * besides + extra
    steps = int((60 * config.budget - fixed) / (len(runs) * per_step))
    minutes = (fixed + len(runs) * max(steps, LEAST_STEPS) * per_step) / 60
    if steps < LEAST_STEPS:
        raise ConfigError(
            f"--budget {config.budget:g}: {len(runs)} runs of {LEAST_STEPS} steps with their validation need "
            f"{math.ceil(10 * minutes) / 10:g} minutes here; raise it, or name fewer tables or --hold-out-rows"
        )
    log.info("%d runs of %d steps (%.3f s each): about %.0f minutes", len(runs), steps, per_step, minutes)
    plan = {"runs": len(runs), "steps": steps, "seconds_per_step": per_step}
    return plan | {"seconds_besides": besides, "minutes": minutes}


def _probe(config: AblationConfig) -> tuple[float, float, float]:
    """Seconds that a step of the base takes, that a run takes besides its steps, and its validation of these."""
    with tempfile.TemporaryDirectory() as scratch:
        run = config.run_config({}, PROBE_STEPS, Path(scratch) / BASE)
        clock = _Clock()
        started = time.monotonic()
        train(run, config.device, config.threads, progress=clock)
        ended = time.monotonic()
    per_step = clock.per_step(PROBE_START)
    return per_step, max(0.0, ended - started - PROBE_STEPS * per_step), ended - clock.times[-1]


class _Clock:
    """When the steps of one call ended; a ``progress`` of ``train``. step: the last."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.step = 0

    def __call__(self, step: int, metrics: dict[str, float]) -> None:
        self.times.append(time.monotonic())
        self.step = step

    def per_step(self, start: int = 0) -> float:
        """Mean seconds of the steps after the first and ``start`` more; 0 where there are none."""
        return (self.times[-1] - self.times[start]) / (len(self.times) - 1 - start) if len(self.times) > 1 else 0.0


def _trained(config: AblationConfig, run: TrainConfig, what: str) -> dict[str, Any]:
    """Trains the run, goes on with it, or takes it as it is. "done"; "reason": None, or why it has no results;
    "seconds", that its steps took; "validation": as in the metrics.

    A call that the operating system kills leaves no time."""
    path = run.out / RESULT
    found = _read(path) if path.exists() else {"done": False, "reason": None, "seconds": 0.0, "validation": {}}
    if found["done"]:
        return found
    log.info("%s: %d steps", what, run.loop.steps)
    clock = _Clock()
    with file_errors(run.out):
        run.out.mkdir(parents=True, exist_ok=True)
    try:
        train(run, config.device, config.threads, resume=(run.out / STATE).exists(), progress=clock)
        found |= {"done": True, "validation": _last_validation(run.out / METRICS)}
        log.info("%s: r2 %.4f", what, _number(found["validation"]["all"]["pooled"]))
    except ConfigError as error:
        if not 0 < clock.step < run.loop.steps:  # then no setting is at fault: it diverged on the way
            raise
        found |= {"done": True, "reason": str(error)}
        log.warning("%s: %s", what, error)
    finally:
        found["seconds"] += len(clock.times) * clock.per_step()
        write_json(path, found)
    return found


def _last_validation(path: Path) -> dict[str, Any]:
    lines = (json.loads(line) for line in reversed(path.read_text().splitlines()))
    return next(line["validation"] for line in lines if "validation" in line)


def _number(value: float | None) -> float:
    return math.nan if value is None else value


class _Contexts:
    """The base's model, imputing those who were held out of its training with other numbers of haplotypes."""

    def __init__(self, config: AblationConfig, run: TrainConfig):
        self._config, self._run = config, run

    def result(self, context: int) -> dict[str, Any]:
        """ "reason" and "validation", as of a run; kept beside it."""
        path = self._run.out / f"context-{context}.json"
        if path.exists():
            return _read(path)
        most = min(part.window.panel.k for part in self._held_out)
        found: dict[str, Any] = {"reason": None, "validation": {}}
        if context > most:
            found["reason"] = f"a panel has {most} haplotypes beside those held out"
            log.warning("context %d: %s", context, found["reason"])
        else:
            network, model = load_model(self._run.out)
            device = choose_device(self._config.device, self._config.threads)
            engine = BlockEngine(ARCHITECTURE, NetworkPredictor(network, context, model.reach, device), model.block)
            found["validation"] = _plain(validate(engine, self._held_out))
            log.info("context %d: r2 %.4f", context, _number(found["validation"]["all"]["pooled"]))
        write_json(path, found)
        return found

    @cached_property
    def _held_out(self) -> list[HeldOut]:
        """As in training."""
        genetic_map = read_genetic_map(self._run.map) if self._run.map else None
        return read_held_out(self._run, genetic_map, self._config.threads)[1]


def _plain(validation: dict[str, dict[str, float]]) -> dict[str, dict[str, Any]]:
    return {
        name: {"alleles": int(of["alleles"]), "pooled": plain(of["pooled"]), "mean": plain(of["mean"])}
        for name, of in validation.items()
    }


def _table(config: AblationConfig, table: str, runs: dict, of_row: dict, results: dict) -> dict[str, Any]:
    """A table of the results. steps, seconds: of the run that a row is, or whose model it uses."""
    context = next(iter(runs.values())).model.context
    contexts = _Contexts(config, runs[BASE]) if table == "context" else None
    rows = []
    for row in rows_of(table, context):
        run = of_row[table, row.name]
        found = result = results[run]
        if contexts is not None and int(row.name) != context and not result["reason"]:
            found = contexts.result(int(row.name))
        by_maf = dict(found["validation"])
        whole = by_maf.pop("all", {"pooled": None, "mean": None})
        entry = {"name": row.name, "label": row.label, "settings": row.settings, "reason": found["reason"]}
        entry |= {"r2_pooled": whole["pooled"], "r2_mean": whole["mean"], "by_maf": by_maf, "published": row.published}
        rows.append(entry | {"run": run, "steps": runs[run].loop.steps, "seconds": result["seconds"]})
    return {"name": table, "title": TABLES[table][0], "rows": rows}


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: damaged ({error}); name a new directory") from error
