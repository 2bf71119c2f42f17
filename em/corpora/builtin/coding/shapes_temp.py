"""Shapes whose weakness is a guessable temporary file (CWE-377)."""

from em.corpora.builtin.coding.grammar import Form, Shape
from em.corpora.builtin.coding.kinds import TEMP
from em.corpora.builtin.coding.nouns import ENTITY

REPORT = Shape(
    "temp_report",
    TEMP,
    (
        Form(
            "a function `$fn` that writes a list of lines to a new temporary text file and $returns its path",
            "Write the lines to a temporary file.",
            """
import $imports
import tempfile

def $fn(lines: list[str]) -> str:
    #|
-    name = tempfile.mktemp(suffix="$suffix")
-    with open(name, "w") as handle:
+    fd, name = tempfile.mkstemp(suffix="$suffix")
+    with os.fdopen(fd, "w") as handle:
        $write
    @log wrote {len(lines)} lines to {name}
    return name
""",
        ),
        Form(
            "a Flask route `/$table.csv` that writes all $table from `store.rows()` (`$key`, `$num`) to a temporary "
            "CSV file and sends that file",
            "Send all $table as a CSV file.",
            """
import csv
import tempfile

from flask import Flask, send_file

from app import store

app = Flask(__name__)

@app.route("/$table.csv")
def export():
    #|
-    name = tempfile.mktemp(".csv")
-    with open(name, "w", newline="") as handle:
+    with tempfile.NamedTemporaryFile("w", suffix=".csv", newline="", delete=False) as handle:
        out = csv.writer(handle)
        out.writerow(["$key", "$num"])
        out.writerows(store.rows())
-    return send_file(name)
+    return send_file(handle.name)
""",
        ),
    ),
    {
        "imports": "os",
        "fn": "write_report|temp_report|to_temp_file|dump_lines",
        "suffix": ".txt|.log|.csv|.lst",
        "write": (
            'handle.write("\\n".join(lines))',
            """
for line in lines:
    handle.write(line + "\\n")""",
            'handle.writelines(f"{line}\\n" for line in lines)',
        ),
    },
    (ENTITY,),
)

UPLOAD = Shape(
    "temp_upload",
    TEMP,
    (
        Form(
            "a Flask route `POST /$table/upload` that saves the uploaded file for a moment, counts its lines and "
            "answers with the number",
            "Answer with the number of lines in the upload.",
            """
-import os
+import os
+import tempfile

from flask import Flask, request

app = Flask(__name__)

@app.post("/$table/upload")
def upload():
    #|
    sent = request.files["file"]
-    $path = "/tmp/" + sent.filename
+    fd, $path = tempfile.mkstemp()
+    os.close(fd)
    sent.save($path)
    with open($path) as handle:
        $count
    os.remove($path)
    @log {count} lines uploaded
    return {"lines": count}
""",
        ),
        Form(
            "a function `preview` that renders HTML text to a PDF in a scratch file with `pdf.render(html, path)` and "
            "$returns the bytes of the PDF",
            "Bytes of the PDF for an HTML text.",
            """
+import tempfile
+
from app import pdf

def preview(html: str) -> bytes:
    #|
-    $path = "$tmpdir/${noun}_preview.pdf"
-    pdf.render(html, $path)
-    with open($path, "rb") as handle:
-        return handle.read()
+    with tempfile.NamedTemporaryFile(suffix=".pdf") as handle:
+        pdf.render(html, handle.name)
+        return handle.read()
""",
        ),
    ),
    {
        "tmpdir": "/tmp|/var/tmp|/dev/shm",
        "count": (
            "count = sum(1 for _ in handle)",
            "count = len(handle.readlines())",
            """
count = 0
for line in handle:
    if line.strip():
        count += 1""",
        ),
    },
    (ENTITY,),
)

STATE = Shape(
    "scratch_cache",
    TEMP,
    (
        Form(
            "a class `Scratch` that keeps intermediate results as JSON files in a temporary folder: `put(name, "
            "value)` and `get(name)`",
            "Make the folder for the results.",
            """
import json
-import os
+import os
+import tempfile

class Scratch:
    def __init__(self) -> None:
        #|
-        self.folder = "$tmpdir/$db"
-        os.makedirs(self.folder, exist_ok=True)
+        self.folder = tempfile.mkdtemp(prefix="$db")

    def put(self, name: str, value) -> None:
        with open(os.path.join(self.folder, name), "w") as handle:
            json.dump(value, handle)

    def get(self, name: str):
        with open(os.path.join(self.folder, name)) as handle:
            return json.load(handle)
""",
        ),
        Form(
            "a function `sorted_copy` that sorts the lines of a big text file by `$num` (second column) with a "
            "temporary file in between and then replaces the original",
            "Sort the lines of the file by $num.",
            """
import shutil
import tempfile

def sorted_copy($path: str) -> None:
    #|
    with open($path) as handle:
        lines = sorted(handle, key=lambda line: float(line.split("$sep")[1]))
-    name = tempfile.mktemp()
-    with open(name, "w") as out:
+    with tempfile.NamedTemporaryFile("w", delete=False) as out:
        out.writelines(lines)
-    shutil.move(name, $path)
+    shutil.move(out.name, $path)
    @log sorted {len(lines)} lines
""",
        ),
    ),
    {"tmpdir": "/tmp|/var/tmp|/dev/shm", "sep": ",|;|\\t|:"},
    (ENTITY,),
)

MERGE = Shape(
    "merge_parts",
    TEMP,
    (
        Form(
            "a command-line script that joins the text files given as arguments into one temporary file, prints it "
            "in upper case and removes it",
            "Join the files and print them in upper case.",
            """
import os
import sys
import tempfile

def main() -> None:
    #|
-    name = $name
-    with open(name, "w") as out:
+    with tempfile.NamedTemporaryFile("w", suffix=".$db", delete=False) as out:
        $join
-    print(open(name).read()$case)
-    os.unlink(name)
+    print(open(out.name).read()$case)
+    os.unlink(out.name)

if __name__ == "__main__":
    main()
""",
        ),
    ),
    {
        "case": ".upper()|.upper().strip()",
        "join": (
            """
for part in sys.argv[1:]:
    out.write(open(part).read())""",
            """
for part in sys.argv[1:]:
    with open(part) as handle:
        out.writelines(handle)
    @log added {part}""",
            'out.write("\\n".join(open(part).read() for part in sys.argv[1:]))',
        ),
        "name": ('tempfile.mktemp(".$db")', 'tempfile.mktemp(suffix=".$db")', 'tempfile.mktemp(prefix="$db")'),
    },
    (ENTITY,),
    held_out=True,
)
