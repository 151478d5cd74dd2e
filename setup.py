"""Builds the extension fastreenact._C with CMake and Ninja; everything else is in pyproject.toml."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import SetupError

ROOT = Path(__file__).resolve().parent


def find_program(name: str, module: str) -> str:
    """The program that the wheel `module` brings, else the one on PATH."""
    spec = importlib.util.find_spec(module)
    if spec is not None and spec.submodule_search_locations:
        for base in spec.submodule_search_locations:
            for folder in ("data/bin", "bin"):
                candidate = Path(base) / folder / name
                if candidate.is_file():
                    return str(candidate)
    found = shutil.which(name)
    if found is None:
        raise SetupError(f"{name} was not found: pip install {module}, or build with build isolation")
    return found


class CMakeBuild(build_ext):
    """Hands the one extension to CMake, which decides from the tools it finds whether CUDA is part of it."""

    def build_extension(self, ext: Extension) -> None:
        import pybind11  # here, so that metadata can be read without it

        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        # An editable install is repeated after every change: its objects stay. Others start clean.
        editable = ROOT / "build" / f"editable-{sys.implementation.cache_tag}"
        build = editable if self.editable_mode else Path(self.build_temp).resolve()
        build.mkdir(parents=True, exist_ok=True)
        cmake = find_program("cmake", "cmake")
        settings = {
            "CMAKE_BUILD_TYPE": "Debug" if self.debug else "Release",
            "CMAKE_MAKE_PROGRAM": find_program("ninja", "ninja"),
            "Python_EXECUTABLE": sys.executable,
            "pybind11_DIR": pybind11.get_cmake_dir(),
            "FASTREENACT_CUDA": os.environ.get("FASTREENACT_CUDA", "auto"),
        }
        if "FASTREENACT_CUDA_ARCHITECTURES" in os.environ:
            settings["FASTREENACT_CUDA_ARCHITECTURES"] = os.environ["FASTREENACT_CUDA_ARCHITECTURES"]
        configure = [cmake, "-S", str(ROOT), "-B", str(build), "-G", "Ninja"]
        if not self.editable_mode:
            configure.append("--fresh")  # another environment's cmake or Python may have left a cache here
        subprocess.run([*configure, *(f"-D{key}={value}" for key, value in settings.items())], check=True)
        subprocess.run([cmake, "--build", str(build), "--target", "_C"], check=True)
        shutil.copyfile(next(build.glob(f"_C*{target.suffix}")), target)


setup(ext_modules=[Extension("fastreenact._C", sources=[])], cmdclass={"build_ext": CMakeBuild})
