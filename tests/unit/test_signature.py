# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who a step is, by real command lines and hostile ones.

Those of gcc 12, ld, cargo and meinproc5 are as they were on a Debian 12; others are in the form of their manuals.
"""

import os
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slicemgr.build.signature import LONGEST, kind_of, signature_of
from slicemgr.model.step import StepSignature

GCC = "/usr/lib/gcc/x86_64-linux-gnu/12"
CARGO = "--error-format=json --json=diagnostic-rendered-ansi,artifacts,future-incompat"
CARGO_TAIL = "--out-dir /home/a/foo/target/debug/deps -C incremental=/home/a/foo/target/debug/incremental -L dependency=/home/a/foo/target/debug/deps"
PLUGIN = f"-plugin {GCC}/liblto_plugin.so -plugin-opt={GCC}/lto-wrapper -plugin-opt=-fresolution=/tmp/cctJx2F2.res -plugin-opt=-pass-through=-lgcc --build-id --eh-frame-hdr -m elf_x86_64 --hash-style=gnu --as-needed -dynamic-linker /lib64/ld-linux-x86-64.so.2 -pie"

# (command line, program, what); the comment is what a person or a build tool has called.
TABLE = [
    # g++ -O2 -DFOO -Isrc -MMD -MF obj/x.d -c src/x.cc -o obj/foo-x.o
    (f"{GCC}/cc1plus -quiet -I src -imultiarch x86_64-linux-gnu -MMD obj/foo-x.d -MF obj/x.d -MT obj/x.o -D_GNU_SOURCE -D FOO -D BAR=1 -isystem /usr/include -include stdio.h src/x.cc -quiet -dumpdir obj/ -dumpbase foo-x.cc -dumpbase-ext .cc -mtune=generic -march=x86-64 -O2 -fasynchronous-unwind-tables -o /tmp/ccy5ZJRx.s", "cc1plus", "obj/foo-x.cc"),
    # g++ -c src/x.cc
    (f"{GCC}/cc1plus -quiet -imultiarch x86_64-linux-gnu -D_GNU_SOURCE src/x.cc -quiet -dumpbase x.cc -dumpbase-ext .cc -mtune=generic -march=x86-64 -fasynchronous-unwind-tables -o /tmp/ccFc8qgR.s", "cc1plus", "x.cc"),
    # gcc -pipe -c y.c -o obj/y.o
    (f"{GCC}/cc1 -quiet -imultiarch x86_64-linux-gnu y.c -quiet -dumpdir obj/ -dumpbase y.c -dumpbase-ext .c -mtune=generic -march=x86-64 -fasynchronous-unwind-tables -o -", "cc1", "obj/y.c"),
    # gcc y.c -o prog
    (f"{GCC}/cc1 -quiet -imultiarch x86_64-linux-gnu y.c -quiet -dumpdir prog- -dumpbase y.c -dumpbase-ext .c -mtune=generic -march=x86-64 -fasynchronous-unwind-tables -o /tmp/ccpCWX8e.s", "cc1", "prog-y.c"),
    (f"{GCC}/collect2 {PLUGIN} -o prog {GCC}/crtbeginS.o -L{GCC} /tmp/cc0aBdCO.o -lgcc -lc", "collect2", "prog"),
    (f"/usr/bin/ld {PLUGIN} -o prog {GCC}/crtbeginS.o -L{GCC} /tmp/cc0aBdCO.o -lgcc -lc", "ld", "prog"),
    # cmake: g++ -o CMakeFiles/t.dir/a/b.cc.o -c a/b.cc
    (f"{GCC}/cc1plus -quiet -D_GNU_SOURCE a/b.cc -quiet -dumpdir CMakeFiles/t.dir/a/ -dumpbase b.cc.cc -dumpbase-ext .cc -O2 -o /tmp/ccwkKBNL.s", "cc1plus", "CMakeFiles/t.dir/a/b.cc.cc"),
    # gcc -S y.c -o obj/y.s; gcc -E y.c -o obj/y.i; gcc -E -
    (f"{GCC}/cc1 -quiet y.c -quiet -dumpdir obj/ -dumpbase y.c -dumpbase-ext .c -mtune=generic -o obj/y.s -fasynchronous-unwind-tables", "cc1", "obj/y.s"),
    (f"{GCC}/cc1 -E -quiet y.c -o obj/y.i -mtune=generic -dumpdir obj/ -dumpbase y.c -dumpbase-ext .c", "cc1 -E", "obj/y.i"),
    (f"{GCC}/cc1 -E -quiet - -mtune=generic -dumpbase -", "cc1 -E", "-E -quiet - -mtune=generic -dumpbase -"),
    # gcc before 11
    ("/usr/lib/gcc/x86_64-linux-gnu/8/cc1 -quiet -imultiarch x86_64-linux-gnu y.c -quiet -dumpbase y.c -mtune=generic -march=x86-64 -auxbase-strip obj/foo-y.o -o /tmp/ccXq1aKz.s", "cc1", "obj/foo-y.o"),
    # gcc -flto=2 -O2 obj/yl.o -o progl
    (f"{GCC}/lto1 -quiet -dumpbase ./progl.wpa -mtune=generic -march=x86-64 -O2 -fno-openmp -fltrans-output-list=/tmp/cc2hVThy.ltrans.out -fwpa=2 -fresolution=/tmp/ccU2k4Lq.res -flinker-output=pie @/tmp/ccULRynH", "lto1", "./progl.wpa"),
    (f"{GCC}/lto1 -quiet -dumpbase ./progl.ltrans0.ltrans -mtune=generic -march=x86-64 -O2 -fltrans /tmp/cc2hVThy.ltrans0.o -o /tmp/ccF35zlA.s", "lto1", "./progl.ltrans0.ltrans"),
    # The assembler of these
    ("as --64 -o obj/y.o /tmp/ccX12345.s", "as", "obj/y.o"),
    ("as --64 -o /tmp/ccabcdef.o /tmp/ccX12345.s", "as", "--64 -o"),
    # gcc @args: collect2 tells ld all in a file
    ("/usr/bin/ld @/tmp/ccE6XUlA", "ld", ""),
    # ld -r obj/y.o --output=obj/yr.o
    ("ld -r obj/y.o --output=obj/yr.o -Map obj/m", "ld", "obj/yr.o"),
    ("/usr/bin/ld.gold -o a.out x.o", "ld.gold", "a.out"),
    # rustc's own linker
    ("/usr/bin/cc -m64 /tmp/rustcPzIYsM/symbols.o /home/a/foo/target/debug/deps/foo_bar-6657841c892f2fb2.1nyx3tse6.rcgu.o -o /home/a/foo/target/debug/deps/foo_bar-6657841c892f2fb2", "cc", "/home/a/foo/target/debug/deps/foo_bar-6657841c892f2fb2"),
    # cargo test: a build script, it itself, the library, its tests
    (f"/root/.rustup/toolchains/stable-x86_64-unknown-linux-gnu/bin/rustc --crate-name build_script_build --edition=2021 build.rs {CARGO} --crate-type bin --emit=dep-info,link -C embed-bitcode=no -C metadata=5edf28f3093168c5 -C extra-filename=-cd401c92ad7ab731 {CARGO_TAIL}", "rustc", "build_script_build-cd401c92ad7ab731 bin"),
    ("/home/a/foo/target/debug/build/foo-bar-cd401c92ad7ab731/build-script-build", "build-script-build", ""),
    (f"rustc --crate-name foo_bar --edition=2021 src/lib.rs {CARGO} --crate-type lib --emit=dep-info,metadata,link -C embed-bitcode=no -C debuginfo=2 -C metadata=a6ce9276ca1536ae -C extra-filename=-affebd3b94e48a0e {CARGO_TAIL}", "rustc", "foo_bar-affebd3b94e48a0e lib"),
    (f"rustc --crate-name foo_bar --edition=2021 src/lib.rs {CARGO} --emit=dep-info,link -C debuginfo=2 --test -C metadata=2e952cf4b15b50d0 -Cextra-filename=-5678cccfccca345f {CARGO_TAIL}", "rustc", "foo_bar-5678cccfccca345f test"),
    ("rustc --crate-name=foo lib.rs", "rustc", "foo"),
    # clang's own front end (not taken from a run; the driver calls it in its own process, with its own arguments)
    ("/usr/lib/llvm-14/bin/clang -cc1 -triple x86_64-pc-linux-gnu -emit-obj -main-file-name x.cc -mrelocation-model pic -o obj/x.o -x c++ src/x.cc", "clang", "obj/x.o"),
    ("/usr/lib/llvm-14/bin/clang -cc1 -triple x86_64-pc-linux-gnu -S -main-file-name x.cc -o /tmp/x-1a2b3c.s -x c++ src/x.cc", "clang", "src/x.cc"),
    ("/usr/lib/llvm-14/bin/clang -cc1 -S -main-file-name x.cc -o - -x c++ -", "clang", "x.cc"),
    ("clang++ -O2 -c src/x.cc -o obj/x.o", "clang++", "obj/x.o"),
    # ccache compiles what it has preprocessed
    (f"{GCC}/cc1plus -fpreprocessed /run/user/0/ccache-tmp/cpp_stdout.tmp.6mEuVd.ii -quiet -dumpdir obj/ -dumpbase x.cc -dumpbase-ext .cc -o /tmp/ccwkKBNL.s", "cc1plus", "obj/x.cc"),
    (f"{GCC}/cc1plus -E -quiet src/x.cc -o /run/user/0/ccache-tmp/cpp_stdout.tmp.6mEuVd.ii -dumpdir obj/ -dumpbase x.cc", "cc1plus -E", "obj/x.cc"),
    # KDE's manuals
    ("meinproc5 --check --cache ../out/kde-docs/de/kate/index.cache.bz2 /usr/share/doc/HTML/de/kate/index.docbook", "meinproc5", "../out/kde-docs/de/kate/index.cache.bz2"),
    ("/usr/bin/meinproc5 --stdout index.docbook", "meinproc5", "index.docbook"),
    ("meinproc5 -o index.html index.docbook", "meinproc5", "index.html"),
    ("meinproc5", "meinproc5", ""),
    # Others
    ("moc -I. -DX foo.h -o moc_foo.cpp", "moc", "moc_foo.cpp"),
    ("javac -d out Foo.java Bar.java", "javac", "-d out Foo.java Bar.java"),
    ("python3 setup.py build -o x", "python3", "setup.py build -o x"),
    ("/usr/bin/python3.11 tool.py --output=/tmp/tmpq3v1_x0p.h gen.in", "python3.11", "tool.py gen.in"),
    ("perl -w /usr/bin/po4a -o opt x.pot", "perl", "-w /usr/bin/po4a -o opt x.pot"),
    # A build below /tmp is none of temporary files
    ("cc1 /tmp/build/x.c -quiet -dumpdir /tmp/build/obj/ -dumpbase x.c -o /tmp/ccabcdef.s", "cc1", "/tmp/build/obj/x.c"),
    ("ld -o /tmp/build/prog x.o", "ld", "/tmp/build/prog"),
    ("ld -o /tmp/ccache x.o", "ld", "/tmp/ccache"),
    # An output that is none
    (f"{GCC}/cc1 -quiet conftest.c -quiet -dumpbase conftest.c -o /dev/null", "cc1", "conftest.c"),
    ("ld x.o -o", "ld", "x.o -o"),
    ("ld -o -lfoo", "ld", "-o -lfoo"),
    ("true", "true", ""),
]  # fmt: skip


@pytest.mark.parametrize(("line", "program", "what"), TABLE, ids=[str(at) for at in range(len(TABLE))])
def test_command_line(line: str, program: str, what: str) -> None:
    """One row."""
    assert signature_of(shlex.split(line), "/home/a/foo") == StepSignature(program, what, "/home/a/foo")


def test_the_same_step_has_the_same_signature_in_each_run() -> None:
    """Whatever temporary names the driver has chosen, and whatever the flags are."""
    first = f"{GCC}/cc1 -quiet y.c -quiet -dumpdir obj/ -dumpbase y.c -O0 -o /tmp/ccAAAAAA.s"
    again = f"{GCC}/cc1 -quiet -g y.c -quiet -dumpdir obj/ -dumpbase y.c -O2 -o /tmp/ccBBBBBB.s"
    assert signature_of(first.split(), "/a") == signature_of(again.split(), "/a")


def test_steps_are_told_from_each_other() -> None:
    """By program, by what they make, and by where."""
    lines = [line for line, _, what in TABLE if what]
    signatures = [signature_of(shlex.split(line), where) for line in lines for where in ("/a", "/b")]
    same = {"obj/y.c", "obj/x.o", "obj/x.cc"}  # Rows of the table that are of one step.
    assert len({each for each in signatures if each.what not in same}) == len(
        [each for each in signatures if each.what not in same]
    )


def test_a_long_command_line_is_told_by_its_beginning_and_a_hash() -> None:
    """So the store stays small; two that differ at their ends are two."""
    lines = [["python3", "gen.py", *(f"input{at:04}" for at in range(2000)), last] for last in "ab"]
    one, other = (signature_of(line, "/a") for line in lines)
    assert one != other
    assert len(one.what) == len(other.what) == LONGEST
    assert one.what.startswith("gen.py input0000 input0001")
    assert one == signature_of(lines[0], "/a")


HOSTILE = [
    [],
    [""],
    ["", ""],
    ["/"],
    ["cc1", "-o"],
    ["cc1", "-dumpbase"],
    ["rustc", "--crate-name"],
    ["rustc", "--crate-name="],
    ["meinproc5", "--cache"],
    ["clang", "-main-file-name"],
    ["clang", "-main-file-name", ""],
    ["a\nb\x1b[2J", "-o", "c\nd"],
    [os.fsdecode(b"/bin/\xff\xfe"), os.fsdecode(b"\xff" * 300)],
    ["x" * (1 << 20)],
    ["x", "y" * (1 << 20)],
    ["x", *["y" * 9] * 100_000],
    ["x", "/" + "x/" * 500_000 + "cc"],
    ["x", "/" + "tmp/a-" * 160_000],
    ["x", "/tmp/" + "tmp." * 250_000 + "/"],
    ["x", "-" + "=/" * 500_000],
]


@pytest.mark.parametrize("arguments", HOSTILE, ids=[str(at) for at in range(len(HOSTILE))])
def test_hostile_arguments(arguments: list[str]) -> None:
    """Give a signature of bounded size, with one line of program: no answer of a process's own choice ends us."""
    signature = signature_of(arguments, "/a\nb")
    assert len(signature.program) <= LONGEST
    assert len(signature.what) <= LONGEST
    assert signature.directory == "/a\nb"


