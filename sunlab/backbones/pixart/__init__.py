"""PixArt-alpha and PixArt-Sigma, and small transformers of their class. Start with `transformer.py`."""
