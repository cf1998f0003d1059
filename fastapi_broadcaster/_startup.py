"""What is checked of an app's routes before its broadcaster connects."""

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from fastapi.dependencies.models import Dependant
from fastapi.routing import iter_route_contexts

from fastapi_broadcaster._capabilities import no_log
from fastapi_broadcaster.broadcaster import Broadcaster
from fastapi_broadcaster.channels import Channel, ChannelTemplate
from fastapi_broadcaster.dependencies import (
    ChannelDependency,
    SubscriberDependency,
    get_broadcaster,
)
from fastapi_broadcaster.subscribers import Subscriber

Ours = ChannelDependency[Any] | SubscriberDependency[Any]


def check_routes(broadcaster: Broadcaster, app: Any) -> None:
    """Raise for a route that could never work with this broadcaster.

    `UnsupportedError` for history without a log, `ChannelNameError` for a fixed part that the
    backend cannot carry, `TypeError` where `Annotated[Channel[X], ...]` is not the template's X or
    no `Channel` at all.
    """
    for one in _apps(app):
        default = getattr(getattr(one, "state", None), "broadcaster", broadcaster)
        overridden = get_broadcaster in getattr(one, "dependency_overrides", {})
        for path, dependant in _dependants(one):
            for function, name, dependency in _ours(dependant):
                _check_type(path, function, name, dependency)
                host = dependency.broadcaster or (None if overridden else default)
                if host is broadcaster:
                    _check_backend(path, broadcaster, dependency)


def _apps(app: Any) -> Iterator[Any]:
    """The app and what is mounted in it, however deep."""
    waiting, seen = [app], set[int]()
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        waiting.extend(getattr(route, "app", None) for route in _routes(one))
        waiting.append(getattr(one, "app", None))


def _routes(app: Any) -> Iterable[Any]:
    return getattr(app, "routes", None) or ()


def _dependants(app: Any) -> Iterator[tuple[str, Dependant]]:
    for context in iter_route_contexts(list(_routes(app))):
        dependant = getattr(context, "dependant", None)
        if isinstance(dependant, Dependant):
            yield context.path or "", dependant


def _ours(dependant: Dependant) -> Iterator[tuple[Any, str, Ours]]:
    """Every use of our dependencies: who uses it, under which name, and the dependency."""
    for one in dependant.dependencies:
        call: Any = one.call
        if isinstance(call, ChannelDependency | SubscriberDependency):
            yield dependant.call, one.name or "", call
        else:
            yield from _ours(one)


def _templates(dependency: Ours) -> list[ChannelTemplate[Any]]:
    if isinstance(dependency, SubscriberDependency):
        return dependency.templates
    return [dependency.template]


def _check_backend(path: str, broadcaster: Broadcaster, dependency: Ours) -> None:
    for template in _templates(dependency):
        try:
            broadcaster.check_name(template.fixed)
            if dependency.wants_log and not broadcaster.has_history:
                raise no_log(broadcaster.backend)
        except Exception as error:
            error.add_note(f"in the route {path!r}, channel {template.name!r}")
            raise


def _bare(type: Any) -> Any:
    return get_args(type)[0] if get_origin(type) is Annotated else type


def _check_type(path: str, function: Any, name: str, dependency: Ours) -> None:
    """Compare `Annotated[Channel[X], Depends(...)]` with what it gives, and X with its type."""
    try:
        hint = get_type_hints(function, include_extras=True).get(name)
    except (NameError, TypeError, AttributeError):
        return  # an annotation that only type checkers can see
    declared = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    kind = get_origin(declared) or declared
    if kind not in (Channel, Subscriber):
        return
    types = [_bare(template.type) for template in _templates(dependency)]
    wanted = types[0]
    for other in types[1:]:
        wanted = wanted | other
    told = f"the parameter {name!r} of the route {path!r} is declared as {declared}, but "
    given = Subscriber if isinstance(dependency, SubscriberDependency) else Channel
    if kind is not given:
        raise TypeError(
            f"{told}its Depends(...) gives a {given.__name__}: write Depends(channel(...)) for a "
            "Channel, which publishes, and Depends(subscriber(...)) for a Subscriber, which listens"
        )
    if any(_bare(found) not in (wanted, Any) for found in get_args(declared)):
        raise TypeError(f"{told}its channel carries {wanted}")


Broadcaster.startup_checks.append(check_routes)
