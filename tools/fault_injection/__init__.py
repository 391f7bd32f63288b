"""The trials behind `tools/inject_faults.py`: faults of a shared cluster, injected on purpose, and what must come of them.

Every trial is seeded and reports what it expected and what it observed. A family of faults is a file: it
registers its trials with `fault_injection.trial.trial`, and works in a
`World`, a scratch folder with a tiny base model and shards of its own.
"""
