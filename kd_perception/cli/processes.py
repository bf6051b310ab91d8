"""Which of several processes this is, where torchrun or accelerate has started more than one."""

from __future__ import annotations

import os

from kd_perception.errors import ConfigError


def process_rank(device: str = 'cpu') -> tuple[int, int, str]:
    """
    Return this process's number, how many there are, and its own device.

    :param device: ``cuda`` becomes ``cuda:<local rank>``; a numbered one stays.
    :raises ConfigError: when the environment makes no sense.
    """
    values = [os.environ.get(name, default) for name, default in
              (('RANK', '0'), ('WORLD_SIZE', '1'), ('LOCAL_RANK', '0'))]
    if not all(v.isdecimal() for v in values) or not int(values[0]) < int(values[1]):
        raise ConfigError(f'RANK={values[0]}, WORLD_SIZE={values[1]}, LOCAL_RANK={values[2]} in '
                          'the environment: start several processes with torchrun')
    rank, world, local = map(int, values)
    return rank, world, f'cuda:{local}' if device == 'cuda' and world > 1 else device
