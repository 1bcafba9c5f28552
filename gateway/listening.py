"""Whether a gateway can listen where its settings say, told before anything is started."""

from __future__ import annotations

import errno
import os
import socket
import ssl
from typing import Any

from gateway.settings import Settings, SettingsError

__all__ = ["check_address", "check_tls", "shared_sockets"]


def check_address(settings: Settings) -> None:
    """Raises SettingsError where the host is unknown or not this machine's, or the port is taken or not allowed. It
    can be taken still between this look and the start."""
    host, port = settings.server.host, settings.server.port
    for family, kind, protocol, _, address in _addresses(host, port):
        try:
            with socket.socket(family, kind, protocol) as probe:
                _bind(probe, address)
        except OSError as error:
            _refuse(error, host, port)


def _addresses(host: str, port: int) -> list[Any]:
    """What `socket.getaddrinfo` says of them."""
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise SettingsError(f"server.host: {host!r} is no address of this machine") from error


def _bind(opened: socket.socket, address: Any) -> None:
    if os.name == "posix":
        # As the server does: a port whose last connections linger is free.
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if opened.family == socket.AF_INET6:
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    opened.bind(address)


def shared_sockets(host: str, port: int) -> list[socket.socket]:
    """Sockets of the host's addresses on one port (0: a free one) that other processes may have as well. They are
    bound, and take nothing until somebody listens. Raises SettingsError."""
    if not hasattr(socket, "SO_REUSEPORT"):
        raise SettingsError("server.workers: this system can't share a port between processes; expected 1")
    sockets: list[socket.socket] = []
    for family, kind, protocol, _, address in _addresses(host, port):
        opened = socket.socket(family, kind, protocol)
        try:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            # The second address has the port that the first one got.
            _bind(opened, (address[0], port or (sockets[0].getsockname()[1] if sockets else 0), *address[2:]))
        except OSError as error:
            opened.close()
            _refuse(error, host, port)
        else:
            sockets.append(opened)
    return sockets


def _refuse(error: OSError, host: str, port: int) -> None:
    if error.errno == errno.EADDRINUSE:
        words = f"server.port: {host}:{port} is taken by another process; stop it, or choose a port with --port"
    elif error.errno == errno.EACCES:
        words = f"server.port: this user may not listen on {port}; choose one above 1023 with --port"
    elif error.errno == errno.EADDRNOTAVAIL:
        words = f"server.host: {host!r} is no address of this machine"
    else:
        return  # such as an address family that is switched off, which the server passes over too
    raise SettingsError(words) from error


def check_tls(settings: Settings) -> None:
    """Raises SettingsError where the certificate or its key can't be read, or they don't belong together."""
    certificate, key = settings.server.tls_cert, settings.server.tls_key
    if certificate is None or key is None:
        return
    for name, path in (("tls_cert", certificate), ("tls_key", key)):
        try:
            with open(path, "rb"):
                pass
        except OSError as error:
            raise SettingsError(f"server.{name}: {path}: {error.strerror}") from error
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=lambda: "")
    except ssl.SSLError as error:
        raise SettingsError(
            f"server.tls_cert: expected PEM files of a certificate and its own key, without a passphrase: {error}"
        ) from error
