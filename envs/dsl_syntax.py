"""How programs of `dsl` are written and read: postfix letters, or infix and calls. Our own parsers, linear and total.

Postfix: `x{v2*}M3t` is the first 3 of the doubled numbers of x; digits are integers of one digit, `(314)` is a list,
braces hold small functions. Readable: `take(map(x, v * 2), 3)`.
"""

from __future__ import annotations

import re

from envs.dsl_lang import FUNCTIONS, LITERAL, OPERATORS, Node, Value, literal

MAX_TEXT = 1000
"""Longest program, in characters, that is read at all."""
MAX_OPERATORS = 64
MAX_NESTING = 40
"""Most parentheses, calls and `not` within each other that are read."""

VARIABLES = ("x", "n", "v", "a")
BY_LETTER = {operator.letter: word for word, operator in OPERATORS.items()}
BY_SYMBOL = {operator.symbol: word for word, operator in OPERATORS.items() if operator.symbol}

PRECEDENCE = {"or": 1, "and": 2, "not": 3, "less": 4, "greater": 4, "equal": 4, "add": 5, "subtract": 5}
PRECEDENCE |= {"multiply": 6, "divide": 6, "modulo": 6}
ATOM = 7
"""How tightly each symbol binds; calls, variables and numbers most."""

_TOKEN = re.compile(r"\s*(?:([0-9]{1,5}(?![0-9]))|([a-z]+)|(//|==|[-+*%<>(),]))")
_LIST = re.compile(r"\[\s*(-?[0-9]{1,5}(?:\s*,\s*-?[0-9]{1,5})*)?\s*\]")
_INT = re.compile(r"-?[0-9]{1,5}")


class _Unreadable(Exception):
    """Not a program; never leaves this file."""


# ---------------------------------------------------------------- postfix


def write_compact(node: Node) -> str:
    """Postfix letters; of a program, or of what is left of one."""
    if node.op == LITERAL:
        return compact_value(node.value)
    if node.op not in OPERATORS:
        return node.op
    operator = OPERATORS[node.op]
    args = (
        f"{{{write_compact(arg)}}}" if slot in FUNCTIONS else write_compact(arg)
        for arg, slot in zip(node.args, operator.slots, strict=True)
    )
    return "".join(args) + operator.letter


def compact_value(value: Value) -> str:
    """`7`, `(314)`, `T` or `N` (true, not): one character a digit."""
    if isinstance(value, bool):
        return "T" if value else "N"
    return str(value) if isinstance(value, int) else f"({''.join(map(str, value))})"


def read_compact(text: str) -> Node | None:
    """The inverse of `write_compact` for programs, or None. Types are not checked."""
    if len(text) > MAX_TEXT:
        return None
    stacks: list[list[Node]] = [[]]
    budget = MAX_OPERATORS
    for letter in text:
        stack = stacks[-1]
        if letter in VARIABLES:
            stack.append(Node(letter))
        elif letter.isascii() and letter.isdigit():
            stack.append(literal(int(letter)))
        elif letter == "{" and len(stacks) == 1:
            stacks.append([])
        elif letter == "}" and len(stacks) == 2 and len(stack) == 1:
            stacks.pop()
            stacks[-1].append(stack[0])
        else:
            word = BY_LETTER.get(letter)
            taken = len(OPERATORS[word].slots) if word else 0
            if word is None or len(stack) < taken or budget == 0:
                return None
            budget -= 1
            stack[-taken:] = [Node(word, tuple(stack[-taken:]))]
    return stacks[0][0] if len(stacks) == 1 and len(stacks[0]) == 1 else None


def read_compact_value(text: str) -> Value | None:
    """An integer of one digit or a list of such, or None."""
    inside = text[1:-1] if text[:1] == "(" and text[-1:] == ")" else text
    if not inside.isascii() or not (inside.isdigit() or inside == ""):
        return None
    if inside is not text:
        return tuple(map(int, inside)) if len(text) <= MAX_TEXT else None
    return int(inside) if len(inside) == 1 else None


# ---------------------------------------------------------------- infix and calls


