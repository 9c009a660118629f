"""Does `consilium train` follow PEFT's loss curve, step by step, at the full size of SmolLM2-135M?

Random weights, real rows, dropout 0, fixed order, the same initial adapter. Needs the folder that
CONSILIUM_REFERENCE_DIR names (tokenizer and config of SmolLM2-135M, CARDBiomedBench rows), about 5 GB of memory and a
few minutes; it is no part of CI.

    python golden/full_size_curve.py prepare WORK            # WORK/model, WORK/rows.csv, WORK/init (PEFT's own)
    python golden/full_size_curve.py train WORK              # WORK/peft.jsonl
    consilium train --model WORK/model --data WORK/rows.csv --init-adapter WORK/init --no-shuffle \\
        --epochs 1 --micro-batch 2 --accumulation 2 --learning-rate 5e-4 --dropout 0 \\
        --out WORK/run
    python golden/full_size_curve.py compare WORK/peft.jsonl WORK/run/metrics.jsonl
"""

import argparse
import csv
import json
import os
import shutil
import sys
import time
from pathlib import Path

os.environ.update(CUDA_VISIBLE_DEVICES="", HF_HUB_OFFLINE="1")

TEMPLATE = ("### Instruction:\nYou are a knowledgeable assistant. Answer this question truthfully!\n\n"
            "### Input:\n{question}\n\n### Response:\n{answer}")
MICRO_BATCH, ACCUMULATION, RATE = 2, 2, 5e-4


def reference_dir() -> Path:
    folder = os.environ.get("CONSILIUM_REFERENCE_DIR")
    if not folder:
        sys.exit("CONSILIUM_REFERENCE_DIR is unset")
    return Path(folder) / "data"


def prepare(work: Path, steps: int) -> None:
    """The model in bf16 as the hub's checkpoint is laid out, the rows in the order of training, PEFT's initial LoRA."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    source = reference_dir() / "smollm2-135m"
    work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig.from_pretrained(source)).to(torch.bfloat16).save_pretrained(work / "model")
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"):
        shutil.copy(source / name, work / "model")

    with open(reference_dir() / "cardbiomed" / "rows.csv", encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        rows = [row for row in reader if row["status"] == "template"]
    rows = rows[:: len(rows) // (steps * MICRO_BATCH * ACCUMULATION)][: steps * MICRO_BATCH * ACCUMULATION]
    with open(work / "rows.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, reader.fieldnames)
        writer.writeheader()
        writer.writerows(rows)

    base = LlamaForCausalLM.from_pretrained(work / "model", dtype=torch.float32)
    torch.manual_seed(1)
    lora = LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, target_modules=["q_proj", "v_proj"], bias="none",
                      task_type="CAUSAL_LM")
    get_peft_model(base, lora).save_pretrained(work / "init")


def train(work: Path) -> None:
    """Trainer's loop in f32: loss over all targets of a step, clip 1.0, AdamW, linear decay to 0."""
    import torch
    import torch.nn.functional as F
    from peft import PeftModel
    from tokenizers import Tokenizer
    from transformers import LlamaForCausalLM, get_linear_schedule_with_warmup

    tokenizer = Tokenizer.from_file(str(work / "model" / "tokenizer.json"))
    base = LlamaForCausalLM.from_pretrained(work / "model", dtype=torch.float32)
    model = PeftModel.from_pretrained(base, work / "init", is_trainable=True)
    end = model.config.eos_token_id
    with open(work / "rows.csv", encoding="utf-8", newline="") as file:
        texts = [TEMPLATE.format(question=r["question"].strip(), answer=r["answer"].strip())
                 for r in csv.DictReader(file)]
    rows = [tokenizer.encode(text).ids + [end] for text in texts]
    micro_batches = [rows[i : i + MICRO_BATCH] for i in range(0, len(rows), MICRO_BATCH)]
    accumulated = [micro_batches[i : i + ACCUMULATION] for i in range(0, len(micro_batches), ACCUMULATION)]
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=RATE, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    schedule = get_linear_schedule_with_warmup(optimiser, 0, len(accumulated))
    model.train()
    with open(work / "peft.jsonl", "w") as out:
        for number, step in enumerate(accumulated, 1):
            started = time.perf_counter()
            targets = sum(len(row) - 1 for micro in step for row in micro)
            loss = 0.0
            for micro in step:
                longest = max(map(len, micro))
                ids = torch.tensor([row + [end] * (longest - len(row)) for row in micro])
                mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in micro])
                labels = ids.masked_fill(mask == 0, -100)[:, 1:].flatten()
                logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1].flatten(0, 1)
                part = F.cross_entropy(logits, labels, ignore_index=-100, reduction="sum") / targets
                part.backward()
                loss += part.item()
            norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0).item()
            rate = schedule.get_last_lr()[0]
            optimiser.step()
            schedule.step()
            optimiser.zero_grad()
            line = dict(step=number, loss=loss, grad_norm=norm, lr=rate, tokens=sum(len(row) for micro in step for row in micro),
                        seconds=round(time.perf_counter() - started, 2))
            out.write(json.dumps(line) + "\n")
            print(json.dumps(line), flush=True)
    model.save_pretrained(work / "peft-adapter")


def compare(theirs: Path, ours: Path) -> None:
    """Prints both curves and the largest relative difference of each column; fails above the tolerance."""
    expected = [json.loads(line) for line in theirs.read_text().splitlines()]
    found = [event for line in ours.read_text().splitlines()
             if (event := json.loads(line)).get("event") == "step"]
    if len(expected) != len(found):
        sys.exit(f"{len(expected)} steps in {theirs}, {len(found)} in {ours}")
    print("step   loss: PEFT, ours, relative      grad_norm: PEFT, ours, relative      lr: PEFT, ours")
    worst = dict(loss=0.0, grad_norm=0.0, lr=0.0)
    for e, f in zip(expected, found):
        off = {key: abs(f[key] - e[key]) / abs(e[key]) for key in worst}
        worst = {key: max(worst[key], off[key]) for key in worst}
        print(f"{e['step']:4}   {e['loss']:.7f} {f['loss']:.7f} {off['loss']:.1e}"
              f"      {e['grad_norm']:.6f} {f['grad_norm']:.6f} {off['grad_norm']:.1e}      {e['lr']:.4e} {f['lr']:.4e}")
    print("largest relative differences:", ", ".join(f"{key} {value:.1e}" for key, value in worst.items()))
    # Each step's rounding goes on through AdamW, whose first update has the size of the rate however small a gradient.
    if worst["loss"] > 1e-4 or worst["grad_norm"] > 1e-3 or worst["lr"] > 1e-9:
        sys.exit("the curves differ: allowed are loss 1e-4, grad_norm 1e-3, lr 1e-9")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("prepare")
    command.add_argument("work", type=Path)
    command.add_argument("--steps", type=int, default=8)
    commands.add_parser("train").add_argument("work", type=Path)
    command = commands.add_parser("compare")
    command.add_argument("theirs", type=Path)
    command.add_argument("ours", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "prepare":
        prepare(arguments.work, arguments.steps)
    elif arguments.command == "train":
        train(arguments.work)
    else:
        compare(arguments.theirs, arguments.ours)


if __name__ == "__main__":
    main()
