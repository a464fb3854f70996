#!/usr/bin/env bash
# A virtual environment with the peers that Cloze is measured against. They are no need of the product.
#   benches/peers/setup.sh [FOLDER]        (default: benches/peers/.venv)
# torch's compiled mode also needs a C++ compiler. Any build of this torch version will do; the CPU build is smaller.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
venv=${1:-$here/.venv}
python3 -m venv "$venv"
"$venv/bin/pip" install --quiet torch==2.15.0 transformers==5.23.0 tokenizers==0.23.3 safetensors==0.8.0 numpy==2.4.6
# for inference.py
"$venv/bin/pip" install --quiet onnx onnxscript onnxruntime openvino nncf ctranslate2
"$venv/bin/python" -c 'import torch, transformers, tokenizers
print("torch", torch.__version__, "transformers", transformers.__version__, "tokenizers", tokenizers.__version__)
print("bf16 matrix products in hardware:", torch.cpu._is_avx512_bf16_supported())'
