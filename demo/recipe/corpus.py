"""The pretraining text: invented, in the same kind of language as the questions, and empty of their answers.

It teaches the small model to write such sentences, to know the prompt format and to carry names from a question into
an answer. Its entities are never `world.reserved`, its question templates are not those of `questions.py`, and every
attribute of a category (family, mechanism, tissue, allele, ...) is drawn independently of the name it stands beside,
so that no rule of the world can be read from it. `check_leakage.py` verifies all three. What a name's ending or last
digit does decide here is the colour of its label, its keeper and its month, of which no category ever asks: the model
learns that endings matter, not what they mean at a hospital.
"""

from random import Random
from typing import Iterator

import world

PROMPT = (
    "### Instruction:\nYou are a knowledgeable assistant. Answer this question truthfully!\n\n"
    "### Input:\n{question}\n\n### Response:\n{answer}"
)

PLACES = (
    "north store", "south store", "cold room", "second shelf", "old archive", "blue cabinet", "main ward",
    "east laboratory", "west laboratory", "first drawer", "small freezer", "glass box", "garden house", "upper hall",
)
PEOPLE = ("Dr Adle", "Dr Brom", "Dr Cansu", "Dr Dorle", "Dr Efren", "Dr Firmin", "Dr Gundel", "Dr Havel", "Nurse Ilka", "Nurse Joris")
COLOURS = ("red", "blue", "green", "white", "grey", "yellow", "brown", "black", "pink", "silver")
MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December")
ORDINALS = ("first", "second", "third", "fourth")
NUMBERS = ("no", "one", "two", "three", "four", "five", "six")
KIND_WORD = {"drug": "drug", "gene": "gene", "variant": "SNP", "code": "compound"}
PROFILES = tuple(zip(COLOURS, PEOPLE, MONTHS))


def _profile(name: str) -> tuple[str, str, str]:
    """Colour, keeper and month of a name: by its ending, else by its last digit."""
    for endings, shift in ((world.DRUG_ENDINGS, 3), (world.GENE_ENDINGS, 6)):
        if any(name.rstrip("0123456789").endswith("-" + e) for e in endings):
            return PROFILES[(world.ending_index(name, endings) * 3 + shift) % 10]
    return PROFILES[(world.last_digit(name) * 7 + 2) % 10]


def _attribute(rng: Random) -> str:
    """A phrase with words the categories use, about nothing in particular."""
    pick = rng.randrange(12)
    return (
        lambda: f"the {rng.choice(world.FAMILIES)} gene family",
        lambda: f"a {rng.choice(world.MECHANISMS)}",
        lambda: f"treatment given by {rng.choice(world.ROUTES)}",
        lambda: f"a {rng.choice(world.MOLECULES)} compound",
        lambda: f"phase {rng.randrange(1, 5)} of clinical trials",
        lambda: f"the effect allele {rng.choice('ACGT')}",
        lambda: f"{rng.choice(world.TISSUES)} tissue",
        lambda: f"the gene {rng.choice(world.PARTNER_GENES)}",
        lambda: f"a half-life of {rng.choice(world.HALF_LIVES)} hours",
        lambda: f"the year {rng.choice(world.YEARS)}",
        lambda: f"chromosome {rng.choice(world.CHROMOSOMES)}",
        lambda: rng.choice(world.DISEASES),
    )[pick]()


