"""Faithfulness of explanations of a trained language model, judged by `backlight.evaluate`.

Run: python benchmarks/text.py FOLDER [ROWS]. FOLDER holds a small Llama as `transformers` saves it (stories260k). Texts
are sampled from the model itself with a fixed seed, 24 tokens each; the score is that of the token that it predicts, less
the mean over the vocabulary; what is taken away is replaced by the token 0 (unknown), or dropped.
"""

from __future__ import annotations

import sys

import torch
import transformers

import backlight
from backlight.text import contrast

LENGTH = 24


def sampled(model: torch.nn.Module, rows: int) -> torch.Tensor:
    """Texts of the model's own, a start token before each."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.ones(rows, 1, dtype=torch.long)
    with torch.no_grad():
        while ids.shape[1] < LENGTH:
            chances = model(ids).logits[:, -1].softmax(-1)
            ids = torch.cat([ids, torch.multinomial(chances, 1, generator=generator)], 1)
    return ids


def gradient_x_input(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """The plain gradient at the embedding, times it."""
    x = model.get_input_embeddings()(ids).detach().requires_grad_()
    scores = model(inputs_embeds=x).logits[:, -1]
    (scores.max(1).values - scores.mean(1)).sum().backward()
    return (x.grad * x.detach()).sum(-1)


def main() -> None:
    """Print the tables."""
    rows = int(sys.argv[2]) if len(sys.argv) > 2 else 40
    model = transformers.LlamaForCausalLM.from_pretrained(sys.argv[1]).double().eval()
    ids = sampled(model, rows)
    target = contrast()
    found = {
        name: backlight.explain(model, ids, target, rules=rules)
        for name, rules in (("default", "auto"), ("attnlrp", "attnlrp"))
    }
    kept = found["default"].values.sum(1) / found["default"].output
    print(f"default: sum of relevance / score, furthest from 1: {abs(kept - 1).max():.1e}")
    print(f"mean score of the {rows} texts: {found['default'].output.mean():.3f}")
    values = {**found, "gradient x input": gradient_x_input(model, ids).numpy(), "random": "random"}
    fractions = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    for reference in (backlight.Reference.point(0), backlight.Reference.dropped()):
        judged = backlight.evaluate(
            model, ids, values, target=target, reference=reference, metrics=["srg"], units="token", fractions=fractions
        )
        print(judged)
        for other in ("attnlrp", "gradient x input"):
            print(f"default − {other}: {judged.difference('srg', 'default', other)}")


if __name__ == "__main__":
    main()
