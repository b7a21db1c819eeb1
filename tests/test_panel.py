"""Compiled panels: the same as what they were compiled from, whatever is asked of them."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import safetensors.numpy
from conftest import (
    ALL,
    FAST_SWITCHING,
    GIVEN,
    PANEL_KINDS,
    Vcf,
    alt_counts,
    expect_refusal,
    impute,
    matrix,
    r2,
    read_rows,
    run_cli,
    same_files,
    simulate,
    write_map,
)

from npimpute.errors import InputError
from npimpute.panel import panel as panel_module
from npimpute.panel.genetic_map import read_genetic_map
from npimpute.panel.panel import CompiledPanel, compile_panel, open_panel
from npimpute.types import Sites
from npimpute.vcf.region import Region


@pytest.mark.parametrize("kind", PANEL_KINDS)
def test_a_panel_of_any_kind_gives_the_same_bytes(data, whole, panels, tmp_path, kind):
    assert same_files(impute(data, tmp_path / "out.vcf.gz", ref=panels[kind], formats=ALL), whole)


def test_contigs_of_the_header_without_records_are_the_same_from_a_compiled_panel(data, tmp_path):
    panel = replace(data.panel, contigs={"19": 6_000_000, "20": 5_000_000, "21": 4_000_000})
    ref = panel.save(tmp_path / "panel.vcf.gz")
    compile_panel(open_panel(ref), tmp_path / "panel.npp")
    a = impute(data, tmp_path / "a.vcf.gz", ref=ref)
    assert same_files(a, impute(data, tmp_path / "b.vcf.gz", ref=tmp_path / "panel.npp"))


def test_windows_do_not_depend_on_the_kind_of_panel(data, panels, tmp_path):
    options = {"core_cm": 2.0, "flank_cm": 1.0, "all_typed_sites": True}
    a = impute(data, tmp_path / "a.vcf.gz", **options)
    for kind in PANEL_KINDS:
        assert same_files(a, impute(data, tmp_path / f"{kind}.vcf.gz", ref=panels[kind], **options)), kind


@pytest.mark.parametrize("ref", [None, *PANEL_KINDS])
@pytest.mark.parametrize("region", ["20", "20:700,000-1,600,000", "chr20:1500000-", "20:1-300000"])
def test_a_region_gives_its_part_of_the_whole(data, fast_rows, panels, tmp_path, ref, region):
    start, _, end = region.partition(":")[2].replace(",", "").partition("-")
    first, last = int(start or 1), int(end or 10**9)
    ref = panels[ref] if ref else data.ref
    rows = read_rows(impute(data, tmp_path / "out.vcf.gz", ref=ref, region=region, **FAST_SWITCHING))
    inside = [row for row in fast_rows if first <= row.pos <= last]
    assert [(row.contig, *row.key) for row in rows] == [(row.contig, *row.key) for row in inside]
    assert np.abs(matrix(rows) - matrix(inside)).max() < 2e-3
    assert ["TYPED" in row.info for row in rows] == ["TYPED" in row.info for row in inside]


def repeated(data):
    """Two positions of contig 20, far apart, that occur twice."""
    found = [a.pos for a, b in zip(data.panel.records, data.panel.records[1:], strict=False) if a.pos == b.pos]
    return found[5], found[-5]


@pytest.mark.parametrize("ref", [None, *PANEL_KINDS])
def test_both_ends_of_a_region_are_in_it(data, panels, tmp_path, ref):
    first, last = repeated(data)
    wanted = [record.key for record in data.panel.records if first <= record.pos <= last]
    ref = panels[ref] if ref else data.ref
    rows = read_rows(impute(data, tmp_path / "out.vcf.gz", ref=ref, region=f"20:{first}-{last}"))
    assert [row.key for row in rows] == wanted


@pytest.mark.parametrize("kind", ["panel.vcf.gz", "panel.bcf", "panel.npp"])
def test_leaving_samples_out_is_as_if_they_were_not_in_the_file(data, panels, tmp_path, kind):
    left = [i for i in range(60) if i % 7]
    small = impute(data, tmp_path / "small.vcf.gz", ref=data.panel.columns(left).save(tmp_path / "small-panel.vcf.gz"))
    ref = panels.get(kind, data.ref)
    names = {"samples": [f"P{i}" for i in left], "exclude_samples": [f"P{i}" for i in range(0, 60, 7)]}
    for option, chosen in names.items():
        (tmp_path / option).write_text("\n".join(chosen) + "\n")
        out = impute(data, tmp_path / f"{option}.vcf.gz", ref=ref, **{option: tmp_path / option})
        assert same_files(out, small), option


@pytest.fixture(scope="module")
def mixed(data, tmp_path_factory):
    """A panel of three contigs, one of them with one record, and its compiled form with a genetic map."""
    folder = tmp_path_factory.mktemp("mixed")
    more = [replace(r, contig="chr7") for r in data.panel.records[:50]]
    records = [*data.panel.records, *more, replace(data.panel.records[3], contig="X", pos=5)]
    vcf = replace(data.panel, records=records, contigs={"20": 5_000_000, "chr7": 159_345_973, "X": 156_040_895})
    ref = vcf.save(folder / "panel.vcf.gz")
    lines = [f"{c} . {cm} {bp}\n" for c in ("20", "7", "X") for bp, cm in ((1, 0), (900_000, 3), (6_000_000, 9))]
    (folder / "map.txt").write_text("".join(lines))
    compile_panel(open_panel(ref), folder / "panel.npp", read_genetic_map(folder / "map.txt"))
    return ref, folder / "panel.npp", folder / "map.txt"


def joined(panel):
    """Contig -> (sites, bits, k), whatever the chunks."""
    parts = {}
    for chunk in panel:
        parts.setdefault(chunk.sites.contig, []).append(chunk)
    return {
        contig: (Sites.concat([c.sites for c in chunks]), np.concatenate([c.bits for c in chunks]), chunks[0].k)
        for contig, chunks in parts.items()
    }


def assert_same(a, b):
    assert (a.samples, a.k, a.contigs) == (b.samples, b.k, b.contigs)
    a, b = joined(a), joined(b)
    assert list(a) == list(b)
    for contig in a:
        (ours, bits, k), (theirs, their_bits, their_k) = a[contig], b[contig]
        assert (ours.ids, ours.ref, ours.alt, k) == (theirs.ids, theirs.ref, theirs.alt, their_k)
        for x, y in ((ours.pos, theirs.pos), (bits, their_bits)):
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize(
    "region", [None, "20", "chr20:500000-900000", "7:1-200000", "X", "20:1,000,000-", "X:6-10", "20:{}-{}"]
)
@pytest.mark.parametrize("samples", [{}, {"keep_samples": {"P3", "P40", "P7"}}, {"drop_samples": {"P0", "P59"}}])
def test_a_compiled_panel_is_its_source(data, mixed, monkeypatch, region, samples):
    monkeypatch.setattr(panel_module, "CHUNK_BYTES", 1000)
    region = Region.parse(region.format(*repeated(data))) if region else None
    source, compiled = (open_panel(path, region, **samples) for path in mixed[:2])
    assert isinstance(compiled, CompiledPanel)
    assert_same(compiled, source)
    assert_same(compiled, source)


def test_a_compiled_panel_can_be_compiled_again(mixed, tmp_path):
    compile_panel(open_panel(mixed[1], keep_samples={"P3", "P40"}), tmp_path / "two.npp")
    assert_same(open_panel(tmp_path / "two.npp"), open_panel(mixed[0], keep_samples={"P3", "P40"}))


def test_same_source_same_bytes(data, panels, tmp_path):
    compile_panel(open_panel(data.ref), tmp_path / "panel.npp")
    assert (tmp_path / "panel.npp").read_bytes() == panels["panel.npp"].read_bytes()


def test_describe(mixed, tmp_path):
    ref, _, genetic_map = mixed
    out = tmp_path / "panel.npp"
    status, printed, log = run_cli("panel", "--ref", ref, "--out", out, "--map", genetic_map)
    assert (status, log) == (0, "")
    assert run_cli("panel", "--describe", out) == (0, printed, "")
    table = [line.split("\t") for line in printed.splitlines()]
    values = {row[0]: row[1] for row in table if row[0] != "contig"}
    assert values["file"] == str(out)
    assert (values["source"], values["map"], values["version"]) == ("panel.vcf.gz", "map.txt", "1")
    assert (values["samples"], values["haplotypes"]) == ("60", "120")
    first, last = open_panel(out).sites_by_contig["20"][1:]
    assert ["contig", "20", "645 sites", f"{first}-{last}"] in table
    assert ["contig", "chr7", "50 sites"] in [row[:3] for row in table]
    assert ["contig", "X", "1 sites", "5-5"] in table


def test_the_checksum_is_that_of_the_source(mixed):
    assert open_panel(mixed[1]).metadata["sha256"] == hashlib.sha256(mixed[0].read_bytes()).hexdigest()


def test_the_compiled_genetic_map_is_used_unless_another_is_given(data, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("20 . 0 1\n20 . 3 5000000\n")
    compile_panel(open_panel(data.ref), tmp_path / "panel.npp", read_genetic_map(data.map))
    compiled = {"ref": tmp_path / "panel.npp", "core_cm": 6.0}
    for name, options in {"plain": {}, "region": {"region": "20:900000-1500000"}}.items():
        whole = impute(data, tmp_path / f"{name}.vcf.gz", core_cm=6.0, **options)
        kept = impute(data, tmp_path / f"{name}-kept.vcf.gz", map=None, **compiled, **options)
        assert same_files(kept, whole), name
    given = impute(data, tmp_path / "given.vcf.gz", map=other, **compiled)
    assert same_files(given, impute(data, tmp_path / "source.vcf.gz", map=other, core_cm=6.0))
    assert not same_files(given, tmp_path / "plain.vcf.gz")


@pytest.mark.parametrize("region", [[], ["--region", "X"]], ids=["whole", "region"])
def test_a_contig_with_one_record_needs_no_more_of_a_map(data, mixed, tmp_path, region):
    record = replace(
        data.target.records[0], contig="X", pos=5, ref=data.panel.records[3].ref, alt=data.panel.records[3].alt
    )
    chip = replace(data.target, records=[*data.target.records, record], contigs={"20": 5_000_000, "X": 156_040_895})
    target = chip.save(tmp_path / "chip.vcf.gz")
    words = ["run", "--ref", mixed[1], "--target", target, "--out", tmp_path / "out.vcf", *region]
    status, _, log = run_cli(*words)
    assert status == 0
    assert all(line.startswith(("I ", "W ")) for line in log.splitlines()), log
    assert read_rows(tmp_path / "out.vcf")[-1].contig == "X"


def test_safetensors_opens_it(data, panels):
    tensors = safetensors.numpy.load_file(panels["panel.npp"])
    records = data.panel.records
    assert tensors["pos"].tolist() == [record.pos for record in records]
    assert tensors["samples"].tobytes().decode().split("\n") == data.panel.samples
    ends = tensors["alt_end"].tolist()
    alt = tensors["alt"].tobytes().decode()
    assert [alt[a:b] for a, b in zip([0, *ends], ends, strict=False)] == [record.alt for record in records]
    carried = np.unpackbits(tensors["bits"], axis=1, bitorder="little")
    rows = [record.alleles == a + 1 for record in records for a in range(record.alt.count(",") + 1)]
    np.testing.assert_array_equal(carried[:, :120], rows)


def test_files_of_other_programs_and_versions_are_refused(panels, tmp_path):
    path = tmp_path / "panel.npp"
    tensors = safetensors.numpy.load_file(panels["panel.npp"])
    good = open_panel(panels["panel.npp"]).metadata
    for metadata in (None, {"format": "weights"}):
        safetensors.numpy.save_file(tensors, path, metadata)
        with pytest.raises(InputError, match="not a compiled panel; give VCF"):
            open_panel(path)
    for version in ("0", "3", "12"):
        safetensors.numpy.save_file(tensors, path, good | {"version": version})
        with pytest.raises(InputError, match=f"format version {version}, not 1 or 2; compile it again"):
            open_panel(path)


@pytest.mark.parametrize("lost", ["bits", "samples"])
def test_a_file_that_lacks_a_tensor_is_refused(data, panels, tmp_path, lost):
    tensors = safetensors.numpy.load_file(panels["panel.npp"])
    del tensors[lost]
    safetensors.numpy.save_file(tensors, tmp_path / "panel.npp", open_panel(panels["panel.npp"]).metadata)
    with pytest.raises(InputError, match=r"panel\.npp.*compile it again"):
        impute(data, tmp_path / "out.vcf.gz", ref=tmp_path / "panel.npp")


@pytest.mark.parametrize("share", [0.0001, 0.01, 0.3, 0.7, 0.9999])
def test_a_truncated_file_is_refused(panels, tmp_path, share):
    data = panels["panel.npp"].read_bytes()
    (tmp_path / "panel.npp").write_bytes(data[: max(9, int(share * len(data)))])
    with pytest.raises(InputError, match="damaged or incomplete"):
        open_panel(tmp_path / "panel.npp")


def test_the_header_keeps_to_its_place_however_long_the_source_s_name(data, tmp_path):
    ref = data.panel.save(tmp_path / f"{'ü' * 100}.vcf.gz")
    compile_panel(open_panel(ref), tmp_path / "panel.npp")
    header = (tmp_path / "panel.npp").read_bytes()[8 : panel_module.HEADER_BYTES]
    assert json.loads(header)["__metadata__"]["source"] == ref.name
    assert_same(open_panel(tmp_path / "panel.npp"), open_panel(ref))


FAILURES = {
    "unphased": ({"bad": "0/1"}, "is not phased"),
    "missing": ({"bad": ".|."}, "is missing"),
    "no such file": ({"--ref": "absent.vcf.gz"}, "absent.vcf.gz"),
    "not a panel": ({"--ref": "map.txt"}, "neither VCF nor BCF"),
    "map of another contig": ({"--map": "other.txt"}, "no map for contig '20'"),
    "no map": ({"--map": "absent.txt"}, "absent.txt"),
    "suffix": ({"--out": "panel.bin"}, "must end in .npp"),
    "no directory": ({"--out": "nowhere/panel.npp"}, "does not exist"),
    "exists": ({"--out": "there.npp"}, "exists already"),
    "threads": ({"--threads": "0"}, "at least one"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_compilation_that_fails_leaves_nothing(data, tmp_path, name):
    changes, message = FAILURES[name]
    vcf = replace(data.panel, records=list(data.panel.records))
    if "bad" in changes:
        vcf.records[-2] = vcf.records[-2].with_call(9, changes["bad"])
    vcf.save(tmp_path / "panel.vcf.gz")
    (tmp_path / "map.txt").write_text("20 . 0 1\n20 . 3 5000000\n")
    (tmp_path / "other.txt").write_text("7 . 0 1\n7 . 3 5000000\n")
    (tmp_path / "there.npp").write_text("precious")
    options = {"--ref": "panel.vcf.gz", "--out": "panel.npp", "--map": "map.txt"} | changes
    options.pop("bad", None)
    files = {key: value if key == "--threads" else tmp_path / value for key, value in options.items()}
    expect_refusal(tmp_path, ["panel", *(word for pair in files.items() for word in pair)], message)


@pytest.mark.parametrize("file", ["panel.vcf.gz", "absent.npp", "foreign.npp"])
def test_describe_refuses_what_is_no_compiled_panel(data, tmp_path, file):
    data.panel.save(tmp_path / "panel.vcf.gz")
    safetensors.numpy.save_file({"x": np.zeros(3)}, tmp_path / "foreign.npp")
    expect_refusal(tmp_path, ["panel", "--describe", tmp_path / file], file)


def test_overwrite_replaces_a_compiled_panel(data, tmp_path):
    out = tmp_path / "panel.npp"
    out.write_text("old")
    compile_panel(open_panel(data.ref), out, overwrite=True)
    assert_same(open_panel(out), open_panel(data.ref))


def three_contigs(data):
    """Panel with contigs 20, 21 and 22, targets with chr20 and 22."""
    more = [data, *(simulate(contig, n_sites=90, seed=seed) for contig, seed in (("21", 21), ("22", 22)))]
    contigs = {name: 5_000_000 for name in ("20", "21", "22")}
    panel = Vcf(data.panel.samples, [r for part in more for r in part.panel.records], contigs)
    chip = more[0].target.renamed({"20": "chr20"}).records + more[2].target.records
    chip += [replace(record, contig="7") for record in more[2].target.records[:5]]
    return panel, Vcf(data.target.samples, chip, {"chr20": 5_000_000, "22": 5_000_000, "7": 5_000_000}), more[2].truth


def test_several_contigs_each_with_its_own_targets(data, whole, tmp_path):
    panel, target, truth = three_contigs(data)
    ref, chip = panel.save(tmp_path / "panel.vcf.gz"), target.save(tmp_path / "chip.vcf.gz")
    genetic_map = write_map(tmp_path / "map.txt", ("20", "21", "22"))
    args = ["--ref", ref, "--target", chip, "--map", genetic_map, "--ne", GIVEN["ne"], "--err", GIVEN["err"]]
    args += ["--engine", "li-stephens"]
    status, _, log = run_cli("run", *args, "--format", ",".join(ALL), "--out", tmp_path / "out.vcf.gz")
    assert status == 0
    assert [line for line in log.splitlines() if line.startswith("W ")] == [
        "W contig 21 of the panel has no target sites and is not imputed",
        "W contig 7 of the targets (5 sites) is not in the panel",
    ]
    rows = read_rows(tmp_path / "out.vcf.gz")
    assert [row for row in rows if row.contig == "20"] == read_rows(whole)
    rest = [row for row in rows if row.contig != "20"]
    assert [(row.contig, row.key) for row in rest] == [(record.contig, record.key) for record in truth.records]
    assert r2(matrix(rest), alt_counts(truth.records)) > 0.8
    compile_panel(open_panel(ref), tmp_path / "panel.npp", read_genetic_map(genetic_map))
    compiled = {"ref": tmp_path / "panel.npp", "target": chip, "map": None}
    assert same_files(impute(data, tmp_path / "npp.vcf.gz", formats=ALL, **compiled), tmp_path / "out.vcf.gz")
    only = impute(data, tmp_path / "22.vcf.gz", formats=ALL, region="chr22", **compiled)
    assert read_rows(only) == rest
