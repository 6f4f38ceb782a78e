"""What cannot be explained, written or shown is said in one sentence."""

import sys

import numpy as np
import pytest
import torch

import backlight


def small():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2)).double().eval()


def test_a_weight_that_is_not_a_number_is_named():
    net = small()
    with torch.no_grad():
        net[0].weight[0, 0] = float("nan")
    with pytest.raises(backlight.BacklightError, match=r"'0\.weight' holds values that are not finite"):
        backlight.explain(net, np.zeros((2, 3)), 0)


def test_weights_and_inputs_without_values_are_named():
    with pytest.raises(backlight.BacklightError, match="has no weights yet"):
        backlight.explain(torch.nn.Linear(3, 2, device="meta"), np.zeros((2, 3)), 0)
    with pytest.raises(backlight.BacklightError, match="holds no values"):
        backlight.explain(small(), torch.zeros(2, 3, device="meta"), 0)


def test_a_name_as_long_as_the_system_takes_is_written_and_a_longer_one_is_said(tmp_path):
    ex = backlight.explain(small(), np.ones((2, 3)), 0)
    longest = tmp_path / ("a" * 247 + ".parquet")
    ex.save(longest)
    assert backlight.Explanation.load(longest).values.shape == (2, 3)
    with pytest.raises(backlight.BacklightError, match="cannot be written"):
        ex.save(tmp_path / ("a" * 300 + ".parquet"))
    assert [path.name for path in tmp_path.iterdir()] == [longest.name]


def test_a_frame_without_a_library_of_frames_is_one_sentence(monkeypatch):
    ex = backlight.explain(small(), np.ones((2, 3)), 0)
    for library in ("pandas", "polars", "pyarrow"):
        monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(backlight.BacklightError, match="needs pandas, polars or pyarrow"):
        ex.to_frame()


def test_threads_may_explain_at_once():
    from concurrent.futures import ThreadPoolExecutor

    net, X = small(), np.random.default_rng(0).normal(size=(40, 3))
    expected = backlight.explain(net, X, 1).values
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda _: backlight.explain(net, X, 1).values, range(48)))
    for values in found:
        np.testing.assert_allclose(values, expected, rtol=1e-12, atol=1e-15)


def test_a_sparse_buffer_and_a_forward_that_cannot_run_are_no_raw_errors():
    class Sparse(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.l = torch.nn.Linear(3, 2)
            self.register_buffer("adjacency", torch.eye(3).to_sparse())

        def forward(self, x):
            return self.l(torch.sparse.mm(self.adjacency, x.T).T)

    class OneHot(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.o = torch.nn.Linear(8, 2).double()

        def forward(self, ids):
            return self.o(torch.nn.functional.one_hot(ids, 9).double().mean(1))

    sparse = Sparse().double().eval()
    ex = backlight.explain(sparse, torch.randn(2, 3).double(), 0, rules=backlight.rules.Zero(), strict=True)
    bias = sparse.l.bias[0].item()
    np.testing.assert_allclose(ex.values.sum(1), ex.output - bias, rtol=1e-10, atol=1e-12)
    with pytest.raises(backlight.BacklightError, match="cannot run on these inputs"):
        backlight.explain(OneHot().eval(), torch.randint(0, 9, (3, 5)), 0)
