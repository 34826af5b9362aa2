"""The SLM server: chat by llama.cpp and embeddings by a dedicated model, in one process that fits into 1 GiB."""
