"""Checks a GGUF file that Consilium exported, with readers that are not ours.

    python golden/check_gguf.py BASE_DIR ADAPTER_DIR FILE.gguf

1. The `gguf` package reads every key and tensor.
2. `transformers` loads the file. Its logits are those of the base with the adapter merged by `peft` and then every
   matrix rounded by the `gguf` package's own quantiser (within 1e-3 of the largest logit: our merge and PEFT's sum in
   another order, so a value may round to the neighbouring step). What the rounding itself costs is printed beside it.
3. The tokenizer that `transformers` builds from the file cuts sample texts as the base's own does.

Files to check are written by the ignored test `write_exports_of_a_model` of crates/experiment/tests/export.rs, or by
`consilium export`. Needs torch, transformers, peft and gguf (versions in requirements.txt).
"""

import sys
from pathlib import Path

import torch
from gguf import GGMLQuantizationType, GGUFReader, dequantize, quantize
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

LIMIT = 1e-3
TEXTS = [
    "What is the allele frequency of rs123456?",
    "### Response:\nNo, it isn't: 0.0021 (p < 5e-08).",
    "café – naïve, 12 × 34",
]


def read(path: Path) -> GGMLQuantizationType:
    """The type of the file's matrices, after reading all of it with the `gguf` package."""
    reader = GGUFReader(str(path))
    for tensor in reader.tensors:
        assert tensor.n_elements > 0, tensor.name
    kinds = {tensor.tensor_type for tensor in reader.tensors}
    print(f"{path}: {len(reader.fields)} keys, {len(reader.tensors)} tensors of {sorted(k.name for k in kinds)}")
    return GGMLQuantizationType.Q8_0 if GGMLQuantizationType.Q8_0 in kinds else GGMLQuantizationType.F16


def round_like(model, kind: GGMLQuantizationType) -> None:
    """Rounds every matrix of `model` in place; rows that cannot be cut into blocks of 32 become f16."""
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                used = kind if weight.shape[1] % 32 == 0 else GGMLQuantizationType.F16
                rounded = dequantize(quantize(weight.numpy(), used), used)
                weight.copy_(torch.from_numpy(rounded.reshape(weight.shape).copy()))


def logits(model, ids):
    with torch.no_grad():
        return model.eval()(ids).logits.float()


def relative(found, expected) -> float:
    return ((found - expected).abs().max() / expected.abs().max()).item()


def main(base_dir: str, adapter_dir: str, file: str) -> None:
    path = Path(file)
    kind = read(path)
    tokenizer = AutoTokenizer.from_pretrained(base_dir)
    base = AutoModelForCausalLM.from_pretrained(base_dir, dtype=torch.float32)
    merged = PeftModel.from_pretrained(base, adapter_dir).merge_and_unload()
    samples = [tokenizer(text, return_tensors="pt").input_ids for text in TEXTS]
    exact = [logits(merged, ids) for ids in samples]
    round_like(merged, kind)
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    for ids, unrounded in zip(samples, exact):
        found, expected = logits(model, ids), logits(merged, ids)
        error, cost = relative(found, expected), relative(found, unrounded)
        print(f"  logits of {ids.shape[1]} tokens: off by {error:.1e} (rounding costs {cost:.1e})")
        assert error < LIMIT, f"{error} is above {LIMIT}"
    theirs = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    for text in TEXTS:
        ours, built = tokenizer(text).input_ids, theirs(text).input_ids
        assert ours == built, f"{text!r}: {ours} in the base, {built} from the file"
        print(f"  {len(ours)} ids agree for {text!r}")


if __name__ == "__main__":
    main(*sys.argv[1:])
