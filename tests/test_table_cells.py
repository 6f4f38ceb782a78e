"""What cells mean: numbers as people write them, dates, codes, placeholders, and cells that are none of these."""

import numpy as np
import pytest

from backlight.tables import Frame
from backlight.tables.columns import as_numbers, understand


def column(cells, name="c", beside=()):
    """One column of texts as it is understood, beside others of the same file."""
    held = np.empty(len(cells), dtype=object)
    held[:] = cells
    others = []
    for texts in beside:
        other = np.empty(len(texts), dtype=object)
        other[:] = texts
        others.append(other)
    names = (name, *(f"other{i}" for i in range(len(others))))
    return understand(Frame(names, (held, *others), "file", True))[0]


NUMBERS = np.array([1234.5, -77.25, 1234567.0, 0.5, 12.0, -1200.0, 999.75, 10000.0, 31.5, 7.0, 88.25, 123456.5])


def group(size, mark, point):
    def write(x):
        whole, _, part = f"{abs(x):.2f}".partition(".")
        groups = []
        while whole:
            width = 3 if not groups else size
            groups.insert(0, whole[-width:])
            whole = whole[:-width]
        return ("-" if x < 0 else "") + mark.join(groups) + point + part

    return write


US, INDIAN = group(3, ",", "."), group(2, ",", ".")
WRITTEN = {
    "thousands with commas": US,
    "thousands with points": group(3, ".", ","),
    "thousands with spaces": group(3, " ", ","),
    "thousands with no-break spaces": group(3, "\u00a0", ","),
    "thousands with narrow no-break spaces": group(3, "\u202f", "."),
    "Swiss": group(3, "'", "."),
    "Swiss, typographic": group(3, "\u2019", "."),
    "Indian": INDIAN,
    "decimal comma": lambda x: f"{x:.2f}".replace(".", ","),
    "accounting negatives": lambda x: f"({US(-x)})" if x < 0 else US(x),
    "trailing minus": lambda x: f"{US(-x)}-" if x < 0 else US(x),
    "the minus sign itself": lambda x: US(x).replace("-", "\u2212"),
    "plus signs": lambda x: f"{x:+.2f}",
    "exponents": lambda x: f"{x:.6e}",
    "dollars": lambda x: f"-${US(-x)}" if x < 0 else f"${US(x)}",
    "dollars, sign inside": lambda x: f"$-{US(-x)}" if x < 0 else f"${US(x)}",
    "euros before": lambda x: f"€ {US(x)}",
    "euros after": lambda x: group(3, ".", ",")(x) + " €",
    "a currency's code": lambda x: f"{x:.2f} USD",
    "Swiss francs": lambda x: "CHF " + group(3, "'", ".")(x),
    "kilograms": lambda x: f"{x:.2f} kg",
    "degrees": lambda x: f"{x:.2f}°C",
    "per cent": lambda x: f"{x:.2f}%",
    "per cent with a space": lambda x: f"{x:.2f} %",
    "a compound unit": lambda x: f"{x:.2f} kg/m³",
    "spaces around": lambda x: f"  {x:.2f} ",
}


@pytest.mark.parametrize("way", WRITTEN)
def test_numbers_are_read_however_they_are_written(way):
    found = column([WRITTEN[way](x) for x in NUMBERS])

    assert found.kind == "number"
    assert found.cells.tolist() == pytest.approx(NUMBERS.tolist(), rel=1e-12)
    assert not found.flagged


def test_a_unit_and_a_convention_are_said():
    said = " ".join(column([f"{x:.2f} kg".replace(".", ",") for x in NUMBERS]).notes)

    assert "decimal comma" in said
    assert "in kg" in said


def test_a_plain_number_among_per_cent_is_a_fault_and_among_another_unit_a_number():
    values = [3.5, 4.25, 5.0, 6.75, 7.5, 8.0, 9.25, 10.5, 11.0, 12.75, 13.5, 14.0]
    share, weight = (column([*(f"{v} {unit}" for v in values), "0.4"]) for unit in ("%", "kg"))

    assert dict(share.flagged) == {12: "0.4"}
    assert share.cells[:12].tolist() == values
    assert np.isnan(share.cells[12])
    assert not weight.flagged
    assert weight.cells.tolist() == [*values, 0.4]


