"""The Hugging Face Hub: names of repositories, downloads of safetensors, uploads. The only place that talks to it.

Cache, offline mode, endpoint and token are those of huggingface_hub: HF_HOME, HF_HUB_OFFLINE, HF_ENDPOINT, HF_TOKEN.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from sunlab.errors import ConfigError, DataError, StorageError

NAME = re.compile(r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>[^\s:@]+))?(:(?P<file>[^\s:@]+))?")
WEIGHTS = ".safetensors"
FILES = (WEIGHTS, ".ckpt", ".bin", ".pt", ".pth", ".pkl")  # endings of local paths, never of a repository


@dataclass(frozen=True)
class Repository:
    """A model repository.

    Attributes:
        repo: `owner/name`.
        revision: a branch, tag or commit; None: the default branch.
        file: one in it; None: the only one that fits.
    """

    repo: str
    revision: str | None = None
    file: str | None = None

    def __str__(self) -> str:
        return self.repo + (f"@{self.revision}" if self.revision else "") + (f":{self.file}" if self.file else "")


def parse(name: str) -> Repository | None:
    """`owner/name`, `owner/name@revision`, `owner/name:file` or both in this order; None for anything else."""
    found = NAME.fullmatch(name)
    return None if found is None or found["repo"].endswith(FILES) else Repository(**found.groupdict())


def fetch_file(place: Repository, key: str) -> Path:
    """A .safetensors file of a repository, from the cache or the network. Nothing else is fetched.

    Args:
        place: without a file, the only one in the repository's top folder.
        key: what names it, for messages.

    Raises:
        ConfigError: no such repository, revision or file, or several files to choose from.
        DataError: the repository has no safetensors.
        StorageError: it is not in the cache and cannot be fetched.
    """
    from huggingface_hub import hf_hub_download

    if place.file is None:
        place = replace(place, file=_only_one(place, key))
    assert place.file is not None
    if not place.file.endswith(WEIGHTS):
        raise ConfigError(f"{key}: {place}: only .safetensors files are fetched")
    with explained(place, key):
        return Path(hf_hub_download(place.repo, place.file, revision=place.revision))


def fetch_folder(place: Repository, key: str, *, wanted: Sequence[str], unwanted: Sequence[str]) -> Path:
    """The files of a repository that match `wanted` and not `unwanted`. Raises: see `fetch_file`."""
    from huggingface_hub import snapshot_download

    with explained(place, key):
        return Path(
            snapshot_download(
                place.repo, revision=place.revision, allow_patterns=list(wanted), ignore_patterns=list(unwanted)
            )
        )


def upload(repo: str, files: Mapping[str, bytes], *, message: str, private: bool, replaceable: Callable[[str], bool]) -> str:
    """Create the repository where there is none, and commit `files` by their names. Returns the commit's address.

    Args:
        replaceable: whether a README.md of the repository, by its text, may be replaced.

    Raises:
        ConfigError: no token, no permission, or a README.md that must not be replaced.
        StorageError: the Hub cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, hf_hub_download

    api, place = HfApi(), Repository(repo)
    with explained(place, "push"):
        api.create_repo(repo, private=private or None, exist_ok=True)
        if "README.md" in files and "README.md" in api.list_repo_files(repo):
            card = Path(hf_hub_download(repo, "README.md")).read_text(encoding="utf-8", errors="replace")
            if not replaceable(card):
                raise ConfigError(f"push: {repo} has a README.md that is no model card of sunlab's; add --replace-card")
        operations = [CommitOperationAdd(name, data) for name, data in files.items()]
        return str(api.create_commit(repo, operations, commit_message=message).commit_url)


@contextmanager
def explained(place: Repository, key: str) -> Iterator[None]:
    """huggingface_hub's errors as sunlab's, with the remedy."""
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        LocalTokenNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except GatedRepoError:
        raise ConfigError(
            f"{key}: {place.repo!r} is gated: accept its terms on the Hub, then `hf auth login` or set HF_TOKEN"
        ) from None
    except (RepositoryNotFoundError, HFValidationError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{key}: there is no {place.repo!r} here nor on the hub, or it is closed: {reason}") from None
    except LocalTokenNotFoundError:
        raise ConfigError(f"{key}: the Hub needs a token: run `hf auth login` or set HF_TOKEN") from None
    except RevisionNotFoundError:
        raise ConfigError(f"{key}: {place.repo!r} has no revision {place.revision!r} on the Hub") from None
    except LocalEntryNotFoundError as error:
        raise StorageError(_unreachable(place, key, error)) from None
    except EntryNotFoundError:
        raise ConfigError(f"{key}: {place.repo!r} has no file {place.file!r} on the Hub") from None
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        if status in (401, 403):
            raise ConfigError(
                f"{key}: {place.repo!r}: the Hub answered {status}; run `hf auth login` with a token that may do this"
            ) from None
        raise StorageError(_unreachable(place, key, error)) from None
    except Exception as error:
        cause = error.__cause__ or error if isinstance(error, RuntimeError) else error  # of an upload
        if not isinstance(cause, OSError) and not type(cause).__module__.startswith(("httpx", "httpcore")):
            raise
        raise StorageError(_unreachable(place, key, error)) from None


def _unreachable(place: Repository, key: str, error: Exception) -> str:
    return (
        f"{key}: {place.repo!r} is not in the hub's cache and cannot be fetched ({type(error).__name__}); connect, unset "
        "HF_HUB_OFFLINE, or give a local folder or a .safetensors file instead"
    )


def _only_one(place: Repository, key: str) -> str:
    """The name of the only .safetensors file in the repository's top folder."""
    names = sorted(name for name in _names(place, key) if name.endswith(WEIGHTS) and "/" not in name)
    if not names:
        raise DataError(f"{key}: {place} holds no .safetensors file in its top folder; name one, as in {place.repo}:FILE")
    if len(names) > 1:
        raise ConfigError(f"{key}: {place} holds {', '.join(names)}; name one, as in {replace(place, file=names[0])}")
    return names[0]


def _names(place: Repository, key: str) -> list[str]:
    """The files of a repository; offline, those of it in the cache."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    with explained(place, key):
        try:
            return [file.rfilename for file in HfApi().model_info(place.repo, revision=place.revision).siblings or ()]
        except HfHubHTTPError:
            raise
        except OSError:  # offline
            pass
        except Exception as error:
            if not type(error).__module__.startswith(("httpx", "httpcore")):
                raise
        folder = Path(snapshot_download(place.repo, revision=place.revision, local_files_only=True))
        return [file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()]
