"""Kernels are compiled in the background, cached, and never run stale code."""

import logging
import os
import subprocess
import sys
import textwrap
import threading

import pytest

from emudev_net import jit as jit_module
from emudev_net.jit import Kernel, compile_all, compile_now, inline, jit_wanted, queue_kernel
from emudev_net.primitives import call3

needs_compiler = pytest.mark.skipif(not jit_wanted(), reason="kernels are not compiled here")


def fresh():
    def twice(state: int, burst: int, rows: int) -> int:
        return rows * 2

    return queue_kernel(twice)


def test_a_kernel_runs_before_it_is_compiled():
    kernel = fresh()
    assert kernel(0, 0, 21) == 42
    assert kernel.address == 0
    assert kernel.function(0, 0, 3) == 6


@needs_compiler
def test_a_compiled_kernel_runs_by_call_and_by_address():
    kernel = fresh()
    assert kernel.compile()
    assert kernel.address > 0
    assert kernel(0, 0, 21) == 42
    assert call3(kernel.address, 0, 0, 4) == 8
    kernel.bind(0)
    assert kernel.address == 0
    assert kernel(0, 0, 21) == 42


def test_decorators_keep_what_a_reader_sees():
    @inline
    def helper(a: int) -> int:
        """Words."""
        return a

    assert helper(3) == 3
    assert helper.__doc__ == "Words."
    assert repr(fresh()).startswith("<kernel ")


def test_compile_all_calls_back_once_with_no_error():
    done, errors = threading.Event(), []

    def callback(error):
        errors.append(error)
        done.set()

    kernel = fresh()
    compilation = compile_all([kernel, None, kernel], callback)
    assert done.wait(30)
    assert compilation.wait(30)
    assert errors == [None]
    assert bool(kernel.address) == jit_wanted()


@needs_compiler
def test_what_goes_wrong_in_the_background_is_told_and_logged(caplog):
    def broken(state: int, burst: int, rows: int) -> int:
        return rows / 2

    errors = []
    with caplog.at_level(logging.WARNING):
        compile_all([Kernel(broken)], errors.append).wait(30)
    assert "Div" in str(errors[0])
    assert "traffic will be slow" in caplog.text


@needs_compiler
def test_a_cancelled_compilation_does_not_call_back():
    called = []
    with jit_module._lock:  # it waits here
        compilation = compile_all([fresh()], called.append)
        compilation.cancel()
    assert compilation.wait(30)
    assert called == []


def test_nothing_is_compiled_where_it_is_not_wanted(monkeypatch):
    monkeypatch.setenv("EMUDEV_JIT", "0")
    kernel = fresh()
    told = []
    assert compile_now([kernel]) is False
    compile_all([kernel], told.append)
    assert told == [None]
    assert kernel.address == 0
    assert kernel(0, 0, 1) == 2


# -- the cache, in processes of their own

PROGRAM = """
    import sys, time
    sys.path.insert(0, sys.argv[1])
    from quality.main import double
    from emudev_net.jit import compile_now
    said = []
    compile_now([double], said.append)
    assert double.address
    print(double(0, 0, 10), "built" if said else "loaded")
"""
MAIN = """
    from emudev_net.jit import queue_kernel
    from .helper import scaled

    @queue_kernel
    def double(state: int, burst: int, rows: int) -> int:
        return scaled(rows)
"""
HELPER = """
    from emudev_net.jit import inline
    from . import numbers

    @inline
    def scaled(a: int) -> int:
        return a * numbers.FACTOR
"""


@pytest.fixture
def package(tmp_path):
    folder = tmp_path / "lib" / "quality"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "main.py").write_text(textwrap.dedent(MAIN))
    (folder / "helper.py").write_text(textwrap.dedent(HELPER))
    (folder / "numbers.py").write_text("FACTOR = 2\n")
    return folder


