"""The page of `sunlab demo` in a real browser, and what its server refuses. A picture of the page goes to DEMO_PICTURE."""

import http.client
import json
import os
import shutil
import subprocess
import sys
from base64 import b64encode
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("gradio") is None, reason="pip install 'sunlab[demo]'"),  # importing it takes seconds
]

ROOT = Path(__file__).parents[2]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PATIENCE = 300_000  # milliseconds: it hangs
HOSTILE = "<img src=x onerror='window.hurt=1'> ${window.hurt=1} {{value}}"


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Of a demo with one adapter and one run, whose name would be markup."""
    from PIL import Image

    run = tmp_path_factory.mktemp("runs") / "<b>bold"
    (run / "pictures").mkdir(parents=True)
    (run / "config.yaml").write_text("model: {base: emoji-sd}\n")
    Image.new("RGB", (64, 32), "red").save(run / "before_after.png")
    row = {"name": "<i>first", "nfe": 50, "seconds": 0.1, "distance": 0.0}
    (run / "before_after.json").write_text(json.dumps({"rows": [row]}))
    command = [sys.executable, "-m", "sunlab", "demo", "--base", "emoji-sd", "--port", "0", "--run", str(run)]
    command += ["--adapter", "emoji/sun_msc.safetensors"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if line.startswith("open http://127.0.0.1:"):
                break
        else:
            pytest.fail("".join(said))
        yield said[-1].split()[1].rstrip(";")
        process.terminate()


@pytest.fixture(scope="module")
def browser():
    """Chromium as the machine has it, or as playwright has fetched it."""
    api = pytest.importorskip("playwright.sync_api", reason="pip install 'sunlab[browser]'")
    own = os.environ.get("CHROMIUM") or next((found for name in BROWSERS if (found := shutil.which(name))), None)
    with api.sync_playwright() as playwright:
        if own is None and not Path(playwright.chromium.executable_path).is_file():
            pytest.skip("no Chromium: apt-get install chromium, or playwright install chromium")
        opened = playwright.chromium.launch(executable_path=own, args=["--no-sandbox", "--no-proxy-server"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser, address):
    """The page, and its requests to other machines in `page.foreign`."""
    opened = browser.new_page(viewport={"width": 1280, "height": 1000})
    opened.set_default_timeout(PATIENCE)
    opened.foreign = []
    opened.on("request", lambda sent: opened.foreign.append(sent.url) if is_foreign(sent.url, address) else None)
    opened.goto(address)
    opened.wait_for_selector("#draw")
    yield opened
    opened.close()


def is_foreign(url: str, address: str) -> bool:
    return not url.startswith((address, "data:", "blob:"))


def draw(page, prompt: str, pictures: int) -> str:
    page.fill("#prompt textarea", prompt)
    page.click("#draw")
    page.wait_for_function(f"document.querySelectorAll('#pictures figure').length == {pictures}")
    return page.inner_text("#pictures")


def test_teacher_and_adapter_stand_side_by_side(page):
    text = draw(page, "a large koala on a red background", 3)
    assert "50 NFE" in text and "4 NFE" in text and "sun_msc" in text and "no adapter, no guidance" in text
    assert "CFG 4" in text  # what the adapter was trained with
    boxes = [figure.bounding_box() for figure in page.query_selector_all("#pictures figure img")]
    assert boxes[0]["y"] == boxes[1]["y"] and boxes[0]["x"] < boxes[1]["x"] and min(b["width"] for b in boxes) > 200
    sides = page.evaluate("[...document.querySelectorAll('#pictures img')].map(i => i.naturalWidth)")
    assert min(sides) >= 128  # decoded
    if "DEMO_PICTURE" in os.environ:
        page.screenshot(path=os.environ["DEMO_PICTURE"], full_page=True)
    assert page.foreign == []


def test_the_sliders_act(page):
    before = draw(page, "a pizza", 3)
    first = page.get_attribute("#pictures figure:nth-child(2) img", "src")
    for slider, value in (("#steps", "2"), ("#teacher-steps", "5"), ("#scale", "2")):
        field = f"{slider} input[type=number]"
        page.fill(field, value)
        page.press(field, "Tab")
    page.click("#draw")
    page.wait_for_function("document.querySelector('#pictures').innerText.includes('scale 2')")
    text = page.inner_text("#pictures")
    assert "10 NFE" in text and "2 NFE" in text and text != before
    assert page.get_attribute("#pictures figure:nth-child(2) img", "src") != first


def test_the_run_is_shown_and_markup_is_text(page):
    draw(page, HOSTILE, 3)
    assert page.evaluate("window.hurt") is None
    shown = page.inner_text("body")
    assert "<i>first" in shown and "Run: <b>bold" in shown
    assert page.query_selector_all(".sun-run img")


def request(address: str, method: str, path: str, body: object = None, **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)
    try:
        data = json.dumps(body) if body is not None else None
        connection.request(method, path, data, {"Content-Type": "application/json", **headers})
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/gradio_api/file=/etc/passwd"),
        ("GET", "/file=/etc/passwd"),
        ("GET", "/gradio_api/file/etc/passwd"),
        ("GET", "/gradio_api/proxy=http://127.0.0.1:1/"),
        ("POST", "/gradio_api/upload"),
        ("POST", "/gradio_api/component_server"),
        ("POST", "/gradio_api/vibe-edit"),
        ("GET", "/gradio_api/runs"),
        ("GET", "/monitoring"),
        ("GET", "/assets/../../../../etc/passwd"),
        ("GET", "/static/..%2f..%2f..%2f..%2fetc%2fpasswd"),
        ("GET", "/docs"),
        ("GET", "/openapi.json"),
    ],
)
def test_the_rest_of_gradio_is_not_there(address, method, path):
    status, text = request(address, method, path, {} if method == "POST" else None)
    assert status == 404 and "root:" not in text


def test_another_name_for_the_machine_is_refused(address):
    assert request(address, "GET", "/", Host="attacker.example")[0] == 400


def test_a_file_in_place_of_a_prompt_is_not_read(address, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("the secret")
    file = {"path": str(secret), "meta": {"_type": "gradio.FileData"}}
    config = json.loads(request(address, "GET", "/config")[1])
    (event,) = [d for d in config["dependencies"] if len(d["inputs"]) > 3]
    values = [file, "", 4, 1, 3, 1, 1, 0, "emoji-sd", ["teacher"]]
    body = {"data": values, "fn_index": event["id"], "session_hash": "abc"}
    status, text = request(address, "POST", "/gradio_api/queue/join", body)
    answer = request(address, "GET", "/gradio_api/queue/data?session_hash=abc")[1] if status == 200 else text
    assert "the secret" not in answer and b64encode(b"the secret").decode() not in answer
    assert "/gradio_api/file=" not in answer  # the value is text for the prompt
