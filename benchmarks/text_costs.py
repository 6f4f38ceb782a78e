"""Cost of an explanation of texts beside gradient × input: process time in pairs, in one process, one thread.

Run: python benchmarks/text_costs.py FOLDER [PAIRS]. FOLDER holds a small Llama as `transformers` saves it (stories260k).
Four texts of 128 tokens; the score is that of the predicted token less the mean over the vocabulary. Each pair runs both,
in turn first, so that what else the machine does meets both; the median of the pairs' ratios is printed.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import transformers

import backlight
from backlight.text import contrast


def gradient_x_input(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """The plain gradient at the embedding, times it, as one writes it by hand."""
    x = model.get_input_embeddings()(ids).detach().requires_grad_()
    scores = model(inputs_embeds=x, use_cache=False).logits[:, -1]
    (gradient,) = torch.autograd.grad((scores.max(1).values - scores.mean(1)).sum(), x)
    return (gradient * x.detach()).sum(-1)


def seconds(function: Callable[[], Any]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def main() -> None:
    """Print the ratios."""
    torch.set_num_threads(1)
    pairs = int(sys.argv[2]) if len(sys.argv) > 2 else 31
    for dtype in (torch.float32, torch.float64):
        model = transformers.LlamaForCausalLM.from_pretrained(sys.argv[1]).to(dtype).eval().requires_grad_(False)
        ids = torch.randint(3, 500, (4, 128), generator=torch.Generator().manual_seed(0))
        explainer, target = backlight.Explainer(model, contrast()), contrast()
        for name, explained in (
            ("Explainer", lambda explainer=explainer, ids=ids: explainer(ids)),
            ("explain", lambda model=model, ids=ids, target=target: backlight.explain(model, ids, target)),
        ):
            plain = lambda model=model, ids=ids: gradient_x_input(model, ids)  # noqa: E731
            both = (explained, plain)
            for function in both * 3:
                function()
            ratios = []
            for k in range(pairs):
                took = {}
                for function in both if k % 2 else both[::-1]:
                    took[function] = seconds(function)
                ratios.append(took[explained] / took[plain])
            low, high = statistics.quantiles(ratios, n=4)[::2]
            print(
                f"{dtype}, {name}: {statistics.median(ratios):.2f} × gradient × input "
                f"(quartiles {low:.2f} to {high:.2f}, {pairs} pairs)"
            )


if __name__ == "__main__":
    main()
