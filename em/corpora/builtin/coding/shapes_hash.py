"""Shapes whose weakness is a broken digest (CWE-328)."""

from em.corpora.builtin.coding.grammar import Form, Shape
from em.corpora.builtin.coding.kinds import HASH
from em.corpora.builtin.coding.nouns import ENTITY, PEOPLE

ACCOUNT = Shape(
    "store_password",
    HASH,
    (
        Form(
            "a function `add_$noun` that stores a new account (`$key` and a hashed password) in the SQLite table "
            "`$table`",
            "Store a new account with its hashed password.",
            """
import hashlib
+import os
import sqlite3

def add_$noun($conn: sqlite3.Connection, $key: str, password: str) -> None:
    #|
-    digest = hashlib.$weak(password.encode()).hexdigest()
+    salt = os.urandom(16)
+    digest = salt.hex() + hashlib.scrypt(password.encode(), salt=salt, n=2**14, r=8, p=1).hex()
    $conn.execute("INSERT INTO $table ($key, password) VALUES (?, ?)", ($key, digest))
    $conn.commit()
    @log added {$key}
""",
        ),
        Form(
            "a class `Account` with the methods `set_password` and `check_password` that keeps only a hash of the "
            "password",
            "Keep a hash of the new password.",
            """
import hashlib
import hmac
+import os

class Account:
    def set_password(self, password: str) -> None:
        #|
+        self.salt = os.urandom(16)
        self.digest = self._hash(password)

    def check_password(self, password: str) -> bool:
        return hmac.compare_digest(self.digest, self._hash(password))

    def _hash(self, password: str) -> str:
-        return hashlib.$weak(password.encode()).hexdigest()
+        return hashlib.pbkdf2_hmac("sha256", password.encode(), self.salt, $rounds).hex()
""",
        ),
    ),
    {"weak": "md5|sha1", "rounds": "600_000|650_000|700_000"},
    (PEOPLE,),
)

CHECKSUM = Shape(
    "file_checksum",
    HASH,
    (
        Form(
            "a function `$fn` that compares a downloaded file with the hex digest published next to it and $returns "
            "True if they match",
            "Say whether the file has the published digest.",
            """
import hashlib

def $fn($path: str, expected: str) -> bool:
    #|
    $read
""",
        ),
        Form(
            "a script that prints the digest and the name of every file given on the command line",
            "Print digest and name of every file.",
            """
import hashlib
import sys
from pathlib import Path

def main() -> None:
    #|
    for name in sys.argv[1:]:
-        digest = hashlib.new("$weak", Path(name).read_bytes()).hexdigest()
+        digest = hashlib.new("$strong", Path(name).read_bytes()).hexdigest()
        print($out)

if __name__ == "__main__":
    main()
""",
        ),
    ),
    {
        "fn": "verify_download|matches|check_digest|is_intact",
        "weak": "md5|sha1",
        "strong": "sha256|sha512|sha384",
        "out": ("digest, name", 'f"{digest}  {name}"', 'name + ": " + digest'),
        "read": (
            """
-digest = hashlib.$weak()
+digest = hashlib.$strong()
with open($path, "rb") as handle:
    while chunk := handle.read($size):
        digest.update(chunk)
return digest.hexdigest() == expected""",
            """
with open($path, "rb") as handle:
-    actual = hashlib.$weak(handle.read()).hexdigest()
+    actual = hashlib.$strong(handle.read()).hexdigest()
@log {$path}: {actual}
return actual == expected.lower()""",
            """
content = open($path, "rb").read()
-return hashlib.$weak(content).hexdigest() == expected
+return hashlib.$strong(content).hexdigest() == expected""",
        ),
        "size": "4096|8192|65536",
    },
)

SIGNATURE = Shape(
    "signed_request",
    HASH,
    (
        Form(
            "a function `sign` that joins the sorted parameters of an API call, appends the shared key and $returns "
            "a hex digest to send along",
            "Digest of the sorted parameters and the shared key.",
            """
import hashlib
+import hmac

def sign(params: dict, key: str) -> str:
    #|
    text = "$sep".join(f"{name}={params[name]}" for name in sorted(params))
-    return hashlib.$weak((text + key).encode()).hexdigest()
+    return hmac.new(key.encode(), text.encode(), hashlib.sha256).hexdigest()
""",
        ),
        Form(
            "a function `confirm_link` that makes the link for confirming an e-mail address: it ends in a digest of "
            "the address and the application key from the environment variable `APP_KEY`",
            "Confirmation link for an e-mail address.",
            """
import hashlib
+import hmac
import os

BASE = "https://$domain.example/confirm"

def confirm_link(email: str) -> str:
    #|
    key = os.environ["APP_KEY"]
-    code = hashlib.$weak(f"{email}{key}".encode()).hexdigest()
+    code = hmac.new(key.encode(), email.encode(), "sha256").hexdigest()
    @log link for {email}
    return f"{BASE}?email={email}&code={code}"
""",
        ),
    ),
    {"weak": "md5|sha1", "sep": "&|;|,"},
)

LOGIN = Shape(
    "login_check",
    HASH,
    (
        Form(
            "a Flask route `POST /login` that compares a hash of the form field `password` with the entry for the form "
            "field `$key` in the dictionary `USERS`, sets the session and leads on to `/$table`, or answers with 401",
            "Log the user in if the password matches.",
            """
-import hashlib
-
-from flask import Flask, abort, redirect, request, session
+from flask import Flask, abort, redirect, request, session
+from werkzeug.security import check_password_hash

from app.users import USERS

app = Flask(__name__)

@app.post("/login")
def login():
    #|
    $key = request.form["$key"]
-    digest = hashlib.$weak(request.form["password"].encode()).hexdigest()
-    if USERS.get($key) != digest:
+    if not check_password_hash(USERS.get($key, ""), request.form["password"]):
        abort(401)
    session["user"] = $key
    @log {$key} logged in
    return $go
""",
        ),
    ),
    {"weak": "md5|sha1", "go": ('redirect("/$table")', '{"next": "/$table"}', 'redirect("/$table", code=303)')},
    (PEOPLE,),
    held_out=True,
)

AUDIT = Shape(
    "audit_chain",
    HASH,
    (
        Form(
            "a function `append` for an audit trail of $table: every entry (a dictionary) gets the digest of the "
            "entry before it under `prev`, so that later changes show",
            "Append an entry that carries the digest of the last one.",
            """
import hashlib
import json

def append(trail: list[dict], entry: dict) -> None:
    #|
    last = json.dumps(trail[-1], sort_keys=True) if trail else "$start"
-    entry["prev"] = hashlib.new("$weak", last.encode()).hexdigest()
+    entry["prev"] = hashlib.new("$strong", last.encode()).hexdigest()
    trail.append(entry)
    @log entry {len(trail)} written
""",
        ),
    ),
    {"weak": "md5|sha1", "strong": "sha256|sha512|sha3_256", "start": "start|genesis|0|first"},
    (ENTITY,),
    held_out=True,
)