WORDS = st.text(alphabet=st.characters(blacklist_characters="\0", blacklist_categories=()), max_size=40) | st.sampled_from(
    ["-o", "--output", "--output=", "-dumpbase", "-dumpdir", "-auxbase-strip", "-main-file-name", "--crate-name", "--cache",
     "cc1plus", "rustc", "meinproc5", "clang", "python3", "/tmp/ccabcdef.s", "-", "@/tmp/ccabcdef", "--test", "x" * 300]
)  # fmt: skip


@given(st.lists(WORDS, max_size=12), st.text(max_size=10))
def test_any_arguments(arguments: list[str], directory: str) -> None:
    """Never an error, always the same answer, and of bounded size."""
    signature = signature_of(arguments, directory)
    assert signature == signature_of(tuple(arguments), directory)
    assert max(len(signature.program), len(signature.what)) <= LONGEST
    assert signature.directory == directory


@pytest.mark.parametrize(
    ("name", "arguments", "kind"),
    [
        ("cc1plus", "cc1plus -quiet a.cpp -o /tmp/ccCE7u6C.s", "cc1plus"),
        ("cc1plus", "cc1plus -E -quiet a.cpp -o /tmp/cpp_stdout.tmp.L6N8C0.ii", "cc1plus -E"),
        ("clang-14", "clang-14 -cc1 -triple x86_64 -E a.c", "clang-14 -E"),
        ("grep", "grep -E a b", "grep"),
        ("python3", "python3 -E script.py", "python3"),
        ("cc1", "cc1 -E y.c", "cc1 -E"),
        ("cc1", "", "cc1"),
    ],
)
def test_who_only_preprocesses_is_of_another_kind(name: str, arguments: str, kind: str) -> None:
    """It holds a tenth of what its compiler will, and so tells nothing of that."""
    assert kind_of(name, arguments.split()) == kind
    assert signature_of(arguments.split() or [name], "/a").program == kind
