"""The server of the page: what it refuses, how it separates users, which command lines it runs. No run is started."""

from __future__ import annotations

import hashlib
import io
import json
import shlex
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import forked
import numpy as np
import pytest
from PIL import Image as PilImage
from scenes import make_scene

from loraedit.errors import InputError
from loraedit.types import Clip
from loraedit.video import read_clip, write_clip

pytest.importorskip("uvicorn", reason="the page needs the extra 'web'")

from web_client import Server, Visitor, write_inputs

from loraedit.web import WebOptions, serve
from loraedit.web.commands import as_text, edit_commands, mask_command
from loraedit.web.drafts import Draft
from loraedit.web.jobs import Job

PASSWORD = "correct horse"
SECRET = "root:x:0:0"
NO_VIDEO, NO_IMAGE = "not a supported video", "not a supported image"
CLIP, IMAGE = "0123456789abcdef.mkv", "0123456789abcdef.png"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_inputs(tmp_path_factory.mktemp("inputs"), make_scene())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("web") / "folder", "--max-upload-mb", "1").start()
    yield running
    running.stop()
    assert running.process.returncode in (0, -signal.SIGTERM)


@pytest.fixture(scope="module")
def visitor(server: Server, files: Path) -> Visitor:
    """Returns a user whose mask is ready."""
    user = Visitor(server)
    state = user.lay_out(files)
    assert state["mask"]["state"] == "done", state["mask"]["error"]
    return user


# ---- what it does ----------------------------------------------------------------------------------------------------


def test_the_mask_is_the_one_of_the_command_line(server: Server, visitor: Visitor, files: Path, tmp_path: Path) -> None:
    options = ["--from-edit", "edited.png", "--out", str(tmp_path / "mask")]
    assert forked.run(["mask", "source.mkv", *options], files).returncode == 0
    key = visitor.state()["mask"]["key"]
    ours = next(server.folder.glob(f"*/masks/{key}/mask"))
    assert np.array_equal(read_clip(ours).frames, read_clip(tmp_path / "mask").frames)
    status, overlay = visitor.ask("GET", f"/media/mask/{key}/2")
    tint = np.asarray(PilImage.open(io.BytesIO(overlay)))
    assert status == 200
    assert np.array_equal(tint[..., 3] > 0, read_clip(tmp_path / "mask").frames[2, ..., 0] > 127)


def test_frames_are_sent_without_loss(visitor: Visitor) -> None:
    clip = visitor.state()["draft"]["clip"]
    status, content = visitor.ask("GET", f"/media/frame/{clip}/3")
    assert status == 200
    assert np.array_equal(np.asarray(PilImage.open(io.BytesIO(content))), make_scene().source[3])


def test_a_click_becomes_a_point_of_the_command_and_another_mask(server: Server, files: Path) -> None:
    user = Visitor(server)
    clip, edited = user.upload("clip", files / "source.mkv"), user.upload("image", files / "edited.png")
    before = user.send("PUT", "/api/draft", {"clip": clip, "whole": clip, "edited": edited})
    after = user.send("PUT", "/api/draft", {**before["draft"], "points": [[2, 20, 15, True]]})
    assert after["mask"]["key"] != before["mask"]["key"]  # the first mask is stopped
    done = user.wait(lambda state: state["mask"]["state"] in ("done", "failed"))
    assert done["mask"]["state"] == "done", done["mask"]["error"]
    job = Job(next(server.folder.glob(f"*/masks/{after['mask']['key']}")))
    assert "--point=2:20,15" in job.commands()[0]


def test_a_part_of_a_clip_is_cut_without_loss(server: Server, files: Path) -> None:
    user = Visitor(server)
    clip = user.upload("clip", files / "source.mkv")
    user.send("PUT", "/api/draft", {"clip": clip, "whole": clip})
    state = user.send("POST", "/api/trim", {"first": 1, "end": 4})
    assert state["clip"]["frames"] == 3
    assert state["whole"]["frames"] == 5
    assert state["draft"]["edited"] is None
    part = next(server.folder.glob(f"*/clips/{state['draft']['clip']}"))
    assert np.array_equal(read_clip(part).frames, make_scene().source[1:4])
    assert "Expected 0 to 4" in user.refused("POST", "/api/trim", {"first": 2, "end": 9})


def test_a_draft_survives_a_reload_and_other_users_do_not_see_it(server: Server, visitor: Visitor) -> None:
    mine, other = visitor.state(), Visitor(server)
    again = Visitor(server)
    again.cookies = visitor.cookies
    assert again.state()["draft"] == mine["draft"]
    assert other.state()["draft"]["clip"] is None
    clip, image, key = mine["draft"]["clip"], mine["draft"]["edited"], mine["mask"]["key"]
    for path in (f"/media/clip/{clip}", f"/media/view/{clip}/0", f"/media/image/{image}", f"/media/mask/{key}/0"):
        assert visitor.ask("GET", path)[0] == 200, path
        assert other.ask("GET", path)[0] == 422, path
    assert "Upload it first" in other.refused("PUT", "/api/draft", {"clip": clip, "whole": clip})


