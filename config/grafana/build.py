"""Make the Grafana dashboards and the Prometheus console pages from config/grafana/panels.yml.

``python config/grafana/build.py`` rewrites them; ``--check`` only says which file differs (exit code 1).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from config.grafana import consoles, dashboards, panels  # noqa: E402

DASHBOARDS = ROOT / "config" / "grafana" / "dashboards"
CONSOLES = ROOT / "config" / "prometheus" / "consoles"


def wanted() -> dict[Path, str]:
    """Return what each made file must hold."""
    loaded = panels.load()
    files = {DASHBOARDS / f"{dashboard.uid}.json": dashboards.render(dashboard) for dashboard in loaded}
    return files | {CONSOLES / f"{dashboard.uid}.html": consoles.render(dashboard, loaded) for dashboard in loaded}


def stale(files: dict[Path, str]) -> list[Path]:
    """Return the files that are missing, differ, or were made of a dashboard that is no more."""
    there = {*DASHBOARDS.glob("*.json"), *CONSOLES.glob("*.html")}
    differ = [path for path, text in files.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    return sorted({*differ, *(there - set(files))})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 when a file differs")
    check = parser.parse_args().check
    files = wanted()
    differ = stale(files)
    if check:
        names = ", ".join(str(path.relative_to(ROOT)) for path in differ)
        if differ:
            print(f"stale: {names}; run python config/grafana/build.py", file=sys.stderr)
        return 1 if differ else 0
    for path in differ:
        if path in files:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(files[path], encoding="utf-8")
        else:
            path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
