"""Held-out shapes whose weakness is SQL built from input text (CWE-89)."""

from em.corpora.coding.grammar import Form, Shape
from em.corpora.coding.kinds import SQL
from em.corpora.coding.nouns import ENTITY

ALCHEMY = Shape(
    "sqlalchemy_text",
    SQL,
    (
        Form(
            "a repository class `${Noun}Repo` on an SQLAlchemy engine; its method `by_$col` $returns the $table of "
            "one $col as dictionaries",
            "All $table of one $col as dictionaries.",
            """
from sqlalchemy import text
from sqlalchemy.engine import Engine

class ${Noun}Repo:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def by_$col(self, $col: str) -> list:
        #|
        with self.engine.connect() as $conn:
            $query
            return [dict(row) for row in $result.mappings()]
""",
        ),
    ),
    {
        "query": (
            """
-$result = $conn.execute(text(f"SELECT * FROM $table WHERE $col = '{$col}' ORDER BY $num"))
+$result = $conn.execute(text("SELECT * FROM $table WHERE $col = :$col ORDER BY $num"), {"$col": $col})""",
            """
-statement = text("SELECT $key, $num FROM $table WHERE $col = '" + $col + "'")
-$result = $conn.execute(statement)
+statement = text("SELECT $key, $num FROM $table WHERE $col = :$col")
+$result = $conn.execute(statement, {"$col": $col})""",
        ),
    },
    (ENTITY,),
    held_out=True,
)

COUNT = Shape(
    "async_count",
    SQL,
    (
        Form(
            "an async function `count_$table` that uses aiosqlite to count the $table in `$db.db` with a given `$col` "
            "and a `$num` above a threshold",
            "Count $table of one $col above a threshold.",
            """
import aiosqlite

async def count_$table($col: str, minimum: int = $minimum) -> int:
    #|
    async with aiosqlite.connect("$db.db") as $conn:
-        sql = f"SELECT COUNT(*) FROM $table WHERE $col = '{$col}' AND $num > {minimum}"
-        async with $conn.execute(sql) as cur:
+        sql = "SELECT COUNT(*) FROM $table WHERE $col = ? AND $num > ?"
+        async with $conn.execute(sql, ($col, minimum)) as cur:
            row = await cur.fetchone()
    @log {row[0]} $table in {$col}
    return row[0]
""",
        ),
    ),
    {"minimum": "0|1|5|10|100"},
    (ENTITY,),
    held_out=True,
)

DJANGO = Shape(
    "django_filter_view",
    SQL,
    (
        Form(
            "a Django view `${noun}_list` that filters the model `$Noun` by the `$col` given in the query string, "
            "with SQL on the `$table` table, and answers with JSON",
            "JSON list of $table of the $col asked for.",
            """
from django.db import connection
from django.http import JsonResponse

def ${noun}_list(request):
    #|
    $col = request.GET$get
    with connection.cursor() as cur:
-        cur.execute("SELECT $key, $num FROM $table WHERE $col = '%s'" % $col)
+        cur.execute("SELECT $key, $num FROM $table WHERE $col = %s", [$col])
        $rows = cur.fetchall()
    return JsonResponse({"$table": $rows})
""",
        ),
        Form(
            "a Django view `${noun}_search` that $returns the ids of all `$Noun` objects whose `$col` contains the "
            "search term `q`",
            "Ids of all $table whose $col contains the term.",
            """
from django.http import JsonResponse

from .models import $Noun

def ${noun}_search(request):
    #|
    term = request.GET.get("q", "")
-    matches = $Noun.objects.extra(where=["$col LIKE '%%" + term + "%%'"])
+    matches = $Noun.objects.filter(${col}__contains=term)
    return JsonResponse({"ids": [item.pk for item in matches]})
""",
        ),
    ),
    {"get": ('["$col"]', '.get("$col", "")')},
    (ENTITY,),
    held_out=True,
)
