"""Options that several verbs share, as one dataclass: each field is an option of every verb that takes the set."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, get_type_hints

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["with_option_set"]

P = ParamSpec("P")
Set = TypeVar("Set", bound="DataclassInstance")


def with_option_set(
    kind: type[Set],
) -> Callable[[Callable[Concatenate[Set, P], None]], Callable[..., None]]:
    """The command with every field of `kind` as an option of its own, behind those that it has itself.

    Typer reads options from a function's signature: this one is put together from both.
    """

    def decorate(command: Callable[Concatenate[Set, P], None]) -> Callable[..., None]:
        hints = get_type_hints(command, include_extras=True)
        first, *own = inspect.signature(command).parameters.values()
        common_hints = get_type_hints(kind, include_extras=True)
        common = [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if field.default is MISSING else field.default,
                annotation=common_hints[field.name],
            )
            for field in fields(kind)
        ]

        @functools.wraps(command)
        def flat(*args: P.args, **arguments: P.kwargs) -> None:
            taken: dict[str, Any] = {field.name: arguments.pop(field.name) for field in fields(kind)}
            command(kind(**taken), *args, **arguments)

        itself = [
            one.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[one.name])
            for one in own
            if one is not first
        ]
        flat.__signature__ = inspect.Signature([*itself, *common])  # type: ignore[attr-defined]
        return flat

    return decorate
