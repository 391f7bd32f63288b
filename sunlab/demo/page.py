"""The page: what to draw on the left, the pictures side by side on the right, the runs below."""

from collections.abc import Iterator

import gradio

from sunlab.app.demo import EQUAL_NFE, Settings, Studio
from sunlab.demo.markup import cards, gallery, note
from sunlab.errors import SunlabError

EMPTY = "Type a prompt and draw. Every picture starts from the same noise."
MOST_STEPS, MOST_GUIDANCE, SEEDS = 50, 15.0, 2**31 - 1


def page(studio: Studio, *, prompt: str = "", negative: str = "") -> gradio.Blocks:
    """The components and what the button does. No component takes or gives a file.

    Args:
        prompt, negative: in their fields at first.
    """
    with gradio.Blocks(title="sunlab", analytics_enabled=False) as blocks:
        gradio.HTML("<h1>sunlab</h1>The same prompt and the same noise: the guided teacher, and adapters in a few steps.")
        with gradio.Row():
            with gradio.Column(scale=1, min_width=320):
                positive = gradio.Textbox(prompt, label="Prompt", lines=2, max_length=2000, elem_id="prompt")
                unwanted = gradio.Textbox(negative, label="Negative prompt", max_length=2000, elem_id="negative")
                button = gradio.Button("Draw", variant="primary", elem_id="draw")
                steps = gradio.Slider(1, MOST_STEPS, 4, step=1, label="Steps of the adapters", elem_id="steps")
                teacher = gradio.Slider(1, 100, 25, step=1, label="Steps of the teacher", elem_id="teacher-steps")
                guidance = gradio.Slider(
                    1,
                    MOST_GUIDANCE,
                    min(studio.guidance, MOST_GUIDANCE),
                    step=0.5,
                    label="Guidance",
                    info="of the teacher and of steered adapters",
                )
                scale = gradio.Slider(
                    0, 3, 1, step=0.05, label="Scale", info="of an adapter's offset; 1: as trained", elem_id="scale"
                )
                lora = gradio.Slider(0, 2, 1, step=0.05, label="LoRA scale", info="of an adapter's LoRA")
                seed = gradio.Number(0, label="Seed", precision=0, minimum=0, maximum=SEEDS, elem_id="seed")
                many = len(studio.bases) > 1
                base = gradio.Dropdown(studio.bases, value=studio.bases[0], label="Pretrained model", visible=many)
                first = [name for name in studio.methods if name != EQUAL_NFE]
                methods = gradio.CheckboxGroup(studio.methods, value=first, label="Draw with", elem_id="methods")
            with gradio.Column(scale=3, min_width=320):
                shown = gradio.HTML(note(EMPTY), elem_id="pictures")
        for run in studio.runs:
            with gradio.Accordion(f"Run: {run.name}", open=len(studio.runs) == 1):
                gradio.HTML(gallery(run), elem_id=f"run-{run.name}")

        def drawn(
            prompt: str, negative: str, steps: float, teacher: float, guidance: float, scale: float, lora: float,
            seed: int | None, base: str, methods: list[str],
        ) -> Iterator[str]:  # fmt: skip
            counts, factors = (int(seed or 0), int(steps), int(teacher)), (float(guidance), float(scale), float(lora))
            settings = Settings(prompt, negative, *counts, *factors)
            done = []
            for name in (name for name in studio.methods if name in methods):  # the teacher first
                try:
                    done.append(studio.draw(base, name, settings))
                except SunlabError as error:
                    raise gradio.Error(f"{name}: {error}") from None
                yield cards(done)
            if not done:
                yield note("Nothing is chosen under “Draw with”.")

        inputs = [positive, unwanted, steps, teacher, guidance, scale, lora, seed, base, methods]
        gradio.on(
            [button.click, positive.submit, unwanted.submit], drawn, inputs, shown, concurrency_limit=1, api_name=False
        )
    return blocks
