"""The budgets beside their floors: each measured three times in one command, median and ratio printed.

``python tests/bench/bench.py`` works on the lab of the tests (.cache/lab, on a net of its own or on LAB_NET), which it
removes and deploys anew each time that it measures a deployment, and needs an otherwise quiet machine. The floor is the
bare parallel start of the same processes, with no Ansible and no supervisor, until the stream made its first progress.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LOAD_RATE = 1000
PROGRESS = re.compile(r"^spark_streaming_last_progress_timestamp_seconds (\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class Row:
    """One budget: seconds of each run, beside the seconds of the floor or peer."""

    what: str
    budget: str
    runs: list[float]
    floor: list[float]
    note: str = ""

    def line(self) -> str:
        median, floor = statistics.median(self.runs), statistics.median(self.floor)
        shown = " ".join(f"{value:.1f}" for value in self.runs)
        figures = f"{median:.1f} ({shown}) | {floor:.1f} | {median / floor:.2f}"
        return f"| {self.what} | {self.budget} | {figures} | {self.note} |"


class Lab:
    """A deployed lab and what can be done to it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def play(self, name: str, *arguments: str) -> tuple[float, str]:
        """Run a procedure; returns seconds and output, and ends the benchmark when it fails."""
        began = time.monotonic()
        done = subprocess.run(
            ["ansible-playbook", f"playbooks/{name}.yml", *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.monotonic() - began
        if done.returncode:
            sys.exit(f"{name} ended with {done.returncode}:\n{done.stdout[-3000:]}{done.stderr[-1000:]}")
        return seconds, done.stdout

    def remove(self) -> None:
        """Stop and remove the lab, if there is one, so that the next deployment is a first one."""
        if (self.root / ".streamops-sandbox").is_file():
            self.play("stack-down")
            marker = json.loads((self.root / ".streamops-sandbox").read_text())
            self.play("sandbox-remove", "-e", f"confirm={marker['cluster_id']}")

    def deploy(self) -> float:
        """Deploy on nothing; returns the seconds until that is proven."""
        self.remove()
        return self.play("site")[0]

    def kill_everything(self) -> None:
        subprocess.run(
            [
                sys.executable,
                "molecule/shared/faults.py",
                "kill-everything",
                "--root",
                str(self.root),
            ],
            cwd=ROOT,
            check=True,
            stdout=subprocess.DEVNULL,
        )

    def pipeline(self, *arguments: str) -> list[str]:
        command = [sys.executable, "-m", "pipeline", *arguments, "--json"]
        command += ["--endpoints", str(self.root / "endpoints.json")]
        return [*command, "--credentials", str(self.root / "credentials.json")]

    def load(self) -> subprocess.Popen[bytes]:
        """Start a load with a ledger of its own."""
        ledger = self.root / "bench.ledger"
        ledger.unlink(missing_ok=True)
        command = self.pipeline("load", "--rate", str(LOAD_RATE), "--seconds", "60", "--ledger", str(ledger))
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def verdict(self, load: subprocess.Popen[bytes]) -> str:
        """Wait for the load and compare its ledger with the table; end the benchmark when anything was lost."""
        load.wait(300)
        command = self.pipeline("verify", "--ledger", str(self.root / "bench.ledger"), "--wait", "120")
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"verify ended with {done.returncode}: {done.stdout}{done.stderr[-500:]}")
        answer = json.loads(done.stdout)
        return ", ".join(f"{name} {answer[name]}" for name in ("sent", "acked", "in_table", "lost", "duplicates"))

    def definitions(self) -> list[dict[str, object]]:
        return [json.loads(path.read_text()) for path in sorted(self.root.glob("hosts/*/services/*/definition.json"))]

    def bare_start(self) -> float:
        """Start every deployed command at once, wait for the stream's first progress, end them all."""
        endpoints = json.loads((self.root / "endpoints.json").read_text())
        began, wall = time.monotonic(), time.time()
        processes = []
        for definition in self.definitions():
            folder = str(definition["root"])
            with Path(os.devnull).open("wb") as nowhere:
                processes.append(
                    subprocess.Popen(
                        [str(part) for part in definition["command"]],  # type: ignore[attr-defined]
                        cwd=folder,
                        env={**os.environ, **definition["environment"]},  # type: ignore[dict-item]
                        stdout=nowhere,
                        stderr=nowhere,
                        start_new_session=True,
                    )
                )
        try:
            while not self._progressed(str(endpoints["metrics"]["spark-streaming"]), wall):
                if time.monotonic() - began > 180:
                    sys.exit("the bare start made no progress within 180 s")
                time.sleep(0.2)
            return time.monotonic() - began
        finally:
            for process in processes:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    @staticmethod
    def _progressed(url: str, since: float) -> bool:
        try:
            with urllib.request.urlopen(url, timeout=1) as answer:  # noqa: S310  the lab's own address
                found = PROGRESS.search(answer.read().decode())
        except OSError:
            return False
        return found is not None and float(found.group(1)) > since


def repeat(times: int, measure: Callable[[], float]) -> list[float]:
    return [measure() for _ in range(times)]


def figures(output: str) -> str:
    found = re.search(r"completed in [\d.]+ s, (changed=\d+), (module results \d+)", output)
    return ", ".join(found.groups()) if found else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=3)
    times = parser.parse_args().times
    # Never the user's own sandbox: what is measured here is killed and removed.
    lab = Lab(ROOT / ".cache" / "lab")
    os.environ |= {"SANDBOX_ROOT": str(lab.root), "SANDBOX_NET": os.environ.get("LAB_NET", "auto")}
    print("deploying the lab", flush=True)
    deployed = repeat(times, lab.deploy)
    notes: list[str] = []
    verdicts: list[str] = []

    def noted(name: str) -> float:
        seconds, output = lab.play(name)
        notes.append(figures(output))
        return seconds

    def outage() -> float:
        load = lab.load()
        time.sleep(8)
        lab.kill_everything()
        seconds = noted("emergency-restart")
        verdicts.append(lab.verdict(load))
        print(f"outage: {seconds:.1f} s, {verdicts[-1]}", flush=True)
        return seconds

    rows = []
    health = repeat(times, lambda: lab.play("health-check")[0])
    ping = repeat(times, _ping)
    rows.append(Row("health-check of the whole stack", "<= 8 s", health, ping, "peer: one ansible -m ping"))
    print(rows[-1].line(), flush=True)
    healthy = repeat(times, lambda: noted("emergency-restart"))
    rows.append(
        Row(
            "emergency-restart, healthy",
            "<= 12 s, changed=0",
            healthy,
            health,
            f"peer: health-check; {notes[-1]}",
        )
    )
    print(rows[-1].line(), flush=True)
    unchanged = repeat(times, lambda: noted("site"))
    rows.append(
        Row(
            "site.yml, nothing to change",
            "<= 20 s",
            unchanged,
            health,
            f"peer: health-check; {notes[-1]}",
        )
    )
    print(rows[-1].line(), flush=True)
    recovered = repeat(times, outage)
    lab.kill_everything()
    floor = repeat(times, lab.bare_start)
    rows.append(
        Row(
            "everything killed with its supervisors",
            "<= 1.5 x floor",
            recovered,
            floor,
            f"floor: bare start; {notes[-1]}",
        )
    )
    rows.append(Row("make up, artifacts cached", "<= 2 x floor", deployed, floor, "floor: bare start"))
    lab.play("emergency-restart")
    print("\n| What | Budget | Median (runs), s | Floor or peer, s | Ratio | |\n|---|---|---|---|---|---|")
    print("\n".join(row.line() for row in rows))
    return 0


def _ping() -> float:
    began = time.monotonic()
    subprocess.run(
        ["ansible", "services", "-m", "ansible.builtin.ping"],
        cwd=ROOT,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return time.monotonic() - began


if __name__ == "__main__":
    sys.exit(main())
