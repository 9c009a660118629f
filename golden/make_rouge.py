#!/usr/bin/env python3
"""ROUGE scores and Porter stems by the reference implementation, for the tests of crates/eval.

    pip install rouge_score==0.1.2 nltk==3.10.4
    python golden/make_rouge.py            # writes golden/rouge/vectors.json

All texts are invented. Scores are F1, with and without stemming; stems are those of nltk's PorterStemmer in its
default mode NLTK_EXTENSIONS. Words were chosen so that every rule of the stemmer fires, and fails, at least once.
"""

import importlib.metadata
import json
import pathlib
import random

from nltk.stem.porter import PorterStemmer
from rouge_score import rouge_scorer

PINNED = {"rouge_score": "0.1.2", "nltk": "3.10.4"}
METRICS = ["rouge1", "rouge2", "rougeL"]

# Each rule of the stemmer with words that meet its condition, miss it, or meet it only by a departure of nltk's.
WORDS = {
    "irregular": "sky skies dying lying tying news innings inning outings outing cannings canning howe proceed proceeds "
    "proceeding exceed exceeds exceeding exceeded succeed succeeds succeeding",
    "1a": "caresses masses ponies flies ties dies lies pies caress cats gas this abbess princesses s ss sss aies",
    "1b": "agreed feed freed seed plastered bled motoring sing king red shed died lied tied cried spied applied ied xied "
    "eed reed decreed kneed",
    "1b mended": "conflated troubled sized hopping tanned falling hissing fizzed failing filing hoping using used aged "
    "edging adding egging erring tooing rowing boxing playing mixed viewing annexed eying dyeing matted bubbling",
    "1c": "happy sky fly try by enjoy employ say boy oy yy toy syzygy ably dry ray sticky",
    "2": "relational national conditional rational valency agency hesitancy fancy digitizer sizer comfortably ably "
    "conformably radically really finally ally wholly totally differently gently vilely freely analogously vietnamization "
    "predication station operator actor feudalism decisiveness hopefulness callousness formality quality sensitivity "
    "sensibility ability hopefully fully carefully geology archaeology logy theology analogy apology usually equally "
    "essentially nationally rationally",
    "3": "triplicate indicate formative native formalize electricity city electrical ethical hopeful goodness witness "
    "delicate relative realize medical clinical",
    "4": "revival oval allowance dance inference fence airliner later gyroscopic tic adjustable table defensible edible "
    "irritant ant replacement cement adjustment moment dependent student adoption option region religion homologou thou "
    "communism prism activate rate angularity unity homologous various effective give bowdlerize size million mission",
    "5": "probate rate cease controlling controlled roll rolling enroll fulfill tale fare home one ice axe owe ate ore "
    "distill installs pulled",
    "y": "yes yellow yyyy yyyyed y dyed syndrome by-yy boyish sayyid ayyed tryying",
    "digits": "2018 1e05 p53 il6 cd19 h5n1s 007s 3rds 4ing 10mg 100ing ab12ed b2ies rs1234567 x1ed",
    "field": "genes gene diseases disease therapies inhibitors inhibited inhibiting inhibition agonists antibody antibodies "
    "targets targeted targeting molecule molecules molecular approval approved indicated indication associated association "
    "associations significance significant statistically polymorphism frequency frequencies effect effects metabolism "
    "hospitalised hospitals federated federation trained training generalization regularly variability mutations mutational "
    "expressed expression regulatory clinical phases biological administered dosage tablets infusions patients",
}

