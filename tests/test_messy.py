"""Messy but legal input: it must be imputed, and imputed well."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
from conftest import Vcf, impute, matrix, read_rows

from npimpute.errors import ConfigError, InputError
from npimpute.panel.panel import HEADER_BYTES, compile_panel, open_panel


def without_calls(data, keep):
    """The targets' file with every genotype missing at the records that ``keep`` does not want."""
    holes = tuple(".|." for _ in data.target.samples)
    return replace(data.target, records=[r if keep(r) else replace(r, calls=holes) for r in data.target.records])


def test_a_first_window_without_a_call_tells_nothing_about_the_parameters(data, tmp_path, caplog):
    middle = data.target.records[len(data.target.records) // 2].pos
    chip = without_calls(data, lambda r: r.pos > middle).save(tmp_path / "chip.vcf.gz")
    options = {"ne": None, "err": None, "core_cm": 0.4, "flank_cm": 0.05}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        caplog.set_level("INFO")
        half = read_rows(impute(data, tmp_path / "half.vcf.gz", target=chip, **options))
        whole = read_rows(impute(data, tmp_path / "whole.vcf.gz", **options))
    assert "nan" not in caplog.text
    late = [i for i, row in enumerate(whole) if row.pos > middle + 300_000]
    a, b = matrix([half[i] for i in late]), matrix([whole[i] for i in late])
    assert np.corrcoef(a.ravel(), b.ravel())[0, 1] ** 2 > 0.85


def test_targets_without_any_call_get_the_panels_frequencies(data, tmp_path):
    chip = without_calls(data, lambda r: False).save(tmp_path / "chip.vcf.gz")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = read_rows(impute(data, tmp_path / "out.vcf.gz", target=chip, ne=None, err=None))
    dosages = matrix(rows)
    assert np.ptp(dosages, axis=1).max() <= 0.002


def test_a_region_may_have_all_its_typed_sites_in_the_flanks(data, whole, tmp_path):
    typed = {r.pos for r in data.target.records}
    wanted = next(r.pos for r in data.panel.records[100:] if r.pos not in typed)
    rows = read_rows(impute(data, tmp_path / "out.vcf.gz", region=f"20:{wanted}"))
    assert {row.pos for row in rows} == {wanted}
    same = [row for row in read_rows(whole) if row.pos == wanted]
    assert np.abs(matrix(rows) - matrix(same)).max() < 0.05


def test_a_region_without_a_panel_record_is_told_as_that(data, tmp_path):
    with pytest.raises(InputError, match=r"no record in 20:4999000-4999999; check --region"):
        impute(data, tmp_path / "out.vcf.gz", region="20:4999000-4999999")


def split_records(records):
    """As bcftools norm -m -any splits them: other alleles become 0."""
    for r in records:
        alts = r.alt.split(",")
        for a, alt in enumerate(alts, 1):
            calls = tuple(
                "|".join("1" if x == str(a) else "." if x == "." else "0" for x in c.split("|")) for c in r.calls
            )
            yield r if len(alts) == 1 else replace(r, alt=alt, calls=calls)


def test_a_split_record_does_not_overwrite_the_joined_one(data, tmp_path, caplog):
    multi = next(i for i, r in enumerate(data.truth.records) if "," in r.alt and any("2" in c for c in r.calls))
    record = data.truth.records[multi]
    records = sorted([*data.target.records, *split_records([record])], key=lambda r: r.pos)
    chip = Vcf(data.target.samples, records, data.target.contigs).save(tmp_path / "chip.vcf.gz")
    rows = read_rows(impute(data, tmp_path / "out.vcf.gz", target=chip))
    (row,) = [row for row in rows if (row.pos, row.alt) == (record.pos, record.alt)]
    assert "TYPED" not in row.info
    assert "join split ones (bcftools norm -m +any)" in caplog.text


def test_one_chromosome_under_two_names_is_refused(data, tmp_path):
    both = [*data.target.records, *data.target.renamed({"20": "chr20"}).records]
    chip = Vcf(data.target.samples, both, {"20": 5_000_000, "chr20": 5_000_000}).save(tmp_path / "chip.vcf.gz")
    with pytest.raises(InputError, match="contigs 20 and chr20 are one chromosome"):
        impute(data, tmp_path / "out.vcf.gz", target=chip)


def test_sample_names_may_hold_blanks(data, tmp_path):
    panel = replace(data.panel, samples=["P 0", *data.panel.samples[1:]])
    ref = panel.save(tmp_path / "panel.vcf.gz")
    (tmp_path / "list.txt").write_text("P 0\r\n\n")
    out = impute(data, tmp_path / "out.vcf.gz", ref=ref, exclude_samples=tmp_path / "list.txt")
    small = panel.columns(list(range(1, len(panel.samples)))).save(tmp_path / "small.vcf.gz")
    assert out.read_bytes() == impute(data, tmp_path / "same.vcf.gz", ref=small).read_bytes()


def test_a_negative_seed_is_refused(data, tmp_path):
    with pytest.raises(ConfigError, match="--seed -1"):
        impute(data, tmp_path / "out.vcf.gz", seed=-1)


def test_a_file_that_appeared_meanwhile_is_not_replaced(data, tmp_path, monkeypatch):
    from npimpute import pipeline

    out, check = tmp_path / "out.vcf.gz", pipeline.check_overlap

    def another_run_ends(*args):
        out.write_text("theirs")
        check(*args)

    monkeypatch.setattr(pipeline, "check_overlap", another_run_ends)
    with pytest.raises(InputError, match="exists already"):
        impute(data, out)
    assert out.read_text() == "theirs" and [path.name for path in tmp_path.iterdir()] == ["out.vcf.gz"]


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.999])
def test_a_flipped_byte_in_a_compiled_panel_is_noticed(data, tmp_path, share):
    compile_panel(open_panel(data.ref), tmp_path / "panel.npp")
    content = bytearray((tmp_path / "panel.npp").read_bytes())
    content[HEADER_BYTES + int(share * (len(content) - HEADER_BYTES))] ^= 4
    (tmp_path / "panel.npp").write_bytes(content)
    with pytest.raises(InputError, match="the compiled panel is damaged; compile it again"):
        impute(data, tmp_path / "out.vcf.gz", ref=tmp_path / "panel.npp")


def test_a_panel_without_an_alt_allele_or_a_contig_line_is_told_as_that(data, tmp_path, caplog):
    caplog.set_level("INFO")
    holes = tuple("0|0" for _ in data.panel.samples)
    records = [replace(r, alt=".", calls=holes) for r in data.panel.records[:5]]
    ref = Vcf(data.panel.samples, records, {}).save(tmp_path / "panel.vcf")
    with pytest.raises(InputError, match="no target site is in the panel"):
        impute(data, tmp_path / "out.vcf.gz", ref=ref)
    assert "5 records without an ALT allele passed over" in caplog.text
