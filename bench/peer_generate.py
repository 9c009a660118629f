"""Greedy generation by transformers with the PEFT adapter attached, each prompt to exactly the same number of tokens."""

import time

import peer_common as common

given = common.arguments(
    __doc__.splitlines()[0],
    batch=dict(type=int, default=1, help="prompts that are continued together"),
    new=dict(type=int, default=100, help="new tokens for each prompt"),
    repetitions=dict(type=int, help="5 where the batch is 1, else 3"),
)
repetitions = given.repetitions or (5 if given.batch == 1 else 3)

import torch

tokenizer = common.tokenizer(given.model)
tokenizer.padding_side = "left"
model = common.model_with_adapter(given.model, "qv", given.threads).eval()
prompts = [common.prompt(question) for question, _ in common.rows(given.rows, repetitions * given.batch)]
rates = []
for first in range(0, len(prompts), given.batch):
    inputs = tokenizer(prompts[first : first + given.batch], return_tensors="pt", padding=True)
    start = time.perf_counter()
    with torch.inference_mode():
        made = model.generate(
            input_ids=inputs.input_ids,
            attention_mask=inputs.attention_mask,
            do_sample=False,
            repetition_penalty=1.2,
            min_new_tokens=given.new,
            max_new_tokens=given.new,
            pad_token_id=tokenizer.pad_token_id,
        )
    seconds = time.perf_counter() - start
    new = made.shape[1] - inputs.input_ids.shape[1]
    if new != given.new:
        raise SystemExit(f"{new} new tokens instead of {given.new}")
    rates.append(len(made) * new / seconds)

common.report(
    "generate",
    given,
    {
        "batch": given.batch,
        "new_tokens": given.new,
        "prompt_tokens": common.median([len(ids) for ids in tokenizer(prompts)["input_ids"]]),
        "tokens_per_s": common.median(rates),
        "repetitions": rates,
    },
)
