"""Shapes about credentials and secret values: hard-coded passwords, predictable tokens (CWE-259, CWE-330)."""

from em.corpora.coding.grammar import Form, Shape
from em.corpora.coding.kinds import PASSWORD, RANDOM
from em.corpora.coding.nouns import ENTITY

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
    return $driver.connect(
        host="$db.$domain.example",
        user="$user",
-        password="$literal",
+        password=os.environ["${DB}_PASSWORD"],
        $namearg="$db",
    )
""",
        ),
        Form(
            "a class `${Noun}Db` that connects to the $engine database `$db` (user `$user`) when created and has a "
            "method `count` for the number of $table",
            "Number of $table in the database.",
            """
+import os
+
import $driver

class ${Noun}Db:
    user = "$user"
-    password = "$literal"
+    password = os.environ.get("${DB}_PASSWORD")

    def __init__(self, host: str = "localhost") -> None:
        self.conn = $driver.connect(host=host, user=self.user, password=self.password, $namearg="$db")

    def count(self) -> int:
        #|
        cur = self.conn.cursor()
        cur.execute("SELECT COUNT(*) FROM $table")
        return cur.fetchone()[0]
""",
        ),
    ),
    {"literal": _LITERAL},
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
            "List the $table of the service.",
            """
+import os
+
import requests

class ${Noun}Api:
    base = "https://api.$domain.example"

-    def __init__(self, token: str = "$literal") -> None:
-        self.headers = {"Authorization": f"Bearer {token}"}
+    def __init__(self, token: str | None = None) -> None:
+        self.headers = {"Authorization": f"Bearer {token or os.environ['${DB}_TOKEN']}"}

    def list(self) -> list:
        #|
        answer = requests.get(f"{self.base}/$table", headers=self.headers, timeout=$timeout)
        answer.raise_for_status()
        return answer.json()
""",
        ),
        Form(
            "a function `post_$noun` that sends one $noun as JSON to `https://$domain.example/api/$table` with HTTP "
            "basic login for the user `$user`",
            "Send one $noun to the service.",
            """
+import os
+
import requests

-def post_$noun($noun: dict, password: str = "$literal") -> int:
+def post_$noun($noun: dict, password: str | None = None) -> int:
    #|
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
            "a function `visits` that counts page views of a $noun in Redis on `cache.$domain.example`, which "
            "requires a password, and $returns the new number",
            "Count one page view of a $noun.",
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
-#|
+#|
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

SESSION_TOKEN = Shape(
    "session_token",
    RANDOM,
    (
        Form(
            "a function `$fn` that makes a session token of $length letters and digits",
            "New session token of $length characters.",
            """
-import random
+import secrets
import string

def $fn(length: int = $length) -> str:
    #|
    $body
""",
        ),
        Form(
            "a class `Sessions` that maps tokens to user names, with a method `start` that makes a new token of "
            "$length characters for a user and $returns it",
            "New token for the user.",
            """
-import random
+import secrets
import string

class Sessions:
    def __init__(self) -> None:
        self.users = {}

    def start(self, user: str) -> str:
        #|
        letters = string.ascii_letters + string.digits
-        token = "".join(random.choice(letters) for _ in range($length))
+        token = "".join(secrets.choice(letters) for _ in range($length))
        self.users[token] = user
        return token
""",
        ),
    ),
    {
        "fn": "new_token|session_token|make_token|create_token|issue_token",
        "length": "16|20|24|32|40|48",
        "body": (
            """
letters = string.ascii_letters + string.digits
-return "".join(random.choice(letters) for _ in range(length))
+return "".join(secrets.choice(letters) for _ in range(length))""",
            """
alphabet = string.ascii_lowercase + string.digits
token = ""
while len(token) < length:
-    token += random.choice(alphabet)
+    token += secrets.choice(alphabet)
return token""",
            """
pool = string.ascii_letters + string.digits
-chars = [pool[random.randrange(len(pool))] for _ in range(length)]
+chars = [pool[secrets.randbelow(len(pool))] for _ in range(length)]
return "".join(chars)""",
        ),
    },
)

RESET_CODE = Shape(
    "reset_code",
    RANDOM,
    (
        Form(
            "a function `$fn` that makes a $digits-digit code for a password reset, keeps it with the time under the "
            "user's name in the dictionary `codes` and $returns it",
            "New reset code for a user.",
            """
-import random
+import secrets
import time

codes = {}

def $fn(user: str) -> str:
    #|
    $make
    codes[user] = (code, time.time())
    @log reset code for {user}
    return code
""",
        ),
        Form(
            "a Flask route `POST /reset` that makes a $digits-digit code for the e-mail address in the form, stores it "
            "in the session and sends it with `mail.send`",
            "Send a reset code to the address.",
            """
-import random
+import secrets

from flask import Flask, request, session

from app import mail

app = Flask(__name__)

@app.route("/reset", methods=["POST"])
def reset():
    #|
    $make
    session["code"] = code
    mail.send(request.form["email"], f"Your code: {code}")
    return "", 204
""",
        ),
    ),
    {
        "fn": "reset_code|new_code|start_reset|make_code",
        "make": (
            """
-code = str(random.randint(10**($digits - 1), 10**$digits - 1))
+code = str(10**($digits - 1) + secrets.randbelow(9 * 10**($digits - 1)))""",
            """
-code = "".join(str(random.randint(0, 9)) for _ in range($digits))
+code = "".join(str(secrets.randbelow(10)) for _ in range($digits))""",
            """
-code = "".join(random.choices("0123456789", k=$digits))
+code = "".join(secrets.choice("0123456789") for _ in range($digits))""",
        ),
        "digits": "4|5|6|8",
    },
)

