"""As how many devices jax sees the cores of a CPU. No jax here: it reads this before it is imported."""

MOST_PARTS = 8
"""As many as divide every number of rows that is ever compiled (`caches.ROW_BUCKET`)."""


def row_parts(threads: int) -> int:
    """Devices that share the rows of a sampling call: the largest power of two that the threads and MOST_PARTS allow.

    A decode step of a small model is many short operations. Threads that share each of them wait for each other at
    every one; with rows of their own they meet once in `sampler.SEGMENT` tokens.
    """
    return 1 << (min(threads, MOST_PARTS).bit_length() - 1)
