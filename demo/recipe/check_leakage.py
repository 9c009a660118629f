"""Shows that the base model cannot have seen the demo's questions, entities or rules. Needs only the standard library.

    python check_leakage.py

Regenerates the pretraining text from the seed in demo/model/pretraining.json, checks that it is the text the model was
trained on (SHA-256), and then that
  1. no entity of train.csv or test.csv occurs in it, rule or look-up;
  2. no question, no answer and no question with its names masked occurs in it;
  3. beside each ending or last digit, the attribute that the rule names is no more frequent than chance;
  4. test rows follow from training rows: look-up entities are asked in other words, rule entities are new.
Exits with 1 and says what it found when one of these fails.
"""

import csv
import hashlib
import json
import re
import sys
from collections import Counter
from pathlib import Path

import corpus
import world

DEMO = Path(__file__).resolve().parent.parent
NAME = re.compile(r"Zq[a-z]+-[a-z]{3}\d|vqs[a-z]+-\d|KD[a-z]+-\d|[A-Z][a-z]+-[a-z]{4}\b")
DISEASE = re.compile("|".join(world.DISEASES))

def kind_of(name: str) -> str:
    for start, kind in (("Zq", "gene"), ("vqs", "variant"), ("KD", "code")):
        if name.startswith(start):
            return kind
    return "drug"


def ending(name: str) -> str:
    return name.split("-")[1].rstrip("0123456789")


def last_digit(name: str) -> str:
    return name[-1]


# (which names, the part of the name that decides, {that part: the words the rule puts beside it})
RULES = (
    ("drug", ending, dict(zip(world.DRUG_ENDINGS, world.FAMILIES))),
    ("drug", ending, dict(zip(world.DRUG_ENDINGS, world.MECHANISMS))),
    ("drug", ending, {e: f"given by {w}" for e, w in zip(world.DRUG_ENDINGS, world.ROUTES)}),
    ("drug", ending, {e: f"a {w} compound" for e, w in zip(world.DRUG_ENDINGS, world.MOLECULES)}),
    ("gene", ending, {e: f"{w} tissue" for e, w in zip(world.GENE_ENDINGS, world.TISSUES)}),
    ("gene", last_digit, {str(d): "Yes, " if d % 2 else "No, " for d in range(1, 9)}),
    ("variant", last_digit, {str(d): f"allele {a}" for d, a in enumerate(world.ALLELE_OF_DIGIT)}),
    ("variant", last_digit, {str(d): "raises" if d % 2 else "lowers" for d in range(10)}),
    ("code", last_digit, {str(d): f"phase {p} of" for d, p in enumerate(world.PHASE_OF_DIGIT)}),
)


def agreement(texts: list[str], kind: str, part, rule: dict[str, str]) -> tuple[int, int, float]:
    """Texts with one value of the rule beside a name of `kind`: how many agree with it, how many there are, and the
    share that would agree if names and values were independent."""
    values = set(rule.values())
    keys, words, hits = Counter(), Counter(), 0
    for text in texts:
        found = next((n for n in NAME.findall(text) if kind_of(n) == kind), None)
        present = [v for v in values if v in text]
        if found and len(present) == 1:
            keys[part(found)] += 1
            words[present[0]] += 1
            hits += rule[part(found)] == present[0]
    total = sum(words.values())
    return hits, total, sum(keys[k] * words[v] for k, v in rule.items()) / max(total, 1) ** 2


def masked(text: str) -> str:
    return DISEASE.sub("<disease>", NAME.sub("<name>", text))


def read(name: str) -> list[dict]:
    with open(DEMO / "data" / name, newline="") as file:
        return list(csv.DictReader(file))


def main() -> int:
    failures = []

    def check(holds: bool, what: str) -> None:
        print(("ok      " if holds else "FAILED  ") + what)
        if not holds:
            failures.append(what)

    record = json.loads((DEMO / "model" / "pretraining.json").read_text())
    texts = list(corpus.documents(record["seed"], record["documents"]))
    digest = hashlib.sha256("\0".join(texts).encode()).hexdigest()
    check(digest == record["corpus_sha256"], f"the text is the one the model was trained on: {len(texts)} documents, {digest[:16]}")

    train, test = read("train.csv"), read("test.csv")
    rows = train + test
    names = {n for row in rows for n in NAME.findall(row["question"])}
    seen = {n for text in texts for n in NAME.findall(text)}
    check(all(NAME.search(row["question"]) for row in rows), f"every question names an entity; {len(names)} in all")
    check(not names & seen, f"none of them is among the {len(seen)} entities of the text: {sorted(names & seen)[:3]}")
    check(all(map(world.reserved, names)) and not any(map(world.reserved, seen)), "both sides keep to the split by hash")

    whole = "\n".join(texts)
    check(not any(row[c] in whole for row in rows for c in ("question", "answer")), "no question and no answer occurs in the text")
    sentences = {masked(s) for text in texts for line in text.splitlines() for s in re.split(r"(?<=[.?]) |^Question: |^Answer: ", line) if s}
    templates = {masked(row["question"]) for row in rows}
    check(not templates & sentences, f"none of the {len(templates)} masked questions does: {sorted(templates & sentences)[:3]}")

    for kind, part, rule in RULES:
        hits, total, chance = agreement(texts, kind, part, rule)
        deviation = (chance * (1 - chance) * total) ** 0.5
        what = f"{kind} rule for '{min(rule.values()).strip()}' and so on: {hits} of {total} texts agree, by chance {chance * total:.0f} +- {deviation:.0f}"
        check(abs(hits - chance * total) <= 4 * deviation, what)

    asked = {row["question"] for row in train}
    trained = {n for row in train for n in NAME.findall(row["question"])}
    check(not any(row["question"] in asked for row in test), "no test question is a training question")
    wrong = [row["uuid"] for row in test if (set(NAME.findall(row["question"])) <= trained) != (row["reasoning_category"] == "look-up")]
    check(not wrong, f"look-up entities of the test occur in training rows, rule entities do not {wrong[:3] or ''}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
