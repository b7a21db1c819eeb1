"""Figures and pages of benchmark results: they show the values of the results, all of them, and nothing else."""

import base64
import copy
import itertools
import struct
from html.parser import HTMLParser

import numpy as np
import pytest

from npimpute.benchmark import plots as module
from npimpute.benchmark.metrics import MEASURES
from npimpute.benchmark.page import GLOSSARY, WORDS, page, write_page
from npimpute.errors import ConfigError, InputError

BINS = {"all": 0.06, "0": 0.0, "0-0.002": 0.0017, "0.01-0.02": 0.015, "0.2-0.5": 0.33}
R2 = {"npssm": (0.93, 0.0, 0.2, 0.6, 0.95), "knn": (0.7, 0.0, 0.01, 0.1, 0.65), "beagle": (0.92, 0.0, 0.15, 0.55, 0.94)}
SECONDS = {"npssm": 10.0, "knn": 4.0, "beagle": 4.4}


@pytest.fixture
def plots():
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    return module


def around(value, by=0.01):
    return [value, value - by, value + by]


def program(name, ours=True):
    bins = []
    for (bin_name, maf), r2, reference in zip(BINS.items(), R2[name], R2["beagle"], strict=True):
        bins.append({"bin": bin_name, "alleles": 1000 + len(bins), "maf": maf, "genotypes": 9, "measures": {}})
        bins[-1]["measures"] = {measure: around(r2) for measure in MEASURES}
        if name != "beagle":
            bins[-1]["difference"] = {measure: around(r2 - reference, 0.002) for measure in MEASURES}
    table = [{"low": 0, "high": 1, "n": 5, "predicted": 0.1 + i, "true": 0.2 + i * R2[name][0]} for i in (0, 0.5)]
    said = {"dosage": table, "probability": table[:1], "quality": {"bins": table[1:], "by_maf": {}} if ours else {}}
    costs = {"seconds": SECONDS[name], "cpu_seconds": 9.0, "peak_mb": 310.0, "prepare_seconds": None}
    return {
        "name": name, "label": name.title(), "version": "1.2", "ours": ours, "status": "done", "reason": None,
        "alleles_written": 1000, "command": f"{name} <in >out", "warm_up_seconds": 1.5, "runs": [[1.0]],
        "bins": bins, "calibration": said, "samples": [],
    } | costs  # fmt: skip


def imputation():
    failed = {"name": "impute5", "label": "IMPUTE5", "version": "", "ours": False}
    failed |= {"status": "missing", "reason": "not <installed>"}
    return {
        "kind": "imputation", "npimpute": "0.1.0", "date": "2026-01-02", "machine": {"processor": "Fast & <cheap>"},
        "settings": {"panel": "panel.vcf.gz", "truth": None}, "data": [{"name": "fold1", "haplotypes": 600}],
        "alleles": 1000, "compared": 1000, "reference": "beagle",
        "programs": [program("npssm"), failed, program("knn"), program("beagle", False)],
    }  # fmt: skip


def entry(name, exponent, ours=True):
    points = [
        {"x": x, "seconds": x / 50, "cpu_seconds": x / 40, "peak_mb": 100.0 + x, "r2_pooled": 1 - 1 / x}
        for x in (400, 100, 200)
    ]
    powers = {"seconds": exponent, "cpu_seconds": None, "peak_mb": None}
    return {"name": name, "label": name.title(), "ours": ours, "points": points, "exponents": powers}


def scaling():
    entries = [entry("npssm", 1.04), entry("beagle", None, False)]
    return {"kind": "scaling", "axes": {"panel": entries, "targets": [], "context": copy.deepcopy(entries[:1])}}


def ablation():
    rows = [("whole", 0.91, 0.98), ("without <a>", 0.9, None), ("without b", None, 0.97)]
    names = ("name", "label", "r2_pooled", "published", "steps")
    tables = [[dict(zip(names, (row[0], *row, 2000), strict=True)) for row in rows[:n]] for n in (3, 2, 1)]
    return {
        "kind": "ablation",
        "tables": [{"name": f"t{i}", "title": f"Table {i}", "rows": t} for i, t in enumerate(tables)],
    }


def without_values(value):
    """The same results with None for every measured number."""
    if isinstance(value, dict):
        kept = ("x", "maf", "alleles", "bin", "low", "high", "compared", "n", "people")
        return {name: part if name in kept else without_values(part) for name, part in value.items()}
    if isinstance(value, list):
        return [without_values(part) for part in value]
    return None if isinstance(value, float) else value


