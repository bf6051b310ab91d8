#!/usr/bin/env bash
# Make .venv: the package, its dependencies at tested versions, and ROS 2 where none is sourced.
# Does nothing when it is up to date. PYTHON=python3.12 chooses another interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
venv=.venv
extras=all,hf,test,dev
if [ -n "${ROS_DISTRO:-}" ]; then
    constraints=constraints-ros.txt
    venv_options=(--system-site-packages)   # rclpy and the messages come from the sourced ROS
    ros=()
else
    constraints=constraints-pip.txt
    venv_options=()
    ros=(-r tools/pip_ros/requirements.txt)
fi

stamp=$venv/.setup
fingerprint=$(cat "$constraints" setup.py tools/setup.sh tools/pip_ros/requirements.txt \
    | "$python" -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())' \
    2>/dev/null || true)
fingerprint="$fingerprint ${ROS_DISTRO:-wheels} $PWD"
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$fingerprint" ]; then
    exit 0
fi

missing=()
if ! command -v "$python" >/dev/null; then
    missing+=(python3 python3-venv python3-dev)
else
    if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
        echo "setup: $("$python" --version) is too old: Python 3.10 or newer is needed;" \
            'set PYTHON=/path/to/python3' >&2
        exit 2
    fi
    "$python" -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
    "$python" -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")))' \
        || missing+=(python3-dev)
    "$python" -c 'import ctypes
for name in ("libEGL.so.1", "libGL.so.1"):
    ctypes.CDLL(name)' 2>/dev/null || missing+=(libegl1 libgl1 libgl1-mesa-dri)
fi
command -v g++ >/dev/null || missing+=(g++)
if [ -n "${ROS_DISTRO:-}" ] && ! "$python" -c 'import vision_msgs' 2>/dev/null; then
    missing+=("ros-$ROS_DISTRO-vision-msgs")
fi
if [ ${#missing[@]} -gt 0 ]; then
    echo "setup: system packages are missing; install them with:" >&2
    echo "  sudo apt-get install ${missing[*]}" >&2
    exit 2
fi

echo "setup: installing into $venv (some minutes and about 6 GB the first time)"
[ -x "$venv/bin/python" ] || "$python" -m venv "${venv_options[@]}" "$venv"
pip=("$venv/bin/python" -m pip --disable-pip-version-check -q)
"${pip[@]}" install -U 'pip>=23' 'setuptools<81' wheel
# torch first: the rest then finds it satisfied and adds no second build.
"${pip[@]}" install -c "$constraints" torch torchvision
"${pip[@]}" install -c "$constraints" "${ros[@]}" -e ".[$extras]"
if [ -z "${ROS_DISTRO:-}" ]; then
    echo 'setup: compiling vision_msgs for the ROS wheels'
    "$venv/bin/python" -m tools.pip_ros
    "${pip[@]}" check
fi
echo "$fingerprint" > "$stamp"
