"""What fuzzing tests and `benchmarks/fuzz.py` share: rewrites that change nothing, programs of known truth, damage."""
