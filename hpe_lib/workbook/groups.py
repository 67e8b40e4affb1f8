"""Parameters that travel together: frozen dataclasses, built once from a stage's parameters."""

from dataclasses import fields
from typing import TypeVar

Group = TypeVar("Group")


def build(group: type[Group], parameters: dict) -> Group:
    """A dataclass made from those parameters that have the names of its fields.

    TypeError if a field without a default is not among them.
    """
    names = [field.name for field in fields(group) if field.name in parameters]
    return group(**{name: parameters[name] for name in names})
