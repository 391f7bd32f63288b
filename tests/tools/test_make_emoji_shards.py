"""The emoji shards: a tiny package tree for the tool, and the shipped shards for what they promise."""

import hashlib
import importlib
import io
import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image, ImageChops

pytest.importorskip("resvg_py")
ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "sunlab" / "lab" / "assets" / "emoji" / "noto"
NAMES = {"1f34e": "red-apple", "1f415-200d-1f9ba": "service-dog", "1f347": "grapes", "1f1eb-1f1f7": "flag-france"}


@pytest.fixture(scope="module")
def tool():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "tools")
        yield importlib.import_module("make_emoji_shards")


@pytest.fixture(scope="module")
def captions(tool):
    return importlib.import_module("emoji.captions")


@pytest.fixture(scope="module")
def packages():
    """Three emoji and a flag in the packages' layout; one codepoint carries fe0f, one icon only noto has."""
    body = '<circle cx="16" cy="16" r="12" fill="#c0ffee"/>'
    chars = {f"{codepoint}-fe0f" if codepoint == "1f347" else codepoint: name for codepoint, name in NAMES.items()}
    iconify = {
        "chars.json": json.dumps(chars | {"1f9c4": "garlic"}),
        "icons.json": json.dumps({"icons": {name: {"body": body} for name in chars.values()}, "width": 32, "height": 32}),
        "metadata.json": json.dumps({"categories": {"Everything": [*chars.values(), "garlic"]}}),
    }
    buffer = io.BytesIO()
    Image.new("RGBA", (256, 256), (192, 255, 238, 128)).save(buffer, "WEBP", lossless=True)
    iconify = {path: text.encode() for path, text in iconify.items()}
    return {
        "noto": iconify,
        "twemoji": iconify,
        "fluent-flat": iconify,
        "fluent-3d": {f"assets/{codepoint}.webp": buffer.getvalue() for codepoint in NAMES},
    }


@pytest.fixture(scope="module")
def keywords():
    return {
        "dist/emoji-en-US.json": json.dumps(
            {"🍎": ["red_apple", "treat", "mac"], "🍇": ["grapes", "treat"], "🐕‍🦺": ["service_dog", "treat"]}
        ).encode()
    }


@pytest.fixture(scope="module")
def shipped():
    return list(read(SHIPPED))


def read(folder):
    """Yields the (image bytes, caption, facts) of every sample, by the files' order."""
    for path in sorted(folder.glob("*.tar*")):
        with tarfile.open(path) as tar:
            files = {member.name: tar.extractfile(member).read() for member in tar}
        for key in dict.fromkeys(name.split(".")[0] for name in files):
            yield files[f"{key}.webp"], files[f"{key}.txt"].decode(), json.loads(files[f"{key}.json"])


def make(tool, packages, keywords, out, **options):
    return tool.make_shards(packages, keywords, out, categories=["Everything"], shard_size=10, **options)


