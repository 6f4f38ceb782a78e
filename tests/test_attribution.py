"""Targets, inputs and the reference methods, as a user calls them."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import backlight
from backlight.errors import ArgumentError, DataError, UnsupportedModel
from backlight.rules import Gamma, Zero
from tests.conftest import same
from tests.test_engine import Net, Residual, image, seeded

pytestmark = pytest.mark.filterwarnings("ignore::backlight.errors.BacklightWarning")


@pytest.fixture
def mlp():
    return seeded(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)))


@pytest.fixture
def x():
    return torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).double()


# -- targets -----------------------------------------------------------------------------------------------------------


def test_the_default_target_is_the_predicted_class(mlp, x):
    ex = backlight.explain(mlp, x)
    out = mlp(x).detach()
    np.testing.assert_allclose(ex.output, out.amax(1))
    per_row = backlight.explain(mlp, x, out.argmax(1).numpy())
    assert same(per_row.values, ex.values)
    assert ex.target == "predicted class"


def test_targets_can_be_said_in_every_usual_way(mlp, x):
    out = mlp(x).detach().numpy()
    difference = backlight.explain(mlp, x, lambda y: y[:, 2] - y[:, 0])
    direction = backlight.explain(mlp, x, torch.tensor([-1.0, 0.0, 1.0]))
    single = [backlight.explain(mlp, x, k) for k in range(3)]
    np.testing.assert_allclose(difference.values, direction.values, rtol=1e-12)
    np.testing.assert_allclose(difference.output, out[:, 2] - out[:, 0])
    # relevance is linear in what is sent in
    np.testing.assert_allclose(difference.values, single[2].values - single[0].values, rtol=1e-9, atol=1e-12)
    assert same(backlight.explain(mlp, x, -1).values, single[2].values)
    assert same(backlight.explain(mlp, x, np.array([0, 1, 2, 0, 1, 2])).output, out[range(6), [0, 1, 2] * 2])

    several = backlight.explain(mlp, x, [0, 2, lambda y: y[:, 2] - y[:, 0]])
    assert several.shape == (6, 4, 3)
    assert several.dims == ("row", "feature", "target")
    np.testing.assert_allclose(several.values[..., 1], single[2].values, rtol=1e-12)
    np.testing.assert_allclose(several.values[..., 2], difference.values, rtol=1e-9, atol=1e-12)

    everything = backlight.explain(mlp, x, "all")
    assert everything.output_names == ("output 0", "output 1", "output 2")
    np.testing.assert_allclose(everything.output("output 1").values, single[1].values, rtol=1e-12)
    np.testing.assert_allclose(
        everything.output("output 1").ledger.absorbed, single[1].ledger.absorbed, rtol=1e-9, atol=1e-12
    )


def test_many_targets_share_the_forward_part():
    from torch.utils.flop_counter import FlopCounterMode

    net, inputs = seeded(Net(Residual)), image(1)
    rules = "epsilon-plus"
    backlight.explain(net, inputs, 0, rules=rules)

    def count(target):
        with FlopCounterMode(display=False) as counter:
            backlight.explain(net, inputs, target, rules=rules)
        return counter.get_total_flops()

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(inputs)
    forward = counter.get_total_flops()
    one, three = count(0), count("all")
    assert one <= 1.15 * 3.2 * forward
    # two more ways back, and nothing else; the stem has signed inputs and needs two products a way
    assert three - one <= 1.15 * 2 * 1.3 * forward


def test_a_segmentation_is_explained_by_index_mask_or_function():
    net = seeded(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 5, 1)))
    inputs = image(2)
    with pytest.raises(ArgumentError, match=r"\(5, 8, 8\) for each row: say which part"):
        backlight.explain(net, inputs)
    by_index = backlight.explain(net, inputs, 2, rules=Gamma())
    by_function = backlight.explain(net, inputs, lambda y: y[:, 2].sum((1, 2)), rules=Gamma())
    mask = torch.zeros(5, 8, 8)
    mask[2] = 1
    by_mask = backlight.explain(net, inputs, mask, rules=Gamma())
    np.testing.assert_allclose(by_function.values, by_index.values, rtol=1e-12)
    np.testing.assert_allclose(by_mask.values, by_index.values, rtol=1e-12)
    corner = backlight.explain(net, inputs, lambda y: y[:, 2, 0, 0], rules=Gamma())
    assert np.abs(corner.values[:, :, 3:, 3:]).max() == 0


def test_one_output_or_none_needs_no_target(x):
    net = seeded(nn.Sequential(nn.Linear(4, 1)))
    np.testing.assert_allclose(backlight.explain(net, x).output, net(x)[:, 0].detach())

    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.f = nn.Linear(4, 1)

        def forward(self, x):
            return self.f(x)[:, 0]

    flat = seeded(Flat())
    np.testing.assert_allclose(backlight.explain(flat, x).output, flat(x).detach())


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (3, "target 3 is out of range: there are 3 outputs"),
        (np.array([0, 1]), "2 indices for 6 rows"),
        ("best", "'best' is not known"),
        (torch.zeros(2), r"shape of one row's outputs, \(3,\), not \(2,\)"),
        (lambda y: y, r"one number a row, shape \(6,\), not \(6, 3\)"),
        (lambda y: torch.zeros(6), "does not depend on the output"),
        ([], "the list of targets is empty"),
        (1.5, "neither an index nor a direction"),
        ((0, 1), "2 indices for 6 rows"),
        ({"a": 1}, "is not known"),
    ],
)
def test_a_wrong_target_is_named(mlp, x, target, said):
    with pytest.raises(ArgumentError, match=said):
        backlight.explain(mlp, x, target)


def test_a_dict_output_is_explained_by_its_logits(x):
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.f, self.g = nn.Linear(4, 3), nn.Linear(4, 2)

        def forward(self, x):
            return {"aux": self.g(x), "logits": self.f(x)}

    net = seeded(Named())
    for method in ("lrp", "gradient_x_input"):
        ex = backlight.explain(net, x, 1, method=method)
        np.testing.assert_allclose(ex.output, net(x)["logits"][:, 1].detach())


def test_two_unnamed_outputs_are_refused(x):
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.f = nn.Linear(4, 3)

        def forward(self, x):
            return self.f(x), 2 * self.f(x)

    with pytest.raises(UnsupportedModel, match="2 outputs: wrap it"):
        backlight.explain(seeded(Pair()), x)


# -- inputs ------------------------------------------------------------------------------------------------------------


def test_arrays_tables_streams_and_loaders_give_the_same(mlp, x):
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    expected = backlight.explain(mlp, x)
    names = list("abcd")
    for X in (
        x.numpy(),
        x.float().double(),
        pandas.DataFrame(x.numpy(), columns=names),
        polars.DataFrame(x.numpy(), schema=names),
    ):
        ex = backlight.explain(mlp, X)
        np.testing.assert_allclose(ex.values, expected.values, rtol=1e-5)
    assert ex["b"].feature_names == ("b",)
    loader = DataLoader(TensorDataset(x, torch.zeros(6)), batch_size=4)
    np.testing.assert_allclose(backlight.explain(mlp, loader).values, expected.values, rtol=1e-12)
    np.testing.assert_allclose(backlight.explain(mlp, (b for b in x.split(4))).values, expected.values, rtol=1e-12)
    np.testing.assert_allclose(backlight.explain(mlp, x, batch_size=1).values, expected.values, rtol=1e-9, atol=1e-14)
    assert backlight.explain(mlp, x, feature_names=names)["d"].shape == (6, 1)


def test_integers_are_numbers_for_a_network_without_embeddings(mlp):
    counts = np.array([[1, 2, 3, 4], [0, 0, 1, 0]])
    assert same(backlight.explain(mlp, counts, 0).values, backlight.explain(mlp, counts.astype(float), 0).values)


def test_missing_values_and_empty_tables_are_refused(mlp):
    with pytest.raises(DataError, match="missing or infinite"):
        backlight.explain(mlp, np.array([[1.0, np.nan, 0, 0]]))
    with pytest.raises(DataError, match="no rows"):
        backlight.explain(mlp, np.zeros((0, 4)))
    with pytest.raises(ArgumentError, match="a tuple for several inputs"):
        backlight.explain(mlp, [torch.zeros(4), torch.zeros(4)])


def test_per_row_targets_follow_the_batches(mlp, x):
    labels = np.array([0, 1, 2, 2, 1, 0])
    whole = backlight.explain(mlp, x, labels)
    np.testing.assert_allclose(
        backlight.explain(mlp, x, labels, batch_size=4).values, whole.values, rtol=1e-9, atol=1e-14
    )


def test_progress_counts_rows(mlp, x):
    seen = []
    backlight.explain(mlp, x, batch_size=2, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(2, 6), (4, 6), (6, 6)]


def test_relevance_inside_the_network_by_name_and_pattern():
    net, inputs = seeded(Net(Residual)), image(2)
    ex = backlight.explain(net, inputs, 0, rules=Zero(), layers=["blocks.*", "head"])
    assert "blocks.0.a" in ex.layers
    assert ex.layers["blocks.0.a"].shape == (2, 4, 8, 8)
    # every bias between there and the output keeps its share: the ledger knows
    assert ex[0].layers["blocks.0.a"].shape == (1, 4, 8, 8)
    for pattern in ("block.*", "nowhere"):
        with pytest.raises(ArgumentError, match="no layer is named"):
            backlight.explain(net, inputs, 0, layers=[pattern])


def test_an_explanation_with_layers_and_ledger_survives_saving(tmp_path):
    net, inputs = seeded(Net(Residual)), image(2)
    ex = backlight.explain(net, inputs, "all", layers=["stem"])
    ex.save(tmp_path / "e.safetensors")
    back = backlight.Explanation.load(tmp_path / "e.safetensors")
    np.testing.assert_array_equal(back.values, ex.values)
    np.testing.assert_array_equal(back.layers["stem"], ex.layers["stem"])
    np.testing.assert_array_equal(back.ledger.bias, ex.ledger.bias)
    assert back.provenance["plan"] == str(backlight.plan(net, inputs))


def test_a_reference_point_moves_the_zero_of_the_input(mlp, x):
    mean = x.mean(0)
    ex = backlight.explain(mlp, x, 0, rules=Zero(), reference=mean)
    slope = backlight.explain(mlp, x, 0, method="gradient").values
    np.testing.assert_allclose(ex.values, (x - mean).numpy() * slope, rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(ex.ledger.absorbed.sum(0), ex.residual, rtol=1e-9, atol=1e-12)
    with pytest.raises(ArgumentError, match="no point among inputs"):
        backlight.explain(mlp, x, 0, reference=np.zeros(3))


def test_arguments_that_do_not_apply_are_named(mlp, x):
    with pytest.raises(ArgumentError, match="method='magic' is not known: the methods are lrp, gradient"):
        backlight.explain(mlp, x, method="magic")
    with pytest.raises(ArgumentError, match="score='logit' does not apply"):
        backlight.explain(mlp, x, score="logit")
    with pytest.raises(ArgumentError, match="layers= is for relevance propagation"):
        backlight.explain(mlp, x, method="gradient", layers=["0"])


# -- reference methods -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("several", [False, True])
def test_integrated_gradients_and_shapley_add_up_to_the_difference(mlp, x, several):
    target = [0, 2] if several else 1
    point = x.mean(0)
    for method, options, bound in (("integrated_gradients", {"steps": 400}, 2e-2), ("shapley", {"samples": 3}, 1e-6)):
        ex = backlight.explain(mlp, x, target, method=backlight.Method(method, **options), reference=point)
        assert ex.method == method
        assert np.abs(ex.residual).max() <= bound * np.abs(ex.output).max()
        base = mlp(point[None]).detach().numpy()[0]
        np.testing.assert_allclose(ex.base_values[0], base[target] if several else base[1], rtol=1e-9)


def test_every_reference_method_is_exact_on_a_linear_model(x):
    net = seeded(nn.Linear(4, 3))
    w = net.weight.detach().numpy()
    for method in ("gradient_x_input", "integrated_gradients", "occlusion", "shapley"):
        ex = backlight.explain(net, x, 2, method=method)
        np.testing.assert_allclose(ex.values, x.numpy() * w[2], rtol=1e-6, atol=1e-12, err_msg=method)
    for method in ("gradient", "smoothgrad"):
        ex = backlight.explain(net, x, 2, method=method)
        np.testing.assert_allclose(ex.values, np.tile(w[2], (6, 1)), rtol=1e-9, err_msg=method)


def test_sampling_methods_are_deterministic_by_seed(mlp, x):
    for method in ("smoothgrad", "shapley"):
        a, b, c = (
            backlight.explain(mlp, x, 0, method=backlight.Method(method, samples=2), seed=seed).values
            for seed in (1, 1, 2)
        )
        np.testing.assert_array_equal(a, b)
        assert not np.array_equal(a, c)


def test_occlusion_of_images_takes_patches_away():
    net, inputs = seeded(Net(Residual)), image(1)
    ex = backlight.explain(net, inputs, 0, method=backlight.Method("occlusion", patch=4))
    without = inputs.clone()
    without[:, :, :2, :2] = 0
    assert ex.shape == inputs.shape
    patchless = backlight.explain(net, inputs, 0, method=backlight.Method("occlusion", patch=8))
    expected = (net(inputs)[0, 0] - net(inputs * 0)[0, 0]).item()
    np.testing.assert_allclose(patchless.values, expected, rtol=1e-6)


def test_references_work_with_several_inputs():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 2, bias=False), nn.Linear(2, 2, bias=False)

        def forward(self, one, two):
            return F.relu(self.a(one)) + self.b(two)

    net = seeded(Two())
    given = (torch.randn(4, 3).double(), torch.randn(4, 2).double())
    ours = backlight.explain(net, given, 0, rules=Zero())
    plain = backlight.explain(net, given, 0, method="gradient_x_input")
    np.testing.assert_allclose(ours.values, plain.values, rtol=1e-9, atol=1e-13)
    assert ours.feature_names == plain.feature_names == ("one[0]", "one[1]", "one[2]", "two[0]", "two[1]")


def test_an_option_that_a_method_does_not_have_is_named(mlp, x):
    with pytest.raises(ArgumentError, match="'step' is no option of 'integrated_gradients': it has steps"):
        backlight.explain(mlp, x, 0, method=backlight.Method("integrated_gradients", step=3))
    with pytest.raises(ArgumentError, match="no options"):
        backlight.explain(mlp, x, 0, method=backlight.Method("lrp", steps=3))
