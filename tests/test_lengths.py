"""One capture serves texts of all lengths: the same values as of a graph captured for the one length."""

import io
import logging
import sys
import threading
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import backlight
from backlight.engine import capture as captures
from backlight.engine import network
from backlight.errors import BacklightWarning

LENGTHS = [(2, 6), (1, 9), (3, 4), (2, 17)]


class Attends(nn.Module):
    """Tokens with positions, masked causal attention by hand, a gate, a score over words at each token."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(20, 8), nn.Embedding(32, 8)
        self.q, self.k, self.v = (nn.Linear(8, 8) for _ in range(3))
        self.gate, self.norm, self.head = nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 20)

    def forward(self, input_ids, attention_mask=None):
        n = torch.arange(input_ids.shape[1])
        x = self.words(input_ids) + self.places(n)
        seen = (n[:, None] >= n)[None]
        if attention_mask is not None:
            seen = seen & (attention_mask[:, None] > 0)
        scores = (self.q(x) @ self.k(x).mT / 8**0.5).masked_fill(~seen, -1e9)
        x = self.norm(x + scores.softmax(-1) @ self.v(x) * torch.sigmoid(self.gate(x)))
        return self.head(x)


class Summary(nn.Module):
    """A mean over the tokens that count, and the tokens themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(20, 8), nn.Linear(8, 3)

    def forward(self, input_ids, attention_mask):
        x, kept = self.words(input_ids).relu(), attention_mask[..., None].to(torch.float64)
        return {"pooled": self.head((x * kept).sum(1) / kept.sum(1)), "tokens": x}


class Branches(nn.Module):
    """Long texts are computed otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.short, self.long = nn.Embedding(20, 8), nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, ids):
        x = self.words(ids).mean(1)
        return self.short(x) if ids.shape[1] < 8 else self.long(x)


class OneLength(nn.Module):
    """Where a token stands decides its weight, as flattened text does."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.weights = nn.Embedding(20, 4), nn.ParameterList(torch.randn(n * 4, 2) for n in range(12))

    def forward(self, ids):
        n = ids.shape[1]
        return self.words(ids).flatten(1) @ self.weights[n]


def built(kind):
    torch.manual_seed(0)
    return kind().double().eval()


def texts(n, length):
    ids = torch.randint(1, 20, (n, length), generator=torch.Generator().manual_seed(length))
    mask = torch.ones_like(ids)
    mask[0, length - 2 :] = 0
    return ids, mask


@pytest.fixture
def counted(monkeypatch):
    """How many captures of each kind there were."""
    count = {"capture": 0, "capture_lengths": 0}
    for name in count:
        plain = getattr(network, name)

        def counting(*given, _name=name, _plain=plain):
            count[_name] += 1
            return _plain(*given)

        monkeypatch.setattr(network, name, counting)
    return count


def fixed(monkeypatch, kind, *given, **options):
    """The explanation by a graph captured for this length alone."""
    with monkeypatch.context() as patch:
        patch.setattr(network, "axes_of_lengths", lambda *_: {})
        return backlight.explain(built(kind), *given, **options)


@pytest.mark.parametrize(("kind", "options"), [
    (Attends, {}), (Attends, {"rules": "attnlrp"}), (Summary, {"target": 1, "output": "pooled"}),
    (Summary, {"target": lambda out: out["pooled"][:, 0] + out["tokens"].sum((1, 2))}),
])  # fmt: skip
def test_one_capture_serves_all_lengths_and_numbers_of_rows(monkeypatch, counted, kind, options):
    model = built(kind)
    for n, length in LENGTHS:
        ids, mask = texts(n, length)
        given = {"input_ids": ids, "attention_mask": mask}
        ex = backlight.explain(model, given, **options)
        assert counted["capture_lengths"] == 1
        assert counted["capture"] == 0

        with monkeypatch.context() as patch:
            patch.setattr(network, "capture", captures.capture)
            expected = fixed(patch, kind, given, **options)
        np.testing.assert_allclose(ex.values, expected.values, rtol=0, atol=1e-13 * abs(expected.values).max())
        np.testing.assert_allclose(ex.ledger.absorbed, expected.ledger.absorbed, rtol=0, atol=1e-12)
        assert str(ex.ledger.layers) == str(expected.ledger.layers)
        assert ex.provenance["plan"] == expected.provenance["plan"]


