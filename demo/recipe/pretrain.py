"""Makes demo/model: trains the tokenizer, then the small Llama, on the invented text of corpus.py.

    python pretrain.py [--seed 7] [--documents 58000] [--threads 1] [--out ../model]

One pass over the documents: none is seen twice. Documents are batched by length and padded on the right; the loss
is over every token of a document and its end-of-text.
"""

import argparse
import hashlib
import json
import math
import os
import re
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

import corpus
import world

END_OF_TEXT = "<|endoftext|>"
VOCABULARY = 1280
TOKENIZER_DOCUMENTS = 12_000


ENDINGS = "|".join(world.DRUG_ENDINGS + world.GENE_ENDINGS)
STEM = re.compile(rf"\b(Zq|vqs|KD|)([A-Za-z][a-z])([a-z][a-z])(?=-(?:{ENDINGS}|\d))")


def syllables_apart(text: str) -> str:
    """The text with a digit between the syllables of its names.

    No merge crosses a digit, so the tokenizer that learns from this spells every name as the same few syllables and
    leaves its vocabulary to words.
    """
    return STEM.sub(lambda match: "0".join(filter(None, match.groups())), text)


def train_tokenizer(seed: int, out: Path) -> Tokenizer:
    """Byte-level BPE without BOS; every digit is a token of its own, so that ids can be copied and read."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(map(syllables_apart, corpus.documents(seed, TOKENIZER_DOCUMENTS)), trainer)
    tokenizer.save(str(out / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END_OF_TEXT,
        "pad_token": END_OF_TEXT,
        "unk_token": END_OF_TEXT,
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 256,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    return tokenizer


def model_config(vocabulary: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=128,
        intermediate_size=448,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        rope_theta=10_000.0,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
        initializer_range=0.04,
    )


def batches(encoded: list[list[int]], tokens_per_batch: int, generator: np.random.Generator) -> list[list[int]]:
    """Indices of documents, grouped so that a batch holds about `tokens_per_batch` tokens of similar lengths."""
    pool, out = 4096, []
    for start in range(0, len(encoded), pool):
        order = sorted(range(start, min(start + pool, len(encoded))), key=lambda i: len(encoded[i]))
        group: list[int] = []
        for i in order:
            if group and (len(group) + 1) * len(encoded[i]) > tokens_per_batch:
                out.append(group)
                group = []
            group.append(i)
        out.append(group)
    return [out[i] for i in generator.permutation(len(out))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--documents", type=int, default=58_000)
    parser.add_argument("--tokens-per-batch", type=int, default=2048)
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent.parent / "model")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    started = time.time()

    tokenizer = train_tokenizer(args.seed, args.out)
    texts = list(corpus.documents(args.seed, args.documents))
    digest = hashlib.sha256("\0".join(texts).encode()).hexdigest()
    encoded = [e.ids + [0] for e in tokenizer.encode_batch(texts)]
    total = sum(map(len, encoded))
    print(f"{len(texts)} documents, {total} tokens, vocabulary {tokenizer.get_vocab_size()}, {time.time() - started:.0f} s", flush=True)

    model = LlamaForCausalLM(model_config(tokenizer.get_vocab_size()))
    parameters = sum(p.numel() for p in model.parameters())
    decay = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}], lr=args.lr, betas=(0.9, 0.98)
    )
    plan = batches(encoded, args.tokens_per_batch, np.random.default_rng(args.seed))
    steps, warm_up = len(plan), 100
    print(f"{parameters} parameters, {steps} steps", flush=True)
    running = 0.0
    for step, group in enumerate(plan):
        progress = max(0.0, (step - warm_up) / (steps - warm_up))
        lr = args.lr * min(1.0, (step + 1) / warm_up) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))
        for g in optimizer.param_groups:
            g["lr"] = lr
        width = max(len(encoded[i]) for i in group)
        ids = torch.zeros(len(group), width, dtype=torch.long)
        labels = torch.full((len(group), width), -100)
        for row, i in enumerate(group):
            ids[row, : len(encoded[i])] = torch.tensor(encoded[i])
            labels[row, : len(encoded[i])] = ids[row, : len(encoded[i])]
        loss = model(input_ids=ids, labels=labels).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        running += (loss.item() - running) / min(step + 1, 50)
        if step % 50 == 49 or step + 1 == steps:
            print(f"step {step + 1}/{steps} loss {running:.3f} lr {lr:.2e} {time.time() - started:.0f} s", flush=True)

    model.to(torch.bfloat16).save_pretrained(args.out)
    record = {
        "seed": args.seed, "documents": args.documents, "tokens": total, "parameters": parameters, "steps": steps,
        "lr": args.lr, "tokens_per_batch": args.tokens_per_batch, "final_loss": round(running, 4),
        "threads": args.threads, "seconds": round(time.time() - started), "corpus_sha256": digest,
    }
    (args.out / "pretraining.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
