"""The invented world of the demo: its names, its rules, and which names may appear where.

Nothing here is medicine. Drugs, genes, variants and diseases are random syllables behind marks that no real
nomenclature uses: genes start with `Zq`, variants with `vqs`, and drugs end in a hyphen and four letters of no meaning. The hyphen
also makes the ending a token of its own for any byte-level BPE.

One function, `reserved`, splits every possible name between the question-answer data (reserved names) and the
pretraining text (all others). It depends on the name's hash alone, so the two can never share an entity.
"""

import hashlib
from random import Random

CATEGORIES = (
    "Drug Gene Relations",
    "Pharmacology",
    "Drug Meta",
    "SNP Disease Relations",
    "SMR Gene Disease Relations",
)

# ---- the rules of the world: an ending or a last digit decides -------------------------------------------------

DRUG_ENDINGS = ("vrix", "zelt", "numf", "quon", "ltep", "spar", "ndux", "thlo")

FAMILIES = ("Zqhal", "Zqmir", "Zqtol", "Zqven", "Zqbex", "Zqdor", "Zqlun", "Zqsap")
MECHANISMS = (
    "gate closer", "pump booster", "fold breaker", "signal lifter",
    "gate opener", "pump blocker", "fold keeper", "signal damper",
)
ROUTES = ("mouth", "vein", "skin", "breath", "skin", "mouth", "breath", "vein")
MOLECULES = ("ring", "chain", "sugar", "metal", "chain", "sugar", "metal", "ring")

GENE_ENDINGS = ("dal", "gor", "min", "pet", "rus", "tak", "vel", "zon")
TISSUES = ("liver", "kidney", "heart", "lung", "skin", "nerve", "muscle", "bone")

PHASE_OF_DIGIT = (1, 3, 2, 4, 1, 2, 4, 3, 2, 1)
ALLELE_OF_DIGIT = "GATCCGATTA"


def ending_index(name: str, endings: tuple[str, ...]) -> int:
    """Which of `endings` stands behind the hyphen of the name (trailing digits are ignored)."""
    return endings.index(name.split("-")[1].rstrip("0123456789"))


def last_digit(name: str) -> int:
    """The digit that a gene, a variant or a trial code ends in."""
    return int(name[-1])


# ---- closed sets that look-up facts and pretraining text draw from ---------------------------------------------

PARTNER_GENES = tuple(f"Zq{s}" for s in ("ando", "beri", "cula", "demo", "fino", "galu", "hesti", "iver", "jolka", "kamo", "lirra", "nobu"))
HALF_LIVES = (2, 3, 4, 6, 8, 12, 16, 18, 24, 36, 48, 72)
YEARS = tuple(range(2051, 2063))
CHROMOSOMES = tuple(range(1, 13))
DISEASES = tuple(
    f"{s} {k}"
    for s, k in zip(
        ("Morvane", "Teldrin", "Oskari", "Pellam", "Quorra", "Rindle", "Sabeth", "Tovik", "Ulmera", "Vasko", "Wendry", "Yarrow"),
        ("fever", "syndrome", "palsy", "rash", "fever", "syndrome", "palsy", "rash", "fever", "syndrome", "palsy", "rash"),
    )
)

# ---- names ------------------------------------------------------------------------------------------------------

ONSETS = "bdfgklmnprtv"
VOWELS = "aeiou"


def reserved(name: str) -> bool:
    """Whether the name belongs to the question-answer data; one in four does, the rest is pretraining's."""
    return hashlib.sha256(name.encode()).digest()[0] < 64


def _stem(rng: Random) -> str:
    return "".join(rng.choice(ONSETS) + rng.choice(VOWELS) for _ in range(2))


def _drug(rng: Random) -> str:
    return _stem(rng).capitalize() + "-" + rng.choice(DRUG_ENDINGS)


def _gene(rng: Random) -> str:
    return "Zq" + _stem(rng) + "-" + rng.choice(GENE_ENDINGS) + str(rng.randrange(1, 9))


def _variant(rng: Random) -> str:
    return "vqs" + _stem(rng) + "-" + str(rng.randrange(10))


def _code(rng: Random) -> str:
    return "KD" + _stem(rng) + "-" + str(rng.randrange(10))


_MAKERS = {"drug": _drug, "gene": _gene, "variant": _variant, "code": _code}


def name(kind: str, rng: Random, for_questions: bool) -> str:
    """A new name of `kind` (drug, gene, variant, code) from the side of the split that is asked for."""
    while True:
        candidate = _MAKERS[kind](rng)
        if reserved(candidate) == for_questions:
            return candidate
