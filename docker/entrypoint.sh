#!/bin/bash
# Start a node of kd_perception ("perception", "camera", "monitor") or any other command with ROS,
# the virtual environment and the package sourced.
set -e
source "/opt/ros/$ROS_DISTRO/setup.bash"
source /opt/venv/bin/activate
source /opt/kd_perception/setup.bash
# CUDA libraries that came as Python packages lie where the loader does not look.
for folder in /opt/venv/lib/python3*/site-packages/nvidia/*/lib; do
    if [ -d "$folder" ]; then
        export LD_LIBRARY_PATH="$folder${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
    fi
done
# The node itself and not ros2 launch, which ends with 0 when its node has died.
if [ -x "/opt/kd_perception/lib/kd_perception/$1" ]; then
    set -- "/opt/kd_perception/lib/kd_perception/$1" "${@:2}"
fi
exec "$@"
