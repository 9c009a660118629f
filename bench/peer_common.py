"""What the peer's scripts share: the environment, the rows, the model with its adapter, and the line of results.

Import this before torch: it sets the number of threads and keeps every library off the network and the GPU.
Rows and their order are those of `consilium-bench`: see `src/rows.rs` beside this file.
"""

import argparse
import csv
import hashlib
import json
import os
import platform
import statistics

PROMPT = (
    "### Instruction:\n"
    "You are a knowledgeable assistant. Answer this question truthfully!\n"
    "\n"
    "### Input:\n"
    "{question}\n"
    "\n"
    "### Response:\n"
)
LINEAR_LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LEARNING_RATE = 5e-4
ROWS_PER_STEP = 32


def arguments(description, **extra):
    """Parses the arguments that all scripts have and those in `extra` (name: keywords of add_argument)."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--model", required=True, help="directory of the base model")
    parser.add_argument("--rows", required=True, help="CSV with the columns question and answer")
    parser.add_argument("--threads", type=int, default=2)
    for name, keywords in extra.items():
        parser.add_argument("--" + name, **keywords)
    parsed = parser.parse_args()
    os.environ.update(
        OMP_NUM_THREADS=str(parsed.threads),
        HF_HUB_OFFLINE="1",
        CUDA_VISIBLE_DEVICES="",
        TRANSFORMERS_VERBOSITY="error",
    )
    return parsed


def rows(path, wanted):
    """`wanted` (question, answer) pairs in the order of the SHA-256 of question, line feed, answer."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        found = [
            (row["question"], row["answer"]) for row in csv.DictReader(file) if row.get("status", "template") == "template"
        ]
    if len(found) < wanted:
        raise SystemExit(f"{path} has {len(found)} usable rows; {wanted} are needed")
    found.sort(key=lambda row: hashlib.sha256(f"{row[0]}\n{row[1]}".encode()).hexdigest())
    return found[:wanted]


def prompt(question):
    return PROMPT.format(question=question.strip())


def text(row, end_of_text):
    return prompt(row[0]) + row[1].strip() + end_of_text


def model_with_adapter(directory, targets, threads):
    """The model in f32 with the reference's LoRA: rank 8, alpha 16, dropout 0.1."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    lora = LoraConfig(
        r=8,
        lora_alpha=16,
        lora_dropout=0.1,
        bias="none",
        task_type="CAUSAL_LM",
        target_modules=LINEAR_LAYERS if targets == "all" else ["q_proj", "v_proj"],
    )
    return get_peft_model(model, lora)


def tokenizer(directory):
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(directory)
    loaded.pad_token = loaded.eos_token
    return loaded


def age_s():
    """Seconds since this process was started, the interpreter's own start included."""
    with open("/proc/uptime") as file:
        now = float(file.read().split()[0])
    with open("/proc/self/stat") as file:
        started = int(file.read().rpartition(")")[2].split()[19])
    return now - started / os.sysconf("SC_CLK_TCK")


def peak_rss_bytes():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:"))


def median(values):
    return statistics.median(values) if values else None


def training_result(steps):
    """Rates of `steps`, a list of (samples, tokens, seconds)."""
    return {
        "samples_per_s": median([samples / seconds for samples, _, seconds in steps]),
        "tokens_per_s": median([tokens / seconds for _, tokens, seconds in steps]),
        "steps": [
            {"samples": samples, "tokens": tokens, "seconds": seconds, "tokens_per_s": tokens / seconds}
            for samples, tokens, seconds in steps
        ],
    }


def report(case, given, result):
    """Prints the one line of results."""
    import peft
    import torch
    import transformers

    user, system = os.times()[:2]
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
    }
    line = {
        "case": case,
        "model": os.path.basename(os.path.abspath(given.model)),
        "precision": "f32",
        "threads": given.threads,
        "versions": versions,
        **result,
        "peak_rss_bytes": peak_rss_bytes(),
        "cpu_s": user + system,
    }
    print(json.dumps(line), flush=True)
