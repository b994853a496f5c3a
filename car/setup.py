"""Build the kernels of the engine and the rules as plain shared libraries, independent of the Python version. The rest
is in pyproject.toml.

A digest of the sources in each library lets `drivefoundry_car.engine` and `.triggers.watch` detect changed sources;
`pip install -e car` then rebuilds them.
"""

import hashlib
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, LinkError

SOURCES = {"engine": ("kernels.cpp", "forward.h"), "triggers/watch": ("kernels.cpp", "rules.h", "around.h")}
# No contraction of a * b + c: results must not depend on whether a CPU has fused multiply-add.
FLAGS = ["-std=c++17", "-O3", "-g0", "-ffp-contract=off", "-fvisibility=hidden", "-pthread", "-Wall", "-Wno-psabi"]


class BuildKernels(build_ext):
    def build_extension(self, ext):
        try:
            super().build_extension(ext)
        except (CompileError, LinkError) as e:
            raise SystemExit(
                f"drivefoundry-car: its kernels did not build ({e}); a C++17 compiler is needed, g++ 11 or newer "
                "(Debian: apt install g++; Fedora: dnf install gcc-c++)"
            ) from None

    def get_ext_filename(self, fullname):
        return f"{fullname.replace('.', '/')}.so"


class AnyPython(bdist_wheel):
    def get_tag(self):
        return "py3", "none", super().get_tag()[2]


def kernels(part: str) -> Extension:
    """Extension that builds the library of one part of the car."""
    files = [f"src/drivefoundry_car/{part}/{name}" for name in SOURCES[part]]
    here = Path(__file__).parent
    digest = hashlib.sha256(b"".join((here / name).read_bytes() for name in files)).hexdigest()
    return Extension(
        f"drivefoundry_car.{part.replace('/', '.')}._kernels",
        files[:1],
        depends=files,
        language="c++",
        define_macros=[(f"{Path(part).name.upper()}_SOURCE", f'"{digest}"')],
        extra_compile_args=FLAGS,
        extra_link_args=["-pthread", "-s"],
    )


setup(ext_modules=[kernels(part) for part in SOURCES], cmdclass={"build_ext": BuildKernels, "bdist_wheel": AnyPython})
