"""Parse a rule into a type-checked expression over named signals. `drivefoundry_car.triggers.watch` evaluates it.

    rule    = both {"or" both}                      both   = negated {"and" negated}
    negated = "not" negated | held
    held    = compare {"for" time | "until" compare | "rising" | "falling"}
    compare = sum [("<" | "<=" | ">" | ">=") sum]   sum    = product {("+" | "-") product}
    product = sign {("*" | "/") sign}               sign   = "-" sign | atom
    atom    = number [unit] | signal | "(" rule ")" | "abs" "(" rule ")" | "count" "(" rule ")" "in" time
            | ("max" | "min" | "mean" | "range" | "delta") "(" rule ")" "over" time
    time    = number unit                           unit   = name ["^" digit] {("/" | "*") name ["^" digit]}

Quantities have a dimension (powers of metre, second, radian) and are compared in SI; a rule is checked before it runs.
`for`, `until`, `rising` and `falling` apply to the comparison on their left; parentheses extend their scope.

Semantics at a sample of time t, on any clock; d is the given duration, and nothing looks ahead:
- an unknown sample (NaN) makes a comparison neither true nor false (Kleene's three-valued logic): it never fires;
- `a for d`: a has been true at every sample since one at t - d or before; `a rising`, `a falling`: true now and not at
  the previous sample, and the reverse; unknown while a is unknown;
- `a until b` (hysteresis): true from a sample at which a is true until the first at which b is; b wins if both are;
- `max(x) over d`: over the known samples in t - d .. t, unknown if there are none; `mean` weights each by the time
  since the previous sample, at most d; `range` is max - min; `delta` is x now minus the oldest in the window;
- `count(a) in d`: how often a has become true in t - d .. t, a plain number.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

Dimension = tuple[int, int, int]
"""Powers of metre, second, radian."""
FLAG = "flag"
"""Type of conditions."""
PLAIN = (0, 0, 0)
UNITS: dict[str, tuple[float, Dimension]] = {
    "m": (1.0, (1, 0, 0)),
    "km": (1000.0, (1, 0, 0)),
    "s": (1.0, (0, 1, 0)),
    "ms": (0.001, (0, 1, 0)),
    "h": (3600.0, (0, 1, 0)),
    "rad": (1.0, (0, 0, 1)),
    "deg": (math.pi / 180, (0, 0, 1)),
    "g": (9.80665, (1, -2, 0)),
}
FOLDS = ("max", "min", "mean", "range", "delta")
"""Aggregations over a window of samples."""
MAX_DEPTH = 50
MAX_WORDS = 400
MAX_HZ = 100
"""Most samples per second that a window keeps; with a faster clock it keeps the latest."""
MAX_COST = 100_000
"""Upper bound of `cost`."""
_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+)|(?P<name>[A-Za-z_]\w*)|(?P<sign><=|>=|[<>()+\-*/^]))"
)
_WORDS = ("and", "or", "not", "for", "until", "rising", "falling", "abs", "count", "in", "over", *FOLDS)


@dataclass(frozen=True)
class Node:
    """One operation of a rule: a signal's or number's value, or an operator over other nodes; value: a number in SI, or
    an operator's time, s."""

    op: str
    type: Dimension | str
    args: tuple[Node, ...] = ()
    signal: str = ""
    value: float = 0.0


def parse(text: str, signals: Mapping[str, Dimension | str]) -> Node:
    """Parse a rule into a checked tree. ValueError names the column (from 1), what is wrong and the fix."""
    node = _Parser(text, signals).rule()
    work = cost(node)
    if work > MAX_COST:
        longest = max(f.value for f in _nodes(node) if _windowed(f))
        raise ValueError(
            f"column 1: the rule costs {work:,} operations per sample at worst (windows at {MAX_HZ} Hz), more than "
            f"{MAX_COST:,}; shorten its windows, the longest of which is {longest:g} s"
        )
    return node


def signals_in(node: Node) -> set[str]:
    """Names of the signals that a rule uses."""
    return {n.signal for n in _nodes(node) if n.signal}


def cost(node: Node) -> int:
    """Worst-case operations per sample, which is also the rule's memory: a window counts its samples at MAX_HZ,
    everything else one."""
    return sum(round(min(n.value, 1e12) * MAX_HZ) + 1 if _windowed(n) else 1 for n in _nodes(node))


