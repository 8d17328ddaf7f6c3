"""The search for leaked secrets: a secret in any kind of place is found, and said without saying it."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.programs import load
from tests.unit.authority import Authority, serving

ROOT = Path(__file__).resolve().parents[3]
PLANTED = "q7Rz1mWc9LkX4bTn8VdJ2hYs6PfG3aEu5oKi0CwB"
OTHER = "Zx1Cv2Bn3Mq4Wr5Ty6Ui7Op8As9Df0Gh1Jk2Lz3X"


leaks = load("molecule/shared/leaks.py")


class Handler(BaseHTTPRequestHandler):
    """Answers each path with what the test has put there."""

    pages: dict[str, str]

    def do_GET(self) -> None:
        body = self.pages.get(self.path.partition("?")[0], "nothing here").encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing: the output of a test run is looked at by people."""


@pytest.fixture
def pages() -> Iterator[tuple[str, dict[str, str]]]:
    """Serve pages; yields the address and the pages by path."""
    shown: dict[str, str] = {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Shown", (Handler,), {"pages": shown}))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", shown
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def lab(tmp_path: Path, pages: tuple[str, dict[str, str]]) -> Path:
    """A lab as its files show it: credentials, endpoints, empty folders, evidence beside it."""
    root = tmp_path / "lab"
    for folder in ("state/runs", "state/spool", "lab", "hosts/kafka-1/log", "hosts/m-1/state", "hosts/m-1/data/inbox"):
        (root / folder).mkdir(parents=True)
    (tmp_path / "evidence").mkdir()
    credentials = {
        "kafka": {"load": {"username": "load", "password": PLANTED}},
        "s3": {"root": {"access_key": "root", "secret_key": OTHER}},
        "tokens": {},
    }
    (root / "credentials.json").write_text(json.dumps(credentials))
    endpoints = {
        "metrics": {"kafka": f"{pages[0]}/metrics", "producer": f"{pages[0]}/producer"},
        "prometheus": pages[0],
        "alertmanager": pages[0],
    }
    (root / "endpoints.json").write_text(json.dumps(endpoints))
    return root


def hits(lab: Path) -> list[str]:
    found: list[str] = leaks.search(
        leaks.secrets(lab / "credentials.json"), leaks.places(lab, lab.parent / "evidence")
    )[0]
    assert not any(secret in line for line in found for secret in (PLANTED, OTHER))
    return found


def test_a_lab_without_leaks_has_none_and_every_kind_of_place_is_looked_through(lab: Path) -> None:
    (lab.parent / "evidence" / "outputs.log").write_text("nothing\n")
    bundle(lab.parent / "evidence" / "last.tar.gz", "nothing")
    found, looked = leaks.search(leaks.secrets(lab / "credentials.json"), leaks.places(lab, lab.parent / "evidence"))
    assert found == []
    assert set(looked) == {"file", "said", "bundle", "page", "process"}


@pytest.mark.parametrize(
    "place",
    [
        "state/runs/x.finished.json",
        "state/runs/x.journal.jsonl",
        "state/spool/x.json",
        "state/status.json",
        "lab/alerts.json",
        "hosts/kafka-1/log/kafka.log",
        "hosts/m-1/state/metrics/services.prom",
        "hosts/m-1/data/inbox/messages.jsonl",
        "../evidence/outputs.log",
        "../evidence/ansible.log",
        "../evidence/soak-1.xml",
        "../evidence/faults.json",
    ],
)
def test_a_secret_in_a_file_is_found(lab: Path, place: str) -> None:
    path = lab / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"before {PLANTED} after")
    assert [line.rpartition(": ")[2] for line in hits(lab)] == ["the secret of kafka load"]


def bundle(path: Path, text: str) -> None:
    """Write a bundle of evidence that holds one log."""
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo("hosts/spark-1/log/spark-streaming.log")
        member.size = len(text.encode())
        archive.addfile(member, io.BytesIO(text.encode()))


def test_a_secret_in_a_bundle_is_found(lab: Path) -> None:
    bundle(lab.parent / "evidence" / "default.tar.gz", f"key={OTHER}")
    assert hits(lab) == ["default.tar.gz:hosts/spark-1/log/spark-streaming.log: the secret of s3 root"]


