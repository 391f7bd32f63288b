"""Store a teacher's guided trajectories as a data set."""

from pathlib import Path

from registry import load_plugins
from sunlab.app.compose import build_base, build_sampler, component, given_source, own_device, settle
from sunlab.config.load import LoadedConfig
from sunlab.data.base import Source
from sunlab.data.negatives import Pool
from sunlab.distributed.ranks import first_rank, launched
from sunlab.memory import keep_freed_memory
from sunlab.pipelines.trajectories import TrajectoryWriter
from sunlab.progress import Lines
from sunlab.registries import registry_of


def make_trajectories(
    loaded: LoadedConfig, *, out: str | Path, count: int, shard_size: int = 256, predictions: bool = False
) -> list[Path]:
    """Store `count` of the teacher's guided trajectories under `out`, in shards. Shards that are there are kept;
    under torchrun or srun each rank makes its share.

    Args:
        predictions: whether the guided prediction at each state is stored too, see `TrajectoryWriter`.

    Raises:
        ConfigError: a source without captions, or a teacher's grid without the student's times.
    """
    ranks = launched()
    share = slice(None) if ranks is None else slice(ranks.rank, None, ranks.count)
    keep_freed_memory()
    loaded = settle(loaded, own_device(ranks))
    config = loaded.config
    load_plugins(config.plugins)
    base = build_base(config).freeze().to(own_device(ranks))
    source: Source = given_source(config)
    prompts = source.prompts(1_000_000)
    maker = TrajectoryWriter(
        base,
        build_sampler(config.teacher, base),
        build_sampler(config.student, base).times,
        prompts,
        component("negatives", config.data.negatives),
        Pool(prompts, source.keywords(4096)),
        guidance=(config.teacher.guidance[0], config.teacher.guidance[-1]),
        describe={
            "solver": registry_of("solvers").check(config.teacher.solver).name,
            "spacing": config.teacher.spacing + ("" if config.teacher.shift == 1 else f", shift {config.teacher.shift:g}"),
        },
        seed=config.seed,
        predictions=predictions,
    )
    parts = [(start, min(start + shard_size, count)) for start in range(0, count, shard_size)][share]
    mine = sum(stop - start for start, stop in parts)
    progress = Lines("trajectories", mine, unit="trajectories", enabled=first_rank())
    progress.begin()
    return [maker.shard(_file(Path(out), start // shard_size), start, stop, progress) for start, stop in parts]


def _file(folder: Path, number: int) -> Path:
    """A file that is there under its former name keeps it."""
    former = folder / f"bank-{number:05d}.safetensors"
    return former if former.is_file() else folder / f"trajectories-{number:05d}.safetensors"