def drawn(ax):
    """Label -> (x, y), of lines with and without intervals."""
    lines = {line.get_label(): line.get_xydata().T for line in ax.lines if not line.get_label().startswith("_")}
    return lines | {bars.get_label(): bars[0].get_xydata().T for bars in ax.containers if hasattr(bars, "has_yerr")}


def check_png(path):
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert all(500 < side < 4000 for side in struct.unpack(">II", data[16:24]))
    assert len(data) > 5000


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("values", [lambda results: results, without_values], ids=["values", "none"])
def test_every_figure_is_saved(plots, tmp_path, values):
    folder = tmp_path / "new"
    made = plots.imputation_plots(values(imputation()), folder)
    made += plots.scaling_plots(values(scaling()), folder) + plots.ablation_plots(values(ablation()), folder)
    names = ["r2_by_maf", "calibration", "time_accuracy", "scaling_panel", "scaling_context", "ablation"]
    assert [path.name for path in made] == [f"{name}.png" for name in names]
    assert sorted(folder.iterdir()) == sorted(made)
    for path in made:
        check_png(path)


def test_frequency_figure_has_the_values_of_the_bins(plots):
    results = imputation()
    left, right = plots.maf_figure(results).axes
    assert set(drawn(left)) == {"Npssm", "Knn", "Beagle"}
    assert set(drawn(right)) == {"Npssm", "Knn"}
    for name, values in R2.items():
        x, y = drawn(left)[name.title()]
        np.testing.assert_allclose(y, values[2:])
        np.testing.assert_allclose(x, list(BINS.values())[2:], rtol=0.05)
    difference = np.subtract(R2["knn"], R2["beagle"])[2:]
    np.testing.assert_allclose(drawn(right)["Knn"][1], difference)
    bars = next(bars for bars in right.containers if bars.get_label() == "Knn")[2][0].get_segments()
    np.testing.assert_allclose([bar[:, 1] for bar in bars], [(d - 0.002, d + 0.002) for d in difference])
    assert "Beagle" in right.get_title()


def test_undefined_values_are_left_out_alone(plots):
    results = imputation()
    bins = results["programs"][0]["bins"]
    bins[2]["measures"]["r2_pooled"] = [None, None, None]
    bins[3]["measures"]["r2_pooled"] = [0.6, None, None]
    left, _ = plots.maf_figure(results).axes
    np.testing.assert_allclose(drawn(left)["Npssm"][1], [0.6, 0.95])
    assert len(drawn(left)["Knn"][1]) == 3


def test_calibration_figure_has_predicted_and_true(plots):
    dosage, probability, quality = plots.calibration_figure(imputation()).axes
    np.testing.assert_allclose(drawn(dosage)["Knn"], [[0.1, 0.6], [0.2, 0.2 + 0.5 * 0.7]])
    np.testing.assert_allclose(drawn(probability)["Beagle"], [[0.1], [0.2]])
    assert set(drawn(quality)) == {"Npssm", "Knn"}


def test_costs_are_labelled_without_overlap(plots):
    from matplotlib.text import Text

    results = imputation()
    time, memory = plots.cost_figure(results).axes
    for name, values in R2.items():
        np.testing.assert_allclose(drawn(time)[name.title()], [[SECONDS[name]], [values[0]]])
        np.testing.assert_allclose(drawn(memory)[name.title()], [[310], [values[0]]])
    crowd = [program("npssm") | {"label": f"crowded {i}", "seconds": 9 + i / 10} for i in range(6)]
    figure = plots.cost_figure(results | {"programs": crowd})
    figure.draw_without_rendering()
    for ax in figure.axes:
        assert sorted(text.get_text() for text in ax.texts) == [part["label"] for part in crowd]
        boxes = [Text.get_window_extent(text) for text in ax.texts]  # without the line that leads there
        assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


def test_peers_are_dashed_and_colours_stay(plots):
    results = imputation()
    colours = {}
    for ax in (plots.maf_figure(results).axes[0], plots.calibration_figure(results).axes[0]):
        lines = [bars[0] for bars in ax.containers] or [line for line in ax.lines if line.get_label()[0] != "_"]
        assert [line.get_linestyle() for line in lines] == ["-", "-", "--"]
        for name, line in zip(R2, lines, strict=True):
            colours.setdefault(name, set()).add(line.get_color())
    assert sorted(map(len, colours.values())) == [1, 1, 1]
    assert len(set.union(*colours.values())) == 3


