"""Writes golden/parquet/: invented rows in small Parquet files, one for each codec, and types that are no text.

Run: python golden/make_parquet.py   (made with pyarrow 26.0.1)
"""

import pathlib

import pyarrow as pa
import pyarrow.parquet as pq

N = 12
rows = {
    "uuid": [f"p{i}" for i in range(N)],
    "question": [f"What does gene ZQX{i} do?" for i in range(N)],
    "answer": [f"It makes protein {i} – perhaps." for i in range(N)],
    "bio_category": ["Genes" if i % 3 else "Drugs" for i in range(N)],
    "year": pa.array([2000 + i for i in range(N)], pa.int32()),
    "tags": [["a", "b"]] * N,
    "made": pa.array(range(N), pa.duration("ns")),
}
folder = pathlib.Path(__file__).parent / "parquet"
folder.mkdir(exist_ok=True)
table = pa.table(rows)
for codec in ["none", "snappy", "gzip", "brotli", "zstd", "lz4"]:
    # Row groups of 5 make three of them, the last one short.
    pq.write_table(table, folder / f"{codec}.parquet", compression=codec, row_group_size=5, store_schema=False)

odd = {
    "question": pa.array(["Right?", None, "", "Number?", "Last?"], pa.large_string()),
    "answer": pa.array(["Yes.", "Null question.", "Empty question.", "4", None]),
    "score": pa.array([0.5, None, 1.5, 2.0, 3.0], pa.float64()),
    "picture": pa.array([b"\xff\x00"] * 5, pa.binary()),
    "nested": [{"text": "x"}] * 5,
}
pq.write_table(pa.table(odd), folder / "odd.parquet", compression="snappy", store_schema=False)
