"""Writes golden/engine/: tiny Llama models with a LoRA each, and what PyTorch, transformers and PEFT compute for them.

    python -m venv venv && venv/bin/pip install -r golden/requirements.txt
    venv/bin/python golden/make_engine.py [CASE ...]

Every case is a folder:

    config.json, model*.safetensors   the base, as transformers saves it (or in the older config layout)
    adapter/                          the LoRA, as PEFT saves it
    expected.json                     rows, losses, the three optimiser steps, greedy ids
    expected.safetensors              logits, gradients, the adapter after each step; f32

Everything is computed in f32 on the CPU from the weights as stored, with eager attention and right padding.
"""

import json
import os
import shutil
import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path

os.environ.update(CUDA_VISIBLE_DEVICES="", HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1")

import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from transformers import (AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM,
                          get_linear_schedule_with_warmup, logging)

OUT = Path(__file__).parent / "engine"
# (tokens, tokens of the prompt) of each row; unequal on purpose, so that a mean of means is not the mean.
ROWS = [(11, 5), (7, 3), (14, 9), (5, 2), (9, 4), (12, 6), (3, 1), (16, 8)]
# Rows of the micro-batches of each optimiser step; the last accumulation is a partial one.
STEPS = [[[0, 1], [2, 3]], [[4, 5], [6]], [[7]]]
LOGITS_ROW = 2
PEAK_RATE = 1e-2
PROMPT_WEIGHTS = [1.0, 0.3, 0.0]
TOP_MARGIN = 1e-3  # between the first and the second id of every greedy choice, in logits


@dataclass
class Case:
    """A base model's config, what is adapted, and how the base is stored."""

    name: str
    config: dict = field(default_factory=dict)
    lora: dict = field(default_factory=dict)
    dtype: torch.dtype = torch.float32
    seed: int = 1
    old_layout: dict | None = None  # the rope fields of config.json before transformers 5
    shard: str | None = None
    qwen2: bool = False  # Qwen2 instead of Llama: biases on q, k and v, but not on o
    fresh: bool = False  # PEFT's own initialisation, B = 0
    max_grad_norm: float = 1.0


BASE = dict(vocab_size=80, hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-5, tie_word_embeddings=True,
            bos_token_id=1, eos_token_id=2, rope_theta=10000.0)
ODD = dict(vocab_size=61, hidden_size=24, num_attention_heads=3, num_key_value_heads=3, intermediate_size=36)
WIDE = dict(num_attention_heads=2, num_key_value_heads=1)
QV = dict(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"])
# Chosen so that the eight wavelengths of a 16-wide head fall on all three branches: kept, blended, divided.
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=32)

CASES = [
    Case("gqa_tied", {}, QV, old_layout=dict(rope_theta=10000.0, rope_scaling=None)),
    Case("mha_untied_odd", {**ODD, "tie_word_embeddings": False},
         dict(r=3, lora_alpha=6, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"])),
    Case("attention_bias", {"attention_bias": True, "tie_word_embeddings": False},
         dict(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "o_proj"])),
    Case("qwen2_bias", {}, dict(r=2, lora_alpha=4, target_modules=["k_proj", "v_proj"]), qwen2=True),
    Case("rope_llama3_old", {**WIDE, "rope_theta": 100.0, "rope_scaling": LLAMA3}, QV, seed=5,
         old_layout=dict(rope_theta=100.0, rope_scaling=LLAMA3)),
    Case("rope_llama3_new", {**WIDE, "rope_theta": 100.0, "rope_scaling": LLAMA3}, QV, seed=5),
    Case("rope_linear", {"rope_scaling": dict(rope_type="linear", factor=4.0)}, QV,
         old_layout=dict(rope_theta=10000.0, rope_scaling=dict(type="linear", factor=4.0))),
    Case("head_dim", {**ODD, "num_key_value_heads": 1, "head_dim": 16},
         dict(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj", "o_proj"])),
    Case("all_linear", {}, dict(r=2, lora_alpha=4, target_modules="all-linear")),
    Case("rslora", ODD, dict(r=4, lora_alpha=4, use_rslora=True, target_modules=["gate_proj", "up_proj", "down_proj"]),
         max_grad_norm=4.0),  # clips two of the three steps
    Case("bf16_sharded", {}, QV, dtype=torch.bfloat16, shard="9KB"),
    Case("f16", ODD, QV, dtype=torch.float16),
    Case("fresh", {}, dict(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"]), seed=2, fresh=True),
]


def save_base(case: Case, folder: Path) -> None:
    """A model whose attention is far from uniform, saved in the case's dtype and config layout."""
    torch.manual_seed(case.seed)
    raw = {**BASE, **case.config}
    rope = {"rope_type": "default", **raw.pop("rope_scaling", {}), "rope_theta": raw.pop("rope_theta")}
    Config, Model = (Qwen2Config, Qwen2ForCausalLM) if case.qwen2 else (LlamaConfig, LlamaForCausalLM)
    model = Model(Config(**raw, rope_parameters=rope))
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "norm" in name:
                p.copy_(1 + 0.2 * torch.randn_like(p))
            elif "bias" in name:
                p.copy_(0.3 * torch.randn_like(p))
            elif "embed" in name or "lm_head" in name:
                p.copy_(0.4 * torch.randn_like(p))
            else:
                p.copy_(1.3 * torch.randn_like(p) / p.shape[1] ** 0.5)
    model.to(case.dtype).save_pretrained(folder, **({"max_shard_size": case.shard} if case.shard else {}))
    (folder / "generation_config.json").unlink()
    if case.old_layout:
        path = folder / "config.json"
        config = json.loads(path.read_text())
        config.pop("rope_parameters")
        config["torch_dtype"] = config.pop("dtype")
        path.write_text(json.dumps({**config, **case.old_layout}, indent=2, sort_keys=True) + "\n")


def save_adapter(case: Case, folder: Path) -> PeftModel:
    """The base as stored, read back in f32, with a LoRA that PEFT made and saved."""
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    torch.manual_seed(1000 + case.seed)
    model = get_peft_model(base, LoraConfig(**case.lora, lora_dropout=0.0, bias="none", task_type="CAUSAL_LM"))
    if not case.fresh:
        with torch.no_grad():
            for name, p in trainable(model):
                if "lora_B" in name:
                    p.copy_(0.3 * torch.randn_like(p))
    model.peft_config["default"].base_model_name_or_path = case.name
    model.save_pretrained(folder / "adapter")
    (folder / "adapter" / "README.md").unlink()
    # PEFT writes the modules in the order of a Python set, which changes from run to run.
    path = folder / "adapter" / "adapter_config.json"
    config = json.loads(path.read_text())
    config["target_modules"].sort()
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    return model


def trainable(model):
    """(name as in PEFT's file, parameter) of every LoRA factor."""
    return [(n.replace(".default.", "."), p) for n, p in model.named_parameters() if p.requires_grad]


def weighted_loss(model, rows, prompt_weight):
    """Sum of weight times cross-entropy over a padded batch of rows, and the sum of the weights.

    The weight belongs to the token that is predicted: 1 in the answer, `prompt_weight` before it.
    """
    longest = max(len(r["ids"]) for r in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    weights = torch.zeros(len(rows), longest)
    for i, row in enumerate(rows):
        n = len(row["ids"])
        ids[i, :n], mask[i, :n] = torch.tensor(row["ids"]), 1
        weights[i, :n] = torch.tensor([1.0 if t >= row["loss_from"] else prompt_weight for t in range(n)])
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    entropy = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    weights = weights[:, 1:].flatten()
    return (weights * entropy).sum(), weights.sum()


def three_steps(model, rows, max_grad_norm, tensors):
    """What HF Trainer's loop does: loss over all targets of the accumulated batch, clip, AdamW, linear decay."""
    parameters = [p for _, p in trainable(model)]
    optimiser = torch.optim.AdamW(parameters, lr=PEAK_RATE, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    schedule = get_linear_schedule_with_warmup(optimiser, 0, len(STEPS))
    report = []
    for number, micro_batches in enumerate(STEPS):
        targets = sum(len(rows[i]["ids"]) - 1 for micro in micro_batches for i in micro)
        loss = 0.0
        for micro in micro_batches:
            part = weighted_loss(model, [rows[i] for i in micro], 1.0)[0] / targets
            part.backward()
            loss += part.item()
        norm = torch.nn.utils.clip_grad_norm_(parameters, max_grad_norm).item()
        report.append(dict(micro_batches=micro_batches, loss=loss, grad_norm=norm, lr=schedule.get_last_lr()[0]))
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
        for name, p in trainable(model):
            tensors[f"step{number}.{name}"] = p.detach().clone()
    return report


def greedy(model, prompt, penalty):
    """12 ids as `generate` finds them, end of text ignored; refuses a case with a choice too close to call."""
    model.generation_config.eos_token_id = None
    out = model.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False, repetition_penalty=penalty,
                         pad_token_id=0, output_scores=True, return_dict_in_generate=True)
    for scores in out.scores:
        first, second = scores[0].topk(2).values.tolist()
        assert first - second > TOP_MARGIN, f"a near tie ({first - second}): choose another seed"
    return out.sequences[0, len(prompt):].tolist()


def make(case: Case) -> None:
    folder = OUT / case.name
    shutil.rmtree(folder, ignore_errors=True)
    save_base(case, folder)
    model = save_adapter(case, folder).eval()
    numbers = torch.Generator().manual_seed(2000 + case.seed)
    vocab = model.config.vocab_size
    rows = [dict(ids=torch.randint(3, vocab, (n,), generator=numbers).tolist(), loss_from=p) for n, p in ROWS]
    tensors, losses = {}, []

    with torch.no_grad():
        tensors["logits"] = model(torch.tensor([rows[LOGITS_ROW]["ids"]])).logits[0]
        with model.disable_adapter():
            tensors["base_logits"] = model(torch.tensor([rows[LOGITS_ROW]["ids"]])).logits[0]
        generations = [dict(prompt=r["ids"][: r["loss_from"]], penalty=penalty,
                            ids=greedy(model, r["ids"][: r["loss_from"]], penalty))
                       for penalty in (1.0, 1.3) for r in rows[:3]]
    for weight in PROMPT_WEIGHTS:
        total, count = weighted_loss(model, rows, weight)
        (total / count).backward()
        losses.append(dict(prompt_loss_weight=weight, loss=(total / count).item()))
        for name, p in trainable(model):
            tensors[f"gradient{weight}.{name}"] = p.grad.clone()
            p.grad = None
    steps = three_steps(model, rows, case.max_grad_norm, tensors)

    save_file({k: v.contiguous() for k, v in sorted(tensors.items())}, folder / "expected.safetensors")
    expected = dict(rows=rows, logits_row=LOGITS_ROW, losses=losses, max_grad_norm=case.max_grad_norm, steps=steps,
                    generations=generations)
    entries = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in expected.items())
    (folder / "expected.json").write_text("{\n" + entries + "\n}\n")
    size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    norms = " ".join(f"{s['grad_norm']:.2f}" for s in steps)
    print(f"{case.name}: {size / 1024:.0f} KiB, loss {losses[0]['loss']:.3f}, gradient norms {norms}")


def main() -> None:
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message="Could not find a config file")  # PEFT looks for a base by its name
    warnings.filterwarnings("ignore", category=FutureWarning)
    torch.set_num_threads(1)
    wanted = sys.argv[1:]
    for case in CASES:
        if not wanted or case.name in wanted:
            make(case)


if __name__ == "__main__":
    main()
