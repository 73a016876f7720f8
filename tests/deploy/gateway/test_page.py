"""The page at `/`, in a real Chromium where there is one."""

import re
import shutil
from pathlib import Path

import httpx
import pytest
from deploy.gateway.helpers import BIKES
from playwright.sync_api import expect, sync_playwright
from support.waiting import wait_until
from video_llava_client.testing import Refuse, Reply
from video_llava_gateway.file_store import FileStore
from video_llava_gateway.keys import new_key

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_WAIT = 20_000  # milliseconds


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    with sync_playwright() as playwright:
        # A container has no user namespaces, and what is shown is ours.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser):
    """Opens the page of a gateway; at the end nothing came from elsewhere, and nothing failed in the page."""
    contexts, failures = [], []

    def visit(gateway, **options):
        context = browser.new_context(**options)
        contexts.append(context)
        context.set_default_timeout(_WAIT)
        page = context.new_page()
        page.on("pageerror", lambda error: failures.append(str(error)))
        page.on("console", lambda line: failures.append(line.text) if "Content Security" in line.text else None)
        page.on("request", lambda sent: None if _is_own(sent.url, gateway) else failures.append(sent.url))
        page.goto(gateway.url)
        return page

    expect.set_options(timeout=_WAIT)
    yield visit
    for context in contexts:
        context.close()
    assert failures == []


def _is_own(url, gateway):
    return url.startswith((f"{gateway.url}/", "data:"))


def choose(page, file=BIKES):
    page.get_by_label("Choose a file, or drop one here").set_input_files(file)


def ask(page, question):
    page.get_by_label("Question").fill(question)
    page.keyboard.press("Enter")


def test_the_files_and_what_they_may_do(start):
    gateway = start()
    for path, media_type in (("/", "text/html"), ("/page.css", "text/css"), ("/page.js", "text/javascript")):
        response = httpx.get(f"{gateway.url}{path}")
        assert response.headers["content-type"] == f"{media_type}; charset=utf-8"
        policy = response.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; ")
        assert "unsafe" not in policy
        assert not re.search(r"https?:|//[a-z]+\.", response.text)
    assert httpx.get(f"{start(has_page=False).url}/").status_code == 404


@pytest.mark.browser
def test_a_conversation_about_a_video_by_keyboard_alone(gateway, server, visit):
    server.then(Reply("Two people ride."), Reply("They stop.", num_cached_tokens=12))
    page = visit(gateway)
    expect(page.get_by_role("status")).to_have_text("Model video_llava")
    page.keyboard.press("Tab")
    expect(page.get_by_label("Choose a file, or drop one here")).to_be_focused()
    choose(page)  # the dialogue that Enter opens is the browser's
    frames = page.get_by_role("list", name="Frames that the model sees")
    expect(frames.get_by_role("listitem")).to_have_count(8)
    expect(frames.get_by_role("img", name="Frame 218")).to_be_visible()
    expect(frames).to_contain_text("8.72 s")
    expect(page.get_by_role("status")).to_have_text("8 frames of bikes.mp4")
    for name in ("From", "to", "Show this part", "Conversation", "Question"):
        page.keyboard.press("Tab")
        focused = page.locator(":focus")
        expect(focused).to_have_accessible_name(name)
    page.keyboard.type("Who is it?")
    page.keyboard.press("Enter")
    log = page.get_by_role("log", name="Conversation")
    expect(log).to_contain_text("Two people ride.")
    expect(log).to_have_attribute("aria-busy", "false")
    page.keyboard.type("And then?")
    page.keyboard.press("Enter")
    expect(log).to_contain_text("They stop.")
    expect(log.locator("summary").last).to_contain_text("reused: the frames and 12 of ")
    log.locator("summary").last.press("Enter")
    expect(log.get_by_text("Seconds of each stage: decode ").last).to_be_visible()
    first, second = server.requests
    assert first.prompt == "USER: <video>\nWho is it? ASSISTANT:"
    assert second.prompt == "USER: <video>\nWho is it? ASSISTANT: Two people ride.</s>USER: And then? ASSISTANT:"
    assert (first.video_frames == second.video_frames).all()
    assert gateway.metric("media_decode_seconds_count") == 1