def test_two_runs_write_the_same_bytes(tool, packages, keywords, tmp_path):
    for compress in (False, True):
        folders = [tmp_path / f"{run}-{compress}" for run in ("one", "two")]
        for folder in folders:
            make(tool, packages, keywords, folder, compress=compress)
        one, two = ({path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders)
        assert one == two
        assert any(name.startswith("train-00001.tar") for name in one)


def test_draws_only_what_all_styles_have_and_no_country_flags(tool, packages, keywords, tmp_path):
    assert make(tool, packages, keywords, tmp_path)["emoji"] == 3
    assert {facts["name"] for *_, facts in read(tmp_path)} == {"red apple", "service dog", "grapes"}


def test_style_changes_pictures_only(tool, packages, keywords, tmp_path):
    told = []
    for style in packages:
        make(tool, packages, keywords, tmp_path / style, style=style)
        told.append(
            [(caption, facts["key"], facts["split"], facts["attributes"]) for _, caption, facts in read(tmp_path / style)]
        )
        assert {facts["style"] for *_, facts in read(tmp_path / style)} == {style}
    assert all(other == told[0] for other in told)


def test_sixteen_variants_draw_each_combination_once(tool, packages, keywords, tmp_path):
    make(tool, packages, keywords, tmp_path, variants=16)
    drawn = {
        (facts["codepoint"], facts["attributes"]["background"], facts["attributes"]["size"]) for *_, facts in read(tmp_path)
    }
    assert len(drawn) == 3 * 16


def test_other_numbers_give_other_keys(tool, packages, keywords, tmp_path):
    """Of two styles in one training; splits stay."""
    make(tool, packages, keywords, tmp_path / "a", variants=16)
    make(tool, packages, keywords, tmp_path / "b", variants=16, first=16, style="twemoji")
    a, b = ([facts for *_, facts in read(tmp_path / name)] for name in "ab")
    assert len(a) == len(b) == 48 and not {f["key"] for f in a} & {f["key"] for f in b}
    held_out = [{(f["name"], f["attributes"]["background"]) for f in facts if f["split"] == "test"} for facts in (a, b)]
    assert held_out[0] == held_out[1]


def test_wrong_captions_are_of_training_alone_and_as_many_as_asked(tool, packages, keywords, tmp_path):
    made = {}
    for wrong in (0.0, 0.4, 1.0):
        make(tool, packages, keywords, tmp_path / str(wrong), variants=320, wrong=wrong)
        made[wrong] = list(read(tmp_path / str(wrong)))
    shares = {0.4: {"background": [], "size": []}, 1.0: {"background": [], "size": []}}
    for wrong, counted in shares.items():
        for (image, caption, facts), (clean_image, clean_caption, clean) in zip(made[wrong], made[0.0], strict=True):
            assert image == clean_image and facts["attributes"] == clean["attributes"]
            assert facts["split"] == "train" or caption == clean_caption
            for attribute, words in counted.items():
                if facts["split"] == "train" and attribute in facts["attributes"]["mentioned"]:
                    stated = facts["attributes"][attribute] + (" background" if attribute == "background" else "")
                    words.append(f" {stated} " not in f" {caption} ")
    assert all(all(found) for found in shares[1.0].values())
    for found in shares[0.4].values():  # within four standard errors
        assert abs(sum(found) / len(found) - 0.4) < 4 * (0.24 / len(found)) ** 0.5


@pytest.mark.parametrize("share", ["1.2", "-0.1", "nan"])
def test_a_share_of_wrong_captions_is_a_share(tool, monkeypatch, capsys, share):
    monkeypatch.setattr("sys.argv", ["make_emoji_shards.py", "--out", "x", f"--wrong={share}"])
    with pytest.raises(SystemExit):
        tool.main()
    assert "--wrong" in capsys.readouterr().err


@pytest.mark.parametrize("rendering", ["pixel-art", "night", "outline"])
def test_a_rendering_changes_the_artwork_alone(tool, packages, keywords, tmp_path, rendering):
    make(tool, packages, keywords, tmp_path / "a")
    make(tool, packages, keywords, tmp_path / "b", rendering=rendering)
    pairs = list(zip(read(tmp_path / "a"), read(tmp_path / "b"), strict=True))
    changed = 0
    for (before, caption, facts), (after, other, others) in pairs:
        assert caption == other and facts["key"] == others["key"] and facts["attributes"] == others["attributes"]
        a, b = (Image.open(io.BytesIO(picture)).convert("RGB") for picture in (before, after))
        assert a.size == b.size and a.getpixel((0, 0)) == b.getpixel((0, 0))  # the background
        changed += ImageChops.difference(a, b).getbbox() is not None
    assert changed == len(pairs)


def test_pixel_art_has_squares_of_one_colour(tool):
    rendering = importlib.import_module("emoji.rendering")
    noise = Image.effect_noise((48, 48), 80).convert("RGBA")
    squares = rendering.pixel_art(noise)
    side = 48 // rendering.BLOCKS
    for x in range(0, 48, side):
        for y in range(0, 48, side):
            assert len(squares.crop((x, y, x + side, y + side)).getcolors()) == 1


def test_artwork_is_centred_and_as_large_as_said(tool, packages, keywords, tmp_path):
    make(tool, packages, keywords, tmp_path, style="fluent-3d")
    for image, _, facts in read(tmp_path):
        picture = Image.open(io.BytesIO(image))
        ground = Image.new("RGB", picture.size, picture.getpixel((0, 0)))
        left, top, right, bottom = ImageChops.difference(picture, ground).getbbox()
        assert (left, top) == (64 - right, 64 - bottom)
        assert right - left == {"small": 38, "large": 58}[facts["attributes"]["size"]]


def test_wrong_package_is_refused(tool, tmp_path):
    packages = importlib.import_module("emoji.packages")
    (tmp_path / packages.KEYWORDS.tarball).write_bytes(b"not the package")
    with pytest.raises(SystemExit, match="is pinned"):
        packages.fetch(packages.KEYWORDS, tmp_path)


CIRCLE = '<circle cx="8" cy="16" r="6" fill="#c0ffee"/>'  # in the left half


@pytest.fixture
def own(tool, tmp_path):
    """`own(icons, **files)` -> a made-up iconify package in a folder, as `read_local` returns it."""

    def make_package(icons, **files):
        folder = tmp_path / "mine"
        folder.mkdir(exist_ok=True)
        contents = {"icons": {"prefix": "mine", "width": 32, "height": 32, **icons}, **files}
        for name, content in contents.items():
            (folder / f"{name}.json").write_text(json.dumps(content))
        return importlib.import_module("emoji.packages").read_local(folder)

    return make_package


def test_a_package_of_ones_own_is_drawn_and_what_it_lacks_reported(tool, packages, keywords, own, tmp_path):
    """No chars.json: an icon named as noto's, an alias named by codepoint; the third emoji is missing."""
    icons = {"icons": {"RedApple": {"body": CIRCLE}, "bunch": {"body": CIRCLE}}, "aliases": {"u1f347": {"parent": "bunch"}}}
    about = {"name": "@me/mine", "version": "2.0.0", "license": "CC0-1.0"}
    manifest = make(tool, packages, keywords, tmp_path / "out", style="mine", own=own(icons, package=about))
    assert manifest["left_out"] == ["service dog"] and manifest["emoji"] == 2 and manifest["license"] == "CC0-1.0"
    assert manifest["sources"][0]["name"] == "@me/mine" and len(manifest["sources"][0]["sha256"]) == 64
    make(tool, packages, keywords, tmp_path / "noto")
    mine, noto = ({facts["key"]: caption for _, caption, facts in read(tmp_path / name)} for name in ("out", "noto"))
    assert {key.split("-")[0] for key in mine} == {"1f34e", "1f347"} and mine.items() <= noto.items()


@pytest.mark.parametrize("chars", [{}, {"1f34e-fe0f": "pomme"}])
def test_icons_are_found_by_codepoint_before_name(tool, packages, keywords, own, tmp_path, chars):
    icons = {"icons": {"red-apple": {"body": CIRCLE}, "pomme": {"body": CIRCLE}}}
    make(tool, packages, keywords, tmp_path / "out", style="mine", own=own(icons, chars=chars))
    urls = {facts["url"] for *_, facts in read(tmp_path / "out")}
    assert {url.rsplit("#")[1] for url in urls} == {"pomme" if chars else "red-apple"}


@pytest.mark.parametrize(
    ("alias", "box"),
    [
        ({}, (2, 10, 14, 22)),
        ({"hFlip": True}, (18, 10, 30, 22)),
        ({"rotate": 1}, (10, 2, 22, 14)),
        ({"hFlip": True, "rotate": 2}, (2, 10, 14, 22)),
        ({"vFlip": True, "rotate": 3}, (10, 18, 22, 30)),
    ],
)
def test_an_alias_flips_and_turns_its_parent(own, alias, box):
    """The bounding box of the drawn circle, worked out by hand."""
    icons = {"icons": {"a": {"body": CIRCLE}}, "aliases": {"b": {"parent": "a", **alias}, "c": {"parent": "b"}}}
    artwork = importlib.import_module("emoji.artwork").Artwork(own(icons)[1])
    assert artwork.render("c", 32).getbbox() == box


@pytest.mark.parametrize(
    ("icons", "message"),
    [
        ({"icons": {"unknown": {"body": CIRCLE}}}, "draws none of the 3 emoji"),
        ({"icons": {}, "aliases": {"red-apple": {"parent": "b"}, "b": {"parent": "red-apple"}}}, "'red-apple' is no icon"),
    ],
)
def test_a_package_without_a_usable_icon_is_refused(tool, packages, keywords, own, tmp_path, icons, message):
    with pytest.raises(SystemExit, match=message):
        make(tool, packages, keywords, tmp_path / "out", style="mine", own=own(icons))


def test_what_is_no_package_is_refused(tool, tmp_path):
    read_local = importlib.import_module("emoji.packages").read_local
    with pytest.raises(SystemExit, match="does not exist"):
        read_local(tmp_path / "nothing")
    with pytest.raises(SystemExit, match=r"neither icons\.json"):
        read_local(tmp_path)
    (tmp_path / "broken.tgz").write_bytes(b"no tarball")
    with pytest.raises(SystemExit, match="cannot be read as a tarball"):
        read_local(tmp_path / "broken.tgz")
    (tmp_path / "icons.json").write_text("{")
    with pytest.raises(SystemExit, match="not valid JSON"):
        importlib.import_module("emoji.artwork").Artwork(read_local(tmp_path)[1])


@pytest.mark.parametrize("words", [["--style", "mine"], ["--style", "noto", "--package", "x"]])
def test_a_style_is_of_the_table_or_has_a_package(tool, monkeypatch, capsys, words):
    monkeypatch.setattr("sys.argv", ["make_emoji_shards.py", "--out", "x", *words])
    with pytest.raises(SystemExit):
        tool.main()
    assert "--package" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("noun", "adjective", "phrase"),
    [
        ("apple", "", "an apple"),
        ("apple", "red", "a red apple"),
        ("unicorn", "", "a unicorn"),
        ("ewe", "", "a ewe"),
        ("grapes", "small", "small grapes"),
        ("glass of milk", "", "a glass of milk"),
        ("cactus", "", "a cactus"),
        ("nest with eggs", "large", "a large nest with eggs"),
        ("bread", "", "bread"),
        ("orange", "", "an orange"),
    ],
)
def test_articles(captions, noun, adjective, phrase):
    assert captions.phrase(noun, adjective) == phrase


