"""The pinned npm packages that the emoji come from, and packages of the user's own. Nothing in them is executed."""

import hashlib
import json
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

Files = dict[str, bytes]  # path inside the package -> content


@dataclass(frozen=True)
class Package:
    """One npm package at one version, and the SHA-256 of its tarball, or of the files of a local package."""

    name: str
    version: str
    licence: str  # SPDX identifier
    sha256: str
    attribution: str

    @property
    def tarball(self) -> str:
        """The file name `npm pack` gives the package."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


STYLES = {
    "noto": Package(
        "@iconify-json/noto",
        "1.2.9",
        "Apache-2.0",
        "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
        "Noto Emoji by Google Inc, https://github.com/googlefonts/noto-emoji",
    ),
    "twemoji": Package(
        "@iconify-json/twemoji",
        "1.2.5",
        "CC-BY-4.0",
        "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7",
        "Twemoji by Twitter, https://github.com/jdecked/twemoji; drawn on coloured backgrounds",
    ),
    "fluent-flat": Package(
        "@iconify-json/fluent-emoji-flat",
        "1.2.6",
        "MIT",
        "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
        "Fluent Emoji by Microsoft Corporation, https://github.com/microsoft/fluentui-emoji",
    ),
    "fluent-3d": Package(
        "@lobehub/fluent-emoji-3d",
        "1.1.0",
        "MIT",
        "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
        "Fluent Emoji by Microsoft Corporation, packaged by LobeHub, https://github.com/lobehub/fluent-emoji",
    ),
}
KEYWORDS = Package(
    "emojilib",
    "4.0.3",
    "MIT",
    "7f9a6b43cff31d18985b7d65d11faba5bd971cbcc60020cf6d09322fbaaaf303",
    "emojilib by Mu-An Chiou, https://github.com/muan/emojilib",
)


def fetch(package: Package, folder: Path) -> Files:
    """The files of a package, downloaded into `folder` unless its tarball is there already."""
    tarball = folder / package.tarball
    if not tarball.exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = ["npm", "pack", f"{package.name}@{package.version}", "--pack-destination", str(folder)]
        npm = subprocess.run(command, capture_output=True, check=False)  # its output would show the registry's host
        if npm.returncode:
            raise SystemExit(f"npm could not fetch {package.name}@{package.version}; put {package.tarball} in {folder}")
    found = hashlib.sha256(tarball.read_bytes()).hexdigest()
    if found != package.sha256:
        raise SystemExit(f"{tarball} has SHA-256 {found}, but {package.sha256} is pinned; delete it and try again")
    return _unpacked(tarball)


def read_local(place: Path) -> tuple[Package, Files]:
    """A package of the user's own: a folder or an npm tarball, with iconify's icons.json or pictures assets/CODEPOINT.webp.

    Its hash is computed for the manifest, not checked.

    Raises:
        SystemExit: nothing there, or no icons in it.
    """
    if place.is_dir():
        wanted = [*place.glob("*.json"), *place.glob("assets/*.webp")]
        files = {path.relative_to(place).as_posix(): path.read_bytes() for path in sorted(wanted)}
    elif place.is_file():
        try:
            files = _unpacked(place)
        except (tarfile.TarError, OSError, EOFError) as error:
            raise SystemExit(
                f"--package: {place} cannot be read as a tarball ({error}); give a folder or an npm tarball"
            ) from None
    else:
        raise SystemExit(f"--package: {place} does not exist; give a folder or an npm tarball (npm pack NAME)")
    if "icons.json" not in files and not any(name.startswith("assets/") and name.endswith(".webp") for name in files):
        raise SystemExit(f"--package: {place} has neither icons.json (iconify) nor assets/CODEPOINT.webp")
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name} {hashlib.sha256(files[name]).hexdigest()}\n".encode())
    about, info = (read_json(files, name) if name in files else {} for name in ("package.json", "info.json"))
    author, licence = info.get("author", {}), info.get("license", {})
    package = Package(
        about.get("name", place.name),
        about.get("version", "0"),
        about.get("license") or licence.get("spdx") or "unknown",
        digest.hexdigest(),
        " ".join(filter(None, (info.get("name"), author.get("name") and f"by {author['name']}", author.get("url")))),
    )
    return package, files


def read_json(files: Files, name: str) -> dict:
    """A JSON file of a package. Raises `SystemExit` where it holds anything but an object."""
    try:
        found = json.loads(files[name])
    except ValueError as error:
        raise SystemExit(f"{name} of the package is not valid JSON: {error}") from None
    if not isinstance(found, dict):
        raise SystemExit(f"{name} of the package holds {type(found).__name__}, expected an object")
    return found


def _unpacked(tarball: Path) -> Files:
    with tarfile.open(tarball) as tar:
        files = [member for member in tar if member.isfile() and "/" in member.name]
        return {member.name.split("/", 1)[1]: tar.extractfile(member).read() for member in files}
