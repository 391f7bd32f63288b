"""LightningModules: one training step from `Samples` to a loss, and what is exported. Open `base.py` first, then
`distillation.py`, which adapters and students share; `sunlab.app.tasks` builds them from a configuration."""
