"""Evaluation: pictures before and after acceleration are drawn from the same pairs and seeds, and measured. Open
`protocol.py` first; `base.py` is the contract of a metric, `report.py` writes the table."""
