"""SUN adapters in ComfyUI: a node package and its installer.

`nodes/` is the package as ComfyUI imports it. It needs torch, safetensors and ComfyUI, not sunlab, except for
`nodes/seal.py`, which `install.py` replaces by a copy of `sunlab/export/seal.py`. Open `nodes/loader.py`
first, then `nodes/patches.py`.
"""
