"""Can the architectures of `transformers` be explained from what a user has? Tiny random configurations, no network.

Run: python benchmarks/architectures.py [name …]. One line an architecture: whether it runs in double precision, how far
its ledger is from closed (what no line of the ledger accounts for, as a share of the largest amount that flows), what
``strict=True`` says, and how far single precision and bfloat16 are from double (as a share of the largest value). The
target is a fixed output, so that precisions explain the same thing.
"""

from __future__ import annotations

import copy
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import transformers as T

import backlight
from backlight.errors import BacklightWarning

warnings.simplefilter("ignore")
T.logging.set_verbosity_error()

Inputs = dict[str, torch.Tensor]
WORDS = 100
SMALL: dict[str, Any] = dict(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, vocab_size=WORDS,
    max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2,
)  # fmt: skip
GROUPED = SMALL | dict(num_key_value_heads=2)
ENCODER_DECODER: dict[str, Any] = dict(
    d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4,
    encoder_ffn_dim=64, decoder_ffn_dim=64, vocab_size=WORDS, max_position_embeddings=64, pad_token_id=0, bos_token_id=1,
    eos_token_id=2, decoder_start_token_id=1, forced_eos_token_id=None,
)  # fmt: skip


def words(rows: int = 2, length: int = 10) -> torch.Tensor:
    return torch.randint(3, WORDS - 1, (rows, length))


def text(length: int = 10) -> Inputs:
    ids = words(length=length)
    mask = torch.ones_like(ids)
    mask[1, -2:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def pair() -> Inputs:
    return text() | {"decoder_input_ids": words(length=4)}


def picture(side: int = 32, name: str = "pixel_values") -> Callable[[], Inputs]:
    return lambda: {name: torch.randn(2, 3, side, side)}


def one_of(
    family: str, head: str, options: dict[str, Any], inputs: Callable[[], Inputs] = text, **more: Any
) -> tuple[Callable[[], torch.nn.Module], Callable[[], Inputs]]:
    """A model of random weights and what it is given; ``more`` goes to `backlight.explain`."""

    def make() -> torch.nn.Module:
        config = getattr(T, f"{family}Config")(**options)
        return getattr(T, f"{family.removesuffix('Text')}{head}")(config).eval()

    return make, inputs


def sub(family: str, options: dict[str, Any]) -> Any:
    return getattr(T, f"{family}Config")(**options).to_dict()


CLASSES, LANGUAGE, SEQUENCES = "ForSequenceClassification", "ForCausalLM", "ForConditionalGeneration"
EXPERTS = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16)
SEEN = dict(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, image_size=32, patch_size=8
)
HEARD = dict(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, conv_dim=(16, 16), conv_stride=(4, 2),
    conv_kernel=(8, 4), num_feat_extract_layers=2, num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=4, vocab_size=20,
    classifier_proj_size=16,
)  # fmt: skip
SERIES = dict(
    prediction_length=4, context_length=8, d_model=16, encoder_layers=2, decoder_layers=2, encoder_ffn_dim=32,
    decoder_ffn_dim=32, encoder_attention_heads=2, decoder_attention_heads=2, lags_sequence=[1, 2], num_time_features=1,
)  # fmt: skip


def series() -> Inputs:
    return {
        "past_values": torch.randn(2, 10), "past_time_features": torch.randn(2, 10, 1),
        "past_observed_mask": torch.ones(2, 10), "future_time_features": torch.randn(2, 4, 1),
        "future_values": torch.randn(2, 4),
    }  # fmt: skip


def sound(length: int = 400, name: str = "input_values") -> Callable[[], Inputs]:
    return lambda: {name: torch.randn(2, length)}


def both() -> Inputs:
    return text() | picture()()


