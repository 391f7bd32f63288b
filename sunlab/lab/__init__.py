"""The lab: small models and data that ship with sunlab, and the components that evaluate them. Open `classifier.py`
first, which classifies pictures of the lab.

Nothing in the core imports this package. Its files are found by name (`emoji-sd`, `emoji/...`) through `sunlab.packaged`, as
those of any plug-in are.
"""

from pathlib import Path

ASSETS = Path(__file__).parent / "assets"