def test_the_shown_command_line_is_the_one_that_runs() -> None:
    settings = {"prompt": "--steps=9 $(rm) 'x'", "steps": 3, "prior": False, "seed": 0}
    draft = Draft.model_validate(
        {"clip": CLIP, "edited": IMAGE, "references": {4: IMAGE}, "points": [(2, 5, 6, False)],
         "boxes": [(0, 1, 2, 3, 4)], "margin": 0.2, "settings": settings}
    )  # fmt: skip
    made = mask_command(draft)
    assert made is not None
    edit, evaluate = edit_commands(draft, "R")
    shown = as_text([made, edit, evaluate], Path("/a b"))
    lines = [shlex.split(line) for line in shown.splitlines()]
    assert lines[0] == ["cd", "/a b"]
    unseen = ("--json", "--progress-json")
    assert [line[1:] for line in lines[1:]] == [[x for x in c if x not in unseen] for c in (made, edit, evaluate)]
    assert {"--prompt=--steps=9 $(rm) 'x'", "--steps=3", "--no-prior", f"--reference=4=images/{IMAGE}"} <= set(edit)
    assert not any(part.startswith("--seed=") for part in edit)
    assert {"--point=2:5,6:out", "--box=0:1,2,3,4", "--margin=0.2"} <= set(made)


# ---- what it refuses -------------------------------------------------------------------------------------------------

PATHS = ("/etc/passwd", "../../../../etc/passwd", "..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/etc/passwd", "x\x00.png")


@pytest.mark.parametrize("path", PATHS)
def test_no_path_that_a_browser_names_is_opened(visitor: Visitor, path: str) -> None:
    draft = visitor.state()["draft"]
    for change in (
        {"clip": path}, {"whole": path}, {"edited": path}, {"references": {"1": path}}, {"seeds": {"1": path}},
        {"kept_mask": path}, {"points": [[path, 1, 1, True]]},
        {"settings": {"model": path}}, {"settings": {"codec": path}}, {"settings": {"extra_lora": [path]}},
        {"edited": {"path": path}},
    ):  # fmt: skip
        assert visitor.refused("PUT", "/api/draft", {**draft, **change})
    assert visitor.refused("POST", "/api/trim", {"first": path, "end": path})
    assert visitor.state()["draft"] == draft
    quoted = path.replace("\x00", "%00")
    for url in (
        f"/static/{quoted}", f"/media/clip/{quoted}", f"/media/image/{quoted}", f"/media/view/{quoted}/0",
        f"/media/mask/{quoted}/0", f"/media/result/{quoted}/0", f"/media/run/{quoted}/video",
        f"/media/run/20260101-000000-0000/{quoted}", f"/media/{quoted}/{draft['clip']}/0",
    ):  # fmt: skip
        status, content = visitor.ask("GET", url)
        assert status in (404, 422), url
        assert SECRET.encode() not in content
    for url in (f"/api/runs/{quoted}/remove", f"/upload/{quoted}"):
        assert visitor.ask("POST", url, b"{}")[0] in (404, 405, 422)


def playlist(folder: Path) -> None:
    (folder / "lie").write_text("#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n")


def concat(folder: Path) -> None:
    (folder / "lie").write_text("ffconcat version 1.0\nfile /etc/passwd\n")


def page(folder: Path) -> None:
    (folder / "lie").write_text("<html><script>alert(1)</script></html>")


