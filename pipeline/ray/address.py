"""Where a Ray cluster is, and the token that it asks for."""

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

_PLACES = "RAY_AUTH_TOKEN, the file that RAY_AUTH_TOKEN_PATH names, ~/.ray/auth_token"
_COPY = "copy ~/.ray/auth_token from a machine that starts the cluster, or set RAY_AUTH_TOKEN_PATH to its token"


def check_ray_address(address: str) -> None:
    """Make sure that something listens at `address` (host:port or ray://host:port); Ray itself waits for very long.

    Raises:
        UserError: nothing answers within ten seconds.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except OSError as error:
        raise UserError(f"no Ray cluster answers at RAY_ADDRESS = {address}: {error}") from error


def find_cluster(given: str) -> str:
    """The address of a cluster that answers, from the value of RAY_ADDRESS; empty for a session on this machine.

    Raises:
        UserError: it is no address, or no cluster answers there.
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
            f"RAY_ADDRESS = {given} is no address of a Ray cluster: allowed are HOST:PORT, ray://HOST:PORT and auto "
            "(addresses that begin with http:// are for `ray job submit` only)"
        )
    check_ray_address(address)
    return address


def _read_settings_anew() -> None:
    """Ray reads its environment once and keeps what it found."""
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Variables that Ray and the processes it starts see while the block runs."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    _read_settings_anew()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        _read_settings_anew()


def _has_token() -> bool:
    """Whether a token is where Ray looks for one."""
    try:
        return bool(AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True))
    except ray.exceptions.AuthenticationError as error:
        named = os.environ.get("RAY_AUTH_TOKEN_PATH")
        raise UserError(f"RAY_AUTH_TOKEN_PATH = {named} cannot be read or is empty: {_COPY}") from error


def _token_place() -> str:
    """Which token Ray takes."""
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        if os.environ.get(name):
            return name
    return str(Path("~/.ray/auth_token").expanduser())


def _admits(address: str) -> bool:
    """Whether the cluster answers with the authentication that is set now.

    Raises:
        UserError: what answers is no Ray cluster.
    """
    try:
        with without_lines(b"gcs_client.cc", b"rpc_client.h"):  # Ray logs there what it raises
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
    """In the block Ray shows the cluster the token that it asks for, and none to one that asks for none.

    Ray itself decides from RAY_AUTH_MODE alone, and fails after 20 seconds where head and driver differ.

    Raises:
        UserError: the cluster wants a token, and there is none or another one.
    """
    if address.startswith("ray://"):  # a proxy, which ignores a token that it does not need
        with _environment(RAY_AUTH_MODE="token" if _has_token() else "disabled"):
            yield
        return
    with _environment(RAY_AUTH_MODE="disabled"):
        if _admits(address):
            yield
            return
    if not _has_token():
        raise UserError(f"the Ray cluster at {address} asks for a token, and there is none in {_PLACES}: {_COPY}")
    with _environment(RAY_AUTH_MODE="token"):
        if not _admits(address):
            raise UserError(f"the Ray cluster at {address} refuses the token in {_token_place()}: {_COPY}")
        yield


@contextlib.contextmanager
def with_own_token() -> Iterator[None]:
    """In the block a cluster that Ray starts admits only this program and its children.

    Ray listens on all interfaces of the machine. Left to itself it would write a token into the home folder, which
    later turns authentication on in the head of another cluster, but not in its nodes.
    """
    with _environment(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32)):
        yield