@pytest.mark.parametrize("person", ["1f3c3-1f3fd", "1f3c3-200d-2640", "1f3c3-1f3ff-200d-2642", "1f3c3"])
def test_skin_tones_and_genders_share_a_split(captions, person):
    assert captions.family_of(person) == "1f3c3"
    assert captions.family_of("1f469-1f3fd-200d-1f33e") == captions.family_of("1f9d1-200d-1f33e")


def test_shipped_manifest_is_true():
    manifest = json.loads((SHIPPED / "manifest.json").read_text())
    assert {path.name for path in SHIPPED.glob("*.tar*")} == {shard["file"] for shard in manifest["shards"]}
    for shard in manifest["shards"]:
        content = (SHIPPED / shard["file"]).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (shard["bytes"], shard["sha256"])
    for split, samples in manifest["samples"].items():
        assert samples == sum(shard["samples"] for shard in manifest["shards"] if shard["split"] == split)


def test_shipped_captions_are_those_the_tool_draws(captions, shipped):
    catalogue = importlib.import_module("emoji.catalogue")
    for _, caption, facts in shipped:
        emoji = catalogue.Emoji(facts["codepoint"], facts["name"], {}, tuple(facts["keywords"]))
        drawing = captions.draw(emoji, int(facts["key"].rsplit("-", 1)[1]), seed=0)
        assert (drawing.caption, drawing.split) == (caption, facts["split"])
        assert caption == facts["caption"]


