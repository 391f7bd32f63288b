"""What `sunlab push` does: an adapter file and its model card to a repository of the Hugging Face Hub."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sunlab import hub
from sunlab.config.read import read_file
from sunlab.errors import ConfigError
from sunlab.export.card import Publication, is_card
from sunlab.export.convert import export_adapter
from sunlab.export.file import locate_adapter, require_file
from sunlab.files import read_text
from sunlab.packaged import asset

LICENCE = re.compile(r"[a-z0-9][a-z0-9.-]*")
CARD = "README.md"
PICTURE = "before_after.png"
TABLE = "before_after.md"
SHOWN = 3  # prompts of a run in the widget
PROMPTS = (("a red apple", "green"),)


@dataclass(frozen=True)
class Upload:
    """What would be uploaded: the files by their names in the repository."""

    repo: str
    files: Mapping[str, bytes] = field(repr=False)

    @property
    def card(self) -> str:
        return self.files[CARD].decode()


def prepare(
    file: str | Path,
    repo: str,
    *,
    base: str | None = None,
    licence: str,
    prompts: Sequence[tuple[str, str]] = (),
    results: str | Path | None = None,
    layout: str = "sunlab",
) -> Upload:
    """Check the adapter and write its card. No network is used.

    What is not given comes from the run that exported the file, where there is one: `model.base` of its config.yaml, the
    prompts, the picture and the table of its callback `before_after`.

    Args:
        file: an adapter.
        repo: `owner/name`.
        base: the pretrained model's `owner/name` on the Hub.
        licence: the adapter's, by the Hub's identifier, as `openrail++` or `apache-2.0`.
        prompts: pairs of a prompt and a negative prompt.
        results: a Markdown file whose tables the card shows.
        layout: of the uploaded file, see `export_adapter`.

    Raises:
        ConfigError: a name that is none of the Hub's, or no base; and see `export_adapter`.
        DataError: an unusable adapter file.
    """
    _require_repository(repo, "REPO")
    if not LICENCE.fullmatch(licence.rstrip("+")):
        raise ConfigError(f"--license: expected an identifier of the Hub's, as apache-2.0 or openrail++, got {licence!r}")
    source = locate_adapter(file)
    require_file(source)
    run = source.resolve().parent.parent
    config = read_file(run / "config.yaml") if (run / "config.yaml").is_file() else {}
    publication = Publication(
        repo=repo,
        base=_base(base, config),
        licence=licence,
        prompts=tuple(prompts) or _prompts(config) or PROMPTS,
        results=_results(Path(results) if results is not None else run / TABLE, given=results is not None),
        picture=PICTURE if (run / PICTURE).is_file() else "",
    )
    with TemporaryDirectory(prefix="sunlab-") as scratch:
        written = export_adapter(source, layout=layout, out=Path(scratch) / source.name, publication=publication)
        files = {path.name: path.read_bytes() for path in written}
    if publication.picture:
        files[PICTURE] = (run / PICTURE).read_bytes()
    return Upload(repo, files)


def push(upload: Upload, *, private: bool = False, replace_card: bool = False) -> str:
    """Upload the files in one commit. Returns its address.

    Args:
        private: of a repository that is created.
        replace_card: replace a README.md that sunlab did not write.

    Raises:
        ConfigError, StorageError: see `sunlab.hub.upload`.
    """
    (adapter,) = [name for name in upload.files if name.endswith(hub.WEIGHTS)]
    return hub.upload(
        upload.repo,
        upload.files,
        message=f"Upload {adapter} with sunlab",
        private=private,
        replaceable=lambda text: replace_card or is_card(text),
    )


def _require_repository(name: str, key: str) -> None:
    found = hub.parse(name)
    if found is None or str(found) != found.repo:
        raise ConfigError(f"{key}: expected a repository of the Hub, owner/name, got {name!r}")


def _base(given: str | None, config: Mapping[str, Any]) -> str:
    """The base's repository: the given one, or the run's if it is one."""
    if given is not None:
        _require_repository(given, "--base")
        return given
    trained = str((config.get("model") or {}).get("base") or "")
    found = None if asset(trained).exists() else hub.parse(trained)
    if found is None:
        used = f"; the run trained on {trained!r}" if trained else ""
        raise ConfigError(f"--base: give the pretrained model's repository on the Hub, owner/name{used}")
    return found.repo


def _prompts(config: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Those of the run's callback `before_after` that have a negative prompt."""
    for callback in config.get("callbacks") or []:
        if callback.get("name") == "before_after":
            pairs = zip(callback["prompts"], callback["negatives"], strict=True)
            return tuple(pair for pair in pairs if pair[1])[:SHOWN]
    return ()


def _results(file: Path, *, given: bool) -> str:
    """The Markdown of a report, its headings two levels lower; nothing where a run has none."""
    if not file.is_file():
        if given:
            raise ConfigError(f"--results: {file}: no such file; give a report.md or before_after.md")
        return ""
    return re.sub(r"^#", "###", read_text(file), flags=re.M)