START_PASSWORD = Shape(
    "start_password",
    RANDOM,
    (
        Form(
            "a script that reads `$key` values from a text file and prints each one with a first password of $length "
            "characters, separated by a $sepname",
            "Print every $key with a first password.",
            """
-import random
+import secrets
import string
import sys

CHARS = string.ascii_letters + string.digits

def main() -> None:
    #|
    for line in open(sys.argv[1]):
-        first = "".join(random.choices(CHARS, k=$length))
+        first = "".join(secrets.choice(CHARS) for _ in range($length))
        print(line.strip(), first, sep="$sep")

if __name__ == "__main__":
    main()
""",
        ),
        Form(
            "a function `first_password` that joins $words random words from a list and two digits into a first "
            "password for a new $noun",
            "First password from words and digits.",
            """
-import random
+import secrets

def first_password(words: list[str]) -> str:
    #|
-    parts = [random.choice(words) for _ in range($words)]
-    return "-".join(parts) + str(random.randint(10, 99))
+    parts = [secrets.choice(words) for _ in range($words)]
+    return "-".join(parts) + str(10 + secrets.randbelow(90))
""",
        ),
    ),
    {"length": "8|10|12|14", "words": "3|4|5"},
    (ENTITY, ({"sep": ";", "sepname": "semicolon"}, {"sep": ",", "sepname": "comma"}, {"sep": " ", "sepname": "blank"})),
)

API_KEY = Shape(
    "api_key",
    RANDOM,
    (
        Form(
            "a function `issue_key` that makes an API key with the prefix `${db}_` and $bytes random bytes in hex, "
            "stores it for a $noun in the SQLite table `api_keys` and $returns it",
            "Make and store an API key for a $noun.",
            """
-import random
+import secrets
import sqlite3

def issue_key($conn: sqlite3.Connection, $key: str) -> str:
    #|
    $make
    $conn.execute("INSERT INTO api_keys ($key, value) VALUES (?, ?)", ($key, value))
    $conn.commit()
    return value
""",
        ),
    ),
    {
        "bytes": "16|20|24|32",
        "make": (
            """
-value = "${db}_" + random.randbytes($bytes).hex()
+value = "${db}_" + secrets.token_hex($bytes)""",
            """
-value = "${db}_" + "".join(random.choice("0123456789abcdef") for _ in range(2 * $bytes))
+value = "${db}_" + secrets.token_hex($bytes)""",
            """
-number = random.getrandbits(8 * $bytes)
+number = secrets.randbits(8 * $bytes)
value = f"${db}_{number:x}\"""",
        ),
    },
    (ENTITY,),
)

INVITE = Shape(
    "invite_link",
    RANDOM,
    (
        Form(
            "a function `invite` that $returns a private invitation link to `https://$domain.example/join/` for a "
            "$noun, ending in a random number of $bits bits in hex, and keeps it in a dictionary",
            "Private invitation link for a $noun.",
            """
-import random
+import secrets

BASE = "https://$domain.example/join/"
links = {}

def invite($key: str) -> str:
    #|
    while True:
-        code = f"{random.getrandbits($bits):x}"
+        code = f"{secrets.randbits($bits):x}"
        if code not in links:
            break
    links[code] = $key
    return BASE + code
""",
        ),
        Form(
            "a Django helper `form_nonce` that puts a random number between 1 and $top into the session as a form "
            "nonce and $returns it",
            "Put a new form nonce into the session.",
            """
-import random
+import secrets

def form_nonce(request) -> int:
    #|
-    nonce = random.randint(1, $top)
+    nonce = 1 + secrets.randbelow($top)
    request.session["nonce"] = nonce
    @log new nonce for {request.path}
    return nonce
""",
        ),
    ),
    {"bits": "64|96|128|160", "top": "10**12|10**15|10**18|2**63"},
    (ENTITY,),
    held_out=True,
)

WIFI = Shape(
    "guest_voucher",
    RANDOM,
    (
        Form(
            "a function `vouchers` that writes a CSV file with a given number of guest login codes, each made of "
            "$groups groups of $size characters with dashes between",
            "Write a CSV file of guest login codes.",
            """
import csv
-import random
+import secrets

CHARS = "$chars"

def vouchers($path: str, count: int) -> None:
    #|
    with open($path, "w", newline="") as handle:
        out = csv.writer(handle)
        for number in range(count):
-            parts = ["".join(random.sample(CHARS, $size)) for _ in range($groups)]
+            parts = ["".join(secrets.choice(CHARS) for _ in range($size)) for _ in range($groups)]
            out.writerow([number + 1, "-".join(parts)])
""",
        ),
    ),
    {"groups": "2|3|4", "size": "3|4|5", "chars": "ABCDEFGHJKLMNPQRSTUVWXYZ23456789|abcdefghjkmnpqrstuvwxyz23456789"},
    held_out=True,
)
