"""The small tokenizer cuts known words exactly as CLIP's own does."""

import importlib.util
from pathlib import Path

import pytest

transformers = pytest.importorskip("transformers")
ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "sunlab" / "lab" / "assets" / "emoji" / "noto"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("make_tokenizer", ROOT / "tools" / "make_tokenizer.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def full(tool, tmp_path_factory):
    folder = tmp_path_factory.mktemp("full")
    tool.write_tokenizer(tool.clip_merges(), folder)
    return transformers.CLIPTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def small(tool, tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["make_tokenizer", "--shards", str(SHIPPED), "--out", str(folder)])
        tool.main()
    return transformers.CLIPTokenizer.from_pretrained(folder)


def test_the_full_vocabulary_is_clips(full):
    assert len(full) == 49408
    assert full("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]


def test_known_words_have_clips_pieces(tool, small, full):
    texts = tool.shard_texts(SHIPPED) | {tool.PROMPT_WORDS}
    for text in texts | tool.words_of(texts):
        assert small.tokenize(text) == full.tokenize(text)


def test_unknown_text_falls_back_to_bytes(small):
    text = "naïve Zürich 日本, 3D!"
    assert small.decode(small(text).input_ids, skip_special_tokens=True).replace(" ", "") == text.lower().replace(" ", "")


def test_pads_as_stable_diffusion_does(small):
    prompts = small(["a red apple", "pear " * 100], padding="max_length", truncation=True).input_ids
    assert [len(prompt) for prompt in prompts] == [77, 77]
    assert prompts[0][0] == small.bos_token_id
    assert prompts[0][4:] == [small.eos_token_id] * 73
    assert small.pad_token_id == small.eos_token_id


def test_empty_folder_is_refused(tool, tmp_path):
    with pytest.raises(SystemExit, match="no shards"):
        tool.shard_texts(tmp_path)
