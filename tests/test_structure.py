"""The audit: what it measures, that it changes nothing, and what it says."""

import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

import backlight
from backlight import cli
from backlight._audit import REWRITES
from backlight._audit.measure import between, rank_correlation, top_changed, total_variation
from backlight.errors import ArgumentError, UnsupportedModel
from backlight.report.audit import write_audit_report
from backlight.rules import Gamma
from tests.networks import made, mlp
from tests.test_canonical import dense

# -- measures, written out ---------------------------------------------------------------------------------------------


def test_total_variation_is_half_the_distance_of_shares(rng):
    a, b = rng.normal(size=(2, 6, 4, 3))
    slow = []
    for x, y in zip(a, b, strict=True):
        slow.append(0.5 * sum(abs(p / abs(x).sum() - q / abs(y).sum()) for p, q in zip(x.flat, y.flat, strict=True)))
    assert total_variation(a, b) == pytest.approx(slow)
    assert total_variation(a, 7 * a) == pytest.approx(0)
    assert total_variation(a, -a) == pytest.approx(1)
    # what cancelled to rounding is nothing, not a pattern
    noise = np.concatenate([a[:1], 1e-15 * b[:1]])
    assert total_variation(noise, np.concatenate([a[:1], 0 * b[:1]])) == pytest.approx(0)
    zero = np.zeros_like(a)
    assert total_variation(zero, zero) == pytest.approx(0)
    assert total_variation(a, zero) == pytest.approx(0.5)


def test_rank_correlation_is_spearmans(rng):
    a, b = rng.normal(size=(2, 5, 9)).round(1)
    assert rank_correlation(a, b) == pytest.approx([spearmanr(x, y).statistic for x, y in zip(a, b, strict=True)])
    assert rank_correlation(np.ones((1, 4)), np.ones((1, 4))) == pytest.approx(1)


def test_the_first_feature_changes_only_where_another_is_clearly_larger():
    a = np.array([[2.0, 1, 0], [1, 1, 0], [1, 1 + 1e-12, 0]])
    b = np.array([[1.0, 2, 0], [1, 1, 0], [1, 1, 0]])
    assert top_changed(a, b).tolist() == [True, False, False]


