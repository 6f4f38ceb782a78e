"""Long forward passes: what is kept, what is made again, and what a plan says of it."""

import itertools
import sys

import pytest
import torch

import backlight
from backlight.attribution import lrp
from backlight.engine.checkpoints import bytes_kept, checkpoints
from backlight.engine.network import Network
from backlight.engine.run import forward
from tests.conftest import same
from tests.induction import Induction

pytestmark = pytest.mark.fast


def deep() -> tuple[torch.nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    net = Induction(width=16)
    net.blocks.extend([Induction(width=16).blocks[0] for _ in range(4)])
    return net.double().eval(), torch.randint(0, 16, (3, 12))


@pytest.mark.parametrize("rules", ["auto", "attnlrp"])
def test_relevance_is_the_same_with_and_without_checkpoints(rules, monkeypatch):
    net, ids = deep()
    plain = backlight.explain(net, ids, [1, 4], rules=rules, layers="blocks.2.*")
    monkeypatch.setattr(lrp, "MUCH", 0)
    blockwise = backlight.explain(net, ids, [1, 4], rules=rules, layers="blocks.2.*")

    assert same(blockwise.values, plain.values, 1e-14)
    assert all(same(blockwise.layers[name], plain.layers[name], 1e-14) for name in plain.layers)
    assert same(blockwise.ledger.absorbed, plain.ledger.absorbed, 1e-12)


def test_one_blocks_records_are_held_at_a_time():
    net, ids = deep()
    plan = Network.of(net).plan(((ids,), {}), "auto")
    cuts = checkpoints(plan)
    run = forward(plan, {"ids": ids}, cuts=cuts)
    edges = [0, *cuts, len(plan.steps)]
    longest = max(b - a for a, b in itertools.pairwise(edges))
    held = []
    seed = torch.zeros_like(run.output)[None]
    seed[..., -1, 3] = 1
    assert all(record is None for record in run.records)
    run.relevance(seed, watch=lambda *_: held.append(sum(record is not None for record in run.records)))

    assert len(cuts) >= 5
    assert max(held) <= longest < len(plan.steps) / 3
    # what a block begins with is the stream, and not what its inside made
    assert all(len(entry) <= 3 for entry in run.entries.values())


def test_a_plan_says_what_a_large_batch_will_take(monkeypatch):
    net, _ = deep()
    ids = torch.randint(0, 16, (2000, 20))
    much, little = bytes_kept(Network.of(net).plan(((ids,), {}), "auto"), 2000)
    said = repr(backlight.plan(net, ids))

    assert little < much / 3
    assert f"2000 rows together keep about {much / 1e9:.2g} GB for the way back" in said
    monkeypatch.setattr(sys.modules["backlight.attribution.plan"], "MUCH", much // 2)
    assert f"blocks) about {little / 1e9:.2g} GB" in repr(backlight.plan(net, ids))
    assert "GB" not in repr(backlight.plan(net, ids[:2]))


def test_a_network_without_narrow_places_keeps_everything():
    net = torch.nn.Sequential(torch.nn.Linear(3, 2)).double()
    plan = Network.of(net).plan(((torch.zeros(2, 3, dtype=torch.float64),), {}), "auto")

    assert checkpoints(plan) == []
    assert bytes_kept(plan, 2)[0] == bytes_kept(plan, 2)[1]


@pytest.mark.parametrize("blockwise", [False, True])
def test_freed_memory_goes_back_to_the_system_between_blocks_alone(blockwise, monkeypatch):
    from backlight.engine import run

    calls = []
    net, ids = deep()
    backlight.explain(net, ids, 1)
    monkeypatch.setattr(run, "give_back", lambda: calls.append(1))
    monkeypatch.setattr(lrp, "MUCH", 0 if blockwise else 2**40)
    backlight.explain(net, ids, 1)
    blocks = len(checkpoints(Network.of(net).plan(((ids,), {}), "auto")))

    assert len(calls) >= 2 * blocks if blockwise else not calls


def test_giving_memory_back_is_harmless_where_the_c_library_has_no_word_for_it(monkeypatch):
    from backlight.engine import memory

    memory.give_back()
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: object())
    memory._trim.cache_clear()
    memory.give_back()
    memory._trim.cache_clear()
