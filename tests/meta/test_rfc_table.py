"""Every call, record and operation of the RFC has a counterpart that exists."""

import importlib
import importlib.util
import re
from pathlib import Path

import attrs
import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "rfc-v1.md").read_text(encoding="utf-8")

#: The calls of librte_emudev and the operations of emu_dev_ops, as the RFC's headers have them.
CALLS = """
    rte_emu_dev_allocate rte_emu_dev_release rte_emu_dev_allocated rte_emu_dev_configure
    rte_emu_dev_start rte_emu_dev_stop rte_emu_dev_close rte_emu_subscribe_event
    rte_emu_unsubscribe_event rte_emu_get_dev_info rte_emu_get_mem_table rte_emu_get_queue_info
    rte_emu_get_irq_info rte_emu_get_db_info rte_emu_get_attr rte_emu_set_attr rte_emu_region_map
    rte_vfio_user_register rte_vfio_user_unregister rte_vfio_user_start rte_vfio_user_stop
    rte_vfio_get_sock_addr rte_vfio_user_get_mem_table rte_vfio_user_get_irq
    rte_vfio_user_set_dev_info rte_vfio_user_set_reg_info rte_vfio_user_set_irq_info
    rte_vfio_user_set_resource new_device destroy_device update_status
"""
OPERATIONS = """
    start, stop, configure, close, get info, subscribe event, unsubscribe event, memory table,
    queue info, interrupt info, doorbell info, get attribute, set attribute, region map
"""
RECORDS = (
    "device info, queue info, interrupt info, doorbell info, event channel, attribute info, device"
)


def rows():
    """First cell, dotted name and the names in the third cell, of each row with a counterpart."""
    for line in PAGE.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if len(cells) > 1 and (match := re.match(r"`(emudev_\w+\.[\w.]+)`$", cells[1])):
            fields = re.findall(r"`(\w+)`", cells[2]) if len(cells) == 3 else []
            yield cells[0], match[1], fields


def resolve(dotted):
    parts = dotted.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            found = getattr(found, part)
        return found
    raise AssertionError(f"{dotted} can't be imported")


@pytest.mark.parametrize(("cell", "dotted", "fields"), list(rows()))
def test_the_counterpart_exists(cell, dotted, fields):
    package = dotted.partition(".")[0]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    found = resolve(dotted)
    assert (found.__doc__ or "").strip() or dotted.endswith("__iter__")
    if "`" in cell or not fields:
        return
    known = set(dir(found))
    if attrs.has(found):
        known |= {field.name for field in attrs.fields(found)}
    if hasattr(found, "__members__"):
        known |= set(found.__members__)
    if "Attributes:" in found.__doc__:
        known |= set(re.findall(r"\w+", found.__doc__))
    assert set(fields) <= known


def test_no_call_operation_or_record_is_forgotten():
    cells = [re.sub(r"`|\(.*", "", cell) for cell, _, _ in rows()]
    listed = [re.split(r",\s*", text.strip()) for text in (OPERATIONS, RECORDS)]
    for name in [*CALLS.split(), *listed[0], *listed[1]]:
        assert name in cells, name


def test_the_command_line_of_the_rfc_is_on_the_page():
    for text in ("emu_iavf,path=SOCKET,id=N", "avf_emu_id=N", "avf_emudev_N"):
        assert text in PAGE
