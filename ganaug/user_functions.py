"""What users hand over by name: ``package.module:function``, imported and called without arguments."""

import importlib
import os
import sys
from typing import Any

from ganaug.errors import UserInputError


def call_user_function(name: str, expected: str = "package.module:function") -> Any:
    """Imports ``package.module``, calls ``function()`` and returns what it returns.

    The working directory is searched too, as ``python -m`` does, so that a module beside the user is found.

    Args:
        name: ``package.module:function``.
        expected: What the message says was expected, when the import fails.

    Raises:
        UserInputError: If the function cannot be imported, or fails.
    """
    module_name, _, function_name = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except Exception as error:  # importing runs the user's module, which may raise anything
        raise UserInputError(f"cannot import {name!r}: {type(error).__name__}: {error}; expected {expected}") from error
    try:
        return function()
    except Exception as error:
        raise UserInputError(f"{name} failed: {type(error).__name__}: {error}") from error
