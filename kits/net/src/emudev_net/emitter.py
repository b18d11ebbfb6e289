"""One function in LLVM's language, line by line: names, blocks, places on the stack, arithmetic.

The instructions that one of Python's operators needs are here (`Emitter.shift`, `Emitter.divide`):
machine arithmetic without the machine's traps. What a function's statements become is in
`frontend`.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Emitter", "Value"]


class Value(NamedTuple):
    """A value: LLVM's name or number of it, and whether it is an i1 rather than an i64."""

    text: str
    boolean: bool = False


class Emitter:
    """The lines of a function.

    Attributes:
        lines: Its instructions.
        slots: Its places on the stack, for its first block.
        count: Names given.
        ended: Nothing can follow in this block.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.slots: list[str] = []
        self.count = 0
        self.ended = False

    def put(self, line: str) -> None:
        """Emit an instruction without a result."""
        self.lines.append(f"  {line}")

    def new(self, line: str) -> str:
        """Emit an instruction with a result; returns its name."""
        self.count += 1
        name = f"%t{self.count}"
        self.lines.append(f"  {name} = {line}")
        return name

    def label(self) -> str:
        """A name for a block."""
        self.count += 1
        return f"b{self.count}"

    def begin(self, label: str) -> None:
        """Begin a block."""
        self.lines.append(f"{label}:")
        self.ended = False

    def jump(self, label: str) -> None:
        """Go on at a block, unless nothing can follow here."""
        if not self.ended:
            self.put(f"br label %{label}")
            self.ended = True

    def slot(self, kind: str = "i64") -> str:
        """A place on the stack."""
        self.count += 1
        name = f"%s{self.count}"
        self.slots.append(f"  {name} = alloca {kind}")
        return name

    def integer(self, value: Value) -> str:
        """A value as an i64."""
        if not value.boolean:
            return value.text
        if value.text in ("true", "false"):
            return "1" if value.text == "true" else "0"
        return self.new(f"zext i1 {value.text} to i64")

    def boolean(self, value: Value) -> str:
        """A value as an i1: whether it is not 0."""
        return value.text if value.boolean else self.new(f"icmp ne i64 {value.text}, 0")

    # -- arithmetic

    def shift(self, left_shift: bool, left: str, right: str) -> str:
        """Left or right, of an i64; by 64 or more everything is shifted out."""
        if not right.startswith("%"):
            amount = int(right)
            if left_shift:
                return "0" if amount > 63 else self.new(f"shl i64 {left}, {amount}")
            return self.new(f"ashr i64 {left}, {min(amount, 63)}")
        small = self.new(f"icmp ult i64 {right}, 64")
        if left_shift:
            amount_text = self.new(f"and i64 {right}, 63")
            shifted = self.new(f"shl i64 {left}, {amount_text}")
            return self.new(f"select i1 {small}, i64 {shifted}, i64 0")
        amount_text = self.new(f"select i1 {small}, i64 {right}, i64 63")
        return self.new(f"ashr i64 {left}, {amount_text}")

    def divide(self, remainder: bool, left: str, right: str) -> str:
        """Rounded down, as Python does; by 0 it is 0, and nothing traps."""
        literal = not right.startswith("%")
        if literal and int(right) > 0 and int(right) & (int(right) - 1) == 0:
            if remainder:
                return self.new(f"and i64 {left}, {int(right) - 1}")
            return self.new(f"ashr i64 {left}, {int(right).bit_length() - 1}")
        safe = right
        # The machine traps at x / 0 and at -2**63 / -1; both ways are taken around it.
        odd = self.new(f"add i64 {right}, 1")
        special = self.new(f"icmp ult i64 {odd}, 2")
        safe = self.new(f"select i1 {special}, i64 1, i64 {right}")
        quotient = self.new(f"sdiv i64 {left}, {safe}")
        product = self.new(f"mul i64 {quotient}, {safe}")
        rest = self.new(f"sub i64 {left}, {product}")
        uneven = self.new(f"icmp ne i64 {rest}, 0")
        mixed = self.new(f"xor i64 {rest}, {safe}")
        negative = self.new(f"icmp slt i64 {mixed}, 0")
        down = self.new(f"and i1 {uneven}, {negative}")
        if remainder:
            lifted = self.new(f"add i64 {rest}, {safe}")
            result = self.new(f"select i1 {down}, i64 {lifted}, i64 {rest}")
            return self.new(f"select i1 {special}, i64 0, i64 {result}")
        one = self.new(f"zext i1 {down} to i64")
        result = self.new(f"sub i64 {quotient}, {one}")
        by = self.new(f"mul i64 {left}, {right}")  # right is 0 or -1 where this is taken
        return self.new(f"select i1 {special}, i64 {by}, i64 {result}")
