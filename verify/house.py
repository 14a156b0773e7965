#!/usr/bin/env python3
"""Counts how well the house can be read: documents, functions, modules, words.

    python3 verify/house.py [ROOT]

Prints Markdown tables. ROOT is a checkout, this one by default, so that two commits can be compared. Nothing is built.
"""
import pathlib
import re
import subprocess
import sys
from collections import defaultdict

ROOT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).resolve().parents[1])
PRODUCT = ["core", "pipeline", "ingest", "aggregate", "score", "sink", "keepwell", "deploy/local"]
# Words of a dialect where the field has its own.
DIALECT = ["told", "tell", "tells", "hear", "heard", "held", "seen", "said", "says", "piece", "pieces", "plain", "place", "cut", "by name", "whose", "stands"]
# A column of health whose places in the product show what a new one costs.
COLUMN = "baseline_score"


def listed(*patterns):
    names = subprocess.run(["git", "ls-files", *patterns], cwd=ROOT, text=True, capture_output=True, check=True).stdout
    return [ROOT / name for name in names.splitlines() if not name.startswith("third_party/")]


def prose(text):
    """Paragraphs of a Markdown text, without code, tables and headings."""
    text = re.sub(r"```.*?```", "\n\n", text, flags=re.S)
    blocks = re.split(r"\n\s*\n|\n(?=\s*(?:[-*]|\d+\.) )", text)
    return [" ".join(block.split()) for block in blocks if block.strip() and not block.lstrip().startswith(("|", "#", "<", "    "))]


def sentences(paragraph):
    return [s for s in re.split(r"(?<=[.!?:])\s+(?=[A-Z`*\"\[(0-9])", paragraph) if s.strip()]


def words(text):
    return len([word for word in text.split() if re.search(r"\w", word)])


def cells(text):
    lines = re.sub(r"```.*?```", "", text, flags=re.S).splitlines()
    return [cell.strip() for line in lines if line.startswith("|") for cell in line.strip("|").split(" | ")]


def documents():
    print("| document | words | words a sentence | longest sentence | longest paragraph | longest cell, characters |")
    print("|---|---|---|---|---|---|")
    for path in listed("*.md"):
        text = path.read_text()
        paragraphs = prose(text)
        lengths = [words(s) for p in paragraphs for s in sentences(p)] or [0]
        longest = max(map(words, paragraphs), default=0)
        cell = max(map(len, cells(text)), default=0)
        mean = sum(lengths) / len(lengths)
        print(f"| {path.relative_to(ROOT)} | {words(text)} | {mean:.1f} | {max(lengths)} | {longest} | {cell} |")


def code_only(text):
    """The text with strings, characters and comments blanked, line by line as before."""
    literal = r'r(#*)".*?"\1|b?"(?:\\.|[^"\\])*"|b?\'(?:\\.[^\']*|[^\'\\\n])\'|//[^\n]*'
    return re.sub(literal, lambda m: "_" + re.sub(r"[^\n]", " ", m.group())[1:], text, flags=re.S)


def functions(text):
    """Name, lines and number of parameters of each function."""
    text = code_only(text).replace("->", "  ").replace("=>", "  ")
    for match in re.finditer(r"^[ \t]*(?:pub(?:\([^)]*\))? )?(?:const |async )*fn (\w+)", text, flags=re.M):
        at, depth, commas, opened = match.end(), 0, "", False
        while at < len(text):  # generics and parameters, up to the body
            char = text[at]
            if char in "([<" and not (char == "<" and text[at - 1] == "-"):
                depth += 1
                opened |= char == "("
            elif char in ")]" or (char == ">" and text[at - 1] not in "-="):
                depth -= 1
                if opened and depth == 0 and char == ")":
                    break
            if opened:
                commas += char
            at += 1
        inner = commas[1:]
        parts, level = 0, 0
        for char in inner.strip().rstrip(","):
            level += (char in "([<{") - (char in ")]>}")
            parts += char == "," and level == 0
        count = parts + 1 if inner.strip() else 0
        count -= bool(re.match(r"\s*(?:&(?:'\w+ )?)?(?:mut )?self\b", inner))
        strangers = len(re.findall(r"(?:^|,)\s*\([a-z_, ]+\):", inner))
        end = at
        while end < len(text) and text[end] not in "{;":
            end += 1
        if end < len(text) and text[end] == "{":
            level = 0
            for end in range(end, len(text)):
                level += (text[end] == "{") - (text[end] == "}")
                if level == 0:
                    break
        yield match.group(1), text.count("\n", match.start(), end) + 1, count, strangers


