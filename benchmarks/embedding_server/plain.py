"""What one writes in five minutes: sentence-transformers behind FastAPI. Run by PEER_VENV's Python.

python benchmarks/embedding_server/plain.py MODEL PORT
"""

import base64
import sys
from typing import Any

import uvicorn
from fastapi import FastAPI
from sentence_transformers import SentenceTransformer

app = FastAPI()
model = SentenceTransformer(sys.argv[1], device="cpu")


@app.post("/v1/embeddings")
def embeddings(body: dict[str, Any]) -> dict[str, Any]:
    """OpenAI's embeddings."""
    vectors = model.encode(body["input"], show_progress_bar=False)
    if body.get("encoding_format") == "base64":
        rows = [base64.b64encode(vector.tobytes()).decode() for vector in vectors]
    else:
        rows = vectors.tolist()
    return {"data": [{"index": index, "embedding": row} for index, row in enumerate(rows)], "model": body["model"]}


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[2]), log_level="error")
