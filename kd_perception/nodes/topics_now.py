"""
A short look at what is published in the user's domain, in a process of its own.

The bootstrap of ROS from wheels replaces the process that imports it, so a command asks a child:
``python -m kd_perception.nodes.topics_now 3.0 /camera/image`` prints JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import json
import subprocess
import sys
import time

from kd_perception.errors import GraphError
from kd_perception.paths import child_environment, module_command

_START_S = 60.0


def topics_now(wanted: Sequence[str], patience_s: float) -> dict[str, list[str]]:
    """
    Return the types of every topic that has a publisher.

    :param wanted: full names; the look ends when all are there. ``a|b`` is there with either.
    :param patience_s: how long they are waited for.
    :raises GraphError: when ROS cannot be used.
    """
    command = module_command('kd_perception.nodes.topics_now', str(patience_s), *wanted)
    try:
        done = subprocess.run(command, env=child_environment(), capture_output=True, text=True,
                              check=False, timeout=patience_s + _START_S)
    except subprocess.TimeoutExpired:
        raise GraphError(f'the ROS graph did not show itself in {_START_S:g} s') from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ['it said nothing'])[-1]
        raise GraphError(f'the ROS graph cannot be looked at: {last}')
    found: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    return found


def published(node: object) -> Mapping[str, Sequence[str]]:
    """Return the types of the topics that somebody publishes, as a node sees them."""
    return {name: types
            for name, types in node.get_topic_names_and_types()  # type: ignore[attr-defined]
            if node.count_publishers(name)}  # type: ignore[attr-defined]


def main() -> int:
    """Print what is published."""
    import rclpy

    patience_s, wanted = float(sys.argv[1]), set(sys.argv[2:])
    rclpy.init(args=[])
    node = rclpy.create_node('kd_perception_look', start_parameter_services=False,
                             enable_rosout=False)
    deadline = time.monotonic() + patience_s
    found = published(node)
    while time.monotonic() < deadline and not (
            wanted and all(set(w.split('|')) & set(found) for w in wanted)):
        time.sleep(0.05)
        found = published(node)
    node.destroy_node()
    rclpy.shutdown()
    print(json.dumps({name: list(types) for name, types in sorted(found.items())}))
    return 0


if __name__ == '__main__':
    sys.exit(main())
