"""Targets on the other strand or with REF and ALT exchanged, end to end: mended on request, counted and explained."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from conftest import (
    ALL,
    Data,
    Record,
    Vcf,
    expect_refusal,
    impute,
    matrix,
    read_rows,
    run_forked,
    same_files,
    simulate,
    write_map,
)

from npimpute.errors import InputError
from npimpute.panel.align import Match
from npimpute.panel.builds import _BUILDS, _LENGTHS, build_of

FLIP = dict(zip("ACGT", "TGCA", strict=True))


def misspelled(record, flip, swap):
    """The record on the other strand, or with REF and ALT exchanged, or both."""
    if flip:
        record = replace(record, ref=FLIP[record.ref], alt=FLIP[record.alt])
    if swap:
        exchanged = np.where(record.alleles < 0, -1, 1 - record.alleles)
        record = replace(record, ref=record.alt, alt=record.ref).with_alleles(exchanged)
    return record


def is_palindrome(record):
    return record.ref + record.alt in ("AT", "TA", "CG", "GC")


def plain_strand(vcf, positions):
    """With another ALT allele in A/T and C/G records at these positions."""
    records = [
        replace(r, alt="C" if r.ref in "AT" else "A") if r.pos in positions and is_palindrome(r) else r
        for r in vcf.records
    ]
    return replace(vcf, records=records)


@dataclass
class Spelling:
    """faults: of each target record by position whether it is flipped and swapped."""

    clean: Data
    target: Vcf
    faults: dict[int, tuple[bool, bool]]

    def without(self, fault) -> Vcf:
        """The clean targets without the records of whose (flipped, swapped) ``fault`` holds."""
        records = [r for r in self.clean.target.records if not fault(*self.faults.get(r.pos, (False, False)))]
        return replace(self.clean.target, records=records)


def spell_badly(data, folder, seed=3):
    """20 % of the target sites that the panel has flipped and 5 % swapped, at random, three of them both."""
    ours = [i for i, record in enumerate(data.target.records) if not record.name.startswith("own")]
    order = np.random.default_rng(seed).permutation(ours)
    flips, swaps = len(ours) // 5, max(6, len(ours) // 20)
    flipped, swapped = set(order[:flips].tolist()), set(order[flips - 3 : flips - 3 + swaps].tolist())
    records = [misspelled(record, i in flipped, i in swapped) for i, record in enumerate(data.target.records)]
    faults = {data.target.records[i].pos: (i in flipped, i in swapped) for i in flipped | swapped}
    target = replace(data.target, records=records)
    bad = replace(data, target=target, chip=target.save(folder / "bad.vcf.gz"))
    return bad, Spelling(data, target, faults)


@pytest.fixture(scope="module")
def plain(data, tmp_path_factory):
    """The data without A/T and C/G sites in the targets, clean and badly spelled."""
    folder = tmp_path_factory.mktemp("plain")
    typed = {r.pos for r in data.target.records}
    panel, target = plain_strand(data.panel, typed), plain_strand(data.target, typed)
    clean = replace(data, panel=panel, target=target)
    clean = replace(clean, ref=panel.save(folder / "panel.vcf.gz"), chip=target.save(folder / "chip.vcf.gz"))
    return spell_badly(clean, folder)


def report_of(path):
    header, *lines = [line.split("\t") for line in path.read_text().splitlines()]
    assert header == ["contig", "pos", "id", "ref", "alt", "done", "reason", "panel"]
    return lines


def test_mended_targets_give_what_clean_ones_give(plain, tmp_path):
    bad, spelling = plain
    clean = impute(spelling.clean, tmp_path / "clean.vcf.gz", formats=ALL, all_typed_sites=True)
    options = {"fix_strand": True, "swap_alleles": True, "formats": ALL, "all_typed_sites": True}
    assert same_files(clean, impute(bad, tmp_path / "mended.vcf.gz", **options))


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({}, lambda flip, swap: flip or swap),
        ({"fix_strand": True}, lambda flip, swap: swap),
        ({"swap_alleles": True}, lambda flip, swap: flip),
    ],
    ids=["none", "strand", "swap"],
)
def test_what_the_options_do_not_name_is_as_if_it_were_not_there(plain, tmp_path, caplog, options, fault):
    bad, spelling = plain
    chip = spelling.without(fault).save(tmp_path / "chip.vcf.gz")
    expected = impute(spelling.clean, tmp_path / "expected.vcf.gz", target=chip)
    caplog.clear()
    assert same_files(expected, impute(bad, tmp_path / "out.vcf.gz", **options))
    flipped = 0 if "fix_strand" in options else sum(flip for flip, _ in spelling.faults.values())
    swapped = 0 if "swap_alleles" in options else sum(swap for _, swap in spelling.faults.values())
    (line,) = [record.message for record in caplog.records if "so they are not used" in record.message]
    assert f"of {len(bad.target.records)} target sites" in line
    assert (f"{flipped} are on the other strand" in line) == ("--fix-strand" in line) == bool(flipped)
    assert (f"{swapped} have REF and ALT exchanged" in line) == ("--swap-alleles" in line) == bool(swapped)


def test_few_misspelled_sites_are_no_reason_for_advice(data, tmp_path, caplog):
    at = next(i for i, r in enumerate(data.target.records) if not r.name.startswith("own"))
    records = list(data.target.records)
    records[at] = misspelled(records[at], True, False)
    chip = replace(data.target, records=records).save(tmp_path / "chip.vcf.gz")
    impute(data, tmp_path / "out.vcf.gz", target=chip)
    assert "not used" not in caplog.text


def test_sites_that_look_misspelled_by_chance_are_no_reason_for_advice(plain, tmp_path, caplog):
    """As on another genome build: most sites that happen to be in the panel have other alleles."""
    ours = [r for r in plain[1].clean.target.records if not r.name.startswith("own")]
    records = []
    for i, r in enumerate(ours):
        other = next(base for base in "ACGT" if base not in (r.ref, r.alt))
        records.append(r if i % 10 == 0 else misspelled(r, True, False) if i % 3 == 0 else replace(r, alt=other))
    chip = replace(plain[0].target, records=records).save(tmp_path / "chip.vcf.gz")
    impute(plain[0], tmp_path / "out.vcf.gz", target=chip)
    assert Match.ALLELES_DIFFER.label in caplog.text and "add --" not in caplog.text


DONE = {(True, False): "flipped", (False, True): "swapped", (True, True): "flipped and swapped"}


@pytest.mark.parametrize("core_cm", [20.0, 1.0])
def test_the_report_lists_what_was_changed_or_left_out_and_nothing_else(plain, tmp_path, core_cm):
    bad, spelling = plain
    options = {"fix_strand": True, "swap_alleles": True, "core_cm": core_cm, "flank_cm": 0.5}
    impute(bad, tmp_path / "out.vcf.gz", report=tmp_path / "report.tsv", **options)
    panel = {r.pos: f"{r.ref}>{r.alt}" for r in bad.panel.records}
    expected = []
    for record in bad.target.records:
        names = [record.contig, str(record.pos), record.name, record.ref, record.alt]
        if record.name.startswith("own"):
            expected.append([*names, "excluded", "position not in the panel", panel.get(record.pos, ".")])
        elif record.pos in spelling.faults:
            expected.append([*names, DONE[spelling.faults[record.pos]], panel[record.pos]])
    lines = report_of(tmp_path / "report.tsv")
    assert [line if line[5] == "excluded" else [*line[:6], line[7]] for line in lines] == expected
    assert {path.name for path in tmp_path.iterdir()} == {"out.vcf.gz", "out.vcf.gz.tbi", "report.tsv"}


def test_the_report_without_options_says_why(plain, tmp_path):
    bad, spelling = plain
    impute(bad, tmp_path / "out.vcf.gz", report=tmp_path / "report.tsv")
    reasons = {(True, False): Match.FLIPPED, (False, True): Match.SWAPPED, (True, True): Match.FLIPPED_SWAPPED}
    lines = [line for line in report_of(tmp_path / "report.tsv") if not line[2].startswith("own")]
    assert [int(line[1]) for line in lines] == sorted(spelling.faults)
    assert {line[5] for line in lines} == {"excluded"}
    assert all(line[6] == reasons[spelling.faults[int(line[1])]].label for line in lines)


def test_the_report_names_contigs_that_the_panel_lacks_and_every_panel_record(data, tmp_path):
    twice = next(a for a, b in zip(data.panel.records, data.panel.records[1:], strict=False) if a.pos == b.pos)
    pair = [r for r in data.panel.records if r.pos == twice.pos]
    extra = [Record("20", twice.pos, "odd", "GGG", "GT", data.target.records[0].calls)]
    records = sorted([*data.target.records, *extra], key=lambda r: r.pos)
    records += [replace(r, contig="7") for r in data.target.records[:3]]
    chip = Vcf(data.target.samples, records, {"20": 5_000_000, "7": 10_000_000}).save(tmp_path / "chip.vcf.gz")
    impute(data, tmp_path / "out.vcf.gz", target=chip, report=tmp_path / "report.tsv")
    lines = report_of(tmp_path / "report.tsv")
    (odd,) = [line for line in lines if line[2] == "odd"]
    assert odd[5:] == ["excluded", Match.ALLELES_DIFFER.label, ";".join(f"{r.ref}>{r.alt}" for r in pair)]
    assert [line[0] for line in lines[-3:]] == ["7"] * 3
    assert [line[5:] for line in lines[-3:]] == [["excluded", "contig not in the panel", "."]] * 3
    assert [line[1] for line in lines[-3:]] == [str(r.pos) for r in data.target.records[:3]]
    assert len(lines) == 3 + 1 + 3


def test_the_report_of_a_region_has_all_of_its_sites_and_no_other(data, tmp_path):
    """Also those behind the last panel record of the region, in a window that writes nothing."""
    positions = [r.pos for r in data.panel.records]
    at = next(i for i in range(200, 300) if positions[i + 1] - positions[i] > 100)
    inside, outside = (Record("20", positions[at] + d, f"x{d}", "A", "C", ("0|1",) * 8) for d in (20, 60))
    records = sorted([*data.target.records, inside, outside], key=lambda r: r.pos)
    chip = replace(data.target, records=records).save(tmp_path / "chip.vcf.gz")
    for core_cm in (20.0, 0.001):
        region, report = f"20:{positions[at - 30]}-{inside.pos}", tmp_path / f"{core_cm}.tsv"
        impute(data, tmp_path / f"{core_cm}.vcf.gz", target=chip, region=region, core_cm=core_cm, report=report)
        first = [r.name for r in records if positions[at - 30] <= r.pos < inside.pos and r.name.startswith("own")]
        assert [line[2] for line in report_of(report)] == [*first, "x20"]


def test_no_report_is_left_by_a_run_that_fails(data, tmp_path, monkeypatch):
    from npimpute.panel.site_report import SiteReport

    chip = data.target.renamed({"20": "7"}).save(tmp_path / "chip.vcf.gz")
    before = {path.name for path in tmp_path.iterdir()}
    with pytest.raises(InputError, match="no target site"):
        impute(data, tmp_path / "out.vcf.gz", target=chip, report=tmp_path / "report.tsv")
    assert {path.name for path in tmp_path.iterdir()} == before
    complete = SiteReport.complete

    def another_run_ends(report):
        (tmp_path / "report.tsv").write_text("theirs")
        complete(report)

    monkeypatch.setattr(SiteReport, "complete", another_run_ends)
    with pytest.raises(InputError, match="report.tsv: exists already"):
        impute(data, tmp_path / "out.vcf.gz", report=tmp_path / "report.tsv")
    assert {path.name for path in tmp_path.iterdir()} == {*before, "report.tsv"}
    impute(data, tmp_path / "out.vcf.gz", report=tmp_path / "report.tsv", overwrite=True)
    assert len(report_of(tmp_path / "report.tsv")) == 3


@pytest.fixture(scope="module")
def palindromes(tmp_path_factory):
    """Data with many target samples and A/T and C/G sites as they come, clean and badly spelled."""
    folder = tmp_path_factory.mktemp("palindromes")
    made = simulate(n_sites=900, n_target=60, seed=21)
    made.ref, made.chip = made.panel.save(folder / "panel.vcf.gz"), made.target.save(folder / "chip.vcf.gz")
    made.map = write_map(folder / "map.txt")
    return spell_badly(made, folder, seed=4)


def test_palindromes_are_read_rightly_or_not_at_all(palindromes, tmp_path, caplog):
    bad, spelling = palindromes
    clean = read_rows(impute(spelling.clean, tmp_path / "clean.vcf.gz"))
    options = {"fix_strand": True, "swap_alleles": True, "all_typed_sites": True}
    rows = read_rows(impute(bad, tmp_path / "out.vcf.gz", report=tmp_path / "report.tsv", **options))
    unclear = {int(line[1]) for line in report_of(tmp_path / "report.tsv") if line[6] == Match.STRAND_UNCLEAR.label}
    ours = {r.pos: r for r in spelling.clean.target.records if not r.name.startswith("own")}
    assert unclear <= {pos for pos, r in ours.items() if is_palindrome(r)}
    turned = {int(line[1]) for line in report_of(tmp_path / "report.tsv") if "by the frequencies" in line[6]}
    assert len(turned) > 1 and len(unclear) > 1
    rows = [row for row in rows if not row.name.startswith("own")]
    assert [row.key for row in rows] == [row.key for row in clean]
    for row, other in zip(rows, clean, strict=True):
        assert ("TYPED" in row.info) == (row.pos in ours and row.pos not in unclear)
        if "TYPED" in row.info:
            known = np.array(["." not in call for call in ours[row.pos].calls])
            assert (row.numbers("DS")[known] == other.numbers("DS")[known]).all()
    same = [i for i, row in enumerate(rows) if row.pos not in unclear]
    assert np.corrcoef(matrix([rows[i] for i in same]).ravel(), matrix([clean[i] for i in same]).ravel())[0, 1] > 0.99


def test_palindromes_that_are_swapped_are_used_where_no_flip_is_seen(palindromes, tmp_path):
    clean = palindromes[1].clean
    records = [
        r if r.name.startswith("own") else misspelled(r, False, i % 5 == 0) for i, r in enumerate(clean.target.records)
    ]
    chip = replace(clean.target, records=records).save(tmp_path / "chip.vcf.gz")
    expected = impute(clean, tmp_path / "expected.vcf.gz")
    for name, options in (("swap", {}), ("both", {"fix_strand": True})):
        assert same_files(
            expected, impute(clean, tmp_path / f"{name}.vcf.gz", target=chip, swap_alleles=True, **options)
        )


@pytest.mark.parametrize("options", [{}, {"fix_strand": True}, {"fix_strand": True, "swap_alleles": True}])
def test_no_record_is_written_twice_and_no_excluded_one_is_lost(palindromes, tmp_path, options):
    bad, _ = palindromes
    report = tmp_path / "report.tsv"
    rows = read_rows(impute(bad, tmp_path / "out.vcf.gz", all_typed_sites=True, report=report, **options))
    keys = [row.key for row in rows]
    assert len(set(keys)) == len(keys)
    left_out = [line for line in report_of(report) if line[5] == "excluded"]
    own = {
        (int(pos), ref, alt) for _, pos, _, ref, alt, _, reason, _ in left_out if reason != Match.STRAND_UNCLEAR.label
    }
    assert set(keys) == {r.key for r in bad.panel.records} | own


def test_the_summary_counts_what_was_mended(plain, tmp_path):
    bad, spelling = plain
    words = ["run", "--ref", bad.ref, "--target", bad.chip, "--map", bad.map, "--engine", "li-stephens", "--ne", 1500]
    words += ["--out", tmp_path / "out.vcf.gz", "--fix-strand", "--swap-alleles", "--report", tmp_path / "report.tsv"]
    status, _, log = run_forked(*words)
    assert status == 0, log
    found = list(spelling.faults.values())
    for fault, kind in (
        ((True, False), Match.UNFLIPPED),
        ((False, True), Match.UNSWAPPED),
        ((True, True), Match.UNFLIPPED_UNSWAPPED),
    ):
        assert f"I   {found.count(fault)} {kind.label}\n" in log
    assert "not used" not in log and "only" not in log
    assert len(report_of(tmp_path / "report.tsv")) == len(found) + 3


def test_every_length_names_one_build():
    assert len(_BUILDS) == sum(map(len, _LENGTHS.values())) == 4 * 24
    assert build_of([("20", 63025520)]) == build_of([("chr1", 249250621), ("chrX", 155270560)]) == "GRCh37 (hg19)"
    assert build_of([("chr20", 64444167), ("chrUn", 7)]) == "GRCh38 (hg38)"
    assert build_of([("1", 247249719)]) == "GRCh36 (hg18)"
    assert build_of([("chr1", 248387328)]) == "T2T-CHM13v2.0 (hs1)"


def test_no_build_is_guessed():
    for contigs in ([], [("20", None)], [("20", 5_000_000)], [("7", 63025520)], [("1", 249250621), ("20", 64444167)]):
        assert build_of(contigs) is None


def on_build(vcf, length, shift=0):
    return Vcf(vcf.samples, [replace(r, pos=r.pos + shift) for r in vcf.records], {"20": length})


@pytest.fixture
def builds(data, tmp_path):
    """A panel on GRCh37, and how to write the targets with another length and elsewhere."""
    ref = on_build(data.panel, 63025520).save(tmp_path / "b37.vcf.gz")

    def chip(length, shift=0):
        return on_build(data.target, length, shift).save(tmp_path / "target.vcf.gz")

    return ref, chip


LIFT = "are on GRCh38 (hg38) and the panel"


def test_two_builds_are_named_before_the_run_and_where_nothing_fits(data, builds, tmp_path, caplog):
    ref, chip = builds
    with pytest.raises(InputError) as error:
        impute(data, tmp_path / "out.vcf.gz", ref=ref, target=chip(64444167, 1))
    for text in (str(error.value), caplog.records[0].message):
        assert LIFT in text and "on GRCh37 (hg19): lift the targets over to GRCh37 (hg19)" in text
    assert "check that both" not in str(error.value)
    caplog.clear()
    half = [
        misspelled(r, False, True) if i % 3 == 1 else replace(r, pos=r.pos + (i % 3 > 1))
        for i, r in enumerate(data.target.records)
    ]
    target = Vcf(data.target.samples, half, {"20": 64444167}).save(tmp_path / "half.vcf.gz")
    impute(data, tmp_path / "out.vcf.gz", ref=ref, target=target)
    assert LIFT in caplog.records[0].message
    (few,) = [r.message for r in caplog.records if "target sites are in the panel" in r.message]
    assert LIFT in few and "add --swap-alleles" not in caplog.text


@pytest.mark.parametrize("length", [63025520, 5_000_000])
def test_one_build_or_unknown_ones_give_the_general_advice(data, builds, tmp_path, caplog, length):
    ref, chip = builds
    with pytest.raises(InputError, match="check that both use the same genome build"):
        impute(data, tmp_path / "out.vcf.gz", ref=ref, target=chip(length, 1))
    assert "lift" not in caplog.text


def test_targets_that_are_all_misspelled_are_told_the_options(data, tmp_path):
    records = [misspelled(r, not is_palindrome(r), True) for r in data.target.records if not r.name.startswith("own")]
    chip = replace(data.target, records=records).save(tmp_path / "chip.vcf.gz")
    words = ["run", "--ref", data.ref, "--target", chip, "--out", tmp_path / "out.vcf.gz"]
    expect_refusal(tmp_path, words, "no target site is in the panel", "add --fix-strand --swap-alleles")
