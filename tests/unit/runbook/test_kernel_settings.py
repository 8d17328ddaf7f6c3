"""Settings of the kernel, with a folder that stands for what the kernel shows, and once with the kernel itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.streamops.runbook.plugins.module_utils import kernel_settings
from ansible_collections.streamops.runbook.plugins.module_utils.errors import Refused, ServiceError

WANTED = {"vm.max_map_count": 262144, "net.ipv4.tcp_rmem": "4096  87380 6291456"}


class Machine:
    """A kernel's settings, and the file of the next boot."""

    def __init__(self, folder: Path) -> None:
        self.kernel = folder / "sys"
        self.kept = folder / "sysctl.d" / "60-streamops.conf"
        for name, value in {"vm/max_map_count": "65530", "net/ipv4/tcp_rmem": "4096\t87380\t6291456"}.items():
            (self.kernel / name).parent.mkdir(parents=True, exist_ok=True)
            (self.kernel / name).write_text(f"{value}\n")

    def settle(
        self, wanted: dict[str, object], required: tuple[str, ...] = (), *, plan_only: bool = False
    ) -> kernel_settings.Settled:
        return kernel_settings.settle(wanted, required, self.kept, self.kernel, plan_only=plan_only)

    def value(self, name: str) -> str:
        return (self.kernel / name.replace(".", "/")).read_text().strip()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_what_differs_is_set_and_kept_once_and_a_plan_touches_nothing(machine: Machine) -> None:
    expected = ["set vm.max_map_count from 65530 to 262144", f"write {machine.kept}"]
    assert machine.settle({**WANTED}, plan_only=True).did == expected
    assert (machine.value("vm.max_map_count"), machine.kept.exists()) == ("65530", False)
    assert machine.settle({**WANTED}).did == expected
    # The stand-in is overwritten from its beginning, as the kernel is, and the longer value covers the former one.
    assert machine.value("vm.max_map_count") == "262144"
    assert machine.kept.read_text().splitlines()[1:] == [
        "net.ipv4.tcp_rmem = 4096 87380 6291456",
        "vm.max_map_count = 262144",
    ]
    assert machine.settle({**WANTED}) == kernel_settings.Settled()


def test_what_nobody_wants_any_more_is_not_kept(machine: Machine) -> None:
    machine.settle({**WANTED})
    assert machine.settle({}).did == [f"remove {machine.kept}"]
    assert not machine.kept.exists()
    assert machine.settle({}) == kernel_settings.Settled()


def test_a_setting_that_this_kernel_lacks_is_told_and_not_kept_and_refused_where_it_is_required(
    machine: Machine,
) -> None:
    wanted: dict[str, object] = {"vm.max_map_count": 262144, "vm.of_another_kernel": 1}
    with pytest.raises(Refused, match="of_another_kernel: found nothing; this kernel has no such setting"):
        machine.settle(wanted, ("vm.of_another_kernel",))
    # Nothing was set before all that is required was known to be possible.
    assert (machine.value("vm.max_map_count"), machine.kept.exists()) == ("65530", False)
    settled = machine.settle(wanted)
    assert settled.skipped == ["sysctl vm.of_another_kernel=1: this kernel has no such setting"]
    assert "another" not in machine.kept.read_text()
    assert machine.settle(wanted).did == []


def test_a_setting_that_the_kernel_keeps_for_itself_is_told_with_what_it_is_there() -> None:
    # Of the kernel itself: nobody may change which release it is.
    kernel = Path("/proc/sys")
    release = (kernel / "kernel" / "osrelease").read_text().strip()
    kept = Path("/nonexistent/kept.conf")
    settled = kernel_settings.settle({"kernel.osrelease": 1}, (), kept, kernel, plan_only=True)
    assert settled.did == []
    assert settled.skipped == [
        f"sysctl kernel.osrelease=1: this machine may not change it (Permission denied), here it is {release}"
    ]


@pytest.mark.parametrize(
    ("wanted", "required", "named"),
    [
        ({"vm/max_map_count": 1}, (), "service_sysctls: found 'vm/max_map_count', expected names as"),
        ({"vm..max_map_count": 1}, (), "service_sysctls: found"),
        ({"vm.max_map_count": "many"}, (), "service_sysctls.vm.max_map_count: found 'many', expected a whole number"),
        ({"vm.max_map_count": True}, (), "service_sysctls.vm.max_map_count: found True"),
        ({"vm.max_map_count": 1}, ("vm.swappiness",), "service_sysctls_required: found vm.swappiness, expected one of"),
    ],
)
def test_what_is_no_setting_is_refused_by_name(
    machine: Machine, wanted: dict[str, object], required: tuple[str, ...], named: str
) -> None:
    with pytest.raises(Refused, match=named.replace("(", "[(]")):
        machine.settle(wanted, required)


def test_a_file_that_can_not_be_written_is_named(machine: Machine) -> None:
    machine.kept.parent.write_text("no folder\n")
    with pytest.raises(ServiceError, match=r"60-streamops[.]conf: found"):
        machine.settle({**WANTED})
