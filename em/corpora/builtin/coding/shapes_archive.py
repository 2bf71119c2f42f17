"""Shapes about archives and file permissions (CWE-22, CWE-732)."""

from em.corpora.builtin.coding.grammar import Form, Shape
from em.corpora.builtin.coding.kinds import CHMOD, TAR
from em.corpora.builtin.coding.nouns import ENTITY

RESTORE = Shape(
    "restore_archive",
    TAR,
    (
        Form(
            "a function `$fn` that unpacks a `.tar.gz` backup into a folder (created if missing) and $returns the "
            "number of entries",
            "Unpack a backup into a folder.",
            """
import os
import tarfile

def $fn(archive: str, folder: str = "$folder") -> int:
    #|
    os.makedirs(folder, exist_ok=True)
    $unpack
    @log {count} entries restored
    return count
""",
        ),
        Form(
            "a Flask endpoint `POST /$table/archive` that unpacks the uploaded tar file into `$folder` and answers "
            "with the names in it",
            "Unpack the uploaded archive; answer with its names.",
            """
import tarfile

from flask import Flask, request

app = Flask(__name__)

@app.post("/$table/archive")
def unpack():
    #|
    with tarfile.open(fileobj=request.files["$field"].stream) as tar:
-        tar.extractall("$folder")
+        tar.extractall("$folder", filter="data")
        return {"names": tar.getnames()}
""",
        ),
    ),
    {
        "fn": "restore|unpack|restore_backup|extract_backup",
        "field": "file|archive|upload",
        "folder": "restore|data|uploads|/srv/data|incoming",
        "unpack": (
            """
with tarfile.open(archive, "r:gz") as tar:
    count = len(tar.getmembers())
-    tar.extractall(folder)
+    tar.extractall(folder, filter="data")""",
            """
tar = tarfile.open(archive)
-tar.extractall(path=folder)
+tar.extractall(path=folder, filter="data")
count = len(tar.getnames())
tar.close()""",
        ),
    },
    (ENTITY,),
)

PLUGIN = Shape(
    "install_theme",
    TAR,
    (
        Form(
            "a class `Themes` with a folder and a method `install` that downloads a theme as a tar archive with "
            "requests and unpacks it into that folder",
            "Download a theme and unpack it.",
            """
import io
import tarfile

import requests

class Themes:
    def __init__(self, folder: str = "$folder") -> None:
        self.folder = folder

    def install(self, url: str) -> None:
        #|
        answer = requests.get(url, timeout=$timeout)
        with tarfile.open(fileobj=io.BytesIO(answer.content)) as tar:
-            tar.extractall(self.folder)
+            tar.extractall(self.folder, filter="data")
        @log installed {url}
""",
        ),
        Form(
            "a script that unpacks every `.$ending` file of the current folder into a folder of the same name",
            "Unpack all archives in the current folder.",
            """
import tarfile
from pathlib import Path

def main() -> None:
    #|
    for archive in Path(".").glob("*.$ending"):
        target = Path(archive.name.split(".")[0])
        target.mkdir(exist_ok=True)
        with tarfile.open(archive) as tar:
-            tar.extractall(target)
+            tar.extractall(target, filter="data")
        print($out)

if __name__ == "__main__":
    main()
""",
        ),
    ),
    {
        "folder": "themes|static/themes|/srv/themes|skins",
        "ending": "tar|tar.gz|tgz|tar.xz",
        "out": ("target", "archive, target", 'f"{archive} done"'),
    },
)

DATASET = Shape(
    "dataset_unpack",
    TAR,
    (
        Form(
            "a function `prepare` that unpacks the $table data set `<name>.tar` into a cache folder, unless it is "
            "already there, and $returns the folder",
            "Folder of the data set, unpacked at first use.",
            """
import tarfile
from pathlib import Path

def prepare(name: str, cache: str = "$cache") -> Path:
    #|
    folder = Path(cache) / name
    if not folder.exists():
        with tarfile.open(f"{name}.tar", "$mode") as tar:
-            tar.extractall(folder)
+            tar.extractall(folder, filter="data")
        @log unpacked {name}
    return folder
""",
        ),
    ),
    {"cache": "cache|datasets|.data|/data/sets", "mode": "r|r:*|r:gz|r:xz"},
    (ENTITY,),
    held_out=True,
)