def run(package, cache, program=PROGRAM):
    environment = {**os.environ, "EMUDEV_CACHE": str(cache), "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("EMUDEV_JIT", None)
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(package.parent)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.split(), result.stderr


@needs_compiler
def test_compiled_code_is_found_by_the_next_process(package, tmp_path):
    cache = tmp_path / "cache"
    assert run(package, cache)[0] == ["20", "built"]
    assert run(package, cache)[0] == ["20", "loaded"]


@needs_compiler
def test_a_change_in_a_helper_of_another_file_is_compiled(package, tmp_path):
    cache = tmp_path / "cache"
    run(package, cache)
    helper = package / "helper.py"
    helper.write_text(helper.read_text().replace("a *", "a + 1 +"))
    assert run(package, cache)[0] == ["13", "built"]


@needs_compiler
def test_a_change_of_a_constant_in_another_module_is_compiled(package, tmp_path):
    cache = tmp_path / "cache"
    run(package, cache)
    (package / "numbers.py").write_text("FACTOR = 5\n")
    assert run(package, cache)[0] == ["50", "built"]
    (package / "numbers.py").write_text("FACTOR = 2\n")
    assert run(package, cache)[0] == ["20", "loaded"]


@needs_compiler
@pytest.mark.parametrize("damage", [b"", b"short", None])
def test_a_damaged_file_is_built_anew(package, tmp_path, damage):
    cache = tmp_path / "cache"
    run(package, cache)
    (file,) = cache.glob("quality-*.o")
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    assert run(package, cache)[0] == ["20", "built"]
    assert file.read_bytes() == whole
    assert run(package, cache)[0] == ["20", "loaded"]


@needs_compiler
def test_a_folder_that_cannot_be_used_is_replaced_with_one_warning(package, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    said, errors = run(package, blocked)
    assert said == ["20", "built"]
    assert errors.count("kernel cache can't be used") == 1


@needs_compiler
def test_a_folder_that_others_may_write_is_not_trusted(package, tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir()
    cache.chmod(0o777)
    said, errors = run(package, cache)
    assert said == ["20", "built"]
    assert "others may write it" in errors
    assert not list(cache.iterdir())


@needs_compiler
def test_several_processes_may_fill_one_folder_at_the_same_time(package, tmp_path):
    cache = tmp_path / "cache"
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(run(package, cache)[0][0])) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == ["20"] * 3
    assert len(list(cache.glob("*.o"))) == 1
    assert len(list(cache.iterdir())) == 1


@needs_compiler
def test_a_source_that_was_changed_after_its_import_is_refused(package, tmp_path):
    program = """
        import sys, pathlib
        sys.path.insert(0, sys.argv[1])
        import quality.helper
        from quality.main import double
        from emudev_net.jit import compile_now
        from emudev_net.graph import KernelError
        file = pathlib.Path(quality.helper.__file__)
        file.write_text(file.read_text().replace("a *", "a + 1 +"))
        try:
            compile_now([double])
        except KernelError as error:
            print("refused" if "was changed after it was imported" in str(error) else error)
        print(double(0, 0, 10))
    """
    assert run(package, tmp_path / "cache", program)[0] == ["refused", "20"]


@needs_compiler
def test_importing_compiles_nothing_and_imports_no_compiler(package, tmp_path):
    program = """
        import sys
        import emudev_net.flow, emudev_net.rss, emudev_net.memory_queues
        print([m for m in ("numpy", "numba", "llvmlite") if m in sys.modules])
    """
    assert run(package, tmp_path / "cache", program)[0] == ["[]"]


@needs_compiler
def test_kernels_of_several_packages_keep_the_addresses_that_they_take(package, tmp_path):
    # Many calls of one function of libc make LLVM keep its address in a register, loaded from
    # wherever the object holds it.
    source = """
        from emudev_net.jit import queue_kernel
        from emudev_net.primitives import now_ns
        from emudev_net.system_calls import errno, write

        @queue_kernel
        def tick(state: int, burst: int, rows: int) -> int:
            last = now_ns()
            for i in range(rows):
                if write(-1, state, 0) != -1 or errno() != 9:
                    return -1
                now = now_ns()
                if now < last:
                    return -2
                last = now
            return rows
    """
    for name in ("one", "two", "three"):
        (package.parent / f"{name}.py").write_text(textwrap.dedent(source))
    program = """
        import sys
        sys.path.insert(0, sys.argv[1])
        import one, two, three
        from emudev_net.jit import compile_now
        for module in (one, two, three):
            compile_now([module.tick])
        print(*(module.tick(0, 0, 50) for module in (one, two, three, one)))
    """
    assert run(package, tmp_path / "cache", program)[0] == ["50"] * 4


def test_the_default_folder_follows_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.delenv("EMUDEV_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    objects = pytest.importorskip("emudev_net.objects")
    assert objects.cache_folder.__wrapped__() == tmp_path / "emudev" / "kernels"
