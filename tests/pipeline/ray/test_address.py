import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.ray.address import check_ray_address, find_cluster
from pipeline.settings import UserError
from tests.pipeline.ray.cluster import home


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1"])
def test_an_address_where_nothing_answers_is_named_at_once(address: str) -> None:
    for look in (check_ray_address, find_cluster):
        with pytest.raises(UserError, match=f"no Ray cluster answers at RAY_ADDRESS = {address}"):
            look(address)


@pytest.mark.parametrize("address", ["head", "http://127.0.0.1:8265", "head:99999", ":6379", "head:port"])
def test_malformed_addresses_are_named(address: str) -> None:
    with pytest.raises(
        UserError, match=f"RAY_ADDRESS = {address} is not the address of a Ray cluster: allowed are HOST"
    ):
        find_cluster(address)


def test_no_address_is_this_machine() -> None:
    assert find_cluster("") == find_cluster("local") == ""


def test_auto_without_a_cluster_is_named(tmp_path: Path) -> None:
    """In a separate process namespace, as `auto` finds any cluster on this machine."""
    unshare = ["unshare", "--pid", "--fork", "--mount-proc"]
    if subprocess.run([*unshare, "true"], capture_output=True).returncode != 0:
        pytest.skip("a process namespace needs root")
    script = "from pipeline.ray.address import find_cluster; find_cluster('auto')"
    environment = {**home(tmp_path / "home").environment(), "TMPDIR": str(tmp_path)}
    done = subprocess.run([*unshare, sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert "UserError: RAY_ADDRESS = auto, but no Ray cluster runs on this machine: start one" in done.stderr
