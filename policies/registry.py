"""One registry of policies: kind and name to the factory that builds them from parameters."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Literal, TypeVar, get_args, get_type_hints

PartKind = Literal["filter", "scorer", "picker", "policy", "order"]
Factory = Callable[..., object]
F = TypeVar("F", bound=Factory)

ENTRY_POINT_GROUP = "penstock.policies"
KINDS: tuple[PartKind, ...] = get_args(PartKind)

_factories: dict[tuple[PartKind, str], Factory] = {}


class PolicyError(ValueError):
    """A policy is unknown or has wrong parameters, or its plugin is broken; the message says which,
    and what would be right."""


def register(kind: PartKind, name: str) -> Callable[[F], F]:
    """Class or function decorator: makes the factory known as ``name`` among its ``kind``.

    The factory's own signature is the parameter schema: parameters with a default are optional,
    ``bool``, ``int``, ``float`` and ``str`` annotations are checked, and a ``ValueError`` that it
    raises becomes a PolicyError. Registering another factory under a taken name is a PolicyError.
    """
    if kind not in KINDS:
        raise PolicyError(f"unknown policy kind {kind!r}: use one of {', '.join(KINDS)}")

    def decorate(factory: F) -> F:
        known = _factories.get((kind, name))
        if known is not None and known is not factory:
            raise PolicyError(
                f"{kind} {name!r} is already registered by {known.__module__}:"
                f" {factory.__module__} must use another name"
            )
        _factories[kind, name] = factory
        return factory

    return decorate


def names(kind: PartKind) -> list[str]:
    """Registered names of a kind, sorted."""
    return sorted(name for k, name in _factories if k == kind)


def about(kind: PartKind, name: str) -> str:
    """One line about a factory for people: the first sentence of its docstring, "" without one.
    Raises KeyError for an unknown name."""
    factory = _factories[kind, name]
    text = inspect.cleandoc(factory.__doc__ or "").partition("\n\n")[0]
    # A dataclass makes itself a docstring that begins with its signature.
    if text.startswith(f"{getattr(factory, '__name__', '')}("):
        return ""
    return " ".join(text.replace("``", "").split()).partition(". ")[0].removesuffix(".")


def parameters(kind: PartKind, name: str) -> list[str]:
    """Names of the parameters of a factory; [] for an unknown one."""
    factory = _factories.get((kind, name))
    return [] if factory is None else list(inspect.signature(factory).parameters)


def build(kind: PartKind, name: str, params: Mapping[str, object] | None = None) -> object:
    """Build one policy part. Raises PolicyError naming kind, name, parameter and what is right."""
    factory = _factories.get((kind, name))
    if factory is None:
        raise PolicyError(
            f"unknown {kind} {name!r}: use one of {', '.join(names(kind)) or '(none registered)'}"
        )
    arguments = _checked(f"{kind} {name!r}", factory, params or {})
    try:
        return factory(**arguments)
    except (ValueError, TypeError) as error:
        raise PolicyError(f"{kind} {name!r}: {error}") from error


def load_plugins(points: Iterable[EntryPoint] | None = None) -> list[str]:
    """Load third-party policies and return their entry-point names.

    An entry point of group ``penstock.policies`` names a module, which registers when imported,
    or a callable, which registers when called. Raises PolicyError naming the plugin that fails.
    Called once by the composition root; nothing in ``policies`` calls it.
    """
    loaded: list[str] = []
    for point in entry_points(group=ENTRY_POINT_GROUP) if points is None else points:
        try:
            target: object = point.load()
            if callable(target):
                target()
        except Exception as error:
            origin = f" of distribution {point.dist.name!r}" if point.dist else ""
            raise PolicyError(
                f"policy plugin {point.name!r} ({point.value}){origin} cannot be loaded:"
                f" {type(error).__name__}: {error}"
            ) from error
        if not isinstance(target, ModuleType) and not callable(target):
            raise PolicyError(
                f"policy plugin {point.name!r} ({point.value}) must name a module or a callable,"
                f" not {target!r}"
            )
        loaded.append(point.name)
    return loaded


def _checked(what: str, factory: Factory, params: Mapping[str, object]) -> dict[str, object]:
    signature = inspect.signature(factory)
    hints = get_type_hints(factory.__init__ if inspect.isclass(factory) else factory)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    accepted = {
        p.name: p
        for p in signature.parameters.values()
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    }
    for unknown in params.keys() - accepted.keys():
        if not takes_any:
            right = f"it takes {', '.join(accepted)}" if accepted else "it takes no parameters"
            raise PolicyError(f"{what}: unknown parameter {unknown!r}; {right}")
    for parameter in accepted.values():
        if parameter.default is parameter.empty and parameter.name not in params:
            raise PolicyError(f"{what}: parameter {parameter.name!r} is missing")
    return {
        name: _typed(f"{what}: parameter {name!r}", hints.get(name), value)
        for name, value in params.items()
    }


def _typed(what: str, expected: object, value: object) -> object:
    """``value`` if its type is as annotated; ints pass as floats, booleans never as numbers."""
    if expected is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value):  # type: ignore[arg-type]
            raise PolicyError(f"{what} must be a finite number, got {value!r}")
        return float(value)  # type: ignore[arg-type]
    if expected is int and (not isinstance(value, int) or isinstance(value, bool)):
        raise PolicyError(f"{what} must be a whole number, got {value!r}")
    if expected is bool and not isinstance(value, bool):
        raise PolicyError(f"{what} must be true or false, got {value!r}")
    if expected is str and not isinstance(value, str):
        raise PolicyError(f"{what} must be a string, got {value!r}")
    return value