@pytest.mark.parametrize(
    "path", ["/metrics", "/producer", "/api/v1/series", "/api/v1/status/config", "/api/v2/alerts", "/api/v2/silences"]
)
def test_a_secret_on_a_page_is_found(lab: Path, pages: tuple[str, dict[str, str]], path: str) -> None:
    pages[1][path] = f'{{"data": [{{"__name__": "up", "label": "{PLANTED}"}}]}}'
    assert len(hits(lab)) == 1


def test_a_page_that_does_not_answer_is_named_and_ends_nothing(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    endpoints = json.loads((lab / "endpoints.json").read_text())
    endpoints["metrics"]["producer"] = "http://127.0.0.1:9/metrics"
    (lab / "endpoints.json").write_text(json.dumps(endpoints))
    assert hits(lab) == []
    assert "http://127.0.0.1:9/metrics" in capsys.readouterr().out


def test_a_secret_in_a_command_line_is_found(lab: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()", PLANTED],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    process.stdout.readline()
    try:
        assert [line for line in hits(lab) if line.startswith(f"process {process.pid} ")]
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait()


def test_a_key_of_a_certificate_is_found_as_it_is_and_inside_of_base64(lab: Path) -> None:
    authority = Authority(lab / "tls")
    for name in ("kafka-1", "kafka-2"):
        authority.issue(name)
    wanted = leaks.keys(lab / "tls")
    assert list(wanted) == ["key kafka-1.key", "key kafka-2.key"]
    log = lab / "hosts" / "kafka-1" / "log" / "kafka.log"
    for text in (wanted["key kafka-1.key"], base64.b64encode((lab / "tls" / "kafka-1.key").read_bytes()).decode()):
        log.write_text(f"before {text} after")
        found, _ = leaks.search(wanted, leaks.places(lab, lab.parent / "evidence"))
        assert found == [f"{log}: the secret of key kafka-1.key"]
    # What everybody may know of it: the certificate.
    log.write_text((lab / "tls" / "kafka-1.pem").read_text())
    assert leaks.search(wanted, leaks.places(lab, lab.parent / "evidence"))[0] == []


def test_pages_of_a_lab_with_certificates_are_asked_with_that_of_the_controller(lab: Path) -> None:
    authority = Authority(lab / "tls" / "controller")
    authority.issue("host")
    with serving(authority.issue("prometheus"), clients=True) as server:
        endpoints = {"metrics": {}, "prometheus": server.url, "alertmanager": "http://127.0.0.1:9"}
        (lab / "endpoints.json").write_text(json.dumps(endpoints))
        looked = leaks.search({}, leaks.places(lab, lab.parent / "evidence"))[1]
    assert looked["page"] == len(leaks.PAGES["prometheus"])


@pytest.mark.parametrize("before", ["", "a", "ab", "load:"])
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
def test_a_secret_inside_of_base64_is_found(lab: Path, before: str, encode: Callable[[bytes], bytes]) -> None:
    (lab / "hosts" / "kafka-1" / "log" / "kafka.log").write_bytes(b"Basic " + encode(f"{before}{PLANTED}:x".encode()))
    assert len(hits(lab)) == 1


def program(lab: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable,
            ROOT / "molecule" / "shared" / "leaks.py",
            "--root",
            lab,
            "--evidence",
            lab.parent / "evidence",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_program_is_content_only_where_it_has_looked_at_some_of_each_kind(lab: Path) -> None:
    (lab / "state" / "status.json").write_text("nothing")
    (lab.parent / "evidence" / "outputs.log").write_text("nothing\n")
    done = program(lab)
    assert done.returncode == 1
    assert "found no bundle to look at" in done.stdout
    bundle(lab.parent / "evidence" / "last.tar.gz", "nothing")
    assert program(lab).returncode == 0
    endpoints = {"metrics": {}, "prometheus": "http://127.0.0.1:9", "alertmanager": "http://127.0.0.1:9"}
    (lab / "endpoints.json").write_text(json.dumps(endpoints))
    done = program(lab)
    assert done.returncode == 1
    assert "found no page to look at" in done.stdout


def test_the_program_fails_on_a_hit_and_never_says_the_secret(lab: Path) -> None:
    (lab / "state" / "status.json").write_text(PLANTED)
    done = program(lab)
    assert done.returncode == 1
    assert "1 hits" in done.stdout
    assert PLANTED not in done.stdout + done.stderr