def test_the_unit_is_that_of_most_cells_and_others_are_faults():
    values = np.arange(1, 21) * 1.25
    held = column([*(f"{v} kg" for v in values), "7.5 t"])

    assert held.cells[:20].tolist() == values.tolist()
    assert dict(held.flagged) == {20: "7.5 t"}


def test_thousands_and_millions_are_multiplied():
    found = column(["€1.5M", "€300K", "€2M", "€750K", "€0", "€12.5M"] * 3)

    assert found.cells[:6].tolist() == [1.5e6, 3e5, 2e6, 7.5e5, 0.0, 1.25e7]


def test_what_a_separator_means_is_decided_by_the_column_then_by_the_file():
    ambiguous = ["1,234", "5,678", "9,012", "3,456"] * 3

    alone = column(ambiguous)
    assert alone.cells[0] == 1234
    assert "1,234 taken as 1234" in alone.notes[0]
    assert column([*ambiguous, "0,5"]).cells[0] == 1.234
    assert column([*ambiguous, "0.5"]).cells[0] == 1234
    assert column(ambiguous, beside=[["12,5", "7,25", "8,5"] * 4]).cells[0] == 1.234
    assert column(ambiguous, beside=[["12.5", "7.25kg", "8.5"] * 4]).cells[0] == 1234


@pytest.mark.parametrize("bad", ["ERROR", "sensor off", "<0.5", "#REF!", "1.2.3", "12 34", "70 lb"])
def test_a_few_cells_that_are_no_numbers_are_flagged(bad):
    texts = [f"{x:.2f}" for x in np.linspace(1, 9, 60)]
    texts[7] = texts[31] = bad
    found = column(texts)

    assert found.kind == "number"
    assert dict(found.flagged) == {7: bad, 31: bad}
    assert np.flatnonzero(np.isnan(found.cells)).tolist() == [7, 31]
    assert bad in found.notes[0]


def test_dashes_and_the_like_are_missing_among_numbers_but_no_faults():
    found = column(["-", "1.5", "n/a", "2.5", "—", "3.25", "..."] * 3)

    assert found.kind == "number"
    assert not found.flagged
    assert int(np.isnan(found.cells).sum()) == 12


@pytest.mark.parametrize(
    ("texts", "kind"),
    [
        ([f"{i:05d}" for i in range(60)], "identifier"),
        ([f"{i % 7:02d}" for i in range(60)], "category"),
        ([f"A{i:04d}" for i in range(60)], "identifier"),
        ([f"{100 + i}B" for i in range(60)], "identifier"),
        ([f"10.0.0.{i}" for i in range(60)], "identifier"),
        ([*map(str, range(100, 158)), "120a", "c130"], "identifier"),
        (["1", "2", "3", "M"] * 15, "category"),
        (["low", "high", "5"] * 20, "category"),
        ([f"{5 + i % 9} kg" if i % 2 else f"{200 + i % 9} g" for i in range(60)], "category"),
    ],
    ids=[
        "post codes",
        "two digits",
        "serial numbers",
        "house numbers",
        "addresses",
        "numbers with letters",
        "classes",
        "words",
        "two units",
    ],
)
def test_codes_and_words_are_no_numbers(texts, kind):
    assert column(texts).kind == kind


def test_post_codes_are_codes_by_their_name():
    held = np.array([10115.0 + 37 * (i % 23) for i in range(60)])

    assert understand(Frame(("zip",), (held,), "file", True))[0].kind == "category"


DAYS = np.array(["2023-12-30", "2024-01-02", "2024-02-13", "2024-03-01", "2024-04-25", "2024-05-06"], dtype="M8[s]")
MOMENTS = DAYS + np.array([0, 3661, 7322, 50000, 70000, 86399]).astype("m8[s]")


@pytest.mark.parametrize(
    ("form", "exact"),
    [
        ("%Y-%m-%d", "D"), ("%d.%m.%Y", "D"), ("%d/%m/%Y", "D"), ("%m/%d/%Y", "D"), ("%m/%d/%y", "D"), ("%d-%b-%Y", "D"),
        ("%b %d, %Y", "D"), ("%d %B %Y", "D"), ("%Y/%m/%d", "D"), ("%Y-%m-%d %H:%M", "m"), ("%Y-%m-%dT%H:%M:%SZ", "s"),
        ("%Y-%m-%dT%H:%M:%S.000+02:00", "s"), ("%d.%m.%Y %H:%M:%S", "s"), ("%m/%d/%Y %I:%M %p", "m"),
        ("%d/%m/%Y, %H:%M:%S", "s"), ("%a %b %d %H:%M:%S %Y", "s"), ("%d/%b/%Y:%H:%M:%S +0000", "s"),
    ],
)  # fmt: skip
def test_dates_are_read_however_they_are_written(form, exact):
    found = column([value.item().strftime(form) for value in MOMENTS])

    assert found.kind == "date"
    assert (found.cells == MOMENTS.astype(f"M8[{exact}]")).all()


