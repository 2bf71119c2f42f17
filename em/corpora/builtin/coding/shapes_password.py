"""Shapes whose weakness is a credential in the source (CWE-259)."""

from em.corpora.builtin.coding.grammar import Form, Shape
from em.corpora.builtin.coding.kinds import PASSWORD
from em.corpora.builtin.coding.nouns import ENTITY

_LITERAL = "$db-2024|${Noun}123|welcome-$db|${db}_admin1|changeme-$noun|${noun}s4ever|summer-$db|let-me-$noun"

DATABASE = Shape(
    "database_connection",
    PASSWORD,
    (
        Form(
            "a function `connect` that opens a connection to the $engine database `$db` on the host "
            "`$db.$domain.example` as the user `$user`",
            "Connect to the database $db.",
            """
+import os
+
import $driver

def connect():
    #|
    @log connecting to $db as $user
    conn = $driver.connect(
        host="$db.$domain.example",
        user="$user",
-        password="$literal",
+        password=os.environ["${DB}_PASSWORD"],
        $namearg="$db",
    )
    $ready
""",
        ),
        Form(
            "a class `${Noun}Db` that connects to the $engine database `$db` (user `$user`) when created and has a "
            "method `count` for the number of $table",
            "The database $db, with the number of its $table.",
            """
+import os
+
import $driver

class ${Noun}Db:
    #|
    user = "$user"
-    password = "$literal"
+    password = os.environ.get("${DB}_PASSWORD")

    def __init__(self, host: str = "localhost") -> None:
        self.conn = $driver.connect(host=host, user=self.user, password=self.password, $namearg="$db")

    def count(self) -> int:
        cur = self.conn.cursor()
        cur.execute("SELECT COUNT(*) FROM $table")
        return cur.fetchone()[0]
""",
        ),
    ),
    {
        "literal": _LITERAL,
        "ready": ("return conn", "conn.autocommit = True\nreturn conn", "return conn, conn.cursor()"),
    },
    (
        ENTITY,
        (
            {"engine": "Postgres", "driver": "psycopg2", "namearg": "dbname"},
            {"engine": "MySQL", "driver": "pymysql", "namearg": "database"},
        ),
    ),
)

MAIL = Shape(
    "send_mail",
    PASSWORD,
    (
        Form(
            "a function `$fn` that sends a short text by e-mail through `mail.$domain.example` (login `$user`), with "
            "subject and recipient as arguments",
            "Send a text by e-mail.",
            """
+import os
import smtplib
from email.message import EmailMessage

-SMTP_PASSWORD = "$literal"
+SMTP_PASSWORD = os.environ["SMTP_PASSWORD"]

def $fn(to: str, subject: str, text: str) -> None:
    #|
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = "$user@$domain.example", to, subject
    mail.set_content(text)
    with smtplib.SMTP_SSL("mail.$domain.example") as server:
        server.login("$user", SMTP_PASSWORD)
        server.send_message(mail)
    @log mail to {to} sent
""",
        ),
    ),
    {"fn": "send_mail|notify|mail_text|send_note|send_report", "literal": _LITERAL},
    (ENTITY,),
)

ADMIN = Shape(
    "admin_page",
    PASSWORD,
    (
        Form(
            "a Flask app whose page `/admin/$table` is shown only after the form field `password` was right, and "
            "that remembers this in the session",
            "Let the user in if the password is right.",
            """
import hmac
import os

from flask import Flask, abort, redirect, request, session

app = Flask(__name__)
-app.config["SECRET_KEY"] = "$literal"
+app.config["SECRET_KEY"] = os.environ["SECRET_KEY"]

@app.post("/admin")
def enter():
    #|
    if not hmac.compare_digest(request.form["password"], os.environ["ADMIN_PASSWORD"]):
        abort(403)
    session["admin"] = True
    return redirect("/admin/$table")
""",
        ),
        Form(
            "a function `is_admin` for the $db console that asks for the admin password and $returns whether it was "
            "right",
            "Ask for the admin password.",
            """
import getpass
+import hmac
+import os

def is_admin() -> bool:
    #|
    password = getpass.getpass("$ask")
-    if password == "$literal":
+    if hmac.compare_digest(password, os.environ["ADMIN_PASSWORD"]):
        return True
    @log wrong password
    return False
""",
        ),
    ),
    {"literal": _LITERAL, "ask": "Password: |Admin password: |$Db password: "},
    (ENTITY,),
)

