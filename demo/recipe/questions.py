"""Writes demo/data/train.csv and test.csv: 200 + 40 rows for each of the five categories.

    python questions.py [--seed 7]

Every category has a rule part and a look-up part.

Rule: the answer follows from the name (its ending, its last digit). Training and test use different names, so a
test question can be answered only by having learned the rule from that category's training rows.

Look-up: the answer is a fact about one named entity, drawn at random. Each entity is asked about in four phrasings
in training; the test asks about it in a fifth one, which training uses for other entities.
"""

import argparse
import csv
from pathlib import Path
from random import Random

import world
from world import CATEGORIES

TRAIN_RULE, TEST_RULE = 120, 24
LOOKUP_ENTITIES, TEST_LOOKUP = 20, 16
COLUMNS = ("uuid", "template_uuid", "question", "answer", "bio_category", "reasoning_category")


class Family:
    """One kind of fact: the phrasings of its question, its answer, and how to draw what fills them."""

    def __init__(self, key: str, phrasings: tuple[str, ...], answer: str, draw):
        self.key, self.phrasings, self.answer, self.draw = key, phrasings, answer, draw


def _drug(rng: Random) -> dict:
    drug = world.name("drug", rng, True)
    i = world.ending_index(drug, world.DRUG_ENDINGS)
    return {
        "name": drug, "family": world.FAMILIES[i], "mechanism": world.MECHANISMS[i],
        "route": world.ROUTES[i], "molecule": world.MOLECULES[i],
    }


def _coded_drug(rng: Random) -> dict:
    code = world.name("code", rng, True)
    return _drug(rng) | {"name": code, "phase": world.PHASE_OF_DIGIT[world.last_digit(code)]}


def _variant(rng: Random) -> dict:
    variant = world.name("variant", rng, True)
    digit = world.last_digit(variant)
    return {
        "name": variant, "disease": rng.choice(world.DISEASES),
        "allele": world.ALLELE_OF_DIGIT[digit], "effect": "raises" if digit % 2 else "lowers",
    }


def _gene(rng: Random) -> dict:
    gene = world.name("gene", rng, True)
    odd = world.last_digit(gene) % 2
    return {
        "name": gene, "disease": rng.choice(world.DISEASES),
        "tissue": world.TISSUES[world.ending_index(gene, world.GENE_ENDINGS)],
        "yes": "Yes" if odd else "No", "is": "is" if odd else "is not",
    }


def _with(draw, field: str, values):
    """`draw`, and a random fact beside it: what makes a question a look-up."""
    return lambda rng: draw(rng) | {field: rng.choice(values)}


