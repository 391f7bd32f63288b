"""LightningModules: thin, composed from the registries."""
