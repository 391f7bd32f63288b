"""The page of `sunlab demo`, on gradio. Open `page.py` first; `serve.py` decides which requests are answered."""

import os

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
