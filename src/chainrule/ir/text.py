"""The text form of graphs. ``parse_graph(print_graph(g))`` is ``g`` up to the identity of values.

    graph loss(%0 "x": f32[B, 4], %1 "w": f32[4, 8]) {
      %2: f32[B, 8] = contract(%0, %1) {spec: "[B, 8] i0:B ..."} @forward "layers.0" "model.py":12
      return %2 "loss"
    }

Attributes are JSON values, sizes written with ``B``, arrays as ``f32[2, 3]"base64"`` of their little-endian bytes, and
nested graphs. Reading text never runs code, and what it reads is verified.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from chainrule.core.dtypes import BOOL, LONG, SHORT, dtype_name, to_numpy
from chainrule.core.errors import GraphError
from chainrule.ir.contraction import Contraction, parse_contraction
from chainrule.ir.graph import NOWHERE, ArrayType, Graph, Node, Origin, Value
from chainrule.ir.primitives import PRIMITIVES
from chainrule.ir.sizes import Size, parse_dim, product
from chainrule.ir.verify import verify

_MAX_DEPTH = 50


def print_graph(graph: Graph, indent: str = "") -> str:
    """The text form of a graph; nested graphs are indented."""
    names: dict[Value, str] = {}

    def define(value: Value) -> str:
        names[value] = f"%{len(names)}"
        label = f" {json.dumps(value.name)}" if value.name else ""
        return f"{names[value]}{label}: {value.type}"

    inputs = ", ".join(define(value) for value in graph.inputs)
    lines = [f"graph {json.dumps(graph.name)}({inputs}) {{"]
    for node in graph.nodes:
        operands = ", ".join(names[value] for value in node.inputs)
        results = ", ".join(define(value) for value in node.outputs)
        attributes = _print_attributes(node.attributes, indent + "    ")
        origin = _print_origin(node.origin)
        lines.append(f"{indent}  {results} = {node.primitive.name}({operands}){attributes}{origin}")
    returned = (
        names[value] + (f" {json.dumps(name)}" if name else "")
        for value, name in zip(graph.outputs, graph.output_names, strict=True)
    )
    lines.append(f"{indent}  return {', '.join(returned)}")
    lines.append(f"{indent}}}")
    return "\n".join(lines)


def _print_attributes(attributes: Mapping[str, Any], indent: str) -> str:
    if not attributes:
        return ""
    return " {" + ", ".join(f"{name}: {_print_attribute(value, indent)}" for name, value in attributes.items()) + "}"


def _print_attribute(value: Any, indent: str) -> str:
    match value:
        case None | bool():
            return json.dumps(value)
        case int() | Size():
            return str(value)
        case float():
            return repr(float(value)) if math.isfinite(value) else f"float({value})"
        case str():
            return json.dumps(value)
        case tuple():
            return "(" + "".join(_print_attribute(item, indent) + ", " for item in value).rstrip(" ") + ")"
        case Contraction():
            return f"contraction {json.dumps(str(value))}"
        case Graph():
            return print_graph(value, indent)
        case np.ndarray():
            little = np.ascontiguousarray(value).astype(value.dtype.newbyteorder("<"), copy=False)
            data = base64.b64encode(little.tobytes()).decode("ascii")
            shape = ", ".join(map(str, value.shape))
            # A scalar is repeated in decimal for the reader; the bytes are what counts.
            remark = f" /* {value} */" if value.ndim == 0 else ""
            return f'{SHORT[dtype_name(value.dtype)]}[{shape}]"{data}"{remark}'
    raise GraphError(f"an attribute of type {type(value).__name__} has no text form")


def _print_origin(origin: Origin) -> str:
    if origin == NOWHERE:
        return ""
    phase = origin.phase if _WORD.fullmatch(origin.phase) else json.dumps(origin.phase)
    return f" @{phase} {json.dumps(origin.path)} {json.dumps(origin.file)}:{origin.line}"


_WORD = re.compile("[A-Za-z_][A-Za-z_0-9]*")
_TOKEN = re.compile(
    r"""\s*(?:/\*.*?\*/\s*)*(?:
      (?P<string>"(?:[^"\\\n]|\\.)*")
    | (?P<value>%\d+)
    | (?P<float>-?(?:\d+\.\d*(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+)|float\((?:nan|inf|-inf)\))
    | (?P<size>-?(?:\d+\*)?B(?:\^\d+)?(?:[+-](?:\d+\*?)?(?:B(?:\^\d+)?)?)*|-?\d+)
    | (?P<word>[A-Za-z_][A-Za-z_0-9]*)
    | (?P<mark>[()\[\]{},:=@])
    | (?P<end>$)
    )""",
    re.VERBOSE | re.DOTALL | re.ASCII,
)


def parse_graph(text: str) -> Graph:
    """Read the text form of a graph and verify it; raises :class:`GraphError` with the line of the first mistake."""
    parser = _Parser(text)
    try:
        graph = parser.graph(0)
        parser.expect("end")
    except GraphError:
        raise
    except (LookupError, ValueError, OverflowError, TypeError) as error:
        raise parser.error(str(error)) from None
    return verify(graph)


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.start = self.taken = 0
        self.kind = ""
        self.token = ""
        self.advance()

    def error(self, message: str, position: int | None = None) -> GraphError:
        """An error at a position, by default that of the token taken last."""
        line = self.text.count("\n", 0, self.taken if position is None else position) + 1
        return GraphError(f"line {line} of the graph text: {message}")

    def advance(self) -> str:
        taken = self.token
        match = _TOKEN.match(self.text, self.position)
        if match is None or match.lastgroup is None:
            raise self.error(f"unexpected text {self.text[self.position : self.position + 20]!r}", self.position)
        self.taken, self.start = self.start, match.start(match.lastgroup)
        self.kind, self.token, self.position = match.lastgroup, match[match.lastgroup], match.end()
        return taken

    def expect(self, kind: str, token: str | None = None) -> str:
        if self.kind != kind or (token is not None and self.token != token):
            raise self.error(f"expected {token or kind}, found {self.token!r}", self.start)
        return self.advance() if kind != "end" else ""

    def accept(self, kind: str, token: str | None = None) -> bool:
        if self.kind == kind and (token is None or self.token == token):
            self.advance()
            return True
        return False

    def string(self) -> str:
        return str(json.loads(self.expect("string")))

    def graph(self, depth: int) -> Graph:
        self.expect("word", "graph")
        name = self.string()
        values: dict[str, Value] = {}
        self.expect("mark", "(")
        inputs = []
        while not self.accept("mark", ")"):
            inputs.append(self.definition(values))
            self.accept("mark", ",")
        self.expect("mark", "{")
        nodes = []
        while self.token != "return":
            nodes.append(self.node(values, depth))
        self.advance()
        outputs, output_names = [], []
        while not self.accept("mark", "}"):
            outputs.append(self.use(values))
            output_names.append(self.string() if self.kind == "string" else "")
            self.accept("mark", ",")
        return Graph(name, tuple(inputs), tuple(nodes), tuple(outputs), tuple(output_names))

    def definition(self, values: dict[str, Value]) -> Value:
        symbol = self.expect("value")
        label = self.string() if self.kind == "string" else ""
        self.expect("mark", ":")
        if symbol in values:
            raise self.error(f"{symbol} is defined twice")
        values[symbol] = Value(self.type(), label)
        return values[symbol]

    def use(self, values: dict[str, Value]) -> Value:
        symbol = self.expect("value")
        if symbol not in values:
            raise self.error(f"{symbol} is used before it is defined")
        return values[symbol]

    def type(self) -> ArrayType:
        dtype = self.expect("word")
        if dtype not in LONG:
            raise self.error(f"{dtype!r} is not an element type")
        self.expect("mark", "[")
        shape = []
        while not self.accept("mark", "]"):
            shape.append(parse_dim(self.expect("size")))
            self.accept("mark", ",")
        return ArrayType(tuple(shape), LONG[dtype])

    def node(self, values: dict[str, Value], depth: int) -> Node:
        outputs: list[Value] = []
        while not self.accept("mark", "="):
            outputs.append(self.definition(values))
            self.accept("mark", ",")
        name = self.expect("word")
        if name not in PRIMITIVES:
            raise self.error(f"there is no primitive {name!r}")
        self.expect("mark", "(")
        inputs = []
        while not self.accept("mark", ")"):
            inputs.append(self.use(values))
            self.accept("mark", ",")
        if any(value in outputs for value in inputs):
            raise self.error(f"{name} uses its own result")
        attributes = self.attributes(depth) if self.accept("mark", "{") else {}
        origin = self.origin() if self.accept("mark", "@") else NOWHERE
        return Node(PRIMITIVES[name], tuple(inputs), attributes, tuple(outputs), origin)

    def attributes(self, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while not self.accept("mark", "}"):
            name = self.expect("word")
            self.expect("mark", ":")
            if name in found:
                raise self.error(f"attribute {name} is given twice")
            found[name] = self.attribute(depth)
            self.accept("mark", ",")
        return found

    def attribute(self, depth: int) -> Any:
        if depth > _MAX_DEPTH:
            raise self.error("attributes are nested too deeply")
        if self.kind == "string":
            return self.string()
        if self.kind == "float":
            return float(self.advance().removeprefix("float(").rstrip(")"))
        if self.kind == "size":
            return parse_dim(self.advance())
        if self.accept("mark", "("):
            items = []
            while not self.accept("mark", ")"):
                items.append(self.attribute(depth + 1))
                self.accept("mark", ",")
            return tuple(items)
        if self.kind == "word" and self.token in ("true", "false", "null"):
            return json.loads(self.advance())
        if self.accept("word", "contraction"):
            return parse_contraction(self.string())
        if self.kind == "word" and self.token == "graph":
            return self.graph(depth + 1)
        if self.kind == "word" and self.token in LONG:
            return self.array()
        raise self.error(f"{self.token!r} is not an attribute", self.start)

    def array(self) -> np.ndarray[Any, Any]:
        type = self.type()
        data = base64.b64decode(self.string(), validate=True)
        dtype = to_numpy(type.dtype)
        if len(data) != product(type.shape) * dtype.itemsize:
            raise self.error(f"an array {type} does not have {len(data)} bytes")
        if type.dtype == BOOL and data.strip(b"\0\1"):
            raise self.error("a truth value is stored as a byte of 0 or 1")
        array = np.frombuffer(data, dtype.newbyteorder("<")).astype(dtype).reshape(type.shape)
        array.flags.writeable = False
        return array

    def origin(self) -> Origin:
        phase = self.string() if self.kind == "string" else self.expect("word")
        path = self.string()
        file = self.string()
        self.expect("mark", ":")
        return Origin(path, file, int(self.expect("size")), phase)
