"""How node processes end."""

import os
import shutil
import subprocess
import sys

import pytest

# rclpy wakes the executors in a thread of its own when a signal comes. Here it falls asleep right
# behind that, for longer than a node needs to shut its executor down.
SLOW_WAKER = '''
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/syscall.h>
#include <unistd.h>

int rcl_trigger_guard_condition(void * condition) {
  int (*real)(void *) = (int (*)(void *))dlsym(
    dlopen("librcl.so", RTLD_LAZY | RTLD_NOLOAD), "rcl_trigger_guard_condition");
  int result = real(condition);
  if (syscall(SYS_gettid) != getpid()) {
    usleep(500000);
  }
  return result;
}
'''
NODE = '''
import os, signal, sys, threading
from rclpy.node import Node
from kd_perception.nodes import process

class Quiet(Node):
    exit_code = 0

    def __init__(self):
        super().__init__("quiet")
        # Only a signal from elsewhere finds the executor waiting.
        threading.Timer(0.5, os.kill, (os.getpid(), getattr(signal, sys.argv[1]))).start()

    def close(self):
        print("closed", flush=True)

sys.exit(process.run_node(Quiet, []))
'''


@pytest.mark.skipif(shutil.which('cc') is None, reason='needs a C compiler')
@pytest.mark.parametrize('signal', ['SIGINT', 'SIGTERM'])
def test_a_signal_ends_a_node_with_0_however_slow_its_waker_is(ros_environment, tmp_path, signal):
    source, library = tmp_path / 'waker.c', tmp_path / 'waker.so'
    source.write_text(SLOW_WAKER)
    subprocess.run(['cc', '-shared', '-fPIC', '-o', library, source, '-ldl'], check=True)
    done = subprocess.run(
        [sys.executable, '-c', NODE, signal], capture_output=True, text=True, timeout=60,
        env={**os.environ, 'LD_PRELOAD': str(library)}, check=False)
    assert (done.returncode, done.stdout) == (0, 'closed\n'), done.stderr
