"""Sizes that stand for the batch while a model is traced: primes, so that their multiples are told apart from other sizes.

They are small enough for int32 sizes of what is in a batch.
"""

SAMPLES = 10007
# What differs between the two depends on the batch.
OTHER_SAMPLES = 10009