def test_shipped_splits_do_not_leak(shipped):
    pairs, emoji, words = ({split: set() for split in ("train", "test", "unseen")} for _ in range(3))
    for _, caption, facts in shipped:
        pairs[facts["split"]].add((facts["codepoint"], facts["attributes"]["background"]))
        emoji[facts["split"]].add(facts["codepoint"])
        words[facts["split"]].update(caption.replace(",", "").split())
    assert not pairs["test"] & pairs["train"]
    assert not emoji["unseen"] & (emoji["train"] | emoji["test"])
    assert words["test"] <= words["train"]
    assert emoji["test"] == emoji["train"]


def test_shipped_captions_leave_attributes_out(shipped):
    told = [facts["attributes"]["mentioned"] for *_, facts in shipped if facts["split"] == "train"]
    for attribute in ("background", "size"):
        assert 0.37 < sum(attribute not in mentioned for mentioned in told) / len(told) < 0.44
    assert 0.06 < sum(mentioned in (["background"], ["size"]) for mentioned in told) / len(told) < 0.10
    assert 0.10 < sum("keyword" in mentioned for mentioned in told) / len(told) < 0.17


def test_shipped_captions_say_what_is_mentioned(shipped):
    for _, caption, facts in shipped:
        attributes = facts["attributes"]
        assert ("background" in caption) == ("background" in attributes["mentioned"])
        for attribute in ("background", "size"):
            if attribute in attributes["mentioned"]:
                assert attributes[attribute] in caption
        if facts["split"] != "train":
            assert {"name", "background"} <= set(attributes["mentioned"])


def test_shipped_pictures_are_true_to_their_facts(shipped):
    for image, _, facts in shipped[::20]:
        picture = Image.open(io.BytesIO(image))
        assert picture.size == (facts["width"], facts["height"]) == (64, 64)
        assert picture.mode == "RGB"
        assert picture.getpixel((0, 0)) == tuple(facts["attributes"]["background_rgb"])
        assert hashlib.sha256(image).hexdigest() == facts["sha256"]
