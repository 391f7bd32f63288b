"""Part `quickstart`: the seconds of the quickstart, from the command to its last file."""

import time
from pathlib import Path
from tempfile import TemporaryDirectory

from gpu.parts import Bench
from sunlab.cli.main import main

CONFIG = Path(__file__).parents[2] / "configs" / "quickstart.yaml"
SHORT = ["trainer.max_steps=1", "data.batch_size=8", "callbacks=[throughput]"]


def measure(bench: Bench) -> None:
    with TemporaryDirectory(prefix="sunlab-") as folder:
        words = ["fit", "--config", str(CONFIG), f"run.dir={folder}", f"trainer.accelerator={bench.device}"]
        started = time.perf_counter()
        status = main([*words, *(SHORT if bench.tiny else [])])
        seconds = time.perf_counter() - started
        if status:
            raise RuntimeError(f"sunlab fit ended with {status}")
        written = sum(path.is_file() for path in Path(folder).rglob("*"))
    bench.figure("quickstart", seconds, "s", note=f"imports left out; {written} files")
