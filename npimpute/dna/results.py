"""Tables of results on disk: .npz, .zarr, .parquet, or text (.tsv, .tsv.gz) by the output's name.

Axes: n rows, e width of an embedding.
"""

from __future__ import annotations

import gzip
import importlib.util
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigError, InputError
from ..outputs import check_place, file_errors, temporary

KINDS = (".npz", ".zarr", ".parquet", ".tsv", ".tsv.gz")


def check_output(path: Path, overwrite: bool) -> None:
    """Raises InputError or ConfigError unless results can be written at ``path``: before hours of work, not after."""
    kind = _kind(path)
    package = {".zarr": "zarr", ".parquet": "pyarrow"}.get(kind)
    if package and importlib.util.find_spec(package) is None:
        raise ConfigError(f"{path}: {kind} files need {package}: pip install 'npimpute[dna]'")
    if kind == ".zarr" and path.is_dir():
        if not overwrite:
            raise InputError(f"{path}: exists already: choose another name or add --overwrite")
        if any(path.iterdir()) and not (path / "zarr.json").exists():
            raise InputError(f"{path}: is a directory that is not zarr; name another")
        return
    check_place(path, overwrite)


def write_results(
    path: Path, columns: dict[str, np.ndarray], matrices: dict[str, np.ndarray], about: dict[str, Any]
) -> None:
    """columns: (n,) text, numbers. matrices: (n, e) float32. about: plain values, kept in zarr and parquet.

    The output has its name when it is complete. Raises InputError where it cannot be written.
    """
    temp = temporary(path)
    with file_errors(path):
        try:
            _WRITERS[_kind(path)](temp, columns, matrices, about)
            if path.is_dir():
                shutil.rmtree(path)
            os.replace(temp, path)
        finally:
            shutil.rmtree(temp) if temp.is_dir() else temp.unlink(missing_ok=True)


def _kind(path: Path) -> str:
    for kind in KINDS:
        if path.name.lower().endswith(kind):
            return kind
    raise ConfigError(f"{path}: its name must end in {', '.join(KINDS)}")


def _npz(path: Path, columns: dict, matrices: dict, about: dict) -> None:
    with open(path, "wb") as file:
        np.savez(file, **columns, **matrices)


def _zarr(path: Path, columns: dict, matrices: dict, about: dict) -> None:
    import zarr

    group = zarr.create_group(str(path), zarr_format=3, attributes=about)
    for name, values in (columns | matrices).items():
        # numpy's text of a fixed length has no zarr 3 specification; that of any length has.
        values = values.astype(np.dtypes.StringDType()) if values.dtype.kind == "U" else values
        group.create_array(name, data=values)


def _parquet(path: Path, columns: dict, matrices: dict, about: dict) -> None:
    import pyarrow
    from pyarrow import parquet

    arrays = {
        name: pyarrow.array(values.tolist() if values.dtype.kind == "U" else values) for name, values in columns.items()
    }
    for name, values in matrices.items():
        flat = pyarrow.array(np.ascontiguousarray(values).ravel())
        arrays[name] = pyarrow.FixedSizeListArray.from_arrays(flat, values.shape[1])
    kept = {f"npimpute.{name}": str(value) for name, value in about.items()}
    parquet.write_table(pyarrow.table(arrays).replace_schema_metadata(kept), path)


def _tsv(path: Path, columns: dict, matrices: dict, about: dict, opened: Callable = open) -> None:
    header = [*columns, *(f"{name}_{i}" for name, m in matrices.items() for i in range(m.shape[1]))]
    with opened(path, "wt") as file:
        file.write("\t".join(header) + "\n")
        for i in range(len(next(iter(columns.values())))):
            cells = [_cell(values[i]) for values in columns.values()]
            cells += [_cell(value) for matrix in matrices.values() for value in matrix[i]]
            file.write("\t".join(cells) + "\n")


def _cell(value: Any) -> str:
    if isinstance(value, float | np.floating):
        return "nan" if np.isnan(value) else f"{value:.6g}"
    return str(value)


_WRITERS = {
    ".npz": _npz,
    ".zarr": _zarr,
    ".parquet": _parquet,
    ".tsv": _tsv,
    ".tsv.gz": lambda *parts: _tsv(*parts, opened=gzip.open),
}
