"""The fastest that PyTorch and PEFT train without a framework around them: one hand-written loop.

Cases: `b4` and `b16` pad batches of 4 and 16 rows to their longest; `packed512` lays whole rows end to end up to 512
tokens, told apart by their positions. The optimiser steps after every 32 rows or more.
"""

import time

import peer_common as common

given = common.arguments(
    __doc__.splitlines()[0],
    samples=dict(type=int, default=96, help="rows to train on, once each"),
    targets=dict(choices=["qv", "all"], default="qv"),
    case=dict(choices=["b4", "b16", "packed512"], default="b4"),
)

import torch
from torch.nn.functional import cross_entropy

IGNORED = -100

tokenizer = common.tokenizer(given.model)
texts = [common.text(row, tokenizer.eos_token) for row in common.rows(given.rows, given.samples)]
sequences = tokenizer(texts)["input_ids"]
model = common.model_with_adapter(given.model, given.targets, given.threads)
model.train()
trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
optimiser = torch.optim.AdamW(trainable, lr=common.LEARNING_RATE, weight_decay=0.0)


def padded(size):
    """Batches of `size` rows: (inputs of the model, labels, rows, tokens that are no padding)."""
    for first in range(0, len(sequences), size):
        batch = sequences[first : first + size]
        width = max(map(len, batch))
        ids = torch.zeros(len(batch), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, sequence in enumerate(batch):
            ids[row, : len(sequence)] = torch.tensor(sequence)
            mask[row, : len(sequence)] = 1
        labels = ids.masked_fill(mask == 0, IGNORED)
        yield {"input_ids": ids, "attention_mask": mask}, labels, len(batch), int(mask.sum())


def packed(capacity):
    """Rows end to end, as many as fit; a row's first token is nobody's target."""
    batch = []

    def laid_out():
        ids = torch.tensor([[id for sequence in batch for id in sequence]])
        positions = torch.tensor([[place for sequence in batch for place in range(len(sequence))]])
        labels = ids.masked_fill(positions == 0, IGNORED)
        return {"input_ids": ids, "position_ids": positions}, labels, len(batch), ids.numel()

    for sequence in sequences:
        if batch and sum(map(len, batch)) + len(sequence) > capacity:
            yield laid_out()
            batch = []
        batch.append(sequence)
    yield laid_out()


batches = packed(512) if given.case == "packed512" else padded(int(given.case[1:]))
steps = []
startup_s = None
unapplied = 0
for inputs, labels, rows, tokens in batches:
    if startup_s is None:
        startup_s = common.age_s()
    start = time.perf_counter()
    logits = model(**inputs, use_cache=False).logits
    loss = cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)
    # Gradients of one step add up; a batch counts by its rows.
    (loss * rows / common.ROWS_PER_STEP).backward()
    del logits
    unapplied += rows
    if unapplied >= common.ROWS_PER_STEP:
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        unapplied = 0
    steps.append((rows, tokens, time.perf_counter() - start))

# The first batch starts the thread pool and fills caches: it does not count where there are others.
common.report(
    "loop",
    given,
    {
        "variant": given.case,
        "targets": given.targets,
        "samples": given.samples,
        "tokens": sum(tokens for _, tokens, _ in steps),
        **common.training_result(steps[1:] or steps),
        "startup_s": startup_s,
        "loss": loss.item(),
    },
)
