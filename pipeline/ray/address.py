"""The address of a Ray cluster, and the token that it requires."""

import contextlib
import os
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

import ray
from ray._private.services import canonicalize_bootstrap_address
from ray._raylet import AuthenticationTokenLoader, Config, GcsClient  # type: ignore[attr-defined]  # short stub

from pipeline.ray.stderr import without_lines
from pipeline.settings import UserError

_TOKEN_SOURCES = "RAY_AUTH_TOKEN, the file that RAY_AUTH_TOKEN_PATH names, ~/.ray/auth_token"
_COPY = "copy ~/.ray/auth_token from a machine that starts the cluster, or set RAY_AUTH_TOKEN_PATH to its token"


def check_ray_address(address: str) -> None:
    """Check that something listens at `address` (host:port or ray://host:port); Ray itself has a very long timeout.

    Raises:
        UserError: nothing answers within ten seconds.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except OSError as error:
        raise UserError(f"no Ray cluster answers at RAY_ADDRESS = {address}: {error}") from error


def find_cluster(given: str) -> str:
    """The address of a running cluster, from the value of RAY_ADDRESS; empty for a session on this machine.

    Raises:
        UserError: it is not an address, or no cluster answers there.
    """
    if given in ("", "local"):
        return ""
    address = given
    if given == "auto":
        try:
            address = canonicalize_bootstrap_address("auto") or ""
        except ConnectionError as error:
            raise UserError(
                "RAY_ADDRESS = auto, but no Ray cluster runs on this machine: start one with `ray start --head`, set "
                "RAY_ADDRESS to HOST:PORT of its head, or leave it empty to use this machine alone"
            ) from error
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not (host and colon and port.isdecimal() and int(port) < 1 << 16 and "/" not in host):
        raise UserError(
            f"RAY_ADDRESS = {given} is not the address of a Ray cluster: allowed are HOST:PORT, ray://HOST:PORT and "
            "auto (addresses that begin with http:// are for `ray job submit` only)"
        )
    check_ray_address(address)
    return address


def _reload_environment() -> None:
    """Make Ray read its environment variables again, which it caches."""
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Set environment variables for Ray and its child processes while the block runs."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    _reload_environment()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        _reload_environment()


def _has_token() -> bool:
    """Whether Ray finds a token."""
    try:
        return bool(AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True))
    except ray.exceptions.AuthenticationError as error:
        named = os.environ.get("RAY_AUTH_TOKEN_PATH")
        raise UserError(f"RAY_AUTH_TOKEN_PATH = {named} cannot be read or is empty: {_COPY}") from error


def _token_source() -> str:
    """Variable or file of the token that Ray uses."""
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        if os.environ.get(name):
            return name
    return str(Path("~/.ray/auth_token").expanduser())


def _admits(address: str) -> bool:
    """Whether the cluster accepts the current authentication.

    Raises:
        UserError: it is not a Ray cluster.
    """
    try:
        with without_lines(b"gcs_client.cc", b"rpc_client.h"):  # Ray also logs what it raises
            GcsClient(address=address)
    except ray.exceptions.AuthenticationError:
        return False
    except ray.exceptions.RpcError as error:
        raise UserError(
            f"what answers at RAY_ADDRESS = {address} is not the head of a Ray cluster ({error}): give the address "
            "that `ray start --head` prints"
        ) from error
    return True


@contextlib.contextmanager
def with_token_for(address: str) -> Iterator[None]:
    """Set up authentication for the block: with a token if the cluster requires one, else without.

    Ray itself only looks at RAY_AUTH_MODE, and fails after 20 seconds if head and driver disagree.

    Raises:
        UserError: the cluster requires a token, and there is none or a wrong one.
    """
    if address.startswith("ray://"):  # a proxy, which ignores tokens that it does not require
        with _environment(RAY_AUTH_MODE="token" if _has_token() else "disabled"):
            yield
        return
    with _environment(RAY_AUTH_MODE="disabled"):
        if _admits(address):
            yield
            return
    if not _has_token():
        raise UserError(
            f"the Ray cluster at {address} asks for a token, and there is none in {_TOKEN_SOURCES}: {_COPY}"
        )
    with _environment(RAY_AUTH_MODE="token"):
        if not _admits(address):
            raise UserError(f"the Ray cluster at {address} refuses the token in {_token_source()}: {_COPY}")
        yield


@contextlib.contextmanager
def with_own_token() -> Iterator[None]:
    """Make a cluster that Ray starts in the block admit only this program and its children.

    Ray listens on all network interfaces. By default it would write a token into the home folder, which later turns
    authentication on in the head of another cluster, but not in its nodes.
    """
    with _environment(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32)):
        yield
