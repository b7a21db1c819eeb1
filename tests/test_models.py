"""The models that are shipped: whole, small, described, and better than what is simpler."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import EXAMPLES, matrix, r2, read_rows

from npimpute.config import RunConfig
from npimpute.engine.checkpoint import load_model
from npimpute.pipeline import run

MODELS = sorted(path for path in (Path(__file__).parent.parent / "models").iterdir() if path.is_dir())


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.name)
def test_a_model_is_whole_and_small(path):
    assert sorted(file.name for file in path.iterdir()) == ["CARD.md", "config.json", "weights.safetensors"]
    assert sum(file.stat().st_size for file in path.iterdir()) < 5e6
    network, config = load_model(path)
    assert all(np.isfinite(p.detach().numpy()).all() for p in network.parameters())
    card = (path / "CARD.md").read_text()
    assert f"{sum(p.numel() for p in network.parameters()):,} parameters" in card
    for word in ("npimpute train", "seed", "Beagle", "MAF", "limits"):
        assert word in card
    assert json.loads((path / "config.json").read_text())["architecture"] == config.architecture


def test_the_small_npssm_knows_more_than_the_nearest_haplotypes(tmp_path):
    """On the example, simulated data such as it never saw: better than KNN, and by far better than frequencies."""
    region = {"region": "20:480,000-500,000", "flank_cm": 0.5}
    files = {"ref": EXAMPLES / "panel.vcf.gz", "target": EXAMPLES / "chip.vcf.gz", "map": EXAMPLES / "map.txt"}
    accuracy = {}
    for engine, model in (("knn", None), ("npssm-paper", MODELS[0].parent / "npssm-paper-small")):
        out = tmp_path / f"{engine}.vcf"
        run(RunConfig(**files, **region, out=out, engine=engine, model=model, device="cpu" if model else None))
        rows = [row for row in read_rows(out) if "TYPED" not in row.info]
        wanted = {(row.pos, row.ref, row.alt) for row in rows}
        truth = [row for row in read_rows(EXAMPLES / "truth.vcf.gz") if (row.pos, row.ref, row.alt) in wanted]
        alleles = [(row, str(a + 1)) for row in truth for a in range(row.alt.count(",") + 1)]
        copies = np.array([[gt.split("|").count(a) for gt in row.fields["GT"]] for row, a in alleles])
        assert len(truth) == len(rows) > 50
        accuracy[engine] = r2(matrix(rows), copies)
    assert accuracy["npssm-paper"] > max(0.85, accuracy["knn"])
