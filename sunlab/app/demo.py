"""What `sunlab demo` shows: a prompt drawn by the teacher and by adapters, each with its cost, and the pictures of runs."""

import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from sunlab.adapters.strength import Strength
from sunlab.app.compose import own_device
from sunlab.backbones.base import BaseModel
from sunlab.backbones.locate import is_hub_id, locate
from sunlab.backbones.pretrained import load_base, quiet
from sunlab.config.load import load_config
from sunlab.diffusion.grid import grid
from sunlab.errors import ConfigError, DataError
from sunlab.export import AdapterFile, load_adapter, read_adapter
from sunlab.pipelines.draw import Request, draw, with_adapter, with_guidance
from sunlab.pipelines.effects import scale_of
from sunlab.pipelines.picture import to_uint8
from sunlab.precision import AUTO, dtype_on
from sunlab.solvers import SOLVERS, Sampler

TEACHER, NOTHING, EQUAL_NFE = "teacher", "no adapter, no guidance", "teacher at the adapters' NFE"
GUIDED_SOLVER, ALONE_SOLVER = "dpmpp_2m", "ddim"


@dataclass(frozen=True)
class Settings:
    """What to draw.

    Attributes:
        steps: of an adapter, one network evaluation each.
        teacher_steps: of the teacher, two each.
        guidance: w of the teacher, and of the adapters on which it acts.
        scale, lora_scale: of the adapters that take them, see `Strength`.
    """

    prompt: str
    negative: str = ""
    seed: int = 0
    steps: int = 4
    teacher_steps: int = 25
    guidance: float = 3.0
    scale: float = 1.0
    lora_scale: float = 1.0


@dataclass(frozen=True)
class Shown:
    """A picture and its cost.

    Attributes:
        name: the method's.
        how: solver, steps and guidance, for people.
        nfe: network evaluations.
        seconds: of the sampling loop and the decoder; the prompts were encoded before.
    """

    name: str
    how: str
    image: Image.Image
    nfe: float
    seconds: float


