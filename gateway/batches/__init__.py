"""OpenAI's batch jobs: a file of requests, each answered as if it had been sent alone, and a file of their answers.

Everything a batch is stands on disk, under ``data_dir/files`` and ``data_dir/batches``, which the workers share; Redis
holds no more than who is at work on it. An owner's folder is the wall between owners.
"""
