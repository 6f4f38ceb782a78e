"""Relevance patching and attribution patching against activation patching, over all residual and branch places.

Run: python benchmarks/patching.py FOLDER. FOLDER holds stories260k as `transformers` saves it, with its ``tokenizer.py``.
A name, an animal or a thing is exchanged in a text; the score is that of the token that the model then says, less that of
the one it says of the changed text. The second table is a two-layer model that was trained on induction.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import torch
import transformers

from backlight import concepts, text

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests.induction import pairs, trained

PAIRS = [
    ("Once upon a time, there was a little girl named Lily. One day,", ("girl", "boy"), ("Lily", "Tim")),
    ("Tom had a big red ball. He loved to play with his", ("ball", "car")),
    ("The little dog was sad. The", ("dog", "cat")),
    ("Lily saw a bird in the tree. The", ("bird", "frog")),
    ("She was very happy. She", ("She", "He")),
    ("Mom gave Sue a cake. Sue said, \"Thank you,", ("Mom", "Dad")),
    ("It was a sunny day. The sun was", ("sunny", "rainy")),
    ("The boy was hungry. He wanted to eat", ("hungry", "thirsty")),
]  # fmt: skip
METHODS = {"relevance": {}, "gradient": {"method": "gradient"}, "relevance, AttnLRP": {"rules": "attnlrp"}}


SEEN: list[list[np.ndarray]] = [[] for _ in range(1 + len(METHODS))]


def compared(model: torch.nn.Module, ids: torch.Tensor, other: torch.Tensor, answers: tuple[int, int]) -> list[float]:
    target = text.contrast(*answers)
    truth = concepts.patching(model, ids, other, target, method="activation")
    given = {"target": target, "places": truth.places}
    found = [concepts.patching(model, ids, other, **given, **how) for how in METHODS.values()]
    # the residual stream and the branches of dense layers, without those of attention
    kept = [k for k, place in enumerate(truth.places) if "attn" not in place]
    for values, one in zip(SEEN, (truth, *found), strict=True):
        values.append(one.values[kept].ravel())
    return [one.correlation(truth) for one in found]


def stories(folder: Path) -> None:
    spec = importlib.util.spec_from_file_location("stories_tokenizer", folder / "tokenizer.py")
    assert spec is not None
    assert spec.loader is not None
    tokenizer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tokenizer)
    model = transformers.LlamaForCausalLM.from_pretrained(folder).double().eval()
    print("| text | changed | " + " | ".join(METHODS) + " |\n|---|---|---|---|---|")
    rows = []
    for sentence, *changes in PAIRS:
        for was, new in changes:
            ids, other = ([tokenizer.encode(one)] for one in (sentence, sentence.replace(was, new)))
            if len(ids[0]) != len(other[0]):
                continue
            a, b = torch.tensor(ids), torch.tensor(other)
            with torch.no_grad():
                said = [int(model(one).logits[0, -1].argmax()) for one in (a, b)]
                gap = model(a).logits[0, -1] - model(b).logits[0, -1]
            answers = (said[0], said[1]) if said[0] != said[1] else (int(gap.argmax()), int(gap.argmin()))
            rows.append(compared(model, a, b, answers))
            print(
                f"| {sentence} | {was} → {new} | " + " | ".join(f"{value:.3f}" for value in rows[-1]) + " |", flush=True
            )
    print("| mean | | " + " | ".join(f"{sum(column) / len(rows):.3f}" for column in zip(*rows, strict=True)) + " |")
    truth, *found = (np.concatenate(values) for values in SEEN)
    together = " | ".join(f"{np.corrcoef(values, truth)[0, 1]:.3f}" for values in found)
    print(f"| dense and residual places of all texts together | | {together} |")


def induction() -> None:
    net = trained()
    clean, corrupted, answer, other = pairs(8)
    rows = [
        compared(net, clean[k : k + 1], corrupted[k : k + 1], (int(answer[k]), int(other[k])))
        for k in range(len(clean))
    ]
    print("| induction, mean of 8 | " + " | ".join(f"{sum(c) / len(rows):.3f}" for c in zip(*rows, strict=True)) + " |")


if __name__ == "__main__":
    stories(Path(sys.argv[1]))
    induction()