class Studio:
    """A pretrained model and adapters for it, held in memory. Safe to call from several threads, which take turns.

    Args:
        bases: folders, files, hub ids or packaged names. One is in memory at a time.
        adapters: files, hub ids or packaged names.
        runs: folders of runs: their pictures, and the adapters that they exported. Without `bases`, their base.

    Raises:
        ConfigError: no base, one that does not exist, or a folder that is no run's.
        DataError: an unusable adapter file.
    """

    def __init__(self, bases: Sequence[str], adapters: Sequence[str] = (), runs: Sequence[str | Path] = ()):
        self.runs = [read_run(Path(run)) for run in runs]
        self.bases = list(dict.fromkeys(bases or [run.base for run in self.runs]))
        if not self.bases:
            raise ConfigError("demo: no pretrained model; name one with --base, or a run with --run")
        quiet(online=any(map(is_hub_id, [*self.bases, *adapters])))
        for base in self.bases:
            locate(base)
        files = [(file if is_hub_id(file) else Path(file).stem, file) for file in adapters]
        files += [(run.name, str(run.adapter)) for run in self.runs if run.adapter is not None]
        self.adapters: dict[str, AdapterFile] = {}
        for name, file in files:
            self.adapters[file if name in self.adapters else name] = read_adapter(file)
        self._device, self._lock = own_device(), threading.Lock()
        self._loaded: tuple[str, BaseModel] | None = None

    @property
    def methods(self) -> list[str]:
        """The teacher, the adapters by name, the base alone, and the teacher at as many network evaluations."""
        return [TEACHER, *self.adapters, NOTHING, EQUAL_NFE] if self.adapters else [TEACHER]

    @property
    def guidance(self) -> float:
        """The mean w of the first adapter's training; 3 where there is none."""
        trained = (file.header.get("guidance") for file in self.adapters.values())
        return next((sum(w) / len(w) for w in trained if w), 3.0)

    def draw(self, base: str, method: str, settings: Settings) -> Shown:
        """One picture.

        Args:
            base: one of `bases`.
            method: one of `methods`.

        Raises:
            ConfigError: another base or method, or an impossible number of steps.
            DataError: an adapter of another base, or a picture that is not finite.
        """
        if base not in self.bases or method not in self.methods:
            raise ConfigError(f"demo: no base {base!r} or no method {method!r}")
        with self._lock:
            model = self._base(base)
            model.encode([settings.prompt, settings.negative])  # remembered
            if method in self.adapters:
                return self._with_adapter(model, method, settings)
            if method == NOTHING:
                sampling = _sampling(ALONE_SOLVER, settings.steps, model)
                how = f"{ALONE_SOLVER}, {_steps(settings.steps)}"
                return self._shown(model, method, how, sampling, with_guidance(model), settings, 1.0)
            steps = settings.teacher_steps if method == TEACHER else max(settings.steps // 2, 1)
            sampling = _sampling(GUIDED_SOLVER, steps, model)
            how = f"DPM-Solver++, {_steps(steps)}, CFG {settings.guidance:g}"
            return self._shown(model, method, how, sampling, with_guidance(model), settings, settings.guidance)

    def _with_adapter(self, model: BaseModel, method: str, settings: Settings) -> Shown:
        adapter, header = load_adapter(self.adapters[method], model.backbone)
        try:
            solver, w = header.get("solver", "ddim"), scale_of(adapter, header, settings.guidance)
            factors = {name: getattr(settings, name) for name in sorted(adapter.scales, reverse=True)}
            how = [f"{solver}, {_steps(settings.steps)}", *([f"guidance {w:g}"] if adapter.steered else [])]
            how += [f"{name.replace('_', ' ')} {value:g}" for name, value in factors.items() if value != 1]
            sampling = _sampling(solver, settings.steps, model, header.get("shift", 1.0))
            bind = with_adapter(model, adapter.to(model.device), Strength(**factors))
            return self._shown(model, method, ", ".join(how), sampling, bind, settings, w)
        finally:
            adapter.detach()

    def _shown(
        self, model: BaseModel, name: str, how: str, sampling: Sampler, bind: Any, settings: Settings, w: float
    ) -> Shown:
        request = Request([settings.prompt], [settings.negative], [settings.seed])
        started = time.perf_counter()
        drawn = draw(model, sampling, bind, request, w=w)
        finite = bool(drawn.images.isfinite().all())  # a GPU is done only once this is known
        seconds = time.perf_counter() - started
        if not finite:
            raise DataError(f"{name}: the picture is not finite at guidance {w:g}; choose a smaller one")
        return Shown(name, how, Image.fromarray(to_uint8(drawn.images[0])), drawn.nfe, seconds)

    def _base(self, name: str) -> BaseModel:
        """The model, in place of the one that was in memory before."""
        if self._loaded is None or self._loaded[0] != name:
            self._loaded = None
            model = load_base(name, dtype=dtype_on(AUTO, self._device)).freeze().to(self._device)
            warm_up = Settings("", teacher_steps=1)
            self._shown(model, TEACHER, "", _sampling(GUIDED_SOLVER, 1, model), with_guidance(model), warm_up, 3.0)
            self._loaded = name, model
        return self._loaded[1]


def _sampling(solver: str, steps: int, model: BaseModel, shift: float = 1.0) -> Sampler:
    path = model.backbone.path
    return Sampler(SOLVERS.build(solver, path), grid(steps, shift=shift, path=path))


def _steps(count: int) -> str:
    return f"{count} step{'s' * (count != 1)}"


@dataclass(frozen=True)
class Run:
    """What a run left behind, in memory.

    Attributes:
        name: of its folder.
        base: that it trained on.
        adapter: the file that it exported, or None.
        pictures: titles and pictures, the last ones first.
        rows: of the table before and after: name, NFE, seconds a picture, distance to the first row.
    """

    name: str
    base: str
    adapter: Path | None
    pictures: Sequence[tuple[str, Image.Image]]
    rows: Sequence[tuple[str, float, float, float]]


def read_run(folder: Path) -> Run:
    """Read a run's folder. Raises `ConfigError` where there is no run, or none that drew pictures or exported an adapter."""
    if not (folder / "config.yaml").is_file():
        raise ConfigError(f"--run: {folder} has no config.yaml; name a run's folder, runs/quickstart for instance")
    base = load_config([folder / "config.yaml"]).config.model.base
    adapter = folder / "export" / "adapter.safetensors"
    files = [folder / "before_after.png", *sorted((folder / "pictures").glob("*.png"), reverse=True)]
    pictures = [(_title(file), _read(file)) for file in files if file.is_file()]
    if not pictures and not adapter.is_file():
        raise ConfigError(f"--run: {folder} holds neither pictures nor export/adapter.safetensors; did the training end?")
    record = folder / "before_after.json"
    rows = json.loads(record.read_text())["rows"] if record.is_file() else []
    table = [(str(row["name"]), float(row["nfe"]), float(row["seconds"]), float(row["distance"])) for row in rows]
    return Run(folder.resolve().name, base, adapter if adapter.is_file() else None, pictures, table)


def _title(file: Path) -> str:
    return (
        "before and after"
        if file.stem == "before_after"
        else f"step {int(file.stem):,}"
        if file.stem.isdigit()
        else file.stem
    )


def _read(file: Path) -> Image.Image:
    try:
        return Image.open(file).convert("RGB")
    except OSError as error:
        raise DataError(f"{file}: no picture: {error}") from None
