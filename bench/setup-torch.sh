#!/usr/bin/env bash
# Sets up the peer of `cargo xtask bench --with-torch DIR`: PyTorch with TRL in DIR/venv and a model in DIR/model.
#
#   bench/setup-torch.sh DIR [TOKENIZER_DIR]
#
# Needs Python 3.10 or later and several GB. The model has SmolLM2-135M's shape and random weights: speed does not
# depend on them. Its tokenizer is TOKENIZER_DIR's, else SmolLM2-135M's own from Hugging Face; where that cannot be
# reached, the demo's, whose small vocabulary makes more tokens of a row (on both sides).
set -euo pipefail

dir=${1:?usage: bench/setup-torch.sh DIR [TOKENIZER_DIR]}
tokenizer=${2:-}
root=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)

if [ ! -x "$dir/venv/bin/python" ]; then
    python3 -m venv "$dir/venv"
fi
"$dir/venv/bin/pip" install --quiet \
    torch==2.15.0 transformers==5.23.0 peft==0.21.2 trl==1.16.0 datasets==5.2.0 accelerate==1.15.0 psutil

if [ -z "$tokenizer" ]; then
    tokenizer=$dir/tokenizer
    if ! "$dir/venv/bin/python" - "$tokenizer" <<'PYTHON'
import sys
from huggingface_hub import snapshot_download

files = ["config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"]
snapshot_download("HuggingFaceTB/SmolLM2-135M", allow_patterns=files, local_dir=sys.argv[1])
PYTHON
    then
        echo "SmolLM2's tokenizer could not be fetched; the demo's takes its place" >&2
        tokenizer=$root/demo/model
    fi
fi
[ -f "$tokenizer/tokenizer.json" ] || { echo "$tokenizer has no tokenizer.json" >&2; exit 1; }

cd "$root"
cargo run --release --quiet --package consilium-bench -- \
    make-model --shape 135m --out "$dir/model" --tokenizer "$tokenizer"
echo "Ready: cargo xtask bench --with-torch $dir"