def test_where_no_row_tells_day_from_month_their_order_does_and_it_is_said():
    days = [np.datetime64("2024-01-01") + i for i in (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11)]
    month_first = column([d.item().strftime("%m/%d/%Y") for d in days])
    day_first = column([d.item().strftime("%d/%m/%Y") for d in days])

    assert (month_first.cells == np.array(days, dtype="M8[us]")).all()
    assert (day_first.cells == np.array(days, dtype="M8[us]")).all()
    assert "month before day; no row decides" in month_first.notes[0]


def test_a_date_that_is_none_is_flagged():
    texts = [f"{1 + i % 28:02d}.03.2024" for i in range(60)]
    texts[4] = "unknown"
    found = column(texts)

    assert found.kind == "date"
    assert dict(found.flagged) == {4: "unknown"}


def test_quarters_and_short_years_are_dates():
    quarters = column([f"{1974 + i // 4}Q{i % 4 + 1}" for i in range(12)])
    short = column(["25.12.63", "26.12.49", "13.01.07", "14.02.99", "15.03.50", "16.04.51"])

    assert quarters.cells[[0, 5]].astype("M8[D]").astype(str).tolist() == ["1974-01-01", "1975-04-01"]
    assert short.cells.astype("M8[Y]").astype(str).tolist() == ["1963", "2049", "2007", "1999", "2050", "1951"]


def test_clock_times_are_hours():
    assert column(["0:30", "10:15", "23:45:36", "9:00"]).cells.tolist() == pytest.approx([0.5, 10.25, 23.76, 9.0])


@pytest.mark.parametrize("value", [-999.0, -9999.0, 9999.0, -99.0])
def test_placeholders_in_nines_are_missing_and_said(value):
    held = np.random.default_rng(0).normal(20, 3, 100)
    held[[3, 30, 60]] = value
    found = understand(Frame(("t",), (held,), "file", True))[0]

    assert np.flatnonzero(np.isnan(found.cells)).tolist() == [3, 30, 60]
    assert found.flagged[30] == f"{value:g}"
    assert "placeholder" in found.notes[0]


def test_other_distant_values_are_said_and_kept():
    held = np.random.default_rng(0).normal(20, 3, 100)
    held[::20] = -200
    found = understand(Frame(("t",), (held,), "file", True))[0]

    assert not np.isnan(found.cells).any()
    assert "is it a placeholder?" in found.notes[0]


def test_a_single_distant_value_is_an_anomaly_and_no_placeholder():
    held = np.random.default_rng(0).normal(20, 3, 100)
    held[7] = -999
    found = understand(Frame(("t",), (held,), "file", True))[0]

    assert found.cells[7] == -999
    assert not found.notes


def test_whole_numbers_beyond_float64_name_rows_or_are_rounded_with_a_word():
    distinct = column([str(2**63 - 1 - i) for i in range(40)])
    repeated = column([str(2**63 - 1 - i % 7 * 10**15) for i in range(40)])

    assert distinct.kind == "identifier"
    assert distinct.cells[1] == str(2**63 - 2)
    assert repeated.kind == "number"
    assert "rounded" in repeated.notes[-1]


def test_numbers_for_a_model_are_read_or_left_for_it_to_refuse():
    names = ("money", "faulty", "code")
    texts = [["1.234,50", "0,5", "12"] * 5, [*["1,5"] * 14, "ERROR"], [f"{i:03d}" for i in range(15)]]
    columns = []
    for cells in texts:
        columns.append(np.empty(15, dtype=object))
        columns[-1][:] = cells
    found = as_numbers(Frame(names, tuple(columns), "file", True))

    assert found.column("money")[:3].tolist() == [1234.5, 0.5, 12.0]
    assert found.column("faulty")[-1] == "ERROR"
    assert found.column("code")[1] == "001"
    assert found.notes == ("Column 'money', as it is read: decimal comma.",)
