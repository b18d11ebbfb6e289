"""The compiler of kernels: from a function's Python source to LLVM's language.

Kernels are integers and nothing else, so this is short: every value is an int64, every local has a
place on the stack (LLVM turns those into registers), every helper is an internal function that
LLVM inlines. numba would take the same functions, but its analysis of each costs a tenth of a
second, and its import another half; this costs a millisecond, and LLVM's optimiser is the same.

What compiled code does where Python would raise or need a longer integer: sums wrap at 64 bits; a
division by zero gives 0; a shift by 64 or more gives 0 (or the sign); a variable that was never
assigned is 0; a function that ends without a return gives 0.
"""

from __future__ import annotations

import ast
import functools
import linecache
import types
from collections.abc import Callable
from typing import Any, Final, NoReturn

from .emitter import Emitter, Value
from .graph import KernelError
from .jit import INLINE

__all__ = ["translate_function"]

_Function = Callable[..., Any]

_COMPARE: Final[dict[type[ast.cmpop], str]] = {
    ast.Eq: "eq",
    ast.NotEq: "ne",
    ast.Lt: "slt",
    ast.LtE: "sle",
    ast.Gt: "sgt",
    ast.GtE: "sge",
}
_SIMPLE: Final[dict[type[ast.operator], str]] = {
    ast.Add: "add",
    ast.Sub: "sub",
    ast.Mult: "mul",
    ast.BitAnd: "and",
    ast.BitOr: "or",
    ast.BitXor: "xor",
}


@functools.lru_cache(maxsize=64)
def _definitions(text: str) -> dict[int, tuple[ast.FunctionDef, types.CodeType]]:
    """The functions of a file, by the line at which each begins, with what they compile to."""
    codes: dict[tuple[str, int], types.CodeType] = {}
    pending = [compile(text, "kernels", "exec", dont_inherit=True)]
    while pending:
        for constant in pending.pop().co_consts:
            if isinstance(constant, types.CodeType):
                codes[constant.co_name, constant.co_firstlineno] = constant
                pending.append(constant)
    found = {}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            line = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            if (node.name, line) in codes:
                found[line] = (node, codes[node.name, line])
    return found


def _source_tree(function: _Function) -> ast.FunctionDef:
    """The definition of a function; checked to be what the running function was made of."""
    label = f"{function.__module__}.{function.__qualname__}"
    code = function.__code__
    linecache.checkcache(code.co_filename)
    text = "".join(linecache.getlines(code.co_filename, function.__globals__))
    try:
        node, again = _definitions(text).get(code.co_firstlineno, (None, None))
    except SyntaxError as error:
        raise KernelError(f"{label}: its source can't be read: {error}") from error
    if node is None or again is None or again.co_code != code.co_code:
        why = "was changed after it was imported; start again" if text else "can't be read"
        raise KernelError(f"{label}: its source, {code.co_filename}, {why}")
    return node


