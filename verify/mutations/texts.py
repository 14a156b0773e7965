#!/usr/bin/env python3
"""Looks whether the text that each mutation and each part of the next version replaces stands exactly once in its file.

    python3 verify/mutations/texts.py

Prints those that do not, and ends with 1 when there are any. Nothing is built.
"""
import ast
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]


def constants(name, wanted):
    """The values of assignments at the top of a program beside this one."""
    tree = ast.parse((pathlib.Path(__file__).parent / name).read_text())
    values = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and node.targets[0].id in ["COLUMN", *wanted]:
            values[node.targets[0].id] = eval(compile(ast.Expression(node.value), name, "eval"), {}, values)
    return [entry for key in wanted for entry in values[key]]


def main():
    mutations = constants("run.py", ["MUTATIONS", "STRUCK"])
    parts = constants("upgrade.py", ["NEXT"])
    texts = [(name, file, before) for _, name, file, before, *_ in mutations]
    texts += [("the next version", file, before) for file, before, _ in parts]
    wrong = 0
    for name, file, before in texts:
        path = ROOT / file
        count = path.read_text().count(before) if path.exists() else 0
        if count != 1:
            wrong += 1
            print(f"{name}: {file} holds it {count} times:\n{before}\n")
    print(f"{len(texts) - wrong} of {len(texts)} texts stand once")
    return 1 if wrong else 0


sys.exit(main())
