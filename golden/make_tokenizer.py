"""Writes golden/tokenizer/: two tiny tokenizers and what Hugging Face's `tokenizers` encodes with them.

bytelevel.json  byte-level BPE as in GPT-2 and SmolLM2: single digits, no BOS, <|endoftext|> is 0
spiece.json     SentencePiece-like BPE with byte fallback as in Llama: <s> in front, </s> is 2
encodings.json  ids and byte offsets of the template's text for invented rows, with each tokenizer

Run: python golden/make_tokenizer.py   (made with tokenizers 0.23.3)
"""

import json
import pathlib

import tokenizers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

TEMPLATE = (
    "### Instruction:\nYou are a knowledgeable assistant. Answer this question truthfully!\n\n"
    "### Input:\n{question}\n\n### Response:\n{answer}"
)
ROWS = [
    ("Which class does zorvatinib belong to?", "Zorvatinib is a kinase inhibitor."),
    ("  What is the dose of melquorin?\n", " 25 mg, twice a day. "),
    ("Is rs4711 linked to Brüggen's fever?", "Yes – p = 3.2e-08 (β = 0.41)."),
    ("Qu'est-ce que la fièvre de Tarn ?", "Une fièvre inventée 🌡️."),
    ("How many genes?", "1234"),
]
CORPUS = [TEMPLATE.format(question=q.strip(), answer=a.strip()) for q, a in ROWS] * 8 + [
    "Which gene is linked to the fever? What does the inhibitor do? It belongs to a class of drugs.",
] * 4


def byte_level():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=["<|endoftext|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return tokenizer, 0


def sentence_piece():
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    specials = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer.train_from_iterator(
        [text for text in CORPUS if text.isascii()],
        trainers.BpeTrainer(vocab_size=460, special_tokens=specials, show_progress=False, max_token_length=8),
    )
    # The byte pieces are ordinary vocabulary, not specials: write the file anew without marking them.
    plain = json.loads(tokenizer.to_str())
    plain["added_tokens"] = plain["added_tokens"][:3]
    tokenizer = Tokenizer.from_str(json.dumps(plain))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer, 2


folder = pathlib.Path(__file__).parent / "tokenizer"
folder.mkdir(exist_ok=True)
cases = []
for name, (tokenizer, eos) in {"bytelevel": byte_level(), "spiece": sentence_piece()}.items():
    (folder / f"{name}.json").write_text(json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False) + "\n")
    for question, answer in ROWS:
        prompt = TEMPLATE.format(question=question.strip(), answer="")
        text = prompt + answer.strip()
        encoding = tokenizer.encode(text)
        # Python counts characters; the first answer token is the first that reaches beyond the prompt.
        loss_from = next(i for i, (_, stop) in enumerate(encoding.offsets) if stop > len(prompt))
        cases.append(
            {
                "tokenizer": name,
                "question": question,
                "answer": answer,
                "prompt_ids": tokenizer.encode(prompt).ids,
                "ids": encoding.ids + [eos],
                "loss_from": loss_from,
                "decoded": tokenizer.decode(encoding.ids),
            }
        )
body = ",\n".join("  " + json.dumps(case, ensure_ascii=False) for case in cases)
(folder / "encodings.json").write_text(f'{{"tokenizers": "{tokenizers.__version__}", "cases": [\n{body}\n]}}\n')
