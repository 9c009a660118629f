"""The reference's way to train: TRL's SFTTrainer on PyTorch, on the CPU.

Settings are handed over as transformers' TrainingArguments, as the reference does: that leaves gradient checkpointing
off, which TRL's own SFTConfig would switch on. It is the faster of the two.
"""

import tempfile
import time

import peer_common as common

given = common.arguments(
    __doc__.splitlines()[0],
    samples=dict(type=int, default=96, help="rows to train on, once each"),
    targets=dict(choices=["qv", "all"], default="qv"),
)

from datasets import Dataset, disable_progress_bars
from transformers import TrainerCallback, TrainingArguments
from trl import SFTTrainer

disable_progress_bars()
tokenizer = common.tokenizer(given.model)
model = common.model_with_adapter(given.model, given.targets, given.threads)
model.config.pad_token_id = tokenizer.pad_token_id
texts = [common.text(row, tokenizer.eos_token) for row in common.rows(given.rows, given.samples)]

steps = []
startup_s = None


class MeasuredTrainer(SFTTrainer):
    """Counts what goes through the model; changes nothing."""

    samples = tokens = 0

    def training_step(self, model, inputs, *rest, **more):
        global startup_s
        if startup_s is None:
            startup_s = common.age_s()
        self.samples += len(inputs["input_ids"])
        self.tokens += int(inputs["attention_mask"].sum())
        return super().training_step(model, inputs, *rest, **more)


class Clock(TrainerCallback):
    """Times optimiser steps from the first micro-batch to the end of the update."""

    def on_step_begin(self, args, state, control, **more):
        self.start = time.perf_counter()
        trainer.samples = trainer.tokens = 0

    def on_step_end(self, args, state, control, **more):
        steps.append((trainer.samples, trainer.tokens, time.perf_counter() - self.start))


with tempfile.TemporaryDirectory() as out:
    trainer = MeasuredTrainer(
        model=model,
        processing_class=tokenizer,
        train_dataset=Dataset.from_dict({"text": texts}),
        callbacks=[Clock()],
        args=TrainingArguments(
            output_dir=out,
            per_device_train_batch_size=4,
            gradient_accumulation_steps=8,
            num_train_epochs=1,
            learning_rate=common.LEARNING_RATE,
            use_cpu=True,
            dataloader_pin_memory=False,
            disable_tqdm=True,
            report_to=[],
            save_strategy="no",
        ),
    )
    loss = trainer.train().training_loss

common.report(
    "sft",
    given,
    {
        "targets": given.targets,
        "samples": given.samples,
        "tokens": sum(tokens for _, tokens, _ in steps),
        **common.training_result(steps),
        "startup_s": startup_s,
        "loss": loss,
    },
)
