"""`sunlab torture`: what a shared cluster does to a training, done on purpose, and what must come of it.

Every trial is seeded and says what it expects and what it saw. A family of faults is a file: it registers its trials with
`sunlab.torture.trial.trial`, and works in a `World`, a scratch folder with a tiny base model and shards of its own.
"""