MODELS: dict[str, tuple[Callable[[], torch.nn.Module], Callable[[], Inputs]]] = {
    # encoders
    "BERT": one_of("Bert", CLASSES, SMALL),
    "BERT, tokens": one_of("Bert", "ForTokenClassification", SMALL),
    "BERT, masked words": one_of("Bert", "ForMaskedLM", SMALL),
    "RoBERTa": one_of("Roberta", CLASSES, SMALL | dict(max_position_embeddings=70)),
    "XLM-RoBERTa": one_of("XLMRoberta", CLASSES, SMALL | dict(max_position_embeddings=70)),
    "CamemBERT": one_of("Camembert", "ForMaskedLM", SMALL | dict(max_position_embeddings=70)),
    "DistilBERT": one_of("DistilBert", CLASSES, dict(dim=32, n_layers=2, n_heads=4, hidden_dim=64, vocab_size=WORDS)),
    "ALBERT": one_of("Albert", CLASSES, SMALL | dict(embedding_size=16)),
    "ELECTRA": one_of("Electra", CLASSES, SMALL | dict(embedding_size=16)),
    "DeBERTa": one_of("Deberta", CLASSES, SMALL | dict(relative_attention=True, pos_att_type=["p2c", "c2p"])),
    "DeBERTa v2": one_of("DebertaV2", CLASSES, SMALL | dict(relative_attention=True, pos_att_type=["p2c", "c2p"])),
    "MPNet": one_of("MPNet", CLASSES, SMALL | dict(max_position_embeddings=70)),
    "ModernBERT": one_of("ModernBert", CLASSES, SMALL | dict(cls_token_id=1, sep_token_id=2)),
    "Longformer": one_of("Longformer", CLASSES, SMALL | dict(attention_window=4), lambda: text(12)),
    "BigBird": one_of("BigBird", CLASSES, SMALL | dict(attention_type="original_full")),
    "BigBird, sparse": one_of("BigBird", CLASSES, SMALL | dict(attention_type="block_sparse", block_size=2, num_random_blocks=1), lambda: text(24)),
    "XLNet": one_of("XLNet", CLASSES, dict(d_model=32, n_layer=2, n_head=4, d_inner=64, vocab_size=WORDS)),
    "Funnel": one_of("Funnel", CLASSES, dict(d_model=32, block_sizes=[1, 1], n_head=4, d_head=8, d_inner=64, vocab_size=WORDS)),
    "ConvBERT": one_of("ConvBert", CLASSES, SMALL | dict(embedding_size=32)),
    "SqueezeBERT": one_of("SqueezeBert", CLASSES, SMALL | dict(embedding_size=32)),
    "FNet": one_of("FNet", CLASSES, SMALL, lambda: {"input_ids": words()}),
    "ESM": one_of("Esm", CLASSES, SMALL | dict(max_position_embeddings=70, mask_token_id=3)),
    "LayoutLM": one_of("LayoutLM", CLASSES, SMALL, lambda: text() | {"bbox": torch.randint(0, 60, (2, 10, 4)).sort(-1).values}),
    # decoders
    "GPT-2": one_of("GPT2", "LMHeadModel", dict(n_embd=32, n_layer=2, n_head=4, vocab_size=WORDS, n_positions=64)),
    "GPT-Neo": one_of("GPTNeo", LANGUAGE, dict(hidden_size=32, num_layers=2, num_heads=4, vocab_size=WORDS, max_position_embeddings=64, attention_types=[[["global", "local"], 1]], window_size=4)),
    "GPT-J": one_of("GPTJ", LANGUAGE, dict(n_embd=32, n_layer=2, n_head=4, vocab_size=WORDS, n_positions=64, rotary_dim=4)),
    "GPT-NeoX": one_of("GPTNeoX", LANGUAGE, SMALL),
    "CodeGen": one_of("CodeGen", LANGUAGE, dict(n_embd=32, n_layer=2, n_head=4, vocab_size=WORDS, n_positions=64, rotary_dim=4)),
    "OPT": one_of("OPT", LANGUAGE, dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, ffn_dim=64, vocab_size=WORDS, max_position_embeddings=64, word_embed_proj_dim=32, pad_token_id=0)),
    "Llama": one_of("Llama", LANGUAGE, GROUPED),
    "Llama, classes": one_of("Llama", CLASSES, GROUPED),
    "Mistral": one_of("Mistral", LANGUAGE, GROUPED | dict(sliding_window=4)),
    "Qwen2": one_of("Qwen2", LANGUAGE, GROUPED),
    "Qwen3": one_of("Qwen3", LANGUAGE, GROUPED | dict(head_dim=8)),
    "Gemma": one_of("Gemma", LANGUAGE, GROUPED | dict(head_dim=8)),
    "Gemma 2": one_of("Gemma2", LANGUAGE, GROUPED | dict(head_dim=8, sliding_window=4)),
    "Gemma 3": one_of("Gemma3Text", LANGUAGE, GROUPED | dict(head_dim=8, sliding_window=4)),
    "Phi": one_of("Phi", LANGUAGE, SMALL),
    "Phi-3": one_of("Phi3", LANGUAGE, GROUPED),
    "Falcon": one_of("Falcon", LANGUAGE, SMALL),
    "Falcon, ALiBi": one_of("Falcon", LANGUAGE, SMALL | dict(alibi=True, new_decoder_architecture=False)),
    "BLOOM": one_of("Bloom", LANGUAGE, dict(hidden_size=32, n_layer=2, n_head=4, vocab_size=WORDS)),
    "MPT": one_of("Mpt", LANGUAGE, dict(d_model=32, n_layers=2, n_heads=4, vocab_size=WORDS, max_seq_len=64)),
    "StableLM": one_of("StableLm", LANGUAGE, GROUPED),
    "OLMo": one_of("Olmo", LANGUAGE, GROUPED),
    "OLMo 2": one_of("Olmo2", LANGUAGE, GROUPED),
    "Cohere": one_of("Cohere", LANGUAGE, GROUPED),
    "Granite": one_of("Granite", LANGUAGE, GROUPED),
    "StarCoder 2": one_of("Starcoder2", LANGUAGE, GROUPED),
    "SmolLM 3": one_of("SmolLM3", LANGUAGE, GROUPED),
    "BioGPT": one_of("BioGpt", LANGUAGE, SMALL),
    # mixtures of experts
    "GPT-OSS": one_of("GptOss", LANGUAGE, GROUPED | dict(head_dim=8, num_local_experts=4, num_experts_per_tok=2, sliding_window=4)),
    "Mixtral": one_of("Mixtral", LANGUAGE, GROUPED | dict(num_local_experts=4)),
    "Qwen2 MoE": one_of("Qwen2Moe", LANGUAGE, GROUPED | EXPERTS | dict(shared_expert_intermediate_size=16)),
    "Qwen3 MoE": one_of("Qwen3Moe", LANGUAGE, GROUPED | EXPERTS | dict(head_dim=8)),
    "OLMoE": one_of("Olmoe", LANGUAGE, GROUPED | dict(num_experts=4, num_experts_per_tok=2)),
    "PhiMoE": one_of("Phimoe", LANGUAGE, GROUPED | dict(num_local_experts=4, num_experts_per_tok=2)),
    "DeepSeek V2": one_of("DeepseekV2", LANGUAGE, SMALL | dict(num_key_value_heads=4, moe_intermediate_size=16, n_routed_experts=4, num_experts_per_tok=2, first_k_dense_replace=1, kv_lora_rank=8, q_lora_rank=8, qk_rope_head_dim=4, qk_nope_head_dim=4, v_head_dim=8, n_shared_experts=1)),
    "DeepSeek V3": one_of("DeepseekV3", LANGUAGE, SMALL | dict(num_key_value_heads=4, moe_intermediate_size=16, n_routed_experts=4, num_experts_per_tok=2, first_k_dense_replace=1, kv_lora_rank=8, q_lora_rank=8, qk_rope_head_dim=4, qk_nope_head_dim=4, v_head_dim=8, n_group=2, topk_group=1)),
    # from one sequence to another
    "T5": one_of("T5", SEQUENCES, dict(d_model=32, num_layers=2, num_heads=4, d_kv=8, d_ff=64, vocab_size=WORDS), pair),
    "Flan-T5": one_of("T5", SEQUENCES, dict(d_model=32, num_layers=2, num_heads=4, d_kv=8, d_ff=64, vocab_size=WORDS, feed_forward_proj="gated-gelu"), pair),
    "BART": one_of("Bart", SEQUENCES, ENCODER_DECODER, pair),
    "mBART": one_of("MBart", SEQUENCES, ENCODER_DECODER, pair),
    "Marian": one_of("Marian", "MTModel", ENCODER_DECODER, pair),
    "Pegasus": one_of("Pegasus", SEQUENCES, ENCODER_DECODER, pair),
    "M2M-100": one_of("M2M100", SEQUENCES, ENCODER_DECODER, pair),
    # pictures
    "ViT": one_of("ViT", "ForImageClassification", SEEN, picture()),
    "DeiT": one_of("DeiT", "ForImageClassification", SEEN, picture()),
    "BEiT": one_of("Beit", "ForImageClassification", SEEN | dict(use_relative_position_bias=True), picture()),
    "Swin": one_of("Swin", "ForImageClassification", dict(image_size=32, patch_size=4, embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=4), picture()),
    "Swin v2": one_of("Swinv2", "ForImageClassification", dict(image_size=32, patch_size=4, embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=4), picture()),
    "DINOv2": one_of("Dinov2", "ForImageClassification", dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=8), picture()),
    "ConvNeXt": one_of("ConvNext", "ForImageClassification", dict(hidden_sizes=[8, 16, 16, 16], depths=[1, 1, 1, 1]), picture()),
    "ConvNeXt v2": one_of("ConvNextV2", "ForImageClassification", dict(hidden_sizes=[8, 16, 16, 16], depths=[1, 1, 1, 1]), picture()),
    "SegFormer": one_of("Segformer", "ForImageClassification", dict(hidden_sizes=[8, 16, 16, 16], depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 2, 2], decoder_hidden_size=16), picture()),
    "PoolFormer": one_of("PoolFormer", "ForImageClassification", dict(hidden_sizes=[8, 16, 16, 16], depths=[1, 1, 1, 1]), picture()),
    "ResNet": one_of("ResNet", "ForImageClassification", dict(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1]), picture()),
    "LeViT": one_of("Levit", "ForImageClassification", dict(image_size=64, hidden_sizes=[16, 24, 32], num_attention_heads=[2, 3, 4], depths=[1, 1, 1], key_dim=[8, 8, 8]), picture(64)),
    "MobileViT": one_of("MobileViT", "ForImageClassification", dict(image_size=64, hidden_sizes=[16, 24, 32], neck_hidden_sizes=[8, 8, 16, 16, 24, 32, 64]), picture(64)),
    # sound
    "Wav2Vec2": one_of("Wav2Vec2", CLASSES, HEARD, sound()),
    "Wav2Vec2, letters": one_of("Wav2Vec2", "ForCTC", HEARD, sound()),
    "HuBERT": one_of("Hubert", CLASSES, HEARD, sound()),
    "Whisper": one_of("Whisper", SEQUENCES, ENCODER_DECODER | dict(num_mel_bins=8, max_source_positions=16, max_target_positions=32), lambda: {"input_features": torch.randn(2, 8, 32), "decoder_input_ids": words(length=4)}),
    "Audio spectrogram": one_of("AST", "ForAudioClassification", dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, patch_size=8, frequency_stride=8, time_stride=8, max_length=32, num_mel_bins=16), lambda: {"input_values": torch.randn(2, 32, 16)}),
    # of several kinds
    "CLIP": one_of("CLIP", "Model", dict(text_config=SMALL, vision_config=SEEN, projection_dim=16), both),
    "SigLIP": one_of("Siglip", "Model", dict(text_config=SMALL, vision_config=SEEN), both),
    "BLIP": one_of("Blip", "ForImageTextRetrieval", dict(text_config=SMALL | dict(encoder_hidden_size=32), vision_config=SEEN, image_text_hidden_size=16), both),
    "ViLT": one_of("Vilt", "ForQuestionAnswering", SMALL | dict(image_size=32, patch_size=8, num_labels=3), both),
    "LLaVA": one_of("Llava", SEQUENCES, dict(text_config=sub("Llama", GROUPED), vision_config=sub("CLIPVision", SEEN), image_token_index=99), lambda: {"input_ids": torch.cat([torch.full((2, 16), 99), words(length=5)], 1), "attention_mask": torch.ones(2, 21, dtype=torch.long), "pixel_values": torch.randn(2, 3, 32, 32)}),
    # series
    "PatchTST": one_of("PatchTST", "ForPrediction", dict(num_input_channels=2, context_length=16, patch_length=4, patch_stride=4, d_model=16, num_attention_heads=2, num_hidden_layers=2, ffn_dim=32, prediction_length=4), lambda: {"past_values": torch.randn(2, 16, 2)}),
    "PatchTSMixer": one_of("PatchTSMixer", "ForPrediction", dict(num_input_channels=2, context_length=16, patch_length=4, patch_stride=4, d_model=16, num_layers=2, prediction_length=4), lambda: {"past_values": torch.randn(2, 16, 2)}),
    "Informer": one_of("Informer", "ForPrediction", SERIES, series),
    "Time series transformer": one_of("TimeSeriesTransformer", "ForPrediction", SERIES, series),
    "Autoformer": one_of("Autoformer", "ForPrediction", SERIES | dict(label_length=4), series),
    # state spaces and recurrence
    "Mamba": one_of("Mamba", LANGUAGE, dict(hidden_size=32, num_hidden_layers=2, vocab_size=WORDS, state_size=4)),
    "Mamba 2": one_of("Mamba2", LANGUAGE, dict(hidden_size=32, num_hidden_layers=2, vocab_size=WORDS, state_size=4, head_dim=8, num_heads=8, n_groups=2, chunk_size=4), lambda: {"input_ids": words()}),
    "Falcon Mamba": one_of("FalconMamba", LANGUAGE, dict(hidden_size=32, num_hidden_layers=2, vocab_size=WORDS, state_size=4)),
    "RWKV": one_of("Rwkv", LANGUAGE, dict(hidden_size=32, attention_hidden_size=32, num_hidden_layers=2, vocab_size=WORDS, context_length=64), lambda: {"input_ids": words()}),
    "xLSTM": one_of("xLSTM", LANGUAGE, dict(hidden_size=32, num_heads=4, num_hidden_layers=2, vocab_size=WORDS, chunk_size=4), lambda: {"input_ids": words(length=8)}),
    "RecurrentGemma": one_of("RecurrentGemma", LANGUAGE, GROUPED | dict(num_key_value_heads=1, attention_window_size=4, lru_width=32)),
    "Bamba": one_of("Bamba", LANGUAGE, GROUPED | dict(mamba_n_heads=8, mamba_d_head=8, mamba_n_groups=1, mamba_d_state=4, mamba_chunk_size=4, attn_layer_indices=[1])),
    "Jamba": one_of("Jamba", LANGUAGE, GROUPED | dict(num_experts=2, attn_layer_period=2, attn_layer_offset=1, expert_layer_period=2, expert_layer_offset=1, mamba_d_state=4, mamba_dt_rank=4, use_mamba_kernels=False)),
}  # fmt: skip