def half_a_film(folder: Path) -> None:
    scene = make_scene()
    write_clip(folder / "whole.mp4", Clip(scene.source, read_clip(folder / "source.mkv").fps))
    whole = (folder / "whole.mp4").read_bytes()
    (folder / "lie").write_bytes(whole[: len(whole) // 2])


def film_by_its_first_bytes(folder: Path) -> None:
    (folder / "lie").write_bytes(b"\x00\x00\x00\x18ftypisom" + b"\x00" * 400)


def svg(folder: Path) -> None:
    (folder / "lie").write_text('<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>')


def too_large(folder: Path) -> None:
    (folder / "lie").write_bytes(b"\x1a\x45\xdf\xa3" + b"\x00" * (1 << 20))


def picture_bomb(folder: Path) -> None:
    buffer = io.BytesIO()
    PilImage.new("1", (20000, 20000)).save(buffer, "PNG")
    (folder / "lie").write_bytes(buffer.getvalue())


@pytest.mark.parametrize(
    ("kind", "make", "words"),
    [
        ("clip", playlist, NO_VIDEO), ("clip", concat, NO_VIDEO), ("clip", page, NO_VIDEO),
        ("clip", half_a_film, ""), ("clip", film_by_its_first_bytes, ""), ("clip", too_large, "too large"),
        ("image", svg, NO_IMAGE), ("image", page, NO_IMAGE), ("image", picture_bomb, "too large"),
        ("image", too_large, "too large"),
    ],
)  # fmt: skip
def test_mislabelled_and_oversized_uploads_leave_nothing(
    server: Server, files: Path, tmp_path: Path, kind: str, make: Any, words: str
) -> None:
    shutil.copy(files / "source.mkv", tmp_path)
    make(tmp_path)
    user = Visitor(server)
    user.state()
    before = sorted(server.folder.rglob("*"))
    status, content = user.ask("POST", f"/upload/{kind}", (tmp_path / "lie").read_bytes())
    assert status == 422
    error = json.loads(content)["error"]
    assert words in error
    assert str(server.folder) not in error
    assert sorted(server.folder.rglob("*")) == before


def test_a_file_is_named_by_its_content_and_its_own_name_is_only_shown(server: Server, files: Path) -> None:
    user = Visitor(server)
    name = user.upload("image", files / "edited.png")
    assert name == hashlib.sha256((files / "edited.png").read_bytes()).hexdigest()[:16] + ".png"
    clip = user.upload("clip", files / "source.mkv")
    hostile = '../<script>document.title="owned"</script>.mkv'
    assert user.send("PUT", "/api/draft", {"clip": clip, "whole": clip, "name": hostile})["draft"]["name"] == hostile
    assert not [path for path in server.folder.rglob("*") if "script" in path.name]
    assert "script-src" not in user.headers["content-security-policy"]
    assert "default-src 'self'" in user.headers["content-security-policy"]


def test_settings_out_of_range_and_unknown_fields_are_refused(visitor: Visitor) -> None:
    draft = visitor.state()["draft"]
    for settings, words in (({"steps": -1}, "steps"), ({"nonsense": 1}, "nonsense"), ({"prompt": "a\nb"}, "one line")):
        assert words in visitor.refused("PUT", "/api/draft", {**draft, "settings": settings})
    assert "'more'" in visitor.refused("PUT", "/api/draft", {**draft, "more": 1})
    for folder in ("/etc", "Qwen/Qwen3-VL-8B-Instruct"):
        assert "florence-2" in visitor.refused("PUT", "/api/draft", {**draft, "settings": {"captioner": folder}})
    chosen = visitor.send("PUT", "/api/draft", {**draft, "settings": {"captioner": "florence-2"}})
    assert chosen["draft"]["settings"] == {"captioner": "florence-2"}
    assert "florence-2-base" in visitor.state()["fields"]["captioner"]["enum"]
    assert visitor.ask("PUT", "/api/draft", b"[" * 100_000)[0] == 422
    assert visitor.ask("PUT", "/api/draft", b" " * (2 << 20))[0] == 422


def test_other_origins_are_refused(server: Server, visitor: Visitor) -> None:
    clip = visitor.state()["draft"]["clip"]
    for headers in ({"Origin": "https://elsewhere.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
        assert visitor.ask("POST", "/api/runs", b"{}", headers)[0] == 403
        assert visitor.ask("GET", f"/media/clip/{clip}", headers=headers)[0] == 403
    assert visitor.ask("GET", "/api/state", headers={"Origin": server.address.rstrip("/")})[0] == 200
    assert visitor.ask("GET", "/", headers={"Host": "elsewhere.example"})[0] == 421
    assert visitor.ask("GET", "/api/state", headers={"Host": f"elsewhere.example:{server.port}"})[0] == 421


def test_on_the_lan_nothing_is_shown_without_the_password(tmp_path: Path) -> None:
    options = ("--share-on-lan", "--password", PASSWORD)
    running = Server(tmp_path / "folder", *options).start()
    try:
        stranger, wrong, right = Visitor(running), Visitor(running, "correct house"), Visitor(running, PASSWORD)
        for nobody in (stranger, wrong):
            assert nobody.ask("GET", "/")[0] == 303
            for method, path in (("GET", "/api/state"), ("POST", "/upload/image"), ("GET", "/media/clip/a")):
                assert nobody.ask(method, path, b"x" if method == "POST" else b"")[0] == 401
        assert right.ask("GET", "/")[0] == 200
        assert right.state()["runs"] == []
    finally:
        running.stop()


@pytest.mark.parametrize(
    ("options", "words"),
    [({"share_on_lan": True}, "--password"), ({"share_on_lan": True, "password": "short"}, "8 characters")],
)
def test_sharing_needs_a_good_password(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        serve(WebOptions(7860, tmp_path, **options))


def test_a_missing_library_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "uvicorn" else object())
    with pytest.raises(InputError, match=r"needs uvicorn\. Install with: pip install '\.\[web\]'"):
        serve(WebOptions(7860, tmp_path))


def test_a_taken_port_and_a_taken_folder_are_one_sentence(server: Server, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--port"):
        serve(WebOptions(server.port, tmp_path))
    with pytest.raises(InputError, match="Another server"):
        serve(WebOptions(Server(tmp_path).port, server.folder))
