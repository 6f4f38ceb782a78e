"""Memory of one explanation of a long text: a random Llama of 12 layers and width 512, in single precision.

Run: python benchmarks/long_context.py [TOKENS]. Prints what the plan says, and the process's own peak.
"""

from __future__ import annotations

import resource
import sys
import time

import torch
import transformers

import backlight
from backlight.text import contrast


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def main() -> None:
    """Print the figures."""
    tokens = int(sys.argv[1]) if len(sys.argv) > 1 else 4096
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=512, num_hidden_layers=12, num_attention_heads=8, num_key_value_heads=4, intermediate_size=1376,
        vocab_size=4096, max_position_embeddings=tokens,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()
    ids = torch.randint(3, 4096, (1, tokens))
    with torch.no_grad():
        model(ids)
    print(f"after the model's own forward: {peak():.2f} GB")
    started = time.process_time()
    said = repr(backlight.plan(model, ids)).splitlines()
    print("\n".join(line for line in said[:4] if "GB" in line), f"({time.process_time() - started:.0f} s to plan)")
    started = time.process_time()
    ex = backlight.explain(model, ids, contrast())
    print(
        f"explained in {time.process_time() - started:.0f} s; peak {peak():.2f} GB; |values| {abs(ex.values).sum():.3g}"
    )


if __name__ == "__main__":
    main()