class _Translator(Emitter):
    """One function on its way."""

    def __init__(self, function: _Function, names: dict[_Function, str]) -> None:
        super().__init__()
        self.function = function
        self.names = names
        self.node = _source_tree(function)
        self.loops: list[tuple[str, str]] = []  # where `continue` and `break` lead
        self.locals = {
            n.id
            for n in ast.walk(self.node)
            if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
        }
        arguments = self.node.args
        if arguments.kwonlyargs or arguments.vararg or arguments.kwarg or arguments.defaults:
            self.refuse(self.node, "arguments are positional and have no defaults")
        self.arguments = [a.arg for a in (*arguments.posonlyargs, *arguments.args)]

    def refuse(self, node: ast.AST, why: str) -> NoReturn:
        """Say what can't be compiled, and where."""
        line = getattr(node, "lineno", self.node.lineno)
        file = self.function.__code__.co_filename
        name = f"{self.function.__module__}.{self.function.__qualname__}"
        raise KernelError(f"kernel {name}, {file}:{line}: {why}")

    # -- the whole

    def translate(self, linkage: str) -> str:
        name = self.names[self.function]
        for local in sorted(self.locals | set(self.arguments)):
            self.slots.append(f"  %v.{local} = alloca i64")
        self.block(self.node.body)
        if not self.ended:
            self.put("ret i64 0")
        arguments = ", ".join(f"i64 %a.{a}" for a in self.arguments)
        start = [f"  store i64 0, ptr %v.{n}" for n in sorted(self.locals - set(self.arguments))]
        start += [f"  store i64 %a.{a}, ptr %v.{a}" for a in self.arguments]
        return "\n".join(
            [
                f"define {linkage} i64 @{name}({arguments}) nounwind {{",
                "entry:",
                *self.slots,
                *start,
                *self.lines,
                "}",
            ]
        )

    def block(self, statements: list[ast.stmt]) -> None:
        for statement in statements:
            if self.ended:
                return  # never reached
            method = getattr(self, f"do_{type(statement).__name__}", None)
            if method is None:
                self.refuse(statement, f"{type(statement).__name__} statements can't be compiled")
            method(statement)

    # -- statements

    def do_Pass(self, node: ast.Pass) -> None:
        pass

    def do_Expr(self, node: ast.Expr) -> None:
        if not isinstance(node.value, ast.Constant):  # a docstring
            self.value(node.value)

    def do_Return(self, node: ast.Return) -> None:
        none = isinstance(node.value, ast.Constant) and node.value.value is None
        value = "0" if node.value is None or none else self.integer(self.value(node.value))
        self.put(f"ret i64 {value}")
        self.ended = True

    def store(self, target: ast.expr, text: str) -> None:
        if not isinstance(target, ast.Name):
            self.refuse(target, "only local variables can be assigned")
        self.put(f"store i64 {text}, ptr %v.{target.id}")

    def do_Assign(self, node: ast.Assign) -> None:
        if isinstance(node.value, ast.Tuple):
            values = [self.integer(self.value(v)) for v in node.value.elts]
            for target in node.targets:
                if not isinstance(target, ast.Tuple) or len(target.elts) != len(values):
                    self.refuse(node, "both sides of an assignment have the same number of parts")
                for part, text in zip(target.elts, values, strict=True):
                    self.store(part, text)
            return
        text = self.integer(self.value(node.value))
        for target in node.targets:
            self.store(target, text)

    def do_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.store(node.target, self.integer(self.value(node.value)))

    def do_AugAssign(self, node: ast.AugAssign) -> None:
        if not isinstance(node.target, ast.Name):
            self.refuse(node, "only local variables can be assigned")
        left = ast.copy_location(ast.Name(node.target.id, ast.Load()), node)
        whole = ast.copy_location(ast.BinOp(left, node.op, node.value), node)
        self.store(node.target, self.integer(self.value(whole)))

    def do_If(self, node: ast.If) -> None:
        then, other, after = self.label(), self.label(), self.label()
        self.branch(node.test, then, other)
        self.begin(then)
        self.block(node.body)
        left = not self.ended
        self.jump(after)
        self.begin(other)
        self.block(node.orelse)
        left = left or not self.ended
        self.jump(after)
        if left:
            self.begin(after)

    def do_While(self, node: ast.While) -> None:
        if node.orelse:
            self.refuse(node, "loops have no else")
        head, body, after = self.label(), self.label(), self.label()
        self.jump(head)
        self.begin(head)
        self.branch(node.test, body, after)
        self.begin(body)
        self.loops.append((head, after))
        self.block(node.body)
        self.loops.pop()
        self.jump(head)
        self.begin(after)

    def do_For(self, node: ast.For) -> None:
        call = node.iter
        ok = isinstance(call, ast.Call) and self.constant(call.func) is range
        if node.orelse or not ok or not isinstance(call, ast.Call) or call.keywords:
            self.refuse(node, "for loops go over range(...) and have no else")
        if not isinstance(node.target, ast.Name) or not 1 <= len(call.args) <= 3:
            self.refuse(node, "for loops have one variable and 1 to 3 arguments of range")
        step = 1
        if len(call.args) == 3:
            third = self.value(call.args[2]).text
            if third.startswith("%") or int(third) == 0:
                self.refuse(node, "the step of range is a constant that is not 0")
            step = int(third)
        start = "0" if len(call.args) == 1 else self.integer(self.value(call.args[0]))
        stop = self.integer(self.value(call.args[0 if len(call.args) == 1 else 1]))
        counter = self.slot()
        self.put(f"store i64 {start}, ptr {counter}")
        head, body, following, after = (self.label() for _ in range(4))
        self.jump(head)
        self.begin(head)
        at = self.new(f"load i64, ptr {counter}")
        more = self.new(f"icmp {'slt' if step > 0 else 'sgt'} i64 {at}, {stop}")
        self.put(f"br i1 {more}, label %{body}, label %{after}")
        self.begin(body)
        self.put(f"store i64 {at}, ptr %v.{node.target.id}")
        self.loops.append((following, after))
        self.block(node.body)
        self.loops.pop()
        self.jump(following)
        self.begin(following)
        raised = self.new(f"add i64 {at}, {step}")
        self.put(f"store i64 {raised}, ptr {counter}")
        self.jump(head)
        self.begin(after)

    def do_Continue(self, node: ast.Continue) -> None:
        self.jump(self.loops[-1][0])

    def do_Break(self, node: ast.Break) -> None:
        self.jump(self.loops[-1][1])

    # -- conditions

    def branch(self, test: ast.expr, yes: str, no: str) -> None:
        """Go to one of two labels."""
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            self.branch(test.operand, no, yes)
        elif isinstance(test, ast.BoolOp):
            for operand in test.values[:-1]:
                further = self.label()
                if isinstance(test.op, ast.And):
                    self.branch(operand, further, no)
                else:
                    self.branch(operand, yes, further)
                self.begin(further)
            self.branch(test.values[-1], yes, no)
        elif isinstance(test, ast.Compare) and len(test.ops) > 1:
            self.chain(test, yes, no)
        else:
            value = self.boolean(self.value(test))
            self.put(f"br i1 {value}, label %{yes}, label %{no}")
            self.ended = True

    def chain(self, test: ast.Compare, yes: str, no: str) -> None:
        left = self.integer(self.value(test.left))
        for i, (operator, right) in enumerate(zip(test.ops, test.comparators, strict=True)):
            value = self.integer(self.value(right))
            kind = _COMPARE.get(type(operator))
            if kind is None:
                self.refuse(test, "chains compare with ==, !=, <, <=, > and >=")
            result = self.new(f"icmp {kind} i64 {left}, {value}")
            further = yes if i == len(test.ops) - 1 else self.label()
            self.put(f"br i1 {result}, label %{further}, label %{no}")
            self.ended = True
            if further != yes:
                self.begin(further)
            left = value

    def from_branch(self, test: ast.expr) -> Value:
        """The truth of a condition as a value."""
        place = self.slot("i1")
        yes, no, after = self.label(), self.label(), self.label()
        self.branch(test, yes, no)
        for label, text in ((yes, "true"), (no, "false")):
            self.begin(label)
            self.put(f"store i1 {text}, ptr {place}")
            self.jump(after)
        self.begin(after)
        return Value(self.new(f"load i1, ptr {place}"), True)

    def is_condition(self, node: ast.expr) -> bool:
        """Whether an expression is a truth value by its form."""
        if isinstance(node, ast.BoolOp):
            return all(self.is_condition(v) for v in node.values)
        if isinstance(node, ast.Constant):
            return isinstance(node.value, bool)
        negated = isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not)
        return negated or isinstance(node, ast.Compare)

    # -- expressions

    def value(self, node: ast.expr) -> Value:
        method = getattr(self, f"of_{type(node).__name__}", None)
        if method is None:
            self.refuse(node, f"{type(node).__name__} expressions can't be compiled")
        result: Value = method(node)
        return result

    def constant(self, node: ast.expr) -> Any:
        """What a name outside the function stands for now."""
        function = self.function
        if isinstance(node, ast.Name):
            if node.id in self.locals or node.id in self.arguments:
                self.refuse(node, f"{node.id} is a variable; a constant or a function is needed")
            if node.id in function.__code__.co_freevars:
                at = function.__code__.co_freevars.index(node.id)
                return (function.__closure__ or ())[at].cell_contents
            if node.id in function.__globals__:
                return function.__globals__[node.id]
            builtins = {"range": range, "min": min, "max": max, "abs": abs, "int": int}
            builtins["bool"] = bool
            if node.id in builtins:
                return builtins[node.id]
            self.refuse(node, f"{node.id} is not defined")
        if isinstance(node, ast.Attribute):
            owner = self.constant(node.value)
            if isinstance(owner, types.ModuleType) and hasattr(owner, node.attr):
                return getattr(owner, node.attr)
        self.refuse(node, "only names and names in modules can be used here")

    def number(self, node: ast.AST, value: object) -> Value:
        if isinstance(value, bool):
            return Value("true" if value else "false", True)
        if type(value) is not int:
            self.refuse(node, f"an integer is needed, not {type(value).__name__}")
        if not -(1 << 63) <= value < 1 << 63:
            self.refuse(node, f"{value:#x} does not fit a signed 64-bit integer")
        return Value(str(value))

    def of_Constant(self, node: ast.Constant) -> Value:
        return self.number(node, node.value)

    def of_Name(self, node: ast.Name) -> Value:
        if node.id in self.locals or node.id in self.arguments:
            return Value(self.new(f"load i64, ptr %v.{node.id}"))
        return self.number(node, self.constant(node))

    def of_Attribute(self, node: ast.Attribute) -> Value:
        return self.number(node, self.constant(node))

    def of_UnaryOp(self, node: ast.UnaryOp) -> Value:
        if isinstance(node.op, ast.Not):
            return Value(self.new(f"xor i1 {self.boolean(self.value(node.operand))}, true"), True)
        text = self.integer(self.value(node.operand))
        literal = not text.startswith("%")
        if isinstance(node.op, ast.USub):
            # A literal -2**63 is what `-` makes of a number that is too large itself.
            return Value(str(-int(text)) if literal else self.new(f"sub i64 0, {text}"))
        if isinstance(node.op, ast.Invert):
            return Value(str(~int(text)) if literal else self.new(f"xor i64 {text}, -1"))
        return Value(text)

    def of_BinOp(self, node: ast.BinOp) -> Value:
        left = self.integer(self.value(node.left))
        right = self.integer(self.value(node.right))
        name = _SIMPLE.get(type(node.op))
        if name is not None:
            return Value(self.fold(node, left, right) or self.new(f"{name} i64 {left}, {right}"))
        folded = self.fold(node, left, right)
        if folded is not None:
            return Value(folded)
        if isinstance(node.op, (ast.LShift, ast.RShift)):
            if not right.startswith("%") and int(right) < 0:
                self.refuse(self.node, f"a shift by {right}")
            return Value(self.shift(isinstance(node.op, ast.LShift), left, right))
        if isinstance(node.op, (ast.FloorDiv, ast.Mod)):
            return Value(self.divide(isinstance(node.op, ast.Mod), left, right))
        self.refuse(node, f"the operator {type(node.op).__name__} can't be compiled")

    def fold(self, node: ast.BinOp, left: str, right: str) -> str | None:
        """The result for two literals, by Python itself."""
        if left.startswith("%") or right.startswith("%"):
            return None
        tree = ast.Expression(ast.BinOp(ast.Constant(int(left)), node.op, ast.Constant(int(right))))
        try:
            value = eval(compile(ast.fix_missing_locations(tree), "kernel", "eval"))
        except (ArithmeticError, ValueError) as error:
            self.refuse(node, str(error))
        return self.number(node, value).text

    def of_Compare(self, node: ast.Compare) -> Value:
        if len(node.ops) > 1:
            return self.from_branch(node)
        left = self.integer(self.value(node.left))
        right = node.comparators[0]
        operator = node.ops[0]
        if isinstance(operator, (ast.In, ast.NotIn)):
            if not isinstance(right, (ast.Tuple, ast.Set, ast.List)) or not right.elts:
                self.refuse(node, "`in` takes a tuple that is written out")
            result = ""
            for element in right.elts:
                text = self.integer(self.value(element))
                same = self.new(f"icmp eq i64 {left}, {text}")
                result = self.new(f"or i1 {result}, {same}") if result else same
            if isinstance(operator, ast.NotIn):
                result = self.new(f"xor i1 {result}, true")
            return Value(result, True)
        kind = _COMPARE.get(type(operator))
        if kind is None:
            self.refuse(node, f"the comparison {type(operator).__name__} can't be compiled")
        text = self.integer(self.value(right))
        return Value(self.new(f"icmp {kind} i64 {left}, {text}"), True)

    def of_BoolOp(self, node: ast.BoolOp) -> Value:
        if self.is_condition(node):
            return self.from_branch(node)
        # `a or b` is a where that is not 0, else b.
        place = self.slot()
        after = self.label()
        for operand in node.values[:-1]:
            text = self.integer(self.value(operand))
            self.put(f"store i64 {text}, ptr {place}")
            truth = self.new(f"icmp ne i64 {text}, 0")
            further = self.label()
            first, second = (after, further) if isinstance(node.op, ast.Or) else (further, after)
            self.put(f"br i1 {truth}, label %{first}, label %{second}")
            self.begin(further)
        self.put(f"store i64 {self.integer(self.value(node.values[-1]))}, ptr {place}")
        self.jump(after)
        self.begin(after)
        return Value(self.new(f"load i64, ptr {place}"))

    def of_IfExp(self, node: ast.IfExp) -> Value:
        place = self.slot()
        yes, no, after = self.label(), self.label(), self.label()
        self.branch(node.test, yes, no)
        for label, part in ((yes, node.body), (no, node.orelse)):
            self.begin(label)
            self.put(f"store i64 {self.integer(self.value(part))}, ptr {place}")
            self.jump(after)
        self.begin(after)
        return Value(self.new(f"load i64, ptr {place}"))

    def of_Call(self, node: ast.Call) -> Value:
        target = self.constant(node.func)
        if node.keywords or any(isinstance(a, ast.Starred) for a in node.args):
            self.refuse(node, "arguments are given by position")
        texts = [self.integer(self.value(a)) for a in node.args]
        if target in (min, max) and len(texts) > 1:
            name = "smin" if target is min else "smax"
            result = texts[0]
            for text in texts[1:]:
                result = self.new(f"call i64 @llvm.{name}.i64(i64 {result}, i64 {text})")
            return Value(result)
        if target in (abs, int, bool) and len(texts) == 1:
            if target is abs:
                return Value(self.new(f"call i64 @llvm.abs.i64(i64 {texts[0]}, i1 false)"))
            value = Value(texts[0])
            return value if target is int else Value(self.boolean(value), True)
        known = self.names.get(target) if isinstance(target, types.FunctionType) else None
        if known is None:
            hint = "" if hasattr(target, INLINE) else "; is it marked @inline?"
            self.refuse(node, f"{ast.unparse(node.func)} can't be called from a kernel{hint}")
        if len(texts) != target.__code__.co_argcount:
            self.refuse(
                node, f"{known} takes {target.__code__.co_argcount} arguments, not {len(texts)}"
            )
        arguments = ", ".join(f"i64 {t}" for t in texts)
        return Value(self.new(f"call i64 @{known}({arguments})"))


def translate_function(function: _Function, names: dict[_Function, str], linkage: str) -> str:
    """A function in LLVM's language.

    Args:
        function: The plain function.
        names: LLVM's names of it and of all functions that it may call.
        linkage: LLVM's word for who may call it, such as ``internal``.

    Raises:
        KernelError: It has something that can't be compiled; says what and where.
    """
    return _Translator(function, names).translate(linkage)