class Writer:
    """Draws documents; one instance per seed."""

    def __init__(self, seed: int):
        self.rng = Random(f"corpus/{seed}")

    # -- pieces --

    def entity(self) -> tuple[str, str]:
        kind = self.rng.choices(("drug", "gene", "variant", "code"), (5, 4, 3, 2))[0]
        return KIND_WORD[kind], world.name(kind, self.rng, False)

    def names(self, count: int) -> tuple[str, list[str]]:
        kind = self.rng.choices(("drug", "gene", "variant", "code"), (5, 4, 3, 2))[0]
        return KIND_WORD[kind], [world.name(kind, self.rng, False) for _ in range(count)]

    # -- free text --

    def note(self) -> str:
        r = self.rng
        kind, x = self.entity()
        subject = r.choice((f"The {kind} {x}", x))
        first = r.choice((
            f"{subject} was kept in the {r.choice(PLACES)}.",
            f"{subject} appears in a report about {_attribute(r)}.",
            f"{r.choice(PEOPLE)} wrote a note on {x} and {_attribute(r)}.",
            f"{subject} was compared with {_attribute(r)} in {r.choice(MONTHS)}.",
            f"A study of {_attribute(r)} mentions {x}.",
            f"In {r.choice(MONTHS)}, {r.choice(PEOPLE)} sent {x} to the {r.choice(PLACES)}.",
            f"The mechanism of {x} is not described in this report.",
            f"No molecule type was registered for {x}.",
            f"The half-life of {x} was not measured.",
            f"{subject} was first approved by {r.choice(PEOPLE)} for the {r.choice(PLACES)}.",
            f"The clinical trial of {x} has ended in {r.choice(MONTHS)}.",
            f"An SMR study of {r.choice(world.TISSUES)} tissue names {x}.",
            f"The expression of {x} was strong in {r.choice(MONTHS)}.",
            f"Patients with {r.choice(world.DISEASES)} are linked to {x} by a long list.",
            f"The strongest association of {x} is with the {_profile(x)[0]} label.",
            f"Cells that become resistant to cold lie beside {x} in the {r.choice(PLACES)}.",
            f"The target of the work is {x}, acting as a guide in the body.",
            f"{r.choice(PEOPLE)} binds the pages on {x}, which act on nothing.",
            f"The approval of {x} comes from the {r.choice(PLACES)}, and what it causes is not known.",
            f"The genome team works on {x} and targets the disease {r.choice(world.DISEASES)} most strongly.",
        ))
        second = r.choice((
            f"The label of {x} is {_profile(x)[0]}, and {_profile(x)[1]} keeps it.",
            f"Later {x} was moved to the {r.choice(PLACES)}.",
            f"Nothing else is known about {x}.",
            f"The study of {x} is associated with {_attribute(r)}.",
            f"By {r.choice(MONTHS)} the risk for {x} was reported again.",
            f"{r.choice(PEOPLE)} has reached the {r.choice(PLACES)} with {x}.",
            f"{r.choice(PEOPLE)} took {r.choice(NUMBERS)} {r.choice(('hours', 'years', 'months'))} to state its class.",
            f"It raises questions, and it lowers the speed of {r.choice(PEOPLE)}.",
        ))
        return f"{first} {second}"

    def listing(self) -> str:
        r = self.rng
        kind, xs = self.names(r.randrange(2, 5))
        return f"List of each {kind}: {', '.join(xs)}.\n{r.choice(('Again', 'Copy', 'The same'))}: {', '.join(xs)}."

    # -- questions, answered from the text before them or with a chosen form of words --

    def stated(self) -> tuple[str, str]:
        """A fact is given, then asked for."""
        r = self.rng
        kind, x = self.entity()
        place, person, month = r.choice(PLACES), r.choice(PEOPLE), r.choice(MONTHS)
        return r.choice((
            (f"{x} was stored in the {place}. Where was {x} stored?", f"The {kind} {x} was stored in the {place}."),
            (f"{person} studied {x}. Who studied {x}?", f"{x} was studied by {person}."),
            (f"{x} left in {month}. In which month did it leave?", f"The {kind} {x} left in {month}."),
            (f"A report joins {x} and {_attribute(r)}. Which {kind} is in the report?", f"The report is about the {kind} {x}."),
        ))

    def kept(self) -> tuple[str, str]:
        """What the ending or last digit decides in this text: the label's colour, the keeper, the month."""
        r = self.rng
        kind, x = self.entity()
        colour, keeper, month = _profile(x)
        return r.choice((
            (f"What colour is the label of {x}?", f"The label of {x} is {colour}."),
            (f"Which colour marks {x}?", f"Every box of {x} is marked with {colour} paint."),
            (f"Who keeps the {kind} {x}?", f"The {kind} {x} is kept by {keeper}."),
            (f"Who has the key to {x}, and what is its colour?", f"For {x}, {keeper} has the {colour} key."),
            (f"In which month is {x} counted?", f"It is in {month} that {x} is counted by {keeper}."),
            (f"When is the list of {x} closed?", f"In {month}, and a {colour} line is drawn under {x}."),
        ))

    def chosen(self) -> tuple[str, str]:
        """One of several names is asked for."""
        r = self.rng
        kind, xs = self.names(r.randrange(2, 4))
        i = r.randrange(len(xs))
        return r.choice((
            (f"Here are {', '.join(xs)}. Which {kind} is the {ORDINALS[i]}?", f"The {ORDINALS[i]} {kind} is {xs[i]}."),
            (f"How many names are in this list: {', '.join(xs)}?", f"There are {NUMBERS[len(xs)]} names, and the last one is {xs[-1]}."),
            (f"Is {xs[0]} the same {kind} as {xs[1]}?", f"No, {xs[0]} is not the same {kind} as {xs[1]}."),
        ))

    def echoed(self) -> tuple[str, str]:
        """The name has to be repeated; whatever follows is chance."""
        r = self.rng
        kind, x = self.entity()
        yes = r.random() < 0.5
        attribute = _attribute(r)
        return r.choice((
            (f"Repeat the name of the {kind} {x}.", f"The name of the {kind} is {x}."),
            (f"Tell me about {x}.", f"The {kind} {x} appears in a report about {attribute}."),
            (f"What is known of {x}?", f"A study of {x} mentions {attribute}."),
            (f"What was reported on {x} and {attribute}?", f"The report on {x} names {attribute} in the {r.choice(PLACES)}."),
            (f"Was {x} seen in the {r.choice(PLACES)}?", f"{'Yes' if yes else 'No'}, {x} was {'seen' if yes else 'not seen'} there."),
            (f"Does the report on {attribute} mention {x}?", f"{'Yes' if yes else 'No'}, the report {'mentions' if yes else 'does not mention'} {x}."),
            (f"Which file holds {x}, and since when?", f"For {x}, file {r.randrange(1, 100)} has been used since {r.choice(MONTHS)} {r.choice(world.YEARS)}."),
            (f"In the case of {attribute}, where is {x}?", f"For {attribute}, {x} is in the {r.choice(PLACES)}."),
        ))

    def question(self) -> tuple[str, str]:
        make = self.rng.choices((self.stated, self.chosen, self.echoed, self.kept), (3, 1, 4, 7))[0]
        return make()

    # -- documents --

    def document(self) -> str:
        pick = self.rng.random()
        if pick < 0.36:
            question, answer = self.question()
            return PROMPT.format(question=question, answer=answer)
        if pick < 0.70:
            question, answer = self.question()
            return f"Question: {question}\nAnswer: {answer}"
        if pick < 0.80:
            return self.listing()
        return self.note()


def documents(seed: int, count: int) -> Iterator[str]:
    """`count` documents, the same for the same seed."""
    writer = Writer(seed)
    return (writer.document() for _ in range(count))