def write_infix(node: Node) -> str:
    """Infix symbols and calls; of a program, or of what is left of one."""
    return _infix(node, 0)


def _infix(node: Node, least: int) -> str:
    """The text of a part that has to bind at least so tightly."""
    if node.op == LITERAL:
        return infix_value(node.value)
    if node.op not in OPERATORS:
        return node.op
    symbol, binding = OPERATORS[node.op].symbol, PRECEDENCE.get(node.op, ATOM)
    if not symbol:
        return f"{node.op}({', '.join(_infix(arg, 0) for arg in node.args)})"
    if len(node.args) == 1:
        text = f"{symbol} {_infix(node.args[0], binding)}"
    else:
        left, right = node.args
        text = f"{_infix(left, binding)} {symbol} {_infix(right, binding + 1)}"
    return f"({text})" if binding < least else text


def infix_value(value: Value) -> str:
    """`7`, `[3, 1, 4]`, `true` or `false`."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int) else str(list(value))


def read_infix(text: str) -> Node | None:
    """The inverse of `write_infix` for programs, or None. Types are not checked."""
    try:
        return _Reader(text).whole()
    except _Unreadable:
        return None


def read_infix_value(text: str) -> Value | None:
    """An integer or a list of integers, or None."""
    text = text.strip()
    if len(text) > MAX_TEXT:
        return None
    if _INT.fullmatch(text):
        return int(text)
    found = _LIST.fullmatch(text)
    return tuple(int(part) for part in (found[1] or "").split(",") if part) if found else None


class _Reader:
    """Precedence climbing over the tokens of one text."""

    def __init__(self, text: str) -> None:
        self.tokens = _tokens(text)
        self.place = 0
        self.budget = MAX_OPERATORS

    def whole(self) -> Node:
        tree = self.expression(1, MAX_NESTING)
        if self.place < len(self.tokens):
            raise _Unreadable
        return tree

    def peek(self) -> str:
        return self.tokens[self.place] if self.place < len(self.tokens) else ""

    def take(self, wanted: str = "") -> str:
        token = self.peek()
        if not token or (wanted and token != wanted):
            raise _Unreadable
        self.place += 1
        return token

    def expression(self, least: int, nesting: int) -> Node:
        """What binds at least so tightly; operators of equal strength go from left to right."""
        left = self.operand(nesting)
        while (word := BY_SYMBOL.get(self.peek())) and word != "not" and PRECEDENCE[word] >= least:
            self.take()
            left = self.node(word, (left, self.expression(PRECEDENCE[word] + 1, nesting)))
        return left

    def operand(self, nesting: int) -> Node:
        if nesting == 0:
            raise _Unreadable
        token = self.take()
        if token == "(":
            inside = self.expression(1, nesting - 1)
            self.take(")")
            return inside
        if token == "not":
            return self.node("not", (self.expression(PRECEDENCE["not"], nesting - 1),))
        if token == "-" and self.peek().isdigit():
            return literal(-int(self.take()))
        if token.isdigit():
            return literal(int(token))
        if token in VARIABLES:
            return Node(token)
        return self.call(token, nesting)

    def call(self, word: str, nesting: int) -> Node:
        if word not in OPERATORS or OPERATORS[word].symbol:
            raise _Unreadable
        self.take("(")
        args = [self.expression(1, nesting - 1)]
        while self.peek() == ",":
            self.take()
            args.append(self.expression(1, nesting - 1))
        self.take(")")
        return self.node(word, tuple(args))

    def node(self, word: str, args: tuple[Node, ...]) -> Node:
        self.budget -= 1
        if self.budget < 0 or len(args) != len(OPERATORS[word].slots):
            raise _Unreadable
        return Node(word, args)


def _tokens(text: str) -> list[str]:
    text = text.strip()
    tokens, place = [], 0
    while place < len(text) <= MAX_TEXT:
        found = _TOKEN.match(text, place)
        if found is None:
            raise _Unreadable
        tokens.append(found.group().strip())
        place = found.end()
    if not tokens:
        raise _Unreadable
    return tokens
