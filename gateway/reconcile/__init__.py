"""A provider's bill beside the books: :mod:`invoice` reads it, :mod:`match` says where they differ and why."""
