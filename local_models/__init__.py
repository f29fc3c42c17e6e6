"""Local models as processes of their own: a catalogue, fetching, quantising, chat and embeddings.

Nothing here knows the gateway. What it may call: `catalog.load`, `catalog.entry`, `fetch.ensure`, `fetch.pull`,
`quantize.quantize`, and the command lines of `python -m local_models`.
"""
