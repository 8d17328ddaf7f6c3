"""The verifier that every scenario trusts, on the real table and on copies of it that were tampered with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from deltalake import DeltaTable, write_deltalake

from .conftest import Answer, Lab

PREFIX = "lab-copies"


def pipeline(lab: Lab, *words: str, endpoints: Path | None = None) -> Answer:
    """Run the pipeline's command line, which answers in JSON."""
    environment = {
        "PIPELINE_ENDPOINTS": str(endpoints or lab.root / "endpoints.json"),
        "PIPELINE_CREDENTIALS": str(lab.root / "credentials.json"),
    }
    return lab.run("python", "-m", "pipeline", *words, "--json", more=environment)


@dataclass
class Truth:
    """A load that has ended, its ledger, and the rows of the table that it made."""

    lab: Lab
    folder: Path
    rows: pa.Table = field(repr=False)
    # Holds a key, which no failing test may print.
    options: dict[str, str] = field(repr=False)

    def verify(self, ledger: Path, endpoints: Path | None = None) -> Answer:
        """Run the verifier as the scenarios do."""
        return pipeline(self.lab, "verify", "--ledger", str(ledger), "--wait", "1", endpoints=endpoints)

    def load(self, ledger: Path, *options: str) -> Answer:
        """Run a load to its end."""
        return pipeline(self.lab, "load", "--ledger", str(ledger), *options)

    def copy(self, name: str, rows: pa.Table) -> Path:
        """Write ``rows`` as a table of its own; returns endpoints that name it."""
        endpoints = json.loads((self.lab.root / "endpoints.json").read_text())
        endpoints["tables"]["events"] = f"s3://iot-lakehouse/{PREFIX}/{name}"
        write_deltalake(endpoints["tables"]["events"], rows, storage_options=self.options, mode="overwrite")
        path = self.folder / f"{name}.json"
        path.write_text(json.dumps(endpoints))
        return path


@pytest.fixture(scope="module")
def truth(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Truth]:
    folder = tmp_path_factory.mktemp("verifier")
    endpoints = json.loads((lab.root / "endpoints.json").read_text())
    user = json.loads((lab.root / "credentials.json").read_text())["s3"]["root"]
    options = {
        "AWS_ENDPOINT_URL": endpoints["s3"]["endpoint"],
        "AWS_REGION": endpoints["s3"]["region"],
        "AWS_ACCESS_KEY_ID": user["access_key"],
        "AWS_SECRET_ACCESS_KEY": user["secret_key"],
        "AWS_ALLOW_HTTP": "true",
        "aws_conditional_put": "etag",
    }
    ledger = folder / "ledger"
    loaded = pipeline(lab, "load", "--ledger", str(ledger), "--rate", "100", "--seconds", "3")
    assert loaded.code == 0, loaded.output
    seen = pipeline(lab, "verify", "--ledger", str(ledger), "--wait", "60")
    assert seen.code == 0, seen.output
    lines = [line.split("\t") for line in ledger.read_text().splitlines()]
    boots = [fields[1] for fields in lines if fields[0] == "load"]
    table = DeltaTable(endpoints["tables"]["events"], storage_options=options).to_pyarrow_table()
    yield Truth(lab, folder, table.filter(pc.field("boot_id").isin(boots)), options)
    store = boto3.client(
        "s3",
        endpoint_url=endpoints["s3"]["endpoint"],
        region_name=endpoints["s3"]["region"],
        aws_access_key_id=user["access_key"],
        aws_secret_access_key=user["secret_key"],
    )
    for page in store.get_paginator("list_object_versions").paginate(Bucket="iot-lakehouse", Prefix=PREFIX):
        for entry in [*page.get("Versions", []), *page.get("DeleteMarkers", [])]:
            store.delete_object(Bucket="iot-lakehouse", Key=entry["Key"], VersionId=entry["VersionId"])


def verdict(answer: Answer) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(answer.output.strip().splitlines()[-1])
    return found


def test_an_untouched_copy_passes(truth: Truth) -> None:
    answer = truth.verify(truth.folder / "ledger", truth.copy("untouched", truth.rows))
    assert answer.code == 0, answer.output
    found = verdict(answer)
    assert found["in_table"] == found["sent"] == found["rows"] > 200


def test_a_deleted_row_fails(truth: Truth) -> None:
    answer = truth.verify(truth.folder / "ledger", truth.copy("deleted", truth.rows.slice(1)))
    assert answer.code == 1, answer.output
    assert verdict(answer)["lost"] == 1


def test_a_doubled_row_fails(truth: Truth) -> None:
    doubled = pa.concat_tables([truth.rows, truth.rows.slice(0, 1)])
    answer = truth.verify(truth.folder / "ledger", truth.copy("doubled", doubled))
    assert answer.code == 1, answer.output
    assert verdict(answer)["duplicates"] == 1


def test_an_idle_producer_fails(truth: Truth) -> None:
    idle = truth.folder / "idle"
    # Connected, with a first event due only after its time: a load that has nothing to say.
    loaded = truth.load(idle, "--rate", "0.5", "--seconds", "1")
    assert verdict(loaded)["sent"] == 0, loaded.output
    answer = truth.verify(idle)
    assert answer.code == 1, answer.output
    found = verdict(answer)
    assert found["acked"] == found["sent"] == 0
    assert found["holds"] is False
