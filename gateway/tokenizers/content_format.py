"""How a chat template takes the content of messages: as vLLM finds it out, from what the template
loops over (vLLM's `--chat-template-content-format auto`)."""

from __future__ import annotations

from collections.abc import Iterator

from jinja2 import nodes

from gateway.tokenizers.conversation import ContentFormat


def content_format_of(template: nodes.Template) -> ContentFormat:
    """Parts for a template that loops over the content of a message, else one string."""
    try:
        return ContentFormat.PARTS if _loops_over_content(template) else ContentFormat.STRING
    except _NotFollowed:
        return ContentFormat.STRING


class _NotFollowed(Exception):  # noqa: N818 - a fact about a template
    """It does something that is not looked into."""


def _loops_over_content(template: nodes.Template) -> bool:
    messages = _names_of_messages(template)
    each = [
        _name(loop.target)
        for loop in template.find_all(nodes.For)
        if any(_is_variable(loop.iter, name) for name in messages)
    ]
    in_macros: set[int] = set()
    for macro in template.find_all(nodes.Macro):
        given = set(_given_content(template, macro, each))
        for loop in macro.find_all(nodes.For):
            in_macros.add(id(loop))
            if isinstance(loop.iter, nodes.Name) and loop.iter.name in given:
                return True
    return any(
        any(_is_member(loop.iter, name) for name in each)
        or (
            isinstance(loop.iter, nodes.Name)
            and loop.iter.name == "content"
            and id(loop) not in in_macros
        )
        for loop in template.find_all(nodes.For)
    )


def _names_of_messages(template: nodes.Template) -> list[str]:
    """Variables that hold the messages or some of them."""
    names = ["messages"]
    for name in names:
        for assign in template.find_all(nodes.Assign):
            if _is_variable(assign.node, name) and (new := _name(assign.target)) not in names:
                names.append(new)
    return names


def _given_content(template: nodes.Template, macro: nodes.Macro, each: list[str]) -> Iterator[str]:
    """Parameters of a macro that get a message's content somewhere."""
    parameters = [parameter.name for parameter in macro.args]
    for call in template.find_all(nodes.Call):
        if not isinstance(call.node, nodes.Name) or call.node.name != macro.name:
            continue
        named = {one.key: one.value for one in call.kwargs}
        values = dict(zip(parameters, call.args, strict=False)) | named
        for parameter, value in values.items():
            if parameter in parameters and any(_is_member(value, name) for name in each):
                yield parameter


def _is_variable(node: nodes.Node | None, name: str) -> bool:
    """The variable of this name, or some of its elements."""
    node = _unwrapped(node)
    return isinstance(node, nodes.Name) and node.ctx == "load" and node.name == name


def _is_member(node: nodes.Node | None, name: str) -> bool:
    """The content of the message in this variable, or some of its parts."""
    node = _unwrapped(node)
    if isinstance(node, nodes.Getitem):
        if not isinstance(node.arg, nodes.Const) or node.arg.value != "content":
            return False
    elif not isinstance(node, nodes.Getattr) or node.attr != "content":
        return False
    return isinstance(node.node, nodes.Name) and node.node.name == name


def _unwrapped(node: nodes.Node | None) -> nodes.Node | None:
    """Without filters, tests and slices."""
    while isinstance(node, nodes.Filter | nodes.Test) or (
        isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice)
    ):
        node = node.node
    return node


def _name(target: nodes.Node) -> str:
    if not isinstance(target, nodes.Name):
        raise _NotFollowed
    return target.name