@pytest.mark.browser
def test_a_part_of_the_video_begins_a_new_conversation(gateway, server, visit):
    page = visit(gateway)
    choose(page)
    ask(page, "What?")
    expect(page.get_by_role("log").locator("summary")).to_have_count(1)
    page.get_by_label("From").fill("2")
    page.get_by_label("to", exact=True).fill("1")
    page.get_by_role("button", name="Show this part").click()
    expect(page.get_by_role("alert")).to_have_text(
        "start_seconds must be at least 0 and below end_seconds, got 2.0 and 1.0"
    )
    page.get_by_label("From").fill("0.5")
    page.get_by_role("button", name="Show this part").click()
    expect(page.get_by_role("list").get_by_text("0.52 s")).to_be_visible()
    expect(page.get_by_role("alert")).to_be_hidden()
    ask(page, "And now?")
    expect(page.get_by_role("log")).to_contain_text("About bikes.mp4 from 0.5 s to 1 s")
    expect(page.get_by_role("log").locator("summary")).to_have_count(2)
    assert server.requests[1].prompt == "USER: <video>\nAnd now? ASSISTANT:"
    assert (server.requests[0].video_frames != server.requests[1].video_frames).any()
    page.get_by_role("button", name="New conversation").click()
    expect(page.get_by_role("log")).to_be_empty()


_DROP = """([name, type]) => {
  const canvas = Object.assign(document.createElement("canvas"), { width: 64, height: 56 });
  canvas.getContext("2d").fillRect(0, 0, 64, 56);
  canvas.toBlob((blob) => {
    const dataTransfer = new DataTransfer();
    dataTransfer.items.add(new File([blob], name, { type }));
    document.getElementById("drop").dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true }));
  });
}"""


@pytest.mark.browser
# A browser that does not know a picture's type gives none.
@pytest.mark.parametrize("media_type", ["image/png", ""])
def test_a_picture_that_is_dropped(gateway, server, visit, media_type):
    page = visit(gateway)
    page.evaluate(_DROP, ["cat.png", media_type])
    expect(page.get_by_role("img", name="The picture as the model sees it")).to_be_visible()
    expect(page.get_by_role("button", name="Show this part")).to_be_hidden()
    ask(page, "What is it?")
    expect(page.get_by_role("log").locator("summary")).to_have_count(1)
    assert server.requests[0].prompt == "USER: <image>\nWhat is it? ASSISTANT:"
    assert server.requests[0].image_frames.shape[0] == 1


@pytest.mark.browser
def test_an_answer_that_is_stopped(gateway, server, visit):
    server.then(Reply("One two three four five six seven eight nine ten.", seconds_per_token=2.0), Reply("Yes."))
    page = visit(gateway)
    ask(page, "Count!")
    log = page.get_by_role("log")
    expect(log).to_contain_text("One")
    expect(log).to_have_attribute("aria-busy", "true")
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("status")).to_have_text("Stopped")
    expect(page.get_by_role("button", name="Stop")).to_be_hidden()
    ask(page, "Done?")
    expect(log).to_contain_text("Yes.")
    assert re.fullmatch(r"USER: Count! ASSISTANT: One.*</s>USER: Done\? ASSISTANT:", server.requests[1].prompt)


@pytest.mark.browser
def test_errors_are_shown_as_the_api_says_them(start, server, visit, tmp_path):
    server.then(Refuse("UNAVAILABLE: full: 4 requests run: try later"), Reply("A cat."))
    page = visit(start(max_body_bytes=2**20))
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    choose(page, tmp_path / "broken.mp4")
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("video_url: <bytes>: ")
    ask(page, "What?")
    expect(alert).to_have_text("broken.mp4 cannot be used: choose another file or part")
    (tmp_path / "large.mp4").write_bytes(bytes(5 * 2**20))
    choose(page, tmp_path / "large.mp4")
    expect(alert).to_have_text(re.compile("the request has more than 1048576 bytes|is the file too large"))
    choose(page)
    expect(alert).to_be_hidden()
    ask(page, "What is it?")
    expect(alert).to_have_text(re.compile(r"full.* \(try again in \d+ s\)"))
    expect(page.get_by_label("Question")).to_have_value("What is it?")
    page.get_by_role("button", name="Ask").click()
    expect(page.get_by_role("log")).to_contain_text("A cat.")


@pytest.mark.browser
def test_a_gateway_that_has_forgotten_the_frames_gets_the_video_again(start, server, visit):
    gateway = start(cache_bytes=0)
    page = visit(gateway)
    choose(page)
    expect(page.get_by_role("listitem")).to_have_count(8)
    ask(page, "What?")
    expect(page.get_by_role("log").locator("summary")).to_contain_text("reused: 0 of ")
    assert server.requests[0].video_frames.shape[0] == 8


