"""What plots draw, read back from the axes."""

from itertools import pairwise

import matplotlib
import numpy as np
import pytest

matplotlib.use("Agg")
from matplotlib import pyplot

from backlight import Explanation
from backlight.errors import ArgumentError
from tests.test_explanation import example


@pytest.fixture(autouse=True)
def closed():
    yield
    pyplot.close("all")


def test_the_bars_of_a_waterfall_lead_from_zero_over_the_base_to_the_score():
    ex = example(n=4, d=15)

    ax = ex.plot.waterfall(2, k=5)

    bars = sorted(ax.patches, key=lambda bar: -bar.get_y())
    assert len(bars) == 7
    assert bars[0].get_x() == 0
    for before, after in pairwise(bars):
        assert np.isclose(after.get_x(), before.get_x() + before.get_width())
    assert np.isclose(bars[-1].get_x() + bars[-1].get_width(), ex.output[2])
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels[-1] == "base"
    assert labels[0] == "10 other features"
    assert labels[-2].startswith(ex[2].top(1)[0][0][0])


def test_bars_are_signed_means():
    ex = Explanation([[1.0, -3.0], [3.0, -1.0]], [0.0, 0.0], [0.0, 0.0], feature_names=["a", "b"])

    ax = ex.plot.bar()

    widths = {label.get_text(): bar.get_width() for label, bar in zip(ax.get_yticklabels(), ax.patches, strict=True)}
    assert widths == {"a": 2.0, "b": -2.0}


def test_a_beeswarm_has_a_dot_a_row_and_is_the_same_twice():
    ex = example(n=50, d=3)

    first, second = ex.plot.beeswarm(), ex.plot.beeswarm()

    for a, b in zip(first.collections, second.collections, strict=True):
        assert len(a.get_offsets()) == 50
        assert np.array_equal(a.get_offsets(), b.get_offsets())


def test_texts_have_no_rank():
    cells = np.array([["x", 1.0], ["y", 2.0]], dtype=object)
    ex = Explanation(np.eye(2), [1.0, 1.0], [0.0, 0.0], data=cells, feature_names=["t", "n"])

    assert len(ex.plot.beeswarm().figure.axes) == 2


def test_a_heat_map_is_centred_at_zero_and_says_where_it_is_cut():
    ex = example(n=400, d=4)
    ax = ex.plot.heatmap()

    low, high = ax.images[0].get_clim()
    assert low == -high
    assert "99 % quantile" in ax.figure.axes[1].get_ylabel()


@pytest.mark.parametrize("name", ["waterfall", "bar", "beeswarm", "heatmap"])
def test_plots_draw_where_they_are_told_and_leave_the_figure_as_it_was(name):
    figure, ax = pyplot.subplots(figsize=(3, 2))

    assert getattr(example().plot, name)(ax=ax) is ax
    assert tuple(figure.get_size_inches()) == (3, 2)
    assert pyplot.get_fignums() == [figure.number]


def test_several_targets_must_be_chosen_from():
    ex = example(targets=2)
    with pytest.raises(ArgumentError, match="choose one output by name"):
        ex.plot.bar()
    ex.output("class 0").plot.bar()
    with pytest.raises(ArgumentError, match="no rows"):
        example()[:0].plot.bar()
