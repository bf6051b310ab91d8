"""Signs of life for systemd's watchdog (``WatchdogSec`` of a unit), where there is one."""

from __future__ import annotations

from contextlib import suppress
import os
import socket


def alive() -> None:
    """Tell systemd that the node gets on; does nothing where systemd did not start it."""
    address = os.environ.get('NOTIFY_SOCKET', '')
    if not address:
        return
    if address.startswith('@'):  # a name that is no file
        address = f'\0{address[1:]}'
    # Nobody who listens is no reason to stop.
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
        out.setblocking(False)
        out.sendto(b'WATCHDOG=1', address)
