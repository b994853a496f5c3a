"""A rule's text in, a checked expression over named signals out; arrays in, when it holds out.

    rule    = both {"or" both}                      both   = negated {"and" negated}
    negated = "not" negated | held                  held   = compare {"for" number unit | "rising" | "falling"}
    compare = sum [("<" | "<=" | ">" | ">=") sum]   sum    = product {("+" | "-") product}
    product = sign {("*" | "/") sign}               sign   = "-" sign | atom
    atom    = number [unit] | signal | "abs" "(" rule ")" | "(" rule ")"
    unit    = name ["^" digit] {("/" | "*") name ["^" digit]}

Quantities carry their dimension (powers of metre, second, radian), compared in SI; a rule is checked before it runs.
A sample that is not known (NaN) makes a comparison neither true nor false (Kleene's three values): it never fires.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

Dimension = tuple[int, int, int]
"""Powers of metre, second, radian."""
FLAG = "flag"
"""The type of what is true or false."""
UNITS: dict[str, tuple[float, Dimension]] = {
    "m": (1.0, (1, 0, 0)),
    "km": (1000.0, (1, 0, 0)),
    "s": (1.0, (0, 1, 0)),
    "ms": (0.001, (0, 1, 0)),
    "h": (3600.0, (0, 1, 0)),
    "rad": (1.0, (0, 0, 1)),
    "deg": (np.pi / 180, (0, 0, 1)),
}
_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+)|(?P<name>[A-Za-z_]\w*)|(?P<sign><=|>=|[<>()+\-*/^]))"
)
_WORDS = ("and", "or", "not", "for", "rising", "falling", "abs")
MAX_DEPTH = 50


@dataclass(frozen=True)
class Node:
    """One operation of a rule: a signal's or number's value, or an operator over other nodes."""

    op: str
    type: Dimension | str
    args: tuple[Node, ...] = ()
    signal: str = ""
    value: float = 0.0


def parse(text: str, signals: Mapping[str, Dimension | str]) -> Node:
    """A rule in, its checked tree out. ValueError names the column (from 1), what is wrong and the mend."""
    return _Parser(text, signals).rule()


def signals_in(node: Node) -> set[str]:
    """The names of the signals that a rule needs."""
    return ({node.signal} if node.signal else set()).union(*(signals_in(a) for a in node.args))


def holds(node: Node, t: np.ndarray, values: Mapping[str, np.ndarray]) -> np.ndarray:
    """t (T,) s and signals of (T,) samples in; (T,) bool, when the rule certainly holds, out. Causal."""
    true, known = _truth(node, t, values)
    return true & known


class _Parser:
    """Recursive descent over the tokens of one rule."""

    def __init__(self, text: str, signals: Mapping[str, Dimension | str]) -> None:
        self.text, self.signals, self.depth = text, signals, 0
        self.tokens: list[tuple[str, str, int]] = []  # kind, text, column from 1
        at, end = 0, len(text.rstrip())
        while at < end:
            match = _TOKEN.match(text, at)
            if match is None:
                column = at + len(text[at:]) - len(text[at:].lstrip()) + 1
                raise ValueError(f"column {column}: '{text[column - 1]}' has no meaning in a rule; take it out")
            kind = match.lastgroup or ""
            self.tokens.append((kind, match[kind], match.start(kind) + 1))
            at = match.end()
        self.tokens.append(("end", "the end", end + 1))
        self.at = 0

    def rule(self) -> Node:
        node = self.either()
        self.want(self.peek()[0] == "end", f"'{self.peek()[1]}' is left over; join conditions with 'and' or 'or'")
        self.want(node.type == FLAG, f"the rule is {_called(node.type)}, not a condition; compare it with something", 1)
        return node

    def peek(self) -> tuple[str, str, int]:
        return self.tokens[self.at]

    def take(self, *words: str) -> str | None:
        """The next token if it is one of the words."""
        kind, text, _ = self.peek()
        if kind in ("name", "sign") and text in words:
            self.at += 1
            return text
        return None

    def want(self, ok: bool, message: str, column: int | None = None) -> None:
        if not ok:
            raise ValueError(f"column {self.peek()[2] if column is None else column}: {message}")

    def flag(self, node: Node, column: int, word: str) -> Node:
        self.want(node.type == FLAG, f"'{word}' wants a condition, not {_called(node.type)}; compare it first", column)
        return node

    def either(self) -> Node:
        self.depth += 1
        self.want(self.depth <= MAX_DEPTH, f"more than {MAX_DEPTH} parentheses deep; split the rule in two campaigns")
        node = self.joined("or", lambda: self.joined("and", self.negated))
        self.depth -= 1
        return node

    def joined(self, word: str, part) -> Node:
        column, node = self.peek()[2], part()
        while self.take(word):
            right = self.peek()[2]
            node = Node(word, FLAG, (self.flag(node, column, word), self.flag(part(), right, word)))
        return node

    def negated(self) -> Node:
        turns = 0
        while self.take("not"):
            turns += 1
        column, node = self.peek()[2], self.held()
        if turns:
            self.flag(node, column, "not")
        return Node("not", FLAG, (node,)) if turns % 2 else node

    def held(self) -> Node:
        column, node = self.peek()[2], self.compare()
        while word := self.take("for", "rising", "falling"):
            self.flag(node, column, word)
            seconds = 0.0
            if word == "for":
                at = self.peek()[2]
                self.want(self.peek()[0] == "number", "'for' wants a duration, for example 0.3 s")
                length = self.atom()
                self.want(length.type == UNITS["s"][1], f"'for' wants seconds, not {_called(length.type)}", at)
                seconds = length.value
            node = Node(word, FLAG, (node,), value=seconds)
        return node

    def compare(self) -> Node:
        left = self.sum()
        column = self.peek()[2]
        if word := self.take("<", "<=", ">", ">="):
            right = self.sum()
            same = left.type == right.type and left.type != FLAG
            mend = "; give the number its unit" if right.type == (0, 0, 0) else ""
            self.want(same, f"{_called(left.type)} compared with {_called(right.type)}{mend}", column)
            return Node(word, FLAG, (left, right))
        return left

    def sum(self) -> Node:
        node = self.product()
        while word := self.take("+", "-"):
            column, right = self.tokens[self.at - 1][2], self.product()
            same = node.type == right.type and node.type != FLAG
            self.want(same, f"'{word}' between {_called(node.type)} and {_called(right.type)}; use one unit", column)
            node = Node(word, node.type, (node, right))
        return node

    def product(self) -> Node:
        node = self.sign()
        while word := self.take("*", "/"):
            column, right = self.tokens[self.at - 1][2], self.sign()
            self.want(FLAG not in (node.type, right.type), f"'{word}' wants two quantities, not a condition", column)
            turn = 1 if word == "*" else -1
            powers = tuple(int(a) + turn * int(b) for a, b in zip(node.type, right.type, strict=True))
            node = Node(word, (powers[0], powers[1], powers[2]), (node, right))
        return node

    def sign(self) -> Node:
        turned, column = False, self.peek()[2]
        while self.take("-"):
            turned = not turned
        node = self.atom()
        self.want(not turned or node.type != FLAG, "'-' before a condition; write 'not'", column)
        return Node("minus", node.type, (node,)) if turned else node

    def atom(self) -> Node:
        kind, text, column = self.peek()
        if kind == "number":
            self.at += 1
            factor, dimension = self.unit()
            return Node("number", dimension, value=float(text) * factor)
        if self.take("(") or self.take("abs"):
            if text == "abs":
                self.want(
                    self.take("(") is not None, "'abs' wants a quantity in parentheses, for example abs(yaw_rate)"
                )
            inner = self.either()
            self.want(self.take(")") is not None, f"')' wanted before '{self.peek()[1]}'")
            self.want(text == "(" or inner.type != FLAG, "'abs' wants a quantity, not a condition", column)
            return inner if text == "(" else Node("abs", inner.type, (inner,))
        self.want(kind == "name" and text not in _WORDS, f"a signal or a number wanted, not '{text}'")
        if text not in self.signals:
            close = difflib.get_close_matches(text, self.signals, 1)
            mend = f"did you mean '{close[0]}'?" if close else f"known are {', '.join(sorted(self.signals))}"
            raise ValueError(f"column {column}: unknown signal '{text}'; {mend}")
        self.at += 1
        return Node("signal", self.signals[text], signal=text)

    def unit(self) -> tuple[float, Dimension]:
        factor, powers, turn = 1.0, [0, 0, 0], 1
        while self.peek()[0] == "name" and self.peek()[1] in UNITS:
            scale, dimension = UNITS[self.peek()[1]]
            self.at += 1
            power = turn
            if self.take("^"):
                kind, text, _ = self.peek()
                self.want(kind == "number" and text in ("1", "2", "3"), "a power of 1, 2 or 3 wanted after '^'")
                self.at += 1
                power *= int(text)
            factor *= scale**power
            powers = [p + power * d for p, d in zip(powers, dimension, strict=True)]
            # '/' or '*' belongs to the unit only if another unit follows: "2 m / speed" divides by a signal.
            sign, after = self.tokens[self.at][1], self.tokens[min(self.at + 1, len(self.tokens) - 1)]
            if sign not in ("/", "*") or after[0] != "name" or after[1] not in UNITS:
                break
            turn = -1 if sign == "/" else 1
            self.at += 1
        return factor, (powers[0], powers[1], powers[2])


def _called(kind: Dimension | str) -> str:
    """A type in words: 'a quantity in m/s^2'."""
    if isinstance(kind, str):
        return "a condition"
    names = ("m", "s", "rad")
    above = [names[i] + (f"^{p}" if p > 1 else "") for i, p in enumerate(kind) if p > 0]
    below = [names[i] + (f"^{-p}" if p < -1 else "") for i, p in enumerate(kind) if p < 0]
    if not above and not below:
        return "a plain number"
    return "a quantity in " + "/".join(["*".join(above) or "1", *below])


def _quantity(node: Node, t: np.ndarray, values: Mapping[str, np.ndarray]) -> np.ndarray:
    """(T,) float64; NaN where not known."""
    if node.op == "number":
        return np.full(len(t), node.value)
    if node.op == "signal":
        return np.asarray(values[node.signal], np.float64)
    args = [_quantity(a, t, values) for a in node.args]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        if node.op == "abs":
            return np.abs(args[0])
        if node.op == "minus":
            return -args[0]
        operate = {"+": np.add, "-": np.subtract, "*": np.multiply, "/": np.divide}[node.op]
        return operate(*args)


def _truth(node: Node, t: np.ndarray, values: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(T,) bool what is true, and (T,) bool what is known."""
    if node.op == "signal":
        sample = values[node.signal]
        return sample.astype(bool), np.ones(len(t), bool)
    if node.op in ("<", "<=", ">", ">="):
        a, b = (_quantity(x, t, values) for x in node.args)
        compare = {"<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal}[node.op]
        return compare(a, b), ~(np.isnan(a) | np.isnan(b))
    (v, k), *rest = [_truth(a, t, values) for a in node.args]
    if node.op == "not":
        return ~v, k
    if node.op in ("and", "or"):
        ((v2, k2),) = rest
        settles = (k & (v == (node.op == "or"))) | (k2 & (v2 == (node.op == "or")))
        return (v & v2 if node.op == "and" else v | v2), (k & k2) | settles
    v = v & k
    before = np.concatenate([[False], v[:-1]])
    if node.op == "rising":
        return v & ~before, np.ones(len(t), bool)
    if node.op == "falling":
        return ~v & before & k, np.ones(len(t), bool)
    assert node.op == "for"
    since = np.maximum.accumulate(np.where(v & ~before, np.arange(len(t)), 0))
    return v & (t - t[since] >= node.value - 1e-6), np.ones(len(t), bool)
