"""The theory: the noise schedule, what a model predicts, grids of times, guidance."""