@pytest.mark.browser
def test_a_file_is_uploaded_once_and_removed_at_the_end(start, server, visit, tmp_path):
    store = FileStore(tmp_path / "files", max_bytes=10**8, max_file_bytes=10**7)
    gateway = start(files=store)
    page, sent = visit(gateway), []
    page.on("request", lambda request: sent.append((request.method, request.url.removeprefix(gateway.url), request)))
    summaries = page.get_by_role("log").locator("summary")
    choose(page)
    expect(page.get_by_role("listitem")).to_have_count(8)
    ask(page, "What?")
    expect(summaries).to_have_count(1)
    page.get_by_label("From").fill("1")
    page.get_by_role("button", name="Show this part").click()
    expect(page.get_by_role("list").get_by_text("1.00 s")).to_be_visible()
    ask(page, "And now?")
    expect(summaries).to_have_count(2)
    assert [path for method, path, _ in sent if method == "POST"] == [
        "/v1/files", "/v1/frames", "/v1/chat/completions", "/v1/frames", "/v1/chat/completions"
    ]  # fmt: skip
    # A file that has expired is uploaded anew.
    (file,) = store.of("")
    httpx.delete(f"{gateway.url}/v1/files/{file.id}")
    page.get_by_label("From").fill("2")
    page.get_by_role("button", name="Show this part").click()
    expect(page.get_by_role("list").get_by_text("2.00 s")).to_be_visible()
    assert len(store.of("")) == 1
    assert all(len(request.post_data or "") < 2000 for _, path, request in sent if path != "/v1/files")
    assert len(server.requests) == 2
    (tmp_path / "other.mp4").write_bytes(BIKES.read_bytes() + b"0")
    choose(page, tmp_path / "other.mp4")
    expect(page.get_by_role("status")).to_have_text("8 frames of other.mp4")
    wait_until(lambda: [each.filename for each in store.of("")] == ["other.mp4"])
    page.close()
    wait_until(lambda: store.num_bytes == 0)
    store.close()


@pytest.mark.browser
def test_without_room_for_files_the_page_sends_data(start, server, visit, tmp_path):
    store = FileStore(tmp_path / "files", max_bytes=1000, max_file_bytes=1000)
    page = visit(start(files=store))
    choose(page)
    ask(page, "What?")
    expect(page.get_by_role("log").locator("summary")).to_have_count(1)
    assert server.requests[0].video_frames.shape[0] == 8
    store.close()


@pytest.mark.browser
def test_a_key_is_asked_for_where_keys_are_needed(start, visit, tmp_path):
    key, sha256 = new_key()
    (tmp_path / "keys.toml").write_text(f'joe = {{ sha256 = "{sha256}" }}')
    gateway = start(keys=tmp_path / "keys.toml")
    page = visit(gateway)
    expect(page.get_by_role("alert")).to_contain_text("an API key is needed")
    expect(page.get_by_label("API key")).to_be_focused()
    page.keyboard.type("wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("this API key is not known")
    page.get_by_label("API key").fill(key)
    page.keyboard.press("Enter")
    expect(page.get_by_label("API key")).to_be_hidden()
    ask(page, "Hi?")
    expect(page.get_by_role("log").locator("summary")).to_have_count(1)
    assert gateway.metric("requests_total", key="joe", status="200") == 2


_CONTRASTS = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const light = (color) => {
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((byte) =>
      byte / 255 <= 0.04045 ? byte / 255 / 12.92 : ((byte / 255 + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (node) => {
    const color = getComputedStyle(node).backgroundColor;
    return color === "rgba(0, 0, 0, 0)" && node.parentElement ? behind(node.parentElement) : color;
  };
  const shown = [...document.querySelectorAll("body *")].filter((node) => node.checkVisibility() &&
    [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim()));
  return shown.map((node) => {
    const [low, high] = [light(getComputedStyle(node).color), light(behind(node))].sort((a, b) => a - b);
    return [node.textContent, (high + 0.05) / (low + 0.05)];
  });
}"""


@pytest.mark.browser
@pytest.mark.parametrize("size", [{"width": 1280, "height": 800}, {"width": 360, "height": 740}])
@pytest.mark.parametrize("color_scheme", ["light", "dark"])
def test_it_fits_and_can_be_read(gateway, visit, size, color_scheme):
    page = visit(gateway, viewport=size, color_scheme=color_scheme)
    choose(page)
    ask(page, "What " * 100)
    expect(page.get_by_role("log").locator("summary")).to_have_count(1)
    choose(page, Path(__file__))
    expect(page.get_by_role("alert")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    contrasts = page.evaluate(_CONTRASTS)
    assert len(contrasts) > 10
    assert [pair for pair in contrasts if pair[1] < 4.5] == []  # WCAG AA
