"""The parts of the GPU report, `tools/gpu_report.py`: one file a part, each with a function `measure`. Open `parts.py`
first; `record.py` writes the report, `supervise.py` runs the parts."""
