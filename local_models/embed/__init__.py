"""The embedding process: sentence-transformers behind OpenAI's `/v1/embeddings`."""
