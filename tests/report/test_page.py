"""The HTML page: well formed, self-contained, and looked at in a real browser, by day and by night, wide and narrow."""

import dataclasses
import html.parser
import re

import keras
import numpy as np
import pytest

import keras_quant as kq
from keras_quant.report.layer import BY_KEY
from keras_quant.report.model import RangeHistory
from tests.helpers import images, sequential, shake, slow
from tests.report import browser

L = keras.layers
# Of `page.css`: background, and the two colors of what is plotted.
COLORS = {False: ("#ffffff", "#2467b3", "#b9501a"), True: ("#14181d", "#6aa9f0", "#f09a63")}
WIDE, PHONE = {"width": 1400, "height": 2600}, {"width": 390, "height": 5000}


@pytest.fixture(scope="module")
def report():
    keras.utils.set_random_seed(0)
    layers = [L.Conv2D(8, 3, name="conv"), L.BatchNormalization(), L.ReLU(), L.DepthwiseConv2D(3, name="depthwise")]
    layers += [L.Conv2D(6, 1, name="pointwise"), L.Flatten(), L.Dense(5, name="logits"), L.Softmax(name="probabilities")]
    model = shake(sequential(*layers))
    qmodel = kq.quantize(model, kq.PolicyMap({"pointwise": "int16"}, default="int8"), images())
    history = {"conv": RangeHistory((0, 1, 2), (0.0, 0.0, 0.0), (3.0, 3.4, 3.5))}
    refined = kq.refine(qmodel, images(), ["gptq", "bias_correction"], verbose=0)
    return kq.report(qmodel, images(), history=history, refined=refined)