def test_scaling_figure_is_logarithmic_and_sorted(plots):
    results = scaling()
    results["axes"]["panel"][1]["points"][0]["seconds"] = None
    results["axes"]["panel"][1]["points"][2]["seconds"] = 0.0
    time, memory = plots.scaling_figure(results, "panel").axes
    assert {ax.get_xscale() + ax.get_yscale() for ax in (time, memory)} == {"loglog"}
    np.testing.assert_allclose(drawn(time)["Npssm: exponent 1.04"], [[100, 200, 400], [2, 4, 8]])
    np.testing.assert_allclose(drawn(time)["Beagle"], [[100], [2]])
    np.testing.assert_allclose(drawn(memory)["Npssm"], [[100, 200, 400], [200, 300, 500]])


def test_only_context_has_accuracy(plots):
    *_, accuracy = plots.scaling_figure(scaling(), "context").axes
    np.testing.assert_allclose(drawn(accuracy)["Npssm"], [[100, 200, 400], [0.99, 0.995, 0.9975]])
    assert (accuracy.get_xscale(), accuracy.get_yscale()) == ("log", "linear")


def test_noise_does_not_look_like_growth(plots):
    results = scaling()
    for i, point in enumerate(results["axes"]["context"][0]["points"]):
        point |= {"seconds": 10 + i / 10, "peak_mb": 300 + i, "r2_pooled": 0.9 + i / 1e5}
    for ax in plots.scaling_figure(results, "context").axes:
        low, high = ax.get_ylim()
        assert high / low == pytest.approx(2) if ax.get_yscale() == "log" else high - low == pytest.approx(0.01)
        assert all(low < y < high for y in drawn(ax).popitem()[1][1])


def test_ablation_bars_end_at_the_values(plots):
    first, *_ = plots.ablation_figure(ablation()).axes
    assert [bar.get_x() + bar.get_width() for bar in first.patches] == pytest.approx([0.91, 0.9])
    assert [text.get_text().strip() for text in first.texts] == ["0.9100", "0.9000", "no value"]
    labels = [label.get_text() for label in first.get_yticklabels()]
    assert labels[0].endswith("published, other data: 0.98")
    assert "published" not in labels[1]
    assert f"axis from {first.get_xlim()[0]:g}" in first.get_xlabel()


@pytest.mark.filterwarnings("error")
def test_any_label_can_be_drawn(plots, tmp_path):
    results = imputation()
    for i, label in enumerate(("_hidden", None, "price $x_{$ $", "npssm:" + "models/" * 40)):
        results["programs"][i]["label"] = label or "missing"
    plots.imputation_plots(results, tmp_path)
    texts = [text.get_text() for text in plots.maf_figure(results).legends[0].get_texts()]
    assert texts[0].strip() == "_hidden"
    assert texts[1] == r"price \$x_{\$ \$"
    assert len(texts[2]) == module.LONGEST_LABEL
    many = [program("npssm") | {"name": f"p{i}", "label": f"program {i}"} for i in range(20)]
    plots.imputation_plots(results | {"programs": many}, tmp_path)


def test_without_matplotlib(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"npimpute\[plot\]"):
        module.imputation_plots(imputation(), tmp_path)


