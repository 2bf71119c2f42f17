"""Shapes whose weakness is SQL built from input text: SQLite and Flask (CWE-89)."""

from em.corpora.builtin.coding.grammar import Form, Shape
from em.corpora.builtin.coding.kinds import SQL
from em.corpora.builtin.coding.nouns import ENTITY

LOOKUP = Shape(
    "sqlite_lookup",
    SQL,
    (
        Form(
            "a function `$fn` that opens the SQLite file `$db.db` and $returns the row of `$table` whose `$key` "
            "equals the argument, or None",
            "Return the $noun with the given $key, or None.",
            """
import sqlite3

def $fn($key: str) -> tuple | None:
    #|
    $conn = sqlite3.connect("$db.db")
    @log looking up $noun {$key}
    $query
    $conn.close()
    return row
""",
        ),
        Form(
            "a class `${Noun}Store` around a SQLite connection with a method `$fn` that $returns the `$num` of the "
            "$noun with a given `$key`",
            "Return the $num of one $noun.",
            """
import sqlite3

class ${Noun}Store:
    def __init__(self, path: str = "$db.db") -> None:
        self.conn = sqlite3.connect(path)

    def $fn(self, $key: str) -> int | None:
        #|
        cur = self.conn.cursor()
        $cursor
        row = cur.fetchone()
        return row[0] if row else None
""",
        ),
    ),
    {
        "fn": "get_$noun|find_$noun|load_$noun|fetch_$noun|${noun}_by_$key",
        "query": (
            """
-row = $conn.execute(f"SELECT * FROM $table WHERE $key = '{$key}'").fetchone()
+row = $conn.execute("SELECT * FROM $table WHERE $key = ?", ($key,)).fetchone()""",
            """
-query = "SELECT * FROM $table WHERE $key = '" + $key + "'"
-row = $conn.execute(query).fetchone()
+query = "SELECT * FROM $table WHERE $key = ?"
+row = $conn.execute(query, ($key,)).fetchone()""",
            """
cur = $conn.cursor()
-cur.execute("SELECT $col, $num FROM $table WHERE $key = '%s'" % $key)
+cur.execute("SELECT $col, $num FROM $table WHERE $key = ?", ($key,))
row = cur.fetchone()""",
        ),
        "cursor": (
            """
-cur.execute(f"SELECT $num FROM $table WHERE $key = '{$key}'")
+cur.execute("SELECT $num FROM $table WHERE $key = ?", ($key,))""",
            """
-sql = "SELECT $num FROM $table WHERE $key = '{}'".format($key)
-cur.execute(sql)
+sql = "SELECT $num FROM $table WHERE $key = ?"
+cur.execute(sql, ($key,))""",
        ),
    },
    (ENTITY,),
)

SEARCH = Shape(
    "sqlite_search",
    SQL,
    (
        Form(
            "a function `search_$table` that $takes a connection, a search term and a limit, and $returns the rows "
            "of `$table` whose `$col` contains the term, ordered by `$num`",
            "List $table whose $col contains the term.",
            """
def search_$table($conn, term: str, limit: int = $limit) -> list:
    #|
    $empty
    $query
    $out
""",
        ),
    ),
    {
        "limit": "10|20|25|50|100",
        "empty": (
            "",
            """
if not term:
    return []""",
            "term = term.strip()",
        ),
        "query": (
            """
-sql = f"SELECT $key, $col, $num FROM $table WHERE $col LIKE '%{term}%' ORDER BY $num LIMIT {limit}"
-$rows = $conn.execute(sql).fetchall()
+sql = "SELECT $key, $col, $num FROM $table WHERE $col LIKE ? ORDER BY $num LIMIT ?"
+$rows = $conn.execute(sql, (f"%{term}%", limit)).fetchall()""",
            """
cur = $conn.cursor()
-cur.execute("SELECT * FROM $table WHERE $col LIKE '%" + term + "%' ORDER BY $num LIMIT " + str(limit))
+cur.execute("SELECT * FROM $table WHERE $col LIKE ? ORDER BY $num LIMIT ?", ("%" + term + "%", limit))
$rows = cur.fetchall()""",
        ),
        "out": (
            "return $rows",
            "return [dict(row) for row in $rows]",
            """
@log {len($rows)} $table match {term}
return $rows""",
        ),
    },
    (ENTITY,),
)

