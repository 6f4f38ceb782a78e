"""The report in a real browser, and what it may never do."""

import re

import numpy as np
import pyarrow as pa
import pytest

from backlight.anomaly.bands import Band, score_text
from backlight.anomaly.workflow import find_anomalies
from backlight.report import svg
from backlight.report.anomaly import write_anomaly_report
from backlight.tables import as_frame

NASTY = '<script>alert("1")</script>'


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    rng = np.random.default_rng(0)
    n = 150
    table = {
        "id": [f"{NASTY}{i}" if i % 50 == 0 else f"row {i}" for i in range(n)],
        NASTY: rng.normal(size=n),
        "pressure (bar)": np.where(rng.random(n) < 0.1, np.nan, rng.normal(size=n)),
        "kind": rng.choice(["<b>bold</b>", "it's & that"], n),
        **{f"sensor {j}": rng.normal(size=n) for j in range(10)},
    }
    table[NASTY][50] = 9.0
    found = find_anomalies(as_frame(pa.table(table)), top=25)
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_anomaly_report(found, path, title=f"Why? {NASTY}", source=NASTY, provenance={"command": NASTY})
    return path, found


@pytest.fixture
def opened(browser, page):
    size(browser, 1400, 1000)
    browser.get("about:blank")
    browser.get(page[0].as_uri())
    yield browser
    assert browser.get_log("browser") == []


def size(browser, width, height):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
    )


def find(browser, css):
    return browser.find_elements("css selector", css)


def visible(browser, css):
    return [element for element in find(browser, css) if element.is_displayed()]


def test_it_is_one_file_that_asks_for_nothing(page):
    html = page[0].read_text(encoding="utf-8")

    assert not re.search(r"(src|href)=[\"']?(https?:)?//", html)
    assert "url(" not in html
    assert "@import" not in html
    assert len(html.encode()) < 400_000


def test_what_users_wrote_is_text_and_never_markup(opened):
    html = opened.page_source
    assert "<script>alert" not in html
    assert len(find(opened, "script")) == 1
    assert find(opened, "td b, th b") == [b for b in find(opened, "td b, th b") if b.text != "bold"]
    assert NASTY in opened.find_element("css selector", "h1").text


def test_the_first_row_is_open_and_a_click_opens_another(opened):
    assert [d.get_attribute("id") for d in visible(opened, ".detail")] == ["detail-1"]

    find(opened, "#rows tbody tr")[4].click()

    assert [d.get_attribute("id") for d in visible(opened, ".detail")] == ["detail-5"]
    assert (
        find(opened, "#rows tbody tr")[4].find_element("css selector", ".pick").get_attribute("aria-expanded") == "true"
    )


def test_the_keyboard_walks_through_the_ranking(opened):
    from selenium.webdriver.common.keys import Keys

    find(opened, ".pick")[0].send_keys(Keys.ARROW_DOWN)
    opened.switch_to.active_element.send_keys(Keys.ARROW_DOWN)
    assert [d.get_attribute("id") for d in visible(opened, ".detail")] == ["detail-3"]
    opened.switch_to.active_element.send_keys(Keys.END)
    assert [d.get_attribute("id") for d in visible(opened, ".detail")] == ["detail-25"]
    assert opened.current_url.endswith("#row-25")


def test_headers_sort_both_ways(opened):
    def scores():
        return [float(cell.get_attribute("data-value")) for cell in find(opened, "#rows tbody td:nth-child(3)")]

    header = find(opened, "#rows thead button")[2]
    assert scores() == sorted(scores(), reverse=True)
    header.click()
    assert scores() == sorted(scores())
    assert header.find_element("xpath", "..").get_attribute("aria-sort") == "ascending"
    header.click()
    assert scores() == sorted(scores(), reverse=True)


def test_the_lines_of_a_row_add_up_to_its_score_in_print(opened, page):
    study = page[1].study
    for i in (0, 7):
        cells = find(opened, f"#detail-{i + 1} .why tbody td:nth-child(2)")
        *parts, total = [float(cell.get_attribute("textContent").replace(",", "")) for cell in cells]
        assert abs(sum(parts) - total) <= 0.005 * (len(parts) + 1)
        assert abs(total - study.explanation.output[i]) <= 0.005


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (390, "dark"), (820, "light"), (1400, "dark")])
def test_nothing_sticks_out_at_any_width_and_text_can_be_read(opened, width, scheme):
    size(opened, width, 900)
    opened.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )

    assert opened.execute_script("return document.documentElement.scrollWidth") <= width
    ink, paper = (
        [
            int(v)
            for v in re.findall(r"\d+", opened.execute_script(f"return getComputedStyle(document.body).{name}"))[:3]
        ]
        for name in ("color", "backgroundColor")
    )
    assert contrast(ink, paper) >= 7


def contrast(a, b):
    """WCAG's contrast ratio."""

    def light(color):
        parts = [(c / 255 / 12.92) if c / 255 <= 0.03928 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in color]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    high, low = sorted((light(a), light(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_numbers_are_written_for_people():
    assert [score_text(v) for v in (5.456, -312.44, 71245.43)] == ["+5.46", "-312.4", "+71,245"]
    band = Band((), 0.0, 1.0, 2.0, 0.0, 3.0, np.zeros(0), 0.0)
    assert [band.text(v) for v in (0.62131, 151.0, 12620.3, 62825648.0)] == ["0.6213", "151", "12,620", "62,825,648"]


@pytest.mark.parametrize(
    "scores", [[0.0], [-1.0, -2.0], [1.0, 2.0], [-3.0, 0.0, 1e6], [-1e5, 2.0], list(range(-50, 60))]
)
def test_no_bar_of_the_histogram_mixes_both_sides_of_the_line(scores):
    scores = np.array(scores)

    picture, zero, _ = svg.histogram(scores, "all")

    bars = re.findall(r'<title>(\d+) rows.*?x="([\d.]+)".*?class="(\w+)"', picture)
    assert sum(int(count) for count, _, _ in bars) == len(scores)
    assert sum(int(count) for count, _, css in bars if css == "neg") == (scores < 0).sum()
    for _, x, css in bars:
        assert (float(x) >= 10 * zero) == (css == "pos")


def test_every_picture_has_its_text(opened):
    for picture in find(opened, "svg[role=img]"):
        assert picture.get_attribute("aria-label")


def test_without_script_every_row_is_readable(page, browser):
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(page[0].as_uri())
        assert len(visible(browser, ".detail")) == 25
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_a_report_without_anomalies_says_so(tmp_path):
    from sklearn.neighbors import KernelDensity

    from backlight.anomaly.workflow import explain_table
    from backlight.classical import neuralize

    X = np.random.default_rng(0).normal(size=(50, 3))
    found = explain_table(neuralize(KernelDensity().fit(X)), as_frame(X[:20] * 0.01))
    write_anomaly_report(found, tmp_path / "r.html", title="t", source="s", provenance={})

    html = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "No row is above the threshold." in html
    assert "nothing has to change" in html
