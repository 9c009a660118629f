"""Loads an adapter that Consilium wrote into Python's PEFT and compares log-probabilities with ours.

    python golden/check_peft.py BASE_DIR ADAPTER_DIR SCORES.json

SCORES.json holds what our engine computed: `[{"ids": [...], "log_probs": [...]}, ...]`, where `log_probs[i]` is the
log-probability of `ids[i + 1]` after `ids[..=i]`. Prints the largest absolute difference and fails above 1e-4.

Run so when golden/exported was written (by the ignored test `write_exported` of crates/engine/tests/exported.rs):

    python golden/check_peft.py golden/engine/all_linear golden/exported golden/exported/scores.json
    8 rows: PEFT and we differ by 3.8e-06 at most; the adapter changes 8.2e+00 at most
"""

import json
import os
import sys
from pathlib import Path

os.environ.update(CUDA_VISIBLE_DEVICES="", HF_HUB_OFFLINE="1")

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

TOLERANCE = 1e-4


def log_probs(model, ids: list[int]) -> torch.Tensor:
    logits = model(torch.tensor([ids])).logits[0, :-1]
    return logits.log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]


def main() -> None:
    base_dir, adapter_dir, scores = map(Path, sys.argv[1:])
    base = AutoModelForCausalLM.from_pretrained(base_dir, dtype=torch.float32, attn_implementation="eager")
    rows = json.loads(scores.read_text())
    with torch.no_grad():
        plain = [log_probs(base, row["ids"]) for row in rows]
        model = PeftModel.from_pretrained(base, adapter_dir).eval()
        adapted = [log_probs(model, row["ids"]) for row in rows]
    ours = [torch.tensor(row["log_probs"]) for row in rows]
    difference = max((a - b).abs().max().item() for a, b in zip(adapted, ours))
    effect = max((a - b).abs().max().item() for a, b in zip(adapted, plain))
    print(f"{len(rows)} rows: PEFT and we differ by {difference:.1e} at most; the adapter changes {effect:.1e} at most")
    if effect < 100 * TOLERANCE:
        sys.exit("the adapter changes too little for this to be a test")
    if difference > TOLERANCE:
        sys.exit(f"more than {TOLERANCE:.0e}: the adapter does not mean the same to PEFT")


if __name__ == "__main__":
    main()