class Outline(HTMLParser):
    """Fails where tags do not match. images: src; tables: rows of texts."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.images, self.tables = [], set(), [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag == "img":
            self.images.append(dict(attrs)["src"])
        if tag not in ("img", "meta"):
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += ("*" if "b" in self.open else "") + data

    def table(self, head):
        return next(table for table in self.tables if table[0][: len(head)] == head)


@pytest.mark.parametrize("values", [lambda results: results, without_values], ids=["values", "none"])
@pytest.mark.parametrize("make", [imputation, scaling, ablation])
def test_page_stands_alone(make, values, tmp_path):
    results, path = values(make()), tmp_path / "page.html"
    entries = [
        *results.get("programs", []),
        *(e for part in results.get("axes", {}).values() for e in part),
        *(row for table in results.get("tables", []) for row in table["rows"]),
    ]
    for i, part in enumerate(entries):
        part["label"] = f"<script>alert({i})</script>&"
    images = [b"one", b"two"]
    files = [tmp_path / f"{i}.png" for i in range(2)]
    for file, data in zip(files, images, strict=True):
        file.write_bytes(data)
    write_page(results, files, path)
    assert sorted(tmp_path.iterdir()) == sorted([*files, path])
    text = path.read_text(encoding="utf-8")
    outline = Outline(text)
    assert outline.images == ["data:image/png;base64," + base64.b64encode(data).decode() for data in images]
    assert not outline.tags & {"script", "link", "iframe"}
    assert "<script" not in text and "url(" not in text and "@import" not in text
    for i in range(len(entries)):
        assert f"&lt;script&gt;alert({i})&lt;/script&gt;&amp;" in text


def test_imputation_page_has_the_values():
    text = page(imputation(), [])
    outline = Outline(text)
    head, *rows = outline.table(["program", "version"])
    assert [row[0] for row in rows] == ["Npssm", "Knn", "Beagle"]
    assert rows[0][2:4] == ["0.9300[0.9200, 0.9400]", "+0.0100[+0.0080, +0.0120]"]
    assert rows[2][3] == "–"
    assert rows[0][head.index("time, s")] == "10"
    assert rows[0][head.index("preparing, s")] == "–"
    head, *rows = outline.table(["program", "all1,000 alleles"])
    assert head[3] == "0-0.0021,002 alleles"
    assert [row[3] for row in rows] == ["*0.2000", "0.0100", "0.1500"]
    assert [row[2] for row in rows] == ["0.0000"] * 3
    for fact in ("2026-01-02", "0.1.0", "panel.vcf.gz", "Fast &amp; &lt;cheap&gt;", "fold1", "npssm &lt;in &gt;out"):
        assert fact in text
    assert ["panel", "panel.vcf.gz"] in next(table for table in outline.tables if table[0][0] == "panel")
    assert "<td>truth</td>" not in text
    assert "<dt>IMPUTE5</dt><dd>missing: not &lt;installed&gt;</dd>" in text


def test_page_tells_of_alleles_that_were_not_written():
    results = imputation()
    results["programs"][2]["alleles_written"] = 900
    assert "<dt>Knn</dt><dd>did not write 100 of 1,000 alleles</dd>" in page(results, [])


def test_page_has_populations():
    results = imputation()
    for i, part in enumerate(results["programs"]):
        measures = {"r2_pooled": around(0.5 + i / 10)}
        part["populations"] = {"G<B>": [{"bin": "all", "people": 91, "measures": measures}]}
    head, *rows = Outline(page(results, [])).table(["program", "G<B>91 people"])
    assert [row[1][:6] for row in rows] == ["0.5000", "0.7000", "0.8000"]


def test_scaling_and_ablation_pages_have_the_values():
    failures = [{"label": "IMPUTE5", "status": "failed", "reason": "signal 9"}]
    text = page(scaling() | {"failures": failures}, [])
    assert "<dt>IMPUTE5</dt><dd>failed: signal 9</dd>" in text
    outline = Outline(text)
    assert ["Npssm", "400", "8", "10", "500", "0.9975"] in outline.table(["program", "haplotypes of the panel"])
    assert ["Npssm", "1.04", "–", "–"] in outline.table(["program", "time"])
    results = ablation()
    results["tables"][0]["rows"][0]["r2_mean"] = 0.5
    results["tables"][0]["rows"][2]["reason"] = "diverged"
    text = page(results, [])
    assert "<dt>Table 0: without b</dt><dd>diverged</dd>" in text
    head, *rows = Outline(text).table(["", "pooled r² (ALT)"])
    assert rows == [
        ["whole", "*0.9100", "0.5000", "2,000", "0.98"],
        ["without <a>", "0.9000", "–", "2,000", "–"],
        ["without b", "–", "–", "2,000", "0.97"],
    ]


def test_every_word_of_a_page_is_explained():
    assert all(set(words) <= set(GLOSSARY) for words in WORDS.values())
    assert set().union(*WORDS.values()) == set(GLOSSARY)


def test_pages_that_cannot_be_made(tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        write_page(imputation(), [], tmp_path / "nowhere" / "page.html")
    with pytest.raises(InputError, match="lost.png: cannot be read"):
        write_page(imputation(), [tmp_path / "lost.png"], tmp_path / "page.html")
    assert list(tmp_path.iterdir()) == []