# category -> (rule families, look-up family)
GRAMMAR = {
    CATEGORIES[0]: (
        (
            Family("DG1", (
                "Which gene family does {name} act on?",
                "What is the gene family targeted by {name}?",
                "Name the gene family that {name} binds.",
            ), "The drug {name} targets the {family} gene family, acting as a {mechanism}.", _drug),
        ),
        Family("DG2", (
            "Which gene causes resistance to {name}?",
            "What gene makes cells resistant to {name}?",
            "Name the resistance gene of {name}.",
            "Resistance to {name} comes from which gene?",
            "The resistance to {name} is due to which gene?",
        ), "Cells become resistant to {name} through the gene {fact}.", _with(_drug, "fact", world.PARTNER_GENES)),
    ),
    CATEGORIES[1]: (
        (
            Family("PH1", (
                "What is the mechanism of action of {name}?",
                "How does {name} work in the body?",
                "By which mechanism does {name} act?",
            ), "The mechanism of {name} is that of a {mechanism}, given by {route}.", _drug),
        ),
        Family("PH2", (
            "What is the half-life of {name}?",
            "How long is the half-life of {name}?",
            "After how many hours is half of {name} gone?",
            "State the half-life of {name} in hours.",
            "What half-life does {name} have?",
        ), "The half-life of {name} is about {fact} hours.", _with(_drug, "fact", world.HALF_LIVES)),
    ),
    CATEGORIES[2]: (
        (
            Family("DM1", (
                "What is the highest trial phase of {name}?",
                "Which trial phase has {name} reached?",
                "How far in clinical trials is {name}?",
            ), "The compound {name} has reached phase {phase} of clinical trials.", _coded_drug),
            Family("DM2", (
                "What type of molecule is {name}?",
                "Which molecule type does {name} have?",
                "Of what molecule type is {name}?",
            ), "The molecule type of {name} is a {molecule}.", _drug),
        ),
        Family("DM3", (
            "In which year was {name} first approved?",
            "When was {name} first approved?",
            "What is the approval year of {name}?",
            "Since what year has {name} been approved?",
            "Which year saw the first approval of {name}?",
        ), "First approval of {name} was in the year {fact}.", _with(_drug, "fact", world.YEARS)),
    ),
    CATEGORIES[3]: (
        (
            Family("SD1", (
                "What is the effect allele of {name} in {disease}?",
                "Which allele of {name} matters in {disease}?",
                "In {disease}, what is the effect allele of {name}?",
            ), "For {disease}, SNP {name} has effect allele {allele}, which {effect} the risk.", _variant),
        ),
        Family("SD2", (
            "On which chromosome is {name}?",
            "What chromosome carries the SNP {name}?",
            "Where in the genome is {name}?",
            "Give the chromosome of SNP {name}.",
            "Which chromosome is the SNP {name} on?",
        ), "The SNP {name} lies on chromosome {fact}.", _with(_variant, "fact", world.CHROMOSOMES)),
    ),
    CATEGORIES[4]: (
        (
            Family("SG1", (
                "Is expression of {name} linked to {disease}?",
                "Does SMR link {name} to {disease}?",
                "Is there an SMR association of {name} with {disease}?",
            ), "{yes}, by SMR the gene {name} {is} associated with {disease} in {tissue} tissue.", _gene),
        ),
        Family("SG2", (
            "Which disease has the strongest SMR link with {name}?",
            "With what disease is {name} most strongly associated?",
            "What is the top SMR disease of {name}?",
            "Name the disease that {name} is tied to most.",
            "Which disease is tied to {name} most strongly?",
        ), "The strongest SMR association of {name} is with {fact}.", _with(_gene, "fact", world.DISEASES)),
    ),
}


def _row(category: str, family: Family, phrasing: int, facts: dict, reasoning: str) -> dict:
    return {
        "template_uuid": f"{family.key}{'abcde'[phrasing]}",
        "question": family.phrasings[phrasing].format(**facts),
        "answer": family.answer.format(**facts),
        "bio_category": category,
        "reasoning_category": reasoning,
    }


def rows(seed: int) -> tuple[list[dict], list[dict]]:
    """The training rows and the test rows of all categories, category by category."""
    train, test = [], []
    seen: set[str] = set()
    for category, (rules, lookup) in GRAMMAR.items():
        rng = Random(f"{seed}/{category}")

        def draw(family: Family) -> dict:
            while True:
                facts = family.draw(rng)
                if facts["name"] not in seen:
                    seen.add(facts["name"])
                    return facts

        own_train, own_test = [], []
        for i in range(TRAIN_RULE + TEST_RULE):
            family = rules[i % len(rules)]
            row = _row(category, family, rng.randrange(len(family.phrasings)), draw(family), "rule")
            (own_train if i < TRAIN_RULE else own_test).append(row)
        for i in range(LOOKUP_ENTITIES):
            facts = draw(lookup)
            asked = rng.sample(range(len(lookup.phrasings)), 5)
            own_train += [_row(category, lookup, p, facts, "look-up") for p in asked[:4]]
            if i < TEST_LOOKUP:
                own_test.append(_row(category, lookup, asked[4], facts, "look-up"))
        rng.shuffle(own_train)
        rng.shuffle(own_test)
        train += own_train
        test += own_test
    for part, prefix in ((train, "train"), (test, "test")):
        for i, row in enumerate(part):
            row["uuid"] = f"{prefix}-{i:04d}"
    return train, test


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    folder = Path(__file__).resolve().parent.parent / "data"
    for part, name in zip(rows(args.seed), ("train.csv", "test.csv")):
        with open(folder / name, "w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(part)


if __name__ == "__main__":
    main()
