"""From prompts to pictures: sunlab's sampling loop, and adapters in diffusers pipelines. Open `draw.py` for the loop,
`plug.py` for `sunlab.plug`."""
