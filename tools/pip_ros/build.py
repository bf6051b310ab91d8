"""
From a folder of ``.msg`` files to compiled Python bindings, with the generators of the ROS wheels.

The wheels carry every generator and every header that a ROS workspace would use, but no CMake
glue. The order is that of ``rosidl_generate_interfaces``: IDL, type description, C structures,
type supports (dispatching, Fast DDS, introspection), Python. Introspection is not optional:
without it a subscription cannot be created.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import concurrent.futures
from contextlib import redirect_stdout
from dataclasses import dataclass
import io
import json
import os
from pathlib import Path
import shutil
import subprocess
import sysconfig
from typing import Any

TYPE_SUPPORTS = ('rosidl_typesupport_c', 'rosidl_typesupport_fastrtps_c',
                 'rosidl_typesupport_introspection_c')
# Generators whose C output needs a header with visibility macros, made from a template.
VISIBILITY = ('rosidl_generator_c', 'rosidl_typesupport_introspection_c',
              'rosidl_typesupport_fastrtps_c')


class BuildError(Exception):
    """The bindings cannot be built; the message is one line that says what to do."""


@dataclass(frozen=True)
class Sources:
    """
    What the generators wrote, and where the compiler puts its output.

    :param package: name of the message package.
    :param dependencies: message packages that it uses.
    :param root: working folder: ``idl/``, ``td/``, ``c/<package>/``, ``py/<package>/``, ``lib/``.
    """

    package: str
    dependencies: tuple[str, ...]
    root: Path

    @property
    def c(self) -> Path:
        """Return the folder of generated C and C++ files."""
        return self.root / 'c' / self.package

    @property
    def python(self) -> Path:
        """Return the generated Python package."""
        return self.root / 'py' / self.package

    @property
    def libraries(self) -> Path:
        """Return the folder of compiled libraries."""
        return self.root / 'lib'


def check_tools() -> None:
    """
    Make sure that a C and a C++ compiler and Python's headers are there.

    :raises BuildError: naming the packages to install.
    """
    missing = [tool for tool in ('gcc', 'g++') if shutil.which(tool) is None]
    if not (Path(sysconfig.get_paths()['include']) / 'Python.h').is_file():
        missing.append('python3-dev')
    if missing:
        raise BuildError('compiling messages needs what is missing here; install it with: '
                         f'sudo apt-get install {" ".join(missing)}')


def generate(package: str, folder: Path, root: Path, dependencies: Sequence[str],
             prefix: Path) -> Sources:
    """
    Run all generators over ``folder/msg/*.msg``.

    :param root: working folder, empty.
    :param prefix: where the wheels put ``share/`` (the environment).
    """
    # They exist only where the wheels are installed, so not at the top of the file.
    from rosidl_adapter.msg import convert_msg_to_idl
    from rosidl_generator_c import generate_c
    from rosidl_generator_py import generate_py
    from rosidl_generator_type_description import generate_type_hash
    from rosidl_typesupport_c import generate_c as generate_dispatch
    from rosidl_typesupport_fastrtps_c import generate_typesupport_fastrtps_c
    from rosidl_typesupport_introspection_c import generate_c as generate_introspection

    out = Sources(package, tuple(dependencies), root)
    share = prefix / 'share'
    messages = sorted((folder / 'msg').glob('*.msg'))
    idl = root / 'idl'
    with redirect_stdout(io.StringIO()):  # it prints two lines per message
        for message in messages:
            convert_msg_to_idl(folder, package, Path('msg') / message.name, idl / 'msg')
    common: dict[str, Any] = {
        'package_name': package,
        'idl_tuples': [f'{idl}:msg/{m.stem}.idl' for m in messages],
        'ros_interface_dependencies': [f'{d}:{f}' for d in dependencies
                                       for f in sorted((share / d / 'msg').glob('*.idl'))],
        'target_dependencies': [],
    }

    def arguments(name: str, target: Path, **more: Any) -> str:
        path = root / f'{name}.json'
        path.write_text(json.dumps({**common, 'output_dir': str(target),
                                    'template_dir': str(share / name / 'resource'), **more}))
        return str(path)

    described = root / 'td'
    generate_type_hash(arguments('rosidl_generator_type_description', described,
                                 include_paths=[f'{d}:{share / d}' for d in dependencies]))
    generate_c(arguments('rosidl_generator_c', out.c, type_description_tuples=[
        f'msg/{m.stem}.idl:{described}/msg/{m.stem}.json' for m in messages]), [])
    generate_dispatch(arguments('rosidl_typesupport_c', out.c), list(TYPE_SUPPORTS[1:]))
    generate_introspection(arguments('rosidl_typesupport_introspection_c', out.c))
    generate_typesupport_fastrtps_c(arguments('rosidl_typesupport_fastrtps_c', out.c))
    out.python.mkdir(parents=True)
    (out.python / '__init__.py').touch()
    generate_py(arguments('rosidl_generator_py', out.python), list(TYPE_SUPPORTS))
    for generator in VISIBILITY:
        header = f'{generator}__visibility_control.h'
        template = (share / generator / 'resource' / f'{header}.in').read_text()
        (out.c / 'msg' / header).write_text(
            template.replace('@PROJECT_NAME@', package)
            .replace('@PROJECT_NAME_UPPER@', package.upper()))
    return out


def compile_package(sources: Sources, prefix: Path) -> None:
    """
    Compile and link the generated files: libraries to ``lib/``, extensions to the Python package.

    :raises BuildError: with the compiler's first error.
    """
    import numpy

    package, message = sources.package, sources.c / 'msg'
    includes = [sources.root / 'c', sysconfig.get_paths()['include'], numpy.get_include(),
                prefix / 'include', *(d for d in (prefix / 'include').iterdir() if d.is_dir())]
    flags = ['-O2', '-fPIC', '-w', *(f'-I{i}' for i in includes)]
    details = sorted((message / 'detail').glob('*.c'))
    groups = {
        'rosidl_generator_c': [s for s in details if not s.name.endswith('__type_support.c')],
        'rosidl_typesupport_introspection_c':
            [s for s in details if s.name.endswith('__type_support.c')],
        'rosidl_typesupport_fastrtps_c':
            sorted((message / 'detail').glob('*__type_support_c.cpp')),
        'rosidl_typesupport_c': sorted(message.glob('*__type_support.cpp')),
        'rosidl_generator_py': sorted((sources.python / 'msg').glob('*_s.c')),
    }
    entries = {s.name.split('.ep.')[1].removesuffix('.c'): s
               for s in sources.python.glob('*_s.ep.*.c')}
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        every = [s for group in groups.values() for s in group] + list(entries.values())
        objects = dict(zip(every, pool.map(lambda s: _compile(s, flags), every)))

    def own(*kinds: str) -> list[str]:
        return [f'{package}__{kind}' for kind in kinds]

    def theirs(kind: str) -> list[str]:
        return [f'{d}__{kind}' for d in sources.dependencies]

    c, python = 'rosidl_generator_c', 'rosidl_generator_py'
    dispatch, fast, introspection = TYPE_SUPPORTS
    runtime = ['rosidl_runtime_c', 'rcutils']
    needs = {  # in the order in which they link
        c: [*theirs(c), *runtime],
        fast: [*own(c), *theirs(c), *theirs(fast), fast, 'rosidl_typesupport_fastrtps_cpp',
               'fastcdr', 'rmw', *runtime],
        introspection: [*own(c), *theirs(c), *theirs(introspection), introspection, *runtime],
        dispatch: [*own(c, fast, introspection), dispatch, *runtime],
        python: [*own(c), *theirs(python), *theirs(c), *runtime],
    }
    sources.libraries.mkdir()
    search = [sources.libraries, prefix / 'lib']
    for kind, libraries in needs.items():
        _link(sources.libraries / f'lib{package}__{kind}.so',
              [objects[s] for s in groups[kind]], libraries, search, '$ORIGIN')
    suffix = sysconfig.get_config_var('EXT_SUFFIX')
    for support, source in entries.items():
        kinds = dict.fromkeys((python, support, dispatch, c))
        # From <prefix>/lib/pythonX.Y/site-packages/<package> to <prefix>/lib.
        _link(sources.python / f'{package}_s__{support}{suffix}', [objects[source]],
              [*own(*kinds), dispatch, 'rosidl_runtime_c'], search, '$ORIGIN/../../..')


def _compile(source: Path, flags: Iterable[str]) -> Path:
    target = source.with_name(source.name + '.o')
    compiler = ['g++', '-std=gnu++17'] if source.suffix == '.cpp' else ['gcc', '-std=gnu11']
    _run([*compiler, *flags, '-c', str(source), '-o', str(target)], source.name)
    return target


def _link(target: Path, objects: Sequence[Path], libraries: Sequence[str],
          search: Sequence[Path], rpath: str) -> None:
    _run(['g++', '-shared', '-o', str(target), *map(str, objects),
          *(f'-L{folder}' for folder in search), f'-Wl,-rpath,{rpath}',
          *(f'-l{library}' for library in libraries)], target.name)


def _run(command: Sequence[str], what: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.splitlines()
        first = next((line for line in lines if 'error' in line or 'cannot find' in line),
                     lines[0] if lines else f'{command[0]} exited with {done.returncode}')
        raise BuildError(f'{what} does not compile: {first}')
