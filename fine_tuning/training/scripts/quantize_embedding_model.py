"""Make an embedding model smaller, and measure what it costs.

    venv-embed/bin/python fine_tuning/training/scripts/quantize_embedding_model.py \
        --model-path models/bge-small-finetuned --output models/bge-small-finetuned-int8 --dtype int8
        [--runtime openvino|onnx] [--instructions avx512-vnni|avx2|arm] [--calibration FILE] [--eval-data FILE]
        [--policy configs/quantization.yaml] [--force]

--dtype: int8, int8-dynamic, int4, and on a GPU bnb-int8, bnb-int4. Needs the environment of ./setup_embedding.sh
(`make train-deps`). What was measured is in OUTPUT/quantization.json, or in OUTPUT.quantization.json where the policy
refuses the model. Exit status: 0 written, 1 refused, 2 not possible as asked.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from fine_tuning.embedding.quantize_command import main

if __name__ == "__main__":
    raise SystemExit(main())
