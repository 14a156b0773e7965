#!/usr/bin/env python3
"""Replaces the stages one by one, under load and kills, by a next version that writes one more column to `events`,
`windows` and `health`; back; and to it again. All that was said is judged.

    python3 verify/mutations/upgrade.py [ARGUMENT OF `chaos run` ...]

The next version is made from a copy of the tree in target/mutations. Exit code 0 when nothing is lost, doubled or wrong.
"""
import os
import subprocess
import sys

from tree import BUILT, ROOT, STAGES, TARGET, build, copy, replaced

COLUMN = 'maybe("added", Text, "what the next version adds"),'
# file, what is there, what the next version has instead
NEXT = [
    ("core/src/schema/event.rs", 'maybe("reason", Text, "contract: why"),',
     'maybe("reason", Text, "contract: why"),\n    ' + COLUMN),
    ("core/src/schema/event/builder.rs", "Arc::new(self.reason.take(rows).finish()),\n",
     "Arc::new(self.reason.take(rows).finish()),\n            Arc::new(arrow::array::StringArray::from(vec![Some(\"by the next version\"); rows])),\n"),
    ("core/src/schema/window.rs", 'watermark: Maybe<Time> = "watermark when the row was made";',
     'added: Maybe<super::super::kind::Text> = "what the next version adds";\n'
     '        watermark: Maybe<Time> = "watermark when the row was made";'),
    ("aggregate/src/measure.rs", 'watermark: provenance.watermark_us,',
     'added: Some("by the next version"),\n                watermark: provenance.watermark_us,'),
    ("core/src/schema/health.rs", 'watermark: Maybe<Time> = "watermark when the window rows were made"',
     'added: Maybe<Text> = "what the next version adds" => hidden;\n'
     '    watermark: Maybe<Time> = "watermark when the window rows were made"'),
    ("score/src/health_row.rs", 'watermark: case.watermark_us,',
     'added: Some("by the next version"),\n            watermark: case.watermark_us,'),
]


def main():
    copy()
    for file, before, after in NEXT:
        replaced(file, before, after)
    build(*STAGES)
    command = [str(TARGET / "debug" / "chaos"), "run", "--next", str(BUILT / "debug"), *sys.argv[1:]]
    sys.exit(subprocess.run(command, cwd=ROOT, env=os.environ | {"RUST_BACKTRACE": "0"}).returncode)


main()