def cast(inputs: Inputs, dtype: torch.dtype) -> Inputs:
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in inputs.items()}


def experts(model: torch.nn.Module, how: str) -> None:
    """How a mixture of experts is computed: grouped products exist in single precision and below."""
    if hasattr(model.config, "_experts_implementation"):
        model.config._experts_implementation = how


def examine(name: str) -> dict[str, Any]:
    """What holds of one architecture."""
    make, given = MODELS[name]
    torch.manual_seed(0)
    options = OPTIONS.get(name, {})
    said: dict[str, Any] = {"name": name}
    try:
        model = make()
        inputs = given()
        double = copy.deepcopy(model).double()
        experts(double, "eager")
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            try:
                ex = backlight.explain(double, cast(inputs, torch.float64), 1, **options)
                options = options | {"target": 1}
            except backlight.errors.ArgumentError:
                ex = backlight.explain(double, cast(inputs, torch.float64), **options)
        said["warned"] = [str(w.message)[:160] for w in heard if issubclass(w.category, BacklightWarning)]
    except Exception as error:  # a table of what happens says what happens
        said["state"] = ("refused: " if isinstance(error, backlight.BacklightError) else "raw: ") + _one_line(error)
        return said
    said["finite"] = bool(np.isfinite(ex.values).all())
    flow = max(abs(part).max() for part in (np.asarray(ex.output), ex.ledger.entering, abs(ex.values).sum(1)))
    said["open"] = float(abs(ex.residual - ex.ledger.absorbed.sum(0)).max()) / flow
    said["values"] = float(abs(ex.values).max())
    said["in"] = str(sorted(str(p).removeprefix("torch.") for p in _precisions(double, cast(inputs, torch.float64))))
    try:
        backlight.explain(double, cast(inputs, torch.float64), strict=True, **options)
        said["strict"] = "passes"
    except Exception as error:
        said["strict"] = _one_line(error)
    scale = max(float(abs(ex.values).max()), 1e-30)
    for dtype in (torch.float32, torch.bfloat16):
        try:
            lower = copy.deepcopy(double).to(dtype)
            experts(lower, "grouped_mm")
            low = backlight.explain(lower, cast(inputs, dtype), **options)
            said[str(dtype)[6:]] = float(abs(low.values - ex.values).max()) / scale
        except Exception as error:
            said[str(dtype)[6:]] = _one_line(error)
    said["state"] = "works"
    return said


def _precisions(model: torch.nn.Module, inputs: Inputs) -> set[torch.dtype]:
    from backlight.engine.network import Network

    return next(iter(Network.of(model)._graphs.values())).precisions if Network.of(model)._graphs else set()


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


OPTIONS: dict[str, dict[str, Any]] = {}


def main() -> None:
    """Print the table."""
    for name in sys.argv[1:] or MODELS:
        start = time.process_time()
        said = examine(name)
        took = time.process_time() - start
        if said["state"] != "works":
            print(f"{name:24s} {took:5.1f}s {said['state']}", flush=True)
            continue
        low = [said[k] if isinstance(said[k], str) else f"{said[k]:.0e}" for k in ("float32", "bfloat16")]
        print(
            f"{name:24s} {took:5.1f}s open {said['open']:.0e} {said['in']} f32 {low[0]} bf16 {low[1]} finite {said['finite']} "
            f"strict {said['strict']} {said['warned'] or ''}", flush=True,
        )  # fmt: skip


if __name__ == "__main__":
    main()