def circles(folder):
    """Modules at the top of a crate that import each other, by whatever way: strongly connected."""
    uses = defaultdict(set)
    files = [path for path in listed(f"{folder}/src/*.rs", f"{folder}/src/**/*.rs")]
    for path in files:
        if path.stem in ("golden", "tests") or "tests" in path.parts:
            continue
        top = path.relative_to(ROOT / folder / "src").parts[0].removesuffix(".rs")
        code = re.split(r"#\[cfg\(test\)\]\s*mod tests \{", code_only(path.read_text()))[0]
        if top not in ("lib", "main", "tests", "golden"):
            uses[top] |= set(re.findall(r"crate::([a-z_0-9]+)\b", code)) - {top}
    names = set(uses)

    def reached(start):
        found, todo = set(), [start]
        while todo:
            for name in uses[todo.pop()] & names - found:
                found.add(name)
                todo.append(name)
        return found

    reach = {name: reached(name) for name in names}
    return {name for name in names if name in reach[name]}


def code():
    product = [p for p in listed("*.rs") if any(str(p.relative_to(ROOT)).startswith(f"{name}/src/") for name in PRODUCT)]
    longer, wider, tuples = [], [], 0
    for path in listed("*.rs"):
        for name, lines, params, strangers in functions(path.read_text()):
            where = f"{path.relative_to(ROOT)}:{name}"
            longer += [f"{where} {lines}"] if lines > 70 else []
            wider += [f"{where} {params}"] if params > 5 else []
            tuples += strangers
    comments = "\n".join(line.strip() for p in product for line in p.read_text().splitlines() if line.strip().startswith("//"))
    docs = [line.strip() for p in product for line in p.read_text().splitlines() if re.match(r"\s*/// \S", line)]
    long_docs = [d for d in re.split(r"\n(?!//[/!] \S)", comments) if any(words(s) > 35 for s in sentences(" ".join(re.sub(r"//[/!]?", "", d).split())))]
    places = [p for p in product if re.search(rf"\b{COLUMN}\b", p.read_text()) and "test" not in p.name]
    hits = sum(len(re.findall(rf"\b{COLUMN}\b", p.read_text())) for p in places)
    print("\n| what | count |\n|---|---|")
    print(f"| functions over 70 lines | {len(longer)} |")
    print(f"| functions with more than five parameters | {len(wider)} |")
    print(f"| parameters that are tuples of strangers | {tuples} |")
    print(f"| files over 500 lines | {sum(p.read_text().count(chr(10)) > 500 for p in listed('*.rs'))} |")
    for name in PRODUCT:
        if (ROOT / name / "src").exists():
            found = circles(name)
            print(f"| modules of {name} in a circle | {len(found)} {' '.join(sorted(found))} |")
    print(f"| product files that name `{COLUMN}`, times | {len(places)}, {hits} |")
    print(f"| comments with a sentence over 35 words | {len(long_docs)} |")
    print(f"| one-line docs of one or two words | {sum(len(d.split()) <= 3 for d in docs)} of {len(docs)} |")
    for word in DIALECT:
        print(f"| \"{word}\" in comments of the product | {len(re.findall(rf'{chr(92)}b{word}{chr(92)}b', comments, flags=re.I))} |")
    for title, found in [("Over 70 lines", longer), ("More than five parameters", wider)]:
        print(f"\n{title}: " + ("; ".join(found) or "none"))


documents()
code()