def _nodes(node: Node) -> list[Node]:
    """The node and all its descendants."""
    found = [node]
    for n in found:
        found.extend(n.args)
    return found


def _windowed(node: Node) -> bool:
    return node.op in FOLDS or node.op == "count"


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
                raise ValueError(f"column {column}: '{text[column - 1]}' is not allowed in a rule; remove it")
            kind = match.lastgroup or ""
            self.tokens.append((kind, match[kind], match.start(kind) + 1))
            at = match.end()
        if len(self.tokens) > MAX_WORDS:
            column = self.tokens[MAX_WORDS][2]
            raise ValueError(f"column {column}: more than {MAX_WORDS} words and symbols; split the rule in two")
        self.tokens.append(("end", "the end", end + 1))
        self.at = 0

    def rule(self) -> Node:
        node = self.either()
        self.expect(self.peek()[0] == "end", f"'{self.peek()[1]}' is left over; join conditions with 'and' or 'or'")
        self.expect(node.type == FLAG, f"the rule is {_called(node.type)}, not a condition; compare it first", 1)
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

    def expect(self, ok: bool, message: str, column: int | None = None) -> None:
        if not ok:
            raise ValueError(f"column {self.peek()[2] if column is None else column}: {message}")

    def flag(self, node: Node, column: int, word: str) -> Node:
        self.expect(
            node.type == FLAG, f"'{word}' needs a condition, not {_called(node.type)}; compare it first", column
        )
        return node

    def either(self) -> Node:
        self.depth += 1
        self.expect(self.depth <= MAX_DEPTH, f"more than {MAX_DEPTH} levels of parentheses; split the rule in two")
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
        while word := self.take("for", "until", "rising", "falling"):
            self.flag(node, column, word)
            if word == "until":
                at = self.peek()[2]
                node = Node(word, FLAG, (node, self.flag(self.compare(), at, word)))
            else:
                node = Node(word, FLAG, (node,), value=self.time(word) if word == "for" else 0.0)
        return node

    def time(self, word: str) -> float:
        """Parse the duration after a keyword, s."""
        at = self.peek()[2]
        self.expect(self.peek()[0] == "number", f"'{word}' needs a duration, for example 0.3 s")
        length = self.atom()
        self.expect(length.type == UNITS["s"][1], f"'{word}' needs seconds, not {_called(length.type)}", at)
        fits = math.isfinite(length.value) and (word == "for" or length.value > 0)
        self.expect(fits, f"'{word}' needs a finite duration > 0 s", at)
        return length.value

    def compare(self) -> Node:
        left = self.sum()
        column = self.peek()[2]
        if word := self.take("<", "<=", ">", ">="):
            right = self.sum()
            same = left.type == right.type and left.type != FLAG
            fix = "; give the number its unit" if right.type == PLAIN else ""
            self.expect(same, f"{_called(left.type)} compared with {_called(right.type)}{fix}", column)
            return Node(word, FLAG, (left, right))
        return left

    def sum(self) -> Node:
        node = self.product()
        while word := self.take("+", "-"):
            column, right = self.tokens[self.at - 1][2], self.product()
            same = node.type == right.type and node.type != FLAG
            self.expect(same, f"'{word}' between {_called(node.type)} and {_called(right.type)}; use one unit", column)
            node = Node(word, node.type, (node, right))
        return node

    def product(self) -> Node:
        node = self.sign()
        while word := self.take("*", "/"):
            column, right = self.tokens[self.at - 1][2], self.sign()
            self.expect(FLAG not in (node.type, right.type), f"'{word}' needs two quantities, not a condition", column)
            turn = 1 if word == "*" else -1
            powers = tuple(int(a) + turn * int(b) for a, b in zip(node.type, right.type, strict=True))
            node = Node(word, (powers[0], powers[1], powers[2]), (node, right))
        return node

    def sign(self) -> Node:
        turned, column = False, self.peek()[2]
        while self.take("-"):
            turned = not turned
        node = self.atom()
        self.expect(not turned or node.type != FLAG, "'-' before a condition; write 'not'", column)
        return Node("minus", node.type, (node,)) if turned else node

    def atom(self) -> Node:
        kind, text, column = self.peek()
        if kind == "number":
            self.at += 1
            factor, dimension = self.unit()
            self.expect_unit(*self.peek())
            return Node("number", dimension, value=float(text) * factor)
        if self.take("("):
            return self.closed()
        if self.take("abs", "count", *FOLDS):
            return self.function(text, column)
        self.expect(kind == "name" and text not in _WORDS, f"expected a signal or a number, not '{text}'")
        if text not in self.signals:
            close = difflib.get_close_matches(text, self.signals, 1)
            fix = f"did you mean '{close[0]}'?" if close else f"known are {', '.join(sorted(self.signals))}"
            raise ValueError(f"column {column}: unknown signal '{text}'; {fix}")
        self.at += 1
        return Node("signal", self.signals[text], signal=text)

    def closed(self) -> Node:
        """Parse up to the closing parenthesis; the opening one has been consumed."""
        inner = self.either()
        self.expect(self.take(")") is not None, f"expected ')' before '{self.peek()[1]}'")
        return inner

    def function(self, name: str, column: int) -> Node:
        """The rest of abs(x), count(a) in d, max(x) over d."""
        ending = {"abs": "", "count": "in"}.get(name, "over")
        example = {"abs": "abs(yaw_rate)", "count": "count(accel < -3 m/s^2) in 10 s"}.get(
            name, f"{name}(speed) over 2 s"
        )
        kind = "a condition" if name == "count" else "a quantity"
        self.expect(self.take("(") is not None, f"'{name}' needs {kind} in parentheses, for example {example}")
        inner = self.closed()
        self.expect(
            (inner.type == FLAG) == (name == "count"), f"'{name}' needs {kind}, not {_called(inner.type)}", column
        )
        if not ending:
            return Node(name, inner.type, (inner,))
        self.expect(self.take(ending) is not None, f"expected '{ending}' and a duration: {example}")
        seconds = self.time(ending)
        return Node(name, PLAIN if name == "count" else inner.type, (inner,), value=seconds)

    def unit(self) -> tuple[float, Dimension]:
        factor, powers, turn = 1.0, [0, 0, 0], 1
        while self.peek()[0] == "name" and self.peek()[1] in UNITS:
            scale, dimension = UNITS[self.peek()[1]]
            self.at += 1
            power = turn
            if self.take("^"):
                kind, text, _ = self.peek()
                self.expect(kind == "number" and text in ("1", "2", "3"), "expected a power of 1, 2 or 3 after '^'")
                self.at += 1
                power *= int(text)
            factor *= scale**power
            powers = [p + power * d for p, d in zip(powers, dimension, strict=True)]
            # '/' or '*' is part of the unit only if another unit follows: "2 m / speed" divides by a signal.
            sign, after = self.tokens[self.at][1], self.tokens[min(self.at + 1, len(self.tokens) - 1)]
            if sign not in ("/", "*") or after[0] != "name" or after[1] not in UNITS:
                if sign in ("/", "*"):
                    self.expect_unit(*after)
                break
            turn = -1 if sign == "/" else 1
            self.at += 1
        return factor, (powers[0], powers[1], powers[2])

    def expect_unit(self, kind: str, text: str, column: int) -> None:
        """Check that a name after a number is a unit or a keyword; else ValueError."""
        known = kind != "name" or text in UNITS or text in _WORDS or text in self.signals
        names = ", ".join(UNITS)
        self.expect(known, f"unknown unit '{text}'; known are {names}, and products of them such as km/h", column)


def unit_of(kind: Dimension | str) -> str:
    """A type's SI unit: 'm/s^2'; '' for plain numbers and conditions."""
    if isinstance(kind, str) or kind == PLAIN:
        return ""
    names = ("m", "s", "rad")
    above = [names[i] + (f"^{p}" if p > 1 else "") for i, p in enumerate(kind) if p > 0]
    below = [names[i] + (f"^{-p}" if p < -1 else "") for i, p in enumerate(kind) if p < 0]
    return "/".join(["*".join(above) or "1", *below])


def _called(kind: Dimension | str) -> str:
    """A type in words: 'a quantity in m/s^2'."""
    if kind == FLAG:
        return "a condition"
    return f"a quantity in {unit_of(kind)}" if unit_of(kind) else "a plain number"
