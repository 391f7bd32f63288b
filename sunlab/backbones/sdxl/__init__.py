"""Stable Diffusion XL. Start with `text.py`."""
