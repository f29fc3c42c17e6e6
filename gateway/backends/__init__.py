"""Everything that answers chat completions or makes embeddings, behind `protocols.Backend` and `protocols.Embedder`.

`Fleet` tries targets in order; each is a `Resilient` (retry, cooldown) around an `OpenAIBackend` or a `LiteLLMBackend`.
"""