def test_discriminativity_compares_inputs_of_one_class(rng):
    values = np.array([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    assert between(values, np.array([0, 0, 1, 1]), rng) == 0
    assert between(values, np.array([0, 1, 0, 1]), rng) == 1
    assert np.isnan(between(values[:1], np.array([0]), rng))


# -- the audit ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found():
    net, x = made("mlp", rows=12)
    return backlight.audit(
        net, x, rewrites=["all", "attack"], methods=("gradient_x_input", "lrp:zero", "lrp:gamma", "lrp:zplus")
    )


def test_an_audit_of_a_dense_network(found):
    assert found.change.shape == (len(found.rewrites), 4, 12)
    assert (found.function_change <= 1e-12).all()
    assert found.ssi["gradient_x_input"] <= 1e-9
    assert found.ssi["lrp:zero"] <= 1e-9
    assert found.ssi["lrp:gamma"] > 0.05
    assert np.isnan(found.canonical[:, 0]).all()
    assert np.nanmax(found.canonical) <= 1e-9
    assert found.left_out["maxima as layers"].startswith("not tried: no place for it was found")
    rewrite, method, row, change = found.worst(1)[0]
    assert change == found.change.max()
    assert found.change[[r.name for r in found.rewrites].index(rewrite), found.methods.index(method), row] == change
    k = found.methods.index("lrp:gamma")
    assert found.relative["lrp:gamma"] == pytest.approx(found.ssi["lrp:gamma"] / found.discriminativity[k])


def test_what_depends_on_the_function_alone_is_moved_by_nothing():
    net, x = made("convolutional", rows=4)
    found = backlight.audit(
        net, x, rewrites=["all", "attack"], methods=("gradient", "gradient_x_input", "integrated_gradients", "lrp:zero"),
        canonical=False,
    )  # fmt: skip
    assert len(found.rewrites) >= 20
    assert found.change.max() <= 1e-9
    assert found.canonical is None


def test_it_says_what_to_do(found):
    said = " ".join(found.advice())
    assert "gradient_x_input and lrp:zero: no rewrite moves these explanations." in said
    assert "canonical=True" in said
    assert "cancel" not in said
    text = repr(found)
    assert "mean (SSI)" in text
    assert "attack: copies that cancel" in text
    frame = found.to_frame("pandas")
    assert len(frame) == 4 * len(found.rewrites)


def test_a_planted_explanation_is_named():
    net, x = made("mlp")
    form = backlight.canonical.lift(net, ((x,), {}))
    REWRITES["attack: copies that cancel"].apply(form, torch.Generator().manual_seed(0))
    planted = backlight.canonical.lower(form)
    assert torch.allclose(planted(x), net(x), atol=1e-10)
    said = " ".join(backlight.audit(planted, x, rewrites="permute units", methods="lrp:gamma").advice())
    assert "units that cancel each other exactly" in said


def test_the_same_seed_gives_the_same_audit_and_nothing_else_is_changed():
    net, x = made("mlp")
    net.train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    states = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    copy = x.clone()
    first, second = (backlight.audit(net, x, seed=3) for _ in range(2))

    assert np.array_equal(first.change, second.change)
    assert not np.array_equal(first.change, backlight.audit(net, x, seed=4).change)
    assert net.training
    assert torch.equal(x, copy)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002


def test_single_precision_tables_and_targets():
    net = mlp().eval()
    X = np.random.default_rng(0).normal(size=(6, 20)).astype("float32")
    seen = []
    found = backlight.audit(net, X, 1, rewrites=["rescale units"], methods={"mine": Gamma(0.1)},
                            progress=lambda done, total: seen.append((done, total)))  # fmt: skip
    assert found.methods == ("mine",)
    assert found.ssi["mine"] <= 1e-9
    assert seen == [(0, 1), (1, 1)]


def test_a_rewrite_of_ones_own():
    net, x = made("mlp")

    def doubled(module):
        return nn.Sequential(module, dense((2 * np.eye(3)).tolist()), dense((0.5 * np.eye(3)).tolist()))

    mine = backlight.Rewrite("there and back", module=doubled)
    found = backlight.audit(net, x, rewrites=[mine, "permute units"])
    assert [r.name for r in found.rewrites] == ["there and back", "permute units"]
    assert found.function_change.max() < 1e-12

    wrong = backlight.Rewrite("half", module=lambda module: nn.Sequential(module, dense((0.5 * np.eye(3)).tolist())))
    with pytest.raises(UnsupportedModel, match="it changed the function by 0\\.5"):
        backlight.audit(net, x, rewrites=wrong)

    class Elsewhere(nn.Module):
        """The same on the data, and nowhere else."""

        def __init__(self, module):
            super().__init__()
            self.module = module
            self.register_buffer("known", x)

        def forward(self, y):
            far = (y[:, None] - self.known).abs().sum(2).amin(1)
            return self.module(y) + far[:, None]

    with pytest.raises(UnsupportedModel, match="it changed the function"):
        backlight.audit(net, x, rewrites=backlight.Rewrite("elsewhere", module=Elsewhere))
    with pytest.raises(ArgumentError, match="no torch module"):
        backlight.audit(net, x, rewrites=backlight.Rewrite("none", module=lambda module: 3))
    with pytest.raises(ArgumentError, match="either"):
        backlight.Rewrite("empty")


def test_bad_arguments_say_what_there_is():
    net, x = made("mlp")
    with pytest.raises(ArgumentError, match="'deploy', 'all', 'attack'"):
        backlight.audit(net, x, rewrites="production")
    with pytest.raises(ArgumentError, match="lrp:gamma"):
        backlight.audit(net, x, methods="lrp:delta")
    with pytest.raises(ArgumentError, match="empty"):
        backlight.audit(net, x, rewrites=[])
    with pytest.raises(ArgumentError, match="empty"):
        backlight.audit(net, x, methods=[])


def test_importing_the_room_does_not_hide_the_function():
    code = "import backlight, backlight._audit; import backlight.symbolic; assert callable(backlight.audit)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_rewrite_says_why_and_has_a_group():
    for name, rewrite in REWRITES.items():
        assert rewrite.name == name
        assert rewrite.why
        assert rewrite.group in ("deploy", "symmetry", "attack")
        assert rewrite.moves <= {"epsilon", "gamma", "zplus", "alphabeta"}


# -- pictures, reports, command line -----------------------------------------------------------------------------------


def test_the_heat_map(found):
    import matplotlib

    matplotlib.use("Agg")
    ax = found.plot.heatmap()
    assert len(ax.get_yticks()) == len(found.rewrites)
    assert [label.get_text() for label in ax.get_xticklabels()] == list(found.methods)


def test_the_report_escapes_what_it_is_given(found, tmp_path):
    path = tmp_path / "audit.html"
    write_audit_report(found, path, title="<script>alert(1)</script>", provenance={"model": "<b>"})
    html = path.read_text(encoding="utf-8")
    assert "<script>" not in html
    assert "&lt;b&gt;" in html
    assert "http" not in html.replace("http-equiv", "")
    for rewrite in found.rewrites:
        assert rewrite.name in html


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audit")
    net, x = made("mlp", rows=8)
    dynamic = ({0: torch.export.Dim.DYNAMIC},)
    torch.export.save(torch.export.export(net.float(), (x.float(),), dynamic_shapes=dynamic), folder / "net.pt2")
    names = [f"sensor {k}" for k in range(20)]
    rows = [",".join(names), *(",".join(f"{v:.6f}" for v in row) for row in x.tolist())]
    (folder / "rows.csv").write_text("\n".join(rows), encoding="utf-8")
    np.save(folder / "rows.npy", x.numpy())
    return folder


@pytest.fixture
def run(monkeypatch, capsys):
    """The command in this process: exit code, output, errors."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["backlight", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        said = capsys.readouterr()
        return SimpleNamespace(returncode=code, stdout=said.out, stderr=said.err)

    return call


def test_audit_on_the_command_line(program, run):
    out = run(
        "audit", program / "net.pt2", program / "rows.csv", "--out", program / "a.csv", "--report", program / "a.html"
    )
    assert out.returncode == 0, out.stderr
    assert "factorise layers" in out.stdout
    assert "canonical=True" in out.stdout
    assert (program / "a.csv").read_text(encoding="utf-8").startswith('"rewrite","method","mean change"')
    assert "Structure audit of net.pt2" in (program / "a.html").read_text(encoding="utf-8")
    again = run("audit", program / "net.pt2", program / "rows.npy", "--out", program / "a.csv")
    assert again.returncode == 2
    assert "--force" in again.stderr
    picture = run(
        "audit", program / "net.pt2", program / "rows.npy", "--rewrites", "attack", "-q", "--out", program / "a.png"
    )
    assert picture.returncode == 0, picture.stderr
    assert picture.stdout == ""
    assert (program / "a.png").read_bytes()[:4] == b"\x89PNG"


def test_bad_input_on_the_command_line(program, run):
    (program / "words.csv").write_text("a,b\nx,1\ny,2\n", encoding="utf-8")
    for arguments, said in (
        ((program / "net.pt2", program / "words.csv"), "column 'a' is not of numbers"),
        ((program / "net.pt2", program / "nothing.csv"), "nothing.csv"),
        ((program / "net.pkl", program / "rows.csv"), "net.pkl"),
        ((program / "net.pt2", program / "rows.csv", "--rewrites", "x"), "no rewrite is called 'x'"),
    ):
        out = run("audit", *arguments)
        assert out.returncode == 2
        assert said in out.stderr
        assert len(out.stderr.strip().splitlines()) == 1


def test_derive_on_the_command_line(tmp_path, run):
    out = run("derive", "min-i", "--at", "a1=2,a2=1,gamma=1/4", "--out", tmp_path / "phase.png")
    assert out.returncode == 0, out.stderr
    assert "R(a1) = 5/9" in out.stdout
    assert "a1 > a2" in out.stdout
    assert (tmp_path / "phase.png").read_bytes()[:4] == b"\x89PNG"
    assert r"\begin{cases}" in run("derive", "min-ii", "--latex").stdout
    one, _ = backlight.examples.min_networks()
    program = torch.export.export(
        one, (torch.ones(3, 2).double(),), dynamic_shapes={"a": {0: torch.export.Dim.DYNAMIC}}
    )
    torch.export.save(program, tmp_path / "one.pt2")
    assert "a1 < a2  a1  a1     0" in run("derive", tmp_path / "one.pt2", "--rule", "zplus").stdout
    bad = run("derive", "min-i", "--at", "a1")
    assert bad.returncode == 2
    assert "a1=2,a2=1" in bad.stderr


def test_the_report_in_a_browser(found, tmp_path, browser):
    path = tmp_path / "audit.html"
    write_audit_report(found, path, title="Structure audit", provenance={"seed": "0"})
    for width in (1200, 480):
        browser.set_window_size(width, 900)
        browser.get(path.as_uri())
        assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
        inner = browser.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
        assert inner[0] <= inner[1] + 1
    # by keyboard: the first stop is the way past the head
    from selenium.webdriver.common.keys import Keys

    browser.find_element("tag name", "body").send_keys(Keys.TAB)
    assert browser.switch_to.active_element.text == "Skip to the table"
    browser.find_element("css selector", "details summary").click()
    assert json.dumps(browser.execute_script("return document.querySelector('details').open")) == "true"
