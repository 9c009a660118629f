"""Writes a valid input for each fuzz target into corpus/: needs numpy and safetensors."""

import io
import pathlib
import zipfile

import numpy as np
from safetensors.numpy import save

here = pathlib.Path(__file__).parent / "corpus"
arrays = [np.arange(6, dtype="<f4").reshape(2, 3), np.arange(4, dtype="<f4")]
for name, method in [("stored", zipfile.ZIP_STORED), ("deflated", zipfile.ZIP_DEFLATED)]:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", method) as file:
        for index, array in enumerate(arrays):
            entry = io.BytesIO()
            np.save(entry, array)
            file.writestr(f"{index}.npy", entry.getvalue())
    (here / "npz").mkdir(parents=True, exist_ok=True)
    (here / "npz" / name).write_bytes(archive.getvalue())

prefix = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
tensors = {f"{prefix}A.weight": arrays[0], f"{prefix}B.weight": arrays[0].T.copy()}
config = '{"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "lora_dropout": 0.1}'
(here / "peft").mkdir(parents=True, exist_ok=True)
(here / "peft" / "weights").write_bytes(save(tensors))
(here / "peft" / "config").write_text(config)