# (prediction, reference)
PAIRS = [
    ("", ""),
    ("", "Something was expected."),
    ("Nothing was expected.", ""),
    ("?! -- ...", "Punctuation only"),
    ("?!", "--"),
    ("one", "one"),
    ("One.", "ONE!"),
    ("a a a a", "a a"),
    ("a b a b a b", "b a b a"),
    ("the cat sat on the mat", "the mat sat on the cat"),
    ("Zerulimab targets the gene QRX7.", "The drug Zerulimab targets the gene QRX7."),
    ("Yes, it is approved for phase 3.", "No, it is not approved; it reached phase 2."),
    ("There are 4 targets: AB1, AB2, CD-3 and EF4.", "There are 3 targets: AB1, CD-3, and EF4."),
    ("The p-value is 2.18e-01, so it isn't significant.", "p = 0.218 (not significant)"),
    ("allele frequency 0.0134", "allele frequency 0.0143"),
    ("well-known side-effects", "well known side effects"),
    ("wellknown sideeffects", "well-known side-effects"),
    ("chr7:140,453,136", "chr7 140453136"),
    ("naïve café résumé", "naive cafe resume"),
    ("Straße größer", "STRASSE GRÖSSER"),
    ("β-blocker α₁ µg", "beta blocker alpha 1 ug"),
    ("日本語 text 漢字", "text"),
    ("emoji 🙂 between 🙃 words", "emoji between words"),
    ("K elvin sign and ſ long s", "kelvin sign and s long s"),
    ("İstanbul ISTANBUL", "istanbul i̇stanbul"),
    ("tab\tnewline\nreturn\r\nnbsp\u00a0end\u2028line", "tab newline return nbsp end line"),
    ("under_score and camelCase and x=y", "under score camel case x y"),
    ("running runs ran runner", "run runs runner running"),
    ("dies dying died die", "die die die die"),
    ("was were has had", "be have"),
    ("caresses flies dies mules denied agreed owned", "caress fly die mule deny agree own"),
    ("relational conditional rational", "relate condition ration"),
    ("The treatment of generalized conditions", "Treating general condition"),
    ("0 00 000 0000", "0 0 0 0"),
    ("word " * 7, "word " * 11),
    ("- list\n- of\n- items", "* list * of * items"),
    ("<|endoftext|>", "endoftext"),
    ("### Response:\nThe answer", "The answer"),
]


def invented_texts(rng):
    """Longer texts out of the word list, the second one a disturbed copy of the first."""
    words = [word for group in WORDS.values() for word in group.split()]
    marks = ["", "", "", ",", ".", "-", " (", ") ", "; "]
    for length in (3, 5, 8, 13, 21, 34, 55, 89, 144, 233):
        for keep in (0.2, 0.6, 0.9):
            first = rng.choices(words, k=length)
            second = [word if rng.random() < keep else rng.choice(words) for word in first]
            if rng.random() < 0.5:
                rng.shuffle(second)
            join = lambda text: "".join(word + rng.choice(marks) + " " for word in text).strip()
            yield join(first), join(second)


def main():
    for name, version in PINNED.items():
        found = importlib.metadata.version(name)
        if found != version:
            raise SystemExit(f"{name} {version} is pinned, found {found}")
    stemmer = PorterStemmer()
    scorers = {flag: rouge_scorer.RougeScorer(METRICS, use_stemmer=flag) for flag in (False, True)}
    f1 = lambda a, b, flag: [scorers[flag].score(b, a)[metric].fmeasure for metric in METRICS]
    pairs = PAIRS + list(invented_texts(random.Random(7)))
    vectors = {
        "made_with": PINNED,
        "metrics": METRICS,
        "pairs": [
            {"prediction": a, "reference": b, "plain": f1(a, b, False), "stemmed": f1(a, b, True)} for a, b in pairs
        ],
        "stems": {word: stemmer.stem(word) for group in WORDS.values() for word in group.split()},
    }
    path = pathlib.Path(__file__).parent / "rouge" / "vectors.json"
    path.parent.mkdir(exist_ok=True)
    body = ",\n".join(f'"{key}": ' + rows(value) for key, value in vectors.items())
    path.write_text("{\n" + body + "\n}\n", encoding="utf-8")
    print(f"{path}: {len(pairs)} pairs, {len(vectors['stems'])} stems, {path.stat().st_size} bytes")


def rows(value):
    """One line for each pair; everything else on one line."""
    line = lambda item: json.dumps(item, ensure_ascii=False)
    if isinstance(value, list) and isinstance(value[0], dict):
        return "[\n" + ",\n".join(line(item) for item in value) + "\n]"
    return line(value)


if __name__ == "__main__":
    main()