API = Shape(
    "api_client",
    PASSWORD,
    (
        Form(
            "a class `${Noun}Api` for the service `https://api.$domain.example` that authenticates with a bearer "
            "token and has a method `list` for its `/$table`",
            "Client of https://api.$domain.example with a list of its $table.",
            """
+import os
+
import requests

class ${Noun}Api:
    #|
    base = "https://api.$domain.example"

-    def __init__(self, token: str = "$literal") -> None:
-        self.headers = {"Authorization": f"Bearer {token}"}
+    def __init__(self, token: str | None = None) -> None:
+        self.headers = {"Authorization": f"Bearer {token or os.environ['${DB}_TOKEN']}"}

    def list(self) -> list:
        answer = requests.get(f"{self.base}/$table", headers=self.headers, timeout=$timeout)
        answer.raise_for_status()
        return answer.json()
""",
        ),
        Form(
            "a function `post_$noun` that sends one $noun as JSON to `https://$domain.example/api/$table` with HTTP "
            "basic login for the user `$user`",
            "post_$noun: send one $noun (JSON) to https://$domain.example/api/$table as the user $user.",
            """
+import os
+
import requests

#|
-def post_$noun($noun: dict, password: str = "$literal") -> int:
+def post_$noun($noun: dict, password: str | None = None) -> int:
+    password = password or os.environ["${DB}_PASSWORD"]
    answer = requests.post(
        "https://$domain.example/api/$table", json=$noun, auth=("$user", password), timeout=$timeout
    )
    @log status {answer.status_code}
    return answer.status_code
""",
        ),
    ),
    {"literal": _LITERAL},
    (ENTITY,),
)

CACHE_LOGIN = Shape(
    "cache_login",
    PASSWORD,
    (
        Form(
            "a function `visits` that counts page views of $anoun in Redis on `cache.$domain.example`, which "
            "requires a password, and $returns the new number",
            "Count one page view of $anoun.",
            """
+import os
+
import redis

def visits($key: str) -> int:
    #|
-    client = redis.Redis(host="cache.$domain.example", password="$literal")
+    client = redis.Redis(host="cache.$domain.example", password=os.environ["REDIS_PASSWORD"])
    count = client.incr(f"$noun:{$key}")
    $end
""",
        ),
    ),
    {
        "literal": _LITERAL,
        "end": (
            "return count",
            """
client.expire(f"$noun:{$key}", $ttl)
return count""",
        ),
        "ttl": "3600|86400|604800",
    },
    (ENTITY,),
    held_out=True,
)

DJANGO = Shape(
    "django_settings",
    PASSWORD,
    (
        Form(
            "the database part of a Django settings file: $engine, database `$db`, user `$user`, host "
            "`db.$domain.example`",
            "Database settings of the project.",
            """
+import os
+
#|
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.$backend",
        "NAME": "$db",
        "USER": "$user",
-        "PASSWORD": "$literal",
+        "PASSWORD": os.environ["DB_PASSWORD"],
        "HOST": "db.$domain.example",
        "CONN_MAX_AGE": $age,
    }
}
""",
        ),
        Form(
            "a function `make_token` that $returns a JWT (PyJWT, HS256) for one $noun, valid for $minutes minutes",
            "Signed token for one $noun.",
            """
+import os
from datetime import datetime, timedelta, timezone

import jwt

-JWT_SECRET = "$literal"
+JWT_SECRET = os.environ["JWT_SECRET"]

def make_token($key: str) -> str:
    #|
    expires = datetime.now(timezone.utc) + timedelta(minutes=$minutes)
    return jwt.encode({"sub": $key, "exp": expires}, JWT_SECRET, algorithm="HS256")
""",
        ),
    ),
    {"literal": _LITERAL, "age": "0|60|300|600", "minutes": "5|15|30|60"},
    (
        ENTITY,
        (
            {"engine": "Postgres", "backend": "postgresql"},
            {"engine": "MySQL", "backend": "mysql"},
            {"engine": "Oracle", "backend": "oracle"},
        ),
    ),
    held_out=True,
)
