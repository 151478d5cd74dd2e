"""A pytest plugin: the extension in the folder FASTREENACT_SANITIZED takes the place of the package's."""

import importlib.util
import os
import sys
from pathlib import Path

(_found,) = Path(os.environ["FASTREENACT_SANITIZED"]).glob("_C.*.so")
_spec = importlib.util.spec_from_file_location("fastreenact._C", _found)
assert _spec is not None
assert _spec.loader is not None
sys.modules["fastreenact._C"] = _module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
