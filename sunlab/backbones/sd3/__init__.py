"""Stable Diffusion 3 and 3.5 (arXiv 2403.03206). Start with `transformer.py`; `attention.py` is the joint attention."""