@pytest.fixture(scope="module")
def page(report, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    report.save(path)
    return path


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    return browser.find(tmp_path_factory.mktemp("profile"))


class Checker(html.parser.HTMLParser):
    """Collects elements, and complains about tags that do not match."""

    VOID = {"meta", "input", "link", "br", "img"}

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.links, self.tags = [], [], [], []

    def handle_startendtag(self, tag, attributes):
        self._note(tag, attributes)

    def handle_starttag(self, tag, attributes):
        self._note(tag, attributes)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, (tag, self.open, self.getpos())
        self.open.pop()

    def _note(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            assert name != "src" and not name.startswith("on"), (tag, name)
            self.ids += [value] if name == "id" else []
            self.links += [value] if name in ("href", "xlink:href") else []


def check(path):
    checker = Checker()
    checker.feed(path.read_text(encoding="utf-8"))
    checker.close()
    assert not checker.open
    return checker


def test_well_formed_and_self_contained(page, report):
    checker, text = check(page), page.read_text(encoding="utf-8")
    own = [name for name in checker.ids if not re.fullmatch(r"(image|[mpC])[0-9a-f_]{6,}", name)]
    assert sorted(own) == sorted(
        ["filter", "methods", "shown", "layers", *(f"layer-{i}" for i in range(len(report.layers)))]
    )
    for link in checker.links:
        assert link.startswith("data:") or link[1:] in checker.ids, link
    assert not {"link", "iframe", "img", "object", "embed"} & set(checker.tags) and checker.tags.count("script") == 1
    assert not re.search(r"@import|url\((?!#)|fetch\(|XMLHttpRequest", text)
    addresses = set(re.findall(r"https?://[^\s\"'<]+", text))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert checker.tags.count("details") == len(report.layers)


def test_figures_have_labels_and_units(page):
    text = page.read_text(encoding="utf-8")
    for label in (
        *("SQNR (dB)", "layer, in the order of execution", "clipped values (%)", "constants in the file (bytes)"),
        *("place on the grid (% of its levels)", "integer weight", "values (log)", "epochs done", "real value"),
        *("epochs done", "share of its first"),
    ):
        assert f"{label}</text>" in text, label
    for summary in (
        "<dt>MACs</dt>",
        "Most multiply-accumulates",
        "weights in float32",
        "on XNNPACK",
        "SQNR of probabilities",
        "Most bytes",
    ):
        assert summary in text, summary
    assert "#01" not in text and "#05" not in text, "a stand-in for a color of the style sheet is left"


def test_names_are_no_markup(report, tmp_path):
    name = '"><script>alert(1)</script>&$x_1$'
    layers = tuple(dataclasses.replace(layer, path=f"{layer.path}{name}", reason=name) for layer in report.layers)
    dataclasses.replace(report, name=name, layers=layers, notes=(name,)).save(tmp_path / "r.html")
    assert check(tmp_path / "r.html").tags.count("script") == 1
    assert "alert(1)</script>" not in (tmp_path / "r.html").read_text()


def test_the_same_report_gives_the_same_page(report, page, tmp_path):
    report.save(tmp_path / "again.html")
    assert (tmp_path / "again.html").read_bytes() == page.read_bytes()


def test_without_data_and_without_ranges(tmp_path):
    qmodel = kq.quantize(sequential(L.Conv2D(4, 3), L.Flatten(), L.Dense(3)))
    kq.report(qmodel).save(tmp_path / "bare.html")
    kq.calibrate(qmodel, images(), verbose=0)
    kq.report(qmodel).save(tmp_path / "r.html")
    for name in ("bare.html", "r.html"):
        check(tmp_path / name)
    bare, text = ((tmp_path / name).read_text() for name in ("bare.html", "r.html"))
    assert "never set" in bare and "Bytes by layer" not in bare
    assert "Bytes by layer" in text and "Error by layer" not in text and "integer weight" in text


def test_bad_paths_leave_nothing(report, tmp_path):
    with pytest.raises(kq.ExportError, match="Choose a folder that exists"):
        report.save(tmp_path / "none" / "r.html")
    with pytest.raises(kq.QuantizationError, match="written as `.html`"):
        report.save(tmp_path / "r.pdf")
    assert not list(tmp_path.iterdir())


# --- in a browser ---


def order(dom):
    """Paths in the table of a page's DOM, hidden rows left out."""
    body = re.search(r'<table id="layers">.*?<tbody>(.*?)</tbody>', dom, re.DOTALL).group(1)
    rows = [row for row in body.split("<tr")[1:] if "hidden" not in row.partition(">")[0]]
    return [re.search(r'href="#layer-\d+">(.*?)</a>', row).group(1) for row in rows]


@pytest.mark.parametrize("fragment, key, descending", [
    ("#sort=bytes", "bytes", None),
    ("#sort=bytes:ascending", "bytes", False),
    ("#sort=local_sqnr", "local_sqnr", None),
    ("#sort=range", "range", None),
    ("#sort=path:descending", "path", True),
])  # fmt: skip
def test_sorting(chromium, page, report, fragment, key, descending):
    dom = chromium.dom(page, fragment=fragment)
    values = {layer.path: value_of(layer, key) for layer in report.layers}
    got = [values[path] for path in order(dom)]
    assert got == [value_of(layer, key) for layer in report.sort(key, descending).layers]
    assert len(re.findall(r'<th [^>]*aria-sort="\w+"', dom)) == 1


def value_of(layer, key):
    return BY_KEY[key].value(layer)


def test_clicks_sort_and_sort_back(chromium, page, report, tmp_path):
    clicks = "<script>for (const i of [0, 1]) document.querySelector('[data-key=macs] button').click()</script></body>"
    (tmp_path / "clicked.html").write_text(page.read_text().replace("</body>", clicks))
    dom = chromium.dom(tmp_path / "clicked.html")
    macs = {layer.path: layer.macs for layer in report.layers}
    got = [macs[path] for path in order(dom)]
    assert got == sorted(macs.values()) and got != [layer.macs for layer in report.layers]
    assert re.search(r'data-key="macs"[^>]*aria-sort="ascending"', dom)


def test_filter_and_links_to_layers(chromium, page, report):
    dom = chromium.dom(page, fragment="#filter=conv2d")
    assert order(dom) == [layer.path for layer in report.layers if "conv2d" in layer.kind.lower()]
    assert f"3 of {len(report.layers)} layers" in dom
    last = report.layers[-1].index
    assert re.search(
        rf'<details class="layer" id="layer-{last}"[^>]* open=""', chromium.dom(page, fragment=f"#layer-{last}")
    )


def test_errors_of_scripts_are_seen(chromium, page, tmp_path):
    """The check that the others rely on can fail."""
    (tmp_path / "broken.html").write_text(page.read_text().replace('getElementById("layers")', 'getElementById("none")'))
    _, messages = chromium.run(tmp_path / "broken.html", "--dump-dom")
    assert any("TypeError" in message for message in messages)


def near(pixels, color, tolerance=0.05):
    """Which pixels have a color."""
    wanted = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return np.all(np.abs(pixels - wanted) < tolerance, axis=-1)


@pytest.mark.parametrize(
    "size, dark",
    [(WIDE, False), slow(WIDE, True), slow(PHONE, False), (PHONE, True)],
    ids=["wide-light", "wide-dark", "phone-light", "phone-dark"],
)
def test_plots_are_seen(chromium, page, tmp_path, size, dark):
    paper, first, second = COLORS[dark]
    pixels = chromium.screenshot(page, tmp_path / "s.png", dark=dark, **size)
    assert pixels.shape == (size["height"], size["width"], 3)
    assert near(pixels, paper).mean() > 0.5
    bare = tmp_path / "bare.html"
    bare.write_text(re.sub(r"<svg .*?</svg>", "", page.read_text(), flags=re.DOTALL))
    without = chromium.screenshot(bare, tmp_path / "b.png", dark=dark, **size)
    for color in (first, second):
        assert near(pixels, color).sum() > near(without, color).sum() + 3000, color  # links have a color, too
    assert near(pixels, COLORS[not dark][0]).mean() < 0.02, "the other scheme's background"


def test_a_narrow_page_does_not_scroll_sideways(chromium, page, tmp_path):
    measure = "<script>document.body.dataset.over = document.documentElement.scrollWidth - innerWidth</script></body>"
    (tmp_path / "m.html").write_text(page.read_text().replace("</body>", measure))
    for size in (WIDE, {"width": 500, "height": 900}):
        assert 'data-over="0"' in chromium.dom(tmp_path / "m.html", **size)


@pytest.mark.slow
def test_two_hundred_layers(chromium, report, tmp_path):
    """Long models stay usable: as many rows, plots and folded layers, and no script gives up."""
    many = [
        dataclasses.replace(report.layers[i % len(report.layers)], index=i, path=f"block_{i}/{report.layers[i % 6].path}")
        for i in range(200)
    ]
    dataclasses.replace(report, layers=tuple(many)).save(tmp_path / "many.html")
    dom = chromium.dom(tmp_path / "many.html", fragment="#sort=macs")
    assert len(order(dom)) == 200 and dom.count('<details class="layer"') == 200
    assert check(tmp_path / "many.html").tags.count("svg") > 200
    assert re.search(r">\d+ others</text>", dom)
