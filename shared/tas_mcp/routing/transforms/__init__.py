"""Transforms: what a target gets instead of the event as it came.

One module for each language (``places`` for paths, ``templates`` for Liquid, ``expressions`` for JSONata); ``budget`` bounds what
they may cost; ``transform`` puts them in order.
"""

from tas_mcp.routing.transforms.templates import is_template
from tas_mcp.routing.transforms.transform import Output, Reshape, Transform, TransformError, TransformFailed, compile_transform

__all__ = ["Output", "Reshape", "Transform", "TransformError", "TransformFailed", "compile_transform", "is_template"]
