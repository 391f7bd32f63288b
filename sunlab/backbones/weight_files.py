"""Weights are read from safetensors alone; files that could run code are refused, with the command that converts them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open

from sunlab.errors import ConfigError, DataError

PICKLED = (".ckpt", ".bin", ".pt", ".pth", ".pkl")


def refuse_pickle(files: Sequence[Path], where: str) -> None:
    """Raise `ConfigError` naming the pickled files among these, and what converts them."""
    pickled = [file for file in files if file.suffix.lower() in PICKLED]
    if pickled:
        commands = "\n".join(f"  sunlab convert {file}" for file in pickled)
        raise ConfigError(
            f"{where}: {', '.join(file.name for file in pickled)} would be unpickled, which can run any code, so only "
            f"safetensors are read. Convert safely (tensors are read, all else in the file is refused):\n{commands}"
        )


def weights_of(folder: Path, part: str) -> tuple[Path, ...]:
    """The safetensors of a part of a diffusers folder: those without a variant's name, else those in fp16.

    Raises:
        ConfigError: none, or pickled ones alone.
    """
    here = folder / part
    found = sorted(here.glob("*.safetensors"))
    plain = [file for file in found if len(file.name.split(".")) == 2 and "non_ema" not in file.name]
    chosen = plain or [file for file in found if ".fp16" in file.name]
    if not chosen:
        refuse_pickle(sorted(here.glob("*")), str(here))
        others = f" but variants {', '.join(f.name for f in found)}" if found else ""
        raise ConfigError(
            f"{here} holds no safetensors weights{others}; to train them from scratch add {part!r} to model.fresh"
        )
    return tuple(chosen)


def variant_of(files: Sequence[Path]) -> str | None:
    """diffusers' name for what the files are a variant of."""
    return "fp16" if any(".fp16" in file.name for file in files) else None


def require_whole(files: Sequence[Path]) -> None:
    """Raise `DataError` for a file that was cut or is none of safetensors; only headers are read."""
    for file in files:
        with reading(str(file)), safe_open(file, "pt"):
            pass


@contextmanager
def reading(where: str) -> Iterator[None]:
    """The libraries' complaints about a file's contents as a `DataError` that names it."""
    try:
        yield
    except SafetensorError as error:
        raise DataError(f"{where}: damaged, or no safetensors file: {error}; fetch it again") from None
    except (ValueError, RuntimeError, KeyError) as error:
        raise DataError(f"{where}: its weights do not fit their configuration: {str(error)[:400]}") from error


def require_all(missing: Sequence[str], where: str) -> None:
    """Raise `DataError` naming tensors that would otherwise start at random."""
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise DataError(f"{where}: lacks {', '.join(sorted(missing)[:3])}{more}; is it a whole model of this family?")
