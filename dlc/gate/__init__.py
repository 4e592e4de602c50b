"""The gate: an artifact measured anew, judged by its recipe's gates and against a baseline, for CI."""
