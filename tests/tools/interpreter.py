"""Triton's interpreter, mended so far that FLA's real kernels run in it on CPU tensors.

Call `prepare()` in a fresh process before triton or fla is imported, and run it as `python -O`, which drops FLA's
assertions against fp32 inputs. Triton 3.7.1.
"""

import ast
import os
import sys


def prepare() -> None:
    """Switch the interpreter on and mend it."""
    assert not {"fla", "triton"} & set(sys.modules), "prepare() comes before fla and triton"
    os.environ["TRITON_INTERPRET"] = "1"  # read where a kernel is decorated
    os.environ["FLA_CACHE_RESULTS"] = "0"  # the cache of tuned configurations asks for a GPU's driver
    os.environ["FLA_USE_COMPILE"] = "0"  # compare kernels, not PyTorch's compiler: RWKV-7's was off with AVX2 forced
    import triton.runtime.interpreter as interpreter
    from triton.runtime.autotuner import Autotuner

    Autotuner._bench = lambda self, *args, config, **meta: [0.0, 0.0, 0.0]  # time nothing: the first configuration wins
    mend_casts(interpreter)
    mend_gather(interpreter)
    mend_libdevice(interpreter)
    mend_bfloat16(interpreter)


def mend_casts(interpreter) -> None:
    """Loop counters and constants are Python numbers in the interpreter and lack `.to(dtype)`: rewrite such calls."""
    import triton.language as tl

    def cast(value, *args, **kwargs):
        value = value.value if isinstance(value, tl.constexpr) else value
        if isinstance(value, (bool, int)):
            value = interpreter._implicit_cvt(int(value))
        elif isinstance(value, float):
            value = interpreter.interpreter_semantic.to_tensor(value)
        return value.to(*args, **kwargs)

    interpreter._cast_any = cast  # the interpreter's globals are merged into a kernel's
    assign = interpreter.ASTTransformer.visit_Assign

    def visit_call(self, node):
        self.generic_visit(node)
        if isinstance(node.func, ast.Attribute) and node.func.attr == "to":
            name = ast.Name("_cast_any", ast.Load())
            node = ast.copy_location(ast.Call(name, [node.func.value, *node.args], node.keywords), node)
        return node

    def visit_assign(self, node):
        node.value = self.visit(node.value)  # the stock one does not look into the right-hand side
        return assign(self, node)

    interpreter.ASTTransformer.visit_Call = visit_call
    interpreter.ASTTransformer.visit_Assign = visit_assign


def mend_gather(interpreter) -> None:
    """FLA binds `tl.gather` at import, out of the interpreter's reach."""
    import triton.language as tl

    gather = tl.gather
    semantic = interpreter.interpreter_semantic
    tl.gather = lambda src, index, axis, **_: gather(src, index, axis, _semantic=semantic)


def mend_libdevice(interpreter) -> None:
    """CUDA's device functions in NumPy."""
    import numpy as np
    import triton.language as tl
    import triton.language.extra.libdevice as libdevice

    def elementwise(function):
        def run(x, **_):
            x = x if isinstance(x, tl.tensor) else interpreter.interpreter_semantic.to_tensor(x)
            data = function(x.handle.data).astype(x.handle.data.dtype)
            return tl.tensor(interpreter.TensorHandle(data, x.dtype.scalar), x.type)

        return run

    for name in ("tanh", "log1p", "exp2", "exp", "log", "log2", "expm1"):
        setattr(libdevice, name, elementwise(getattr(np, name)))
    libdevice.rsqrt = elementwise(lambda x: 1 / np.sqrt(x))
    for name, plain in {"expf": np.exp, "logf": np.log, "log2f": np.log2, "tanhf": np.tanh}.items():
        setattr(libdevice, f"fast_{name}", elementwise(plain))


def mend_bfloat16(interpreter) -> None:
    """The stock interpreter keeps bfloat16 as raw 16-bit integers and computes on those: compute in fp32 and round."""
    import numpy as np
    import triton.language as tl

    builder, handle_of = interpreter.InterpreterBuilder, interpreter.TensorHandle
    binary, unary, dot = builder.binary_op, builder.unary_op, builder.create_dot

    def is_bf16(handle) -> bool:
        return handle.dtype.scalar == tl.bfloat16

    def widen(handle):
        return (handle.data.astype(np.uint32) << 16).view(np.float32) if is_bf16(handle) else handle.data

    def narrow(data, dtype):
        if dtype.scalar != tl.bfloat16:
            return data
        bits = np.ascontiguousarray(data, np.float32).view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)  # to nearest, ties to even

    def binary_op(self, left, right, op):
        if is_bf16(left) and op in (np.add, np.subtract, np.multiply, np.divide):
            return handle_of(narrow(op(widen(left), widen(right)), left.dtype), left.dtype.scalar)
        return binary(self, left, right, op)

    def unary_op(self, arg, op):
        return handle_of(narrow(op(widen(arg)), arg.dtype), arg.dtype.scalar) if is_bf16(arg) else unary(self, arg, op)

    def create_dot(self, a, b, d, precision, imprecise):
        if is_bf16(a) or is_bf16(b):
            total = np.matmul(widen(a), widen(b), dtype=np.float32) + widen(d)
            return handle_of(narrow(total, d.dtype), d.dtype.scalar)
        if a.dtype.scalar == tl.float16 or b.dtype.scalar == tl.float16:  # tensor cores add half products in fp32
            product = np.matmul(a.data.astype(np.float32), b.data.astype(np.float32))
            return handle_of(product.astype(d.data.dtype) + d.data, d.dtype.scalar)
        return dot(self, a, b, d, precision, imprecise)

    builder.binary_op, builder.unary_op, builder.create_dot = binary_op, unary_op, create_dot
