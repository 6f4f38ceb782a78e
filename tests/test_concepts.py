"""Relevance conditional on channels, heads and directions; rankings; relevance patching."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import backlight
from backlight import concepts
from backlight.errors import ArgumentError
from tests.conftest import same
from tests.induction import pairs, trained
from tests.oracles.attnlrp import Decoder

D = torch.float64


def convolutional() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(72, 4)).double().eval()


def pictures(n: int = 3) -> torch.Tensor:
    return torch.randn(n, 3, 8, 8, dtype=D, generator=torch.Generator().manual_seed(1))


def dense(bias: bool = False) -> tuple[nn.Sequential, torch.Tensor]:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(4, 5, bias=bias), nn.ReLU(), nn.Linear(5, 6, bias=bias), nn.ReLU(), nn.Linear(6, 3, bias=bias)
    )
    return net.double().eval(), torch.randn(7, 4, dtype=D)


def by_hand(net, x, target, masks):
    """LRP-0 of a bias-free perceptron written out, with a mask behind each layer."""
    weights = [layer.weight.detach() for layer in net if isinstance(layer, nn.Linear)]
    hidden = [x]
    for k, w in enumerate(weights):
        z = hidden[-1] @ w.t()
        hidden.append(z.clamp(min=0) if k < len(weights) - 1 else z)
    flow = torch.zeros_like(hidden[-1])
    flow[:, target] = hidden[-1][:, target]
    for k in range(len(weights) - 1, -1, -1):
        flow = flow * masks.get(k, 1.0)
        z = hidden[k] @ weights[k].t()
        share = torch.where(z == 0, 0.0, flow / torch.where(z == 0, 1.0, z))
        flow = hidden[k] * (share @ weights[k])
    return flow


@pytest.mark.fast
def test_relevance_through_chosen_units_is_that_written_out_by_hand():
    net, x = dense()
    first, second = torch.tensor([0.0, 1, 1, 0, 0]).to(D), torch.tensor([1.0, 0, 0, 1, 1, 0]).to(D)
    conditions = [{"1": [1, 2]}, {"3": second}, {"1": first, "3": [0, 3, 4]}]
    ex = concepts.conditional(net, x, conditions, 2, rules=backlight.rules.Zero(), strict=True)
    want = [by_hand(net, x, 2, {0: first}), by_hand(net, x, 2, {1: second}), by_hand(net, x, 2, {0: first, 1: second})]

    for k, flow in enumerate(want):
        assert same(ex.values[..., k], flow.numpy(), 1e-11)
    # without biases nothing is lost below the lowest place
    assert same(ex.output, ex.values.sum(1), 1e-11)
    assert ex.output_names == ("1: 1, 2", "3: mask", "1: mask, 3: 0, 3, 4")


@pytest.mark.fast
@pytest.mark.parametrize("place", ["0", "1", "2", "3", "4"])
@pytest.mark.parametrize("rules", ["auto", "epsilon-plus", "epsilon"])
def test_the_maps_of_all_channels_add_up_to_the_explanation(place, rules):
    net, x = convolutional(), pictures()
    whole = backlight.explain(net, x, 2, rules=rules)
    ex = concepts.conditional(net, x, concepts.each_channel(net, x, place), 2, rules=rules)

    assert same(ex.values.sum(-1), whole.values, 1e-9)
    assert np.allclose(ex.residual, ex.ledger.absorbed.sum(0), rtol=0, atol=1e-12)
    assert len(ex.output_names) == ex.shape[-1] in (6, 8)


@pytest.mark.fast
def test_directions_of_a_basis_add_up_and_one_is_the_part_along_it():
    net, x = dense(bias=True)
    basis = torch.linalg.qr(torch.randn(6, 6, dtype=D))[0]
    whole = backlight.explain(net, x, 1)
    one_by_one = concepts.conditional(net, x, [{"3": concepts.Directions(2 * v)} for v in basis], 1)
    span = concepts.conditional(net, x, {"3": concepts.Directions(torch.stack([basis[0], basis[0] + 3 * basis[1]]))}, 1)

    assert same(one_by_one.values.sum(-1), whole.values, 1e-9)
    assert same(span.values[..., 0], one_by_one.values[..., :2].sum(-1), 1e-9)
    unit = concepts.conditional(net, x, [{"3": concepts.Directions(torch.eye(6)[2])}, {"3": 2}], 1)
    assert same(unit.values[..., 0], unit.values[..., 1], 1e-12)


@pytest.mark.fast
def test_an_inner_place_is_explained_as_an_output_is():
    net, x = dense()
    ex = concepts.conditional(net, x, [{"3": 4}, {"3": [0, 1]}], start="3", strict=True)
    inner = nn.Sequential(*copy.deepcopy(list(net))[:4])

    assert same(ex.values[..., 0], backlight.explain(inner, x, 4).values, 1e-12)
    assert same(ex.output[:, 0], inner(x)[:, 4].detach().numpy())
    parts = [backlight.explain(inner, x, k).values for k in (0, 1)]
    assert same(ex.values[..., 1], parts[0] + parts[1], 1e-12)
    # from there through a unit below
    below = concepts.conditional(net, x, [{"3": 4, "1": k} for k in range(5)], start="3")
    assert same(below.values.sum(-1), ex.values[..., 0], 1e-12)


@pytest.mark.parametrize("place", ["1", "3"])
def test_many_conditions_cost_one_way_back_each_and_share_the_rest(place):
    net, x = convolutional(), pictures(4)
    conditions = [{place: [k % 6, (k + 1 + k // 6) % 6]} for k in range(64)]
    concepts.conditional(net, x, conditions[:1], 2)  # the capture
    with FlopCounterMode(display=False) as plain, torch.no_grad():
        net(x)
    with FlopCounterMode(display=False) as counted:
        concepts.conditional(net, x, conditions, 2, rules="epsilon")

    assert counted.get_total_flops() <= (2 + 64) * plain.get_total_flops()


@pytest.mark.fast
def test_heads_make_up_what_passes_attention():
    torch.manual_seed(0)
    ids = torch.tensor([[3, 1, 4, 1, 5], [2, 7, 1, 8, 2]])
    eager, fused = (Decoder(fused=how).double().eval() for how in (False, True))
    fused.load_state_dict(eager.state_dict())
    found = [backlight.explain(net, ids, 7, layers="heads") for net in (eager, fused)]
    heads = [next(iter(ex.heads().values())) for ex in found]
    place = next(iter(found[1].layers))
    alone = concepts.conditional(fused, ids, concepts.each_channel(fused, ids, place), 7)

    assert same(heads[0], heads[1], 1e-10)
    assert same(alone.output, heads[1], 1e-12)
    assert alone.shape[-1] == heads[0].shape[1] > 1
    with pytest.raises(ArgumentError, match='layers="heads"'):
        backlight.explain(fused, ids, 7).heads()
    with pytest.raises(ArgumentError, match="no attention"):
        backlight.explain(*dense(), 1, layers="heads")


@pytest.mark.fast
def test_a_ranking_holds_each_channels_relevance_and_the_rows_that_drive_it():
    net, x = convolutional(), pictures(9)
    found = concepts.ranking(net, x, "3", 1, batch_size=4)
    layer = backlight.explain(net, x, 1, layers="3").layers["3"]
    with torch.no_grad():
        value = net[:4](x).amax((2, 3)).numpy()

    assert same(found.relevance, layer.sum((2, 3)), 1e-12)
    assert same(found.activation, value)
    assert found.order[0] == np.abs(found.relevance).mean(0).argmax() == found.top(1)[0][0]
    assert found.examples(5, 3).tolist() == np.argsort(-found.relevance[:, 5])[:3].tolist()
    assert found.examples(5, 3, by="activation").tolist() == np.argsort(-value[:, 5])[:3].tolist()
    assert "8 channels over 9 rows" in repr(found)


@pytest.mark.fast
@pytest.mark.parametrize(("conditions", "options", "said"), [
    ([], {}, "at least one"),
    ([{}], {}, "at least one"),
    ({"3": 9}, {}, "channel 9 is out of range: there are 8"),
    ({"9": 1}, {}, "no layer is named '9'"),
    ({"*": 1}, {}, "matches several places"),
    ({"3": torch.ones(3, 2)}, {}, "a mask of shape"),
    ({"3": concepts.Directions(torch.ones(5))}, {}, "a direction of 5 numbers"),
    ({"3": concepts.Directions(torch.ones(2, 8))}, {}, "depend on each other"),
    ({"3": 1}, {"axis": 0}, "axis=0 counts no channels"),
        ({"3": 1}, {"axis": 7}, "axis=7 counts no channels"),
        ({"3": [0.5]}, {}, "channels are whole numbers"),
        ({"3": [True, False]}, {}, "channels are whole numbers"),
    ({"3": 1}, {"target": [1, 2]}, "one target"),
    ({"3": 1}, {"start": "1"}, "name it in each"),
])  # fmt: skip
def test_conditions_that_say_nothing_are_refused_in_a_sentence(conditions, options, said):
    with pytest.raises(ArgumentError, match=said):
        concepts.conditional(convolutional(), pictures(), conditions, **{"target": 1, **options})


class Residual(nn.Module):
    """Tokens through two residual blocks; linear where ``act`` is the identity."""

    def __init__(self, act) -> None:
        super().__init__()
        self.embed, self.mix, self.act = nn.Embedding(11, 6), nn.Parameter(torch.randn(5, 5, dtype=D) / 5), act
        self.a, self.b, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 7)

    def forward(self, ids):
        h = self.embed(ids)
        h = h + self.a(torch.einsum("st,ntd->nsd", self.mix, h))
        return self.head(h + self.b(self.act(h)))[:, -1]


@pytest.mark.fast
def test_on_a_linear_network_all_ways_of_patching_agree():
    torch.manual_seed(0)
    net = Residual(nn.Identity()).double().eval()
    ids, other = torch.randint(0, 11, (2, 3, 5)).unbind(0)
    made = {how: concepts.patching(net, ids, other, 4, method=how) for how in ("relevance", "gradient", "activation")}

    assert same(made["relevance"].values, made["activation"].values, 1e-11)
    assert same(made["gradient"].values, made["activation"].values, 1e-11)
    assert made["relevance"].correlation(made["activation"]) == pytest.approx(1)
    with torch.no_grad():
        assert same(made["activation"].other - made["activation"].output, (net(other) - net(ids))[:, 4].numpy())
    # what is embedded at all positions together is the whole difference
    place = made["relevance"].places.index("embed")
    assert same(made["relevance"].values[place].sum(1), made["activation"].other - made["activation"].output, 1e-11)


@pytest.mark.fast
def test_patching_a_place_is_running_the_model_with_the_other_value_there():
    torch.manual_seed(0)
    net = Residual(nn.GELU()).double().eval()
    ids, other = torch.randint(0, 11, (2, 2, 5)).unbind(0)
    found = concepts.patching(net, ids, other, 4, places=["a"], method="activation").values[0]
    with torch.no_grad():
        inner = [net.a(torch.einsum("st,ntd->nsd", net.mix, net.embed(given))) for given in (ids, other)]
        for position in range(5):
            mixed = inner[0].clone()
            mixed[:, position] = inner[1][:, position]
            h = net.embed(ids) + mixed
            want = net.head(h + net.b(net.act(h)))[:, -1, 4] - net(ids)[:, 4]
            assert same(found[:, position], want.numpy(), 1e-12)


@pytest.mark.fast
@pytest.mark.parametrize(("options", "said"), [
    ({"method": "mean"}, "is not known"),
    ({"target": [1, 2]}, "one target"),
    ({"target": lambda y: y[:, 0] ** 2}, "linear in the output"),
    ({"places": ["nowhere"]}, "no layer is named"),
    ({"other": torch.zeros(2, 5, dtype=torch.long)}, "the same rows"),
])  # fmt: skip
def test_what_cannot_be_patched_is_refused_in_a_sentence(options, said):
    torch.manual_seed(0)
    net, ids = Residual(nn.GELU()).double().eval(), torch.randint(0, 11, (3, 5))
    with pytest.raises(ArgumentError, match=said):
        concepts.patching(net, ids, **{"other": ids, "target": 1, **options})


def test_relevance_patching_finds_the_circuit_of_induction():
    """It takes a training of four seconds: a circuit that is known is one that was learnt."""
    net = trained()
    clean, corrupted, answer, other = pairs(4)
    with torch.no_grad():
        assert (net(clean)[:, -1].argmax(1) == answer).all()
        assert (net(corrupted)[:, -1].argmax(1) == other).all()
    for k in range(4):
        target = backlight.text.contrast(int(answer[k]), int(other[k]))
        found = {
            how: concepts.patching(net, clean[k : k + 1], corrupted[k : k + 1], target, method=how)
            for how in ("relevance", "activation")
        }

        assert found["relevance"].correlation(found["activation"]) >= 0.9
        # what was changed is at its own token first, and is brought to the last one by the second block's attention
        assert found["relevance"].top(1)[0][1] in (5, 14)
        brought = [name for name, at, _ in found["activation"].top(8) if at == 14]
        assert any(name.startswith("blocks.1") for name in brought)
