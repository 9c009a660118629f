"""Writes golden/numpy/permutation.json: what numpy's default_rng draws, stage by stage.

Run: python golden/make_numpy.py   (made with numpy 2.4.6)
"""

import json
import pathlib

import numpy as np

SEEDS = [0, 1, 42, 2026, 2**32 - 1, 2**40 + 7, 2**64 - 1]
SIZES = [1, 2, 3, 10, 64, 65]
LARGE = {42: [1000]}

cases = []
for seed in SEEDS:
    sequence = np.random.SeedSequence(seed)
    raw = np.random.PCG64(np.random.SeedSequence(seed)).random_raw(4)
    cases.append(
        {
            "seed": seed,
            "pool": [int(word) for word in sequence.pool],
            "words": [str(word) for word in sequence.generate_state(4, np.uint64)],
            "raw": [str(draw) for draw in raw],
            "permutations": [
                [int(i) for i in np.random.default_rng(seed).permutation(size)]
                for size in SIZES + LARGE.get(seed, [])
            ],
        }
    )

folder = pathlib.Path(__file__).parent / "numpy"
folder.mkdir(exist_ok=True)
body = ",\n".join("  " + json.dumps(case) for case in cases)
(folder / "permutation.json").write_text(f'{{"numpy": "{np.__version__}", "cases": [\n{body}\n]}}\n')
