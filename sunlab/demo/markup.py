"""Pictures and tables as HTML. Pictures are part of the markup, so that no file is written or served."""

from base64 import b64encode
from collections.abc import Sequence
from html import escape
from io import BytesIO

from PIL import Image

from sunlab.app.demo import Run, Shown

NARROWEST = 256  # pixels: smaller pictures are shown larger, each pixel a square
STYLE = """
.sun-row { display: flex; flex-wrap: wrap; gap: 1rem; }
.sun-row figure { margin: 0; width: min(100%, 17rem); }
.sun-row figure img { width: 100%; border-radius: 0.5rem; display: block; }
.sun-row figcaption { padding: 0.4rem 0.1rem; line-height: 1.35; }
.sun-row figcaption b { display: block; }
.sun-row .how { opacity: 0.65; display: block; }
.sun-run img { max-width: 100%; border-radius: 0.5rem; }
.sun-run table { border-collapse: collapse; margin: 0 0 1rem !important; width: auto; }
.sun-run th, .sun-run td { padding: 0.25rem 0.75rem !important; text-align: right; font-variant-numeric: tabular-nums; }
.sun-run th, .sun-run td { border: 1px solid var(--border-color-primary) !important; }
.sun-run th:first-child, .sun-run td:first-child { text-align: left; }
.sun-note { opacity: 0.65; }
"""


def cards(shown: Sequence[Shown]) -> str:
    """The pictures side by side, with what each cost."""
    return f'<div class="sun-row">{"".join(_card(one, shown[0]) for one in shown)}</div>'


def _card(one: Shown, first: Shown) -> str:
    cost = f"{one.nfe:g} NFE, {seconds(one.seconds)}"
    if one is not first:
        cost += f" ({first.seconds / one.seconds:.1f} times faster)" if one.seconds < first.seconds else ""
    text = f'<b>{escape(one.name)}</b><span class="cost">{cost}</span><span class="how">{escape(one.how)}</span>'
    return f"<figure>{image(one.image, one.name)}<figcaption>{text}</figcaption></figure>"


def gallery(run: Run) -> str:
    """What a run left behind: its table, and its pictures from the last to the first."""
    table = ""
    if run.rows:
        head = "<tr><th>before and after</th><th>NFE</th><th>s / picture</th><th>distance to the first</th></tr>"
        rows = (
            f"<tr><td>{escape(name)}</td><td>{nfe:g}</td><td>{spent:.3g}</td><td>{distance:.4f}</td></tr>"
            for name, nfe, spent, distance in run.rows
        )
        table = f"<table>{head}{''.join(rows)}</table>"
    pictures = (f"<p><b>{escape(title)}</b></p>{image(picture, title)}" for title, picture in run.pictures)
    return f'<div class="sun-run">{table}{"".join(pictures)}</div>'


def note(text: str) -> str:
    return f'<p class="sun-note">{escape(text)}</p>'


def image(picture: Image.Image, alt: str) -> str:
    """An element that holds the whole picture."""
    if picture.width < NARROWEST:
        times = -(-NARROWEST // picture.width)
        picture = picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)
    data = BytesIO()
    picture.save(data, format="PNG")
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{b64encode(data.getvalue()).decode()}">'


def seconds(value: float) -> str:
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s"