UPDATE = Shape(
    "sqlite_update",
    SQL,
    (
        Form(
            "a function `$fn` that sets `$col` of one $noun (found by `$key`) in `$db.db`, commits, and $returns "
            "whether a row changed",
            "Set $col for one $noun; return True if a row changed.",
            """
import sqlite3

def $fn($key: str, $col: str) -> bool:
    #|
    with sqlite3.connect("$db.db") as $conn:
        $query
    @log $col of {$key} is now {$col}
    return cur.rowcount $test
""",
        ),
        Form(
            "a class `${Noun}Editor` whose method `$fn` updates `$col` in the `$table` table for a given `$key`",
            "Write the new $col of one $noun.",
            """
class ${Noun}Editor:
    def __init__(self, $conn) -> None:
        self.$conn = $conn

    def $fn(self, $key: str, $col: str) -> None:
        #|
        cur = self.$conn.cursor()
-        cur.execute("UPDATE $table SET $col = '" + $col + "' WHERE $key = '" + $key + "'")
+        cur.execute("UPDATE $table SET $col = ? WHERE $key = ?", ($col, $key))
        $check
        self.$conn.commit()
""",
        ),
    ),
    {
        "fn": "set_$col|update_$col|change_$col|save_$col",
        "test": "== 1|> 0|!= 0",
        "query": (
            """
-cur = $conn.execute(f"UPDATE $table SET $col = '{$col}' WHERE $key = '{$key}'")
+cur = $conn.execute("UPDATE $table SET $col = ? WHERE $key = ?", ($col, $key))""",
            """
-sql = "UPDATE $table SET $col = '%s' WHERE $key = '%s'" % ($col, $key)
-cur = $conn.execute(sql)
+sql = "UPDATE $table SET $col = ? WHERE $key = ?"
+cur = $conn.execute(sql, ($col, $key))""",
        ),
        "check": (
            "",
            """
if cur.rowcount == 0:
    raise KeyError($key)""",
        ),
    },
    (ENTITY,),
)

ROUTE = Shape(
    "flask_sql_route",
    SQL,
    (
        Form(
            "a Flask app with the route `/$table` that reads `$key` from the query string and answers with the "
            "matching rows of `$table` from `$db.db` as JSON",
            "JSON list of $table that match the $key parameter.",
            """
import sqlite3

from flask import Flask, jsonify, request

app = Flask(__name__)

@app.route("/$table")
def list_$table():
    #|
    $key = request.args$get
    $conn = sqlite3.connect("$db.db")
    $query
    return jsonify($rows)
""",
        ),
        Form(
            "a Flask blueprint with `GET /$table/<$key>` that looks the $noun up in `$db.db` and answers 404 when "
            "there is none",
            "Send one $noun as JSON, 404 if unknown.",
            """
import sqlite3

from flask import Blueprint, abort, jsonify

bp = Blueprint("$table", __name__)

@bp.get("/$table/<$key>")
def show_$noun($key: str):
    #|
    with sqlite3.connect("$db.db") as $conn:
-        row = $conn.execute(f"SELECT $col, $num FROM $table WHERE $key = '{$key}'").fetchone()
+        row = $conn.execute("SELECT $col, $num FROM $table WHERE $key = ?", ($key,)).fetchone()
    $found
""",
        ),
    ),
    {
        "get": ('["$key"]', '.get("$key", "")'),
        "query": (
            """
-$rows = $conn.execute("SELECT * FROM $table WHERE $key = '" + $key + "'").fetchall()
+$rows = $conn.execute("SELECT * FROM $table WHERE $key = ?", ($key,)).fetchall()""",
            """
$conn.row_factory = sqlite3.Row
-cur = $conn.execute(f"SELECT * FROM $table WHERE $key = '{$key}'")
+cur = $conn.execute("SELECT * FROM $table WHERE $key = ?", ($key,))
$rows = [dict(row) for row in cur]""",
        ),
        "found": (
            """
if row is None:
    abort(404)
return jsonify($col=row[0], $num=row[1])""",
            """
if row:
    return jsonify({"$col": row[0], "$num": row[1]})
abort(404)""",
        ),
    },
    (ENTITY,),
)