def test_a_branch_on_the_length_is_captured_on_both_sides(monkeypatch, counted):
    model = built(Branches)
    for length in (5, 12, 6, 9, 7):
        ids = texts(2, length)[0]
        ex = backlight.explain(model, ids, 0)

        np.testing.assert_allclose(ex.output, model(ids)[:, 0].detach().numpy(), rtol=1e-12)
    assert counted == {"capture": 0, "capture_lengths": 2}


def test_a_model_of_fixed_length_is_captured_for_each_and_says_so_once(counted):
    model = built(OneLength)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        for length in (5, 6, 7, 5, 6):
            ids = texts(2, length)[0]
            ex = backlight.explain(model, ids, 0)

            np.testing.assert_allclose(ex.output, model(ids)[:, 0].detach().numpy(), rtol=1e-12)
            np.testing.assert_allclose(ex.values.sum(1), ex.output, rtol=1e-12)
    said = [str(one.message) for one in heard if issubclass(one.category, BacklightWarning)]
    assert said == [
        "OneLength is captured anew for each length of its texts, since its forward goes by their length or by the data: "
        "pad them to a few lengths"
    ]
    assert counted["capture_lengths"] + counted["capture"] <= 4


def test_a_capture_that_holds_for_some_lengths_only_is_not_trusted_with_others(monkeypatch):
    """Whatever a program says of its lengths, each new length is run beside the model first."""
    model = built(Branches)
    backlight.explain(model, texts(2, 5)[0], 0)
    held = network.Network.of(model)._exported
    for exported in (one for _, kept in held.values() for one in kept):
        exported.program.range_constraints.clear()
    ids = texts(2, 12)[0]
    ex = backlight.explain(model, ids, 0)

    np.testing.assert_allclose(ex.output, model(ids)[:, 0].detach().numpy(), rtol=1e-12)


def test_graphs_and_programs_are_bounded(counted):
    model = built(Attends)
    for length in range(2, 30):
        backlight.explain(model, texts(1, length)[0])
    held = network.Network.of(model)

    assert len(held._graphs) <= 16
    assert len(held._plans) <= 8
    assert counted == {"capture": 0, "capture_lengths": 1}


def test_tables_and_pictures_are_captured_as_ever(counted):
    for model, x in (
        (nn.Linear(3, 2), torch.randn(4, 3)),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2)), torch.randn(2, 1, 4, 4)),
    ):
        backlight.explain(model.eval(), x, 0)
    assert counted == {"capture": 2, "capture_lengths": 0}


def test_what_other_threads_write_to_standard_error_is_not_lost(monkeypatch):
    heard = io.StringIO()
    monkeypatch.setattr(sys, "stderr", heard)
    with captures._quiet():
        sys.stderr.write("of this thread\n")
        other = threading.Thread(target=lambda: sys.stderr.write("of another\n"))
        other.start()
        other.join()

    assert heard.getvalue() == "of another\n"
    assert sys.stderr is heard


def test_what_torch_logs_of_its_own_tracing_is_not_shown_and_what_it_logs_elsewhere_is():
    heard = io.StringIO()
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    handler = logging.StreamHandler(heard)
    logger.addHandler(handler)
    try:
        with captures._quiet():
            logger.error("of this thread")
            other = threading.Thread(target=lambda: logger.error("of another"))
            other.start()
            other.join()
        logger.error("after it")
    finally:
        logger.removeHandler(handler)

    assert heard.getvalue() == "of another\nafter it\n"


def test_a_stream_that_another_thread_put_in_its_place_meanwhile_stays(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    theirs = SimpleNamespace(write=len)
    with captures._quiet():
        sys.stderr = theirs

    assert sys.stderr is theirs
