"""The models that are shipped: whole, small, described, and better than what is simpler."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from conftest import EXAMPLES, matrix, r2, read_rows
from cyvcf2 import VCF

from npimpute.config import RunConfig
from npimpute.engine.checkpoint import load_model
from npimpute.engine.model_files import default_model, load_config
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


def test_the_default_model_is_the_one_that_run_uses():
    assert default_model() == Path(__file__).parent.parent / "models" / "npssm"
    config = load_config(default_model())
    assert config.architecture == "npssm" == RunConfig.engine
    # The default needs no torch, which takes seconds to load.
    assert config.layers == 0 and config.calibrate > 0


def test_the_default_knows_more_than_li_stephens_of_real_people(tmp_path):
    """On a real region that the model was not trained on, people of whom it has seen nothing."""
    root = Path(os.environ.get("NPIMPUTE_DATA", Path(__file__).parents[2] / "shared" / "data"))
    data = root / "imputation" / "chr20_EUR"
    if not data.is_dir():
        pytest.skip(f"no {data}; NPIMPUTE_DATA names another directory with the data")
    files = {"ref": data / "panel.vcf.gz", "target": data / "chip.phased.vcf.gz", "map": data / "chr20.b37.gmap.gz"}
    files |= {"region": "20:1500000-2000000", "threads": 2}
    wrong = {}
    for engine in ("li-stephens", "clades", "npssm"):
        run(RunConfig(**files, out=tmp_path / f"{engine}.bcf", engine=engine))
        imputed = {(v.POS, v.REF, *v.ALT): v.format("DS")[:, 0] for v in VCF(tmp_path / f"{engine}.bcf")}
        wrong[engine] = sum(
            ((v.genotype.array()[:, :2].sum(axis=1) - imputed[v.POS, v.REF, *v.ALT]) ** 2).sum()
            for v in VCF(data / "truth.vcf.gz")
            if (v.POS, v.REF, *v.ALT) in imputed and len(v.ALT) == 1
        )
    assert wrong["npssm"] < 0.99 * wrong["clades"] < 0.98 * wrong["li-stephens"]