EXPORT = Shape(
    "export_permissions",
    CHMOD,
    (
        Form(
            "a function `export_$table` that writes a list of $table to a JSON file and sets the file mode so that "
            "our own job can pick it up",
            "Write the $table to a JSON file and set its mode.",
            """
import json
import os

def export_$table($table: list[dict], $path: str = "$table.json") -> None:
    #|
    with open($path, "w") as handle:
        json.dump($table, handle$indent)
-    os.chmod($path, $open)
+    os.chmod($path, 0o600)
    @log {len($table)} $table exported
""",
        ),
        Form(
            "a function `save_key` that stores the API key of $anoun in `keys/<$key>.key` with a fitting file mode",
            "Store the API key of $anoun.",
            """
import os
from pathlib import Path

def save_key($key: str, value: str) -> Path:
    #|
    target = Path("keys") / f"{$key}.key"
    target.parent.mkdir(exist_ok=True)
    target.write_text(value)
-    os.chmod(target, $open)
+    os.chmod(target, 0o400)
    return target
""",
        ),
    ),
    {"open": "0o777|0o666", "indent": "|, indent=2|, indent=4|, sort_keys=True"},
    (ENTITY,),
)

FOLDER = Shape(
    "shared_folder",
    CHMOD,
    (
        Form(
            "a function `$fn` that creates the upload folder of $anoun below `$base`, sets its mode and $returns its "
            "path",
            "Create the folder of $anoun.",
            """
import os

def $fn($key: str, base: str = "$base") -> str:
    #|
    folder = os.path.join(base, $key)
    $make
    return folder
""",
        ),
        Form(
            "a class `LogFolder` that makes its folder if needed and has a method `open_log` that $returns a log file "
            "opened for appending, with its mode set",
            "Open the log file of a name for appending.",
            """
import os

class LogFolder:
    def __init__(self, folder: str = "/var/log/$db") -> None:
        self.folder = folder
        os.makedirs(folder, exist_ok=True)

    def open_log(self, name: str):
        #|
        $path = os.path.join(self.folder, name + ".log")
        handle = open($path, "a")
-        os.chmod($path, 0o666)
+        os.chmod($path, 0o600)
        return handle
""",
        ),
    ),
    {
        "fn": "make_folder|upload_folder|create_folder|prepare_folder",
        "base": "/srv/uploads|/data/files|uploads|media",
        "make": (
            """
os.makedirs(folder, exist_ok=True)
-os.chmod(folder, 0o777)
+os.chmod(folder, 0o700)""",
            """
if not os.path.isdir(folder):
    os.makedirs(folder)
-    os.chmod(folder, 0o777)
+    os.chmod(folder, 0o700)
    @log created {folder}""",
        ),
    },
    (ENTITY,),
)

SCRIPT = Shape(
    "install_script",
    CHMOD,
    (
        Form(
            "a script that copies a shell script to `$bin` and makes it executable for the account that runs it",
            "Copy a script and make it executable.",
            """
import os
import shutil
import sys

def install(script: str, folder: str = "$bin") -> str:
    #|
    target = shutil.copy(script, folder)
-    os.chmod(target, $open)
+    os.chmod(target, $strict)
    return target
    #/

if __name__ == "__main__":
    print(install(sys.argv[1]))
""",
        ),
        Form(
            "a function `open_database` that creates the SQLite file `$db.db` with the table `$table` when it is "
            "missing, sets its file mode and $returns the connection",
            "Open the database, creating it if missing.",
            """
import os
import sqlite3

def open_database($path: str = "$db.db") -> sqlite3.Connection:
    #|
    new = not os.path.exists($path)
    $conn = sqlite3.connect($path)
    if new:
        $conn.execute("CREATE TABLE $table ($key TEXT, $col TEXT, $num REAL)")
-        os.chmod($path, 0o666)
+        os.chmod($path, 0o600)
    return $conn
""",
        ),
    ),
    {"bin": "/usr/local/bin|/opt/jobs|/srv/bin|bin", "open": "0o777|0o775|0o755", "strict": "0o700|0o500"},
    (ENTITY,),
    held_out=True,
)
