"""SANA (arXiv 2410.10629): a transformer with linear self-attention, Gemma-2 and DC-AE. Start with `family.py`."""
