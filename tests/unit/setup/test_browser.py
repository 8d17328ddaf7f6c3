"""The tests' browser: which pages it opens, how it is called, that nothing of it stays."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.e2e import browser

PAGE = "http://127.0.77.61:9090/consoles/pipeline-overview.html"


def fake(folder: Path, script: str) -> Path:
    path = folder / "chromium"
    path.write_text(f"#!/bin/bash\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("url", [PAGE, "http://localhost:9090/", "http://[::1]:9090/"])
def test_pages_of_this_machine_are_opened(url: str) -> None:
    assert browser.local(url) == url


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/",
        "http://127.0.0.1.example.org/",
        "http://127.0.0.1@example.org/",
        "http://10.0.0.1/",
        "file:///etc/passwd",
        "127.0.0.1:9090",
        "",
    ],
)
def test_all_others_are_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(browser.BrowserError, match="expected http on a loopback address"):
        browser.dom(fake(tmp_path, f"touch {tmp_path}/called"), url)
    assert not (tmp_path / "called").exists()


@pytest.mark.parametrize(("user", "there"), [(0, True), (1000, False)])
def test_only_root_goes_without_its_sandbox(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user: int, there: bool
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    page = browser.dom(fake(tmp_path, 'echo "<html>$* HOME=$HOME</html>"'), PAGE)
    assert ("--no-sandbox" in page) is there
    profile = page.split("--user-data-dir=")[1].split()[0]
    assert f"HOME={profile}" in page
    assert not Path(profile).exists()


def test_a_picture_is_a_picture(tmp_path: Path) -> None:
    picture = tmp_path / "evidence" / "page.png"
    program = fake(tmp_path, 'for o; do case $o in --screenshot=*) printf "\\x89PNG" >"${o#*=}";; esac; done')
    browser.screenshot(program, PAGE, picture)
    assert picture.is_file()
    with pytest.raises(browser.BrowserError, match="expected a PNG"):
        browser.screenshot(fake(tmp_path, "true"), PAGE, picture)


def test_a_page_that_hangs_is_ended_with_all_its_helpers(tmp_path: Path) -> None:
    program = fake(tmp_path, f"sleep 60 & echo $! >{tmp_path}/helper; wait")
    began = time.monotonic()
    with pytest.raises(browser.BrowserError, match="not shown within 1 s"):
        browser.dom(program, PAGE, timeout=1)
    assert time.monotonic() - began < 10
    helper = int((tmp_path / "helper").read_text())
    assert _gone(helper)


def test_an_error_names_its_code(tmp_path: Path) -> None:
    with pytest.raises(browser.BrowserError, match="code 3: broken"):
        browser.dom(fake(tmp_path, "echo broken >&2; exit 3"), PAGE)


def test_without_a_browser_the_line_to_type_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(browser, "_is_debian", lambda: True)
    with pytest.raises(browser.BrowserError, match=r"next: sudo apt-get install --yes .* chromium"):
        browser.ensure()
    monkeypatch.setattr(browser, "_is_debian", lambda: False)
    with pytest.raises(browser.BrowserError, match="next: install one of them"):
        browser.ensure()


def test_root_on_debian_installs_it_and_shows_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apt = tmp_path / "apt-get"
    apt.write_text(
        f'#!/bin/bash\necho "$@" >>{tmp_path}/calls\ntest "$1" != install && exit\n'
        f'printf "#!/bin/bash\\n" >{tmp_path}/chromium\n/bin/chmod +x {tmp_path}/chromium\n'
    )
    apt.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(browser, "_is_debian", lambda: True)
    lines: list[str] = []
    assert browser.ensure(lines.append) == tmp_path / "chromium"
    assert lines
    assert (tmp_path / "calls").read_text().splitlines()[1].startswith("install --yes")


def _gone(pid: int) -> bool:
    # A killed process may stand as a zombie until its new parent takes its end.
    for _ in range(50):
        status = Path(f"/proc/{pid}/stat")
        if not status.exists() or ") Z " in status.read_text():
            return True
        time.sleep(0.1)
    return False
