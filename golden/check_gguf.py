"""Checks a GGUF file that Consilium exported, with readers that are not ours.

    python golden/check_gguf.py BASE_DIR ADAPTER_DIR FILE.gguf [TOLERANCE]

1. The `gguf` package reads every key and tensor.
2. `transformers` loads the file and its logits are those of the base with the adapter put on by `peft`, within
   TOLERANCE (largest absolute difference over the largest absolute logit; default 2e-3 for f16, 3e-2 for q8_0).
3. The tokenizer that `transformers` builds from the file cuts sample texts as the base's own does.

Needs torch, transformers, peft and gguf (versions in requirements.txt).
"""

import sys
from pathlib import Path

import torch
from gguf import GGUFReader
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

TEXTS = [
    "What is the allele frequency of rs123456?",
    "### Response:\nNo, it isn't: 0.0021 (p < 5e-08).",
    "café – naïve, 12 × 34",
]


def read(path: Path) -> str:
    """The type of the file's matrices, after reading all of it with the `gguf` package."""
    reader = GGUFReader(str(path))
    for tensor in reader.tensors:
        assert tensor.n_elements > 0, tensor.name
    kinds = {tensor.tensor_type.name for tensor in reader.tensors}
    print(f"{path}: {len(reader.fields)} keys, {len(reader.tensors)} tensors of {sorted(kinds)}")
    return "Q8_0" if "Q8_0" in kinds else "F16"


def logits(model, ids):
    with torch.no_grad():
        return model.float().eval()(ids).logits


def main(base_dir: str, adapter_dir: str, file: str, tolerance: str | None = None) -> None:
    path = Path(file)
    kind = read(path)
    limit = float(tolerance) if tolerance else {"F16": 2e-3, "Q8_0": 3e-2}[kind]
    tokenizer = AutoTokenizer.from_pretrained(base_dir)
    base = AutoModelForCausalLM.from_pretrained(base_dir, dtype=torch.float32)
    expected_model = PeftModel.from_pretrained(base, adapter_dir)
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    for text in TEXTS:
        ids = tokenizer(text, return_tensors="pt").input_ids
        expected, found = logits(expected_model, ids), logits(model, ids)
        error = ((found - expected).abs().max() / expected.abs().max()).item()
        print(f"  logits of {ids.shape[1]} tokens: relative error {error:.2e} (limit {limit:.0e})")
        assert error < limit, text
    theirs = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    for text in TEXTS:
        ours, built = tokenizer(text).input_ids, theirs(text).input_ids
        assert ours == built, f"{text!r}: {ours} in the base, {built} from the file"
        print(f"  {len(ours)} ids agree for {text!r}")


if __name__ == "__main__":
    main(*sys.argv[1:])
