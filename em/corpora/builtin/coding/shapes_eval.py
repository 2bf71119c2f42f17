"""Shapes whose weakness is input evaluated as Python code (CWE-95)."""

from em.corpora.builtin.coding.grammar import Form, Shape
from em.corpora.builtin.coding.kinds import EVAL
from em.corpora.builtin.coding.nouns import ENTITY

CALCULATOR = Shape(
    "calculator",
    EVAL,
    (
        Form(
            "a function `$fn` that $takes text such as `$sum` (two numbers and an operator, with spaces between) "
            "and $returns the result as a float",
            "Work out a text like '$sum'.",
            """
import operator

OPS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}

def $fn(text: str) -> float:
    #|
    left, op, right = text.split()
    if op not in OPS:
        $unknown
-    return float(eval(text))
+    return float(OPS[op](float(left), float(right)))
""",
        ),
        Form(
            "a Flask endpoint `/$table/$num` that adds up the numbers in the parameter `$param`, written like `$plus`, "
            "and answers with JSON",
            "Answer with the sum of the numbers in $param.",
            """
from flask import Flask, jsonify, request

app = Flask(__name__)

@app.route("/$table/$num")
def add_up():
    #|
    text = request.args.get("$param", "0")
    $sumup
    @log $num is {$result}
    return jsonify($num=$result)
""",
        ),
        Form(
            "a console loop that asks for the $num of $anoun as a sum like `$plus` until the user enters an empty "
            "line, and prints each result",
            "Ask for sums and print the results.",
            """
def main() -> None:
    #|
    while True:
        text = input("$ask")
        if not text:
            break
        $sumup
        print($show)

if __name__ == "__main__":
    main()
""",
        ),
    ),
    {
        "fn": "calculate|compute|work_out|solve|${num}_of|compute_$num|new_$num|eval_$num",
        "unknown": (
            "raise ValueError(text)",
            'raise ValueError(f"unknown operator in {text}")',
            'return float("nan")',
            """
@log no operator in {text}
return 0.0""",
        ),
        "sum": "3 + 4|12 * 5|9 - 2|30 / 4",
        "plus": "3+4+5|1.5+2|10+20+30",
        "ask": "$num: |$noun> |$Num of the $noun: |Enter the $num: |$num? ",
        "param": "q|sum|text|values|$num",
        "show": ("$result", '"$num:", $result', 'f"$num = {$result}"', "round($result, 2)"),
        "sumup": (
            """
-$result = eval(text)
+$result = sum(float(part) for part in text.split("+"))""",
            """
try:
-    $result = float(eval(text))
+    $result = sum(float(part) for part in text.split("+"))
except ValueError:
    $result = 0.0""",
            """
text = text.replace(",", ".")
-$result = eval(text)
+$result = sum(map(float, text.split("+")))""",
        ),
    },
    (ENTITY,),
)

FILTER = Shape(
    "row_filter",
    EVAL,
    (
        Form(
            "a function `filter_$table` that $takes a list of dictionaries and a condition such as `$num > 10`, and "
            "$returns the $table for which it holds",
            "Keep the $table for which the condition holds.",
            """
import operator

TESTS = {">": operator.gt, "<": operator.lt, "==": operator.eq}

def filter_$table(items: list[dict], condition: str) -> list[dict]:
    #|
    $body
""",
        ),
    ),
    {
        "body": (
            """
-return [item for item in items if eval(condition, {}, item)]
+field, test, number = condition.split()
+return [item for item in items if TESTS[test](item[field], float(number))]""",
            """
kept = []
+field, test, number = condition.split()
for item in items:
-    if eval(condition, dict(item)):
+    if TESTS[test](item[field], float(number)):
        kept.append(item)
@log kept {len(kept)} of {len(items)}
return kept""",
        ),
    },
    (ENTITY,),
)

SETTINGS = Shape(
    "setting_value",
    EVAL,
    (
        Form(
            "a function `$fn` that reads the option `$option` from an ini file and returns it as a Python list or "
            "number",
            "The option as a Python value.",
            """
-import configparser
+import ast
+import configparser

def $fn($path: str, section: str = "$db"):
    #|
    parser = configparser.ConfigParser()
    parser.read($path)
    raw = parser$get
    $parse
""",
        ),
        Form(
            "a class `EnvSettings` whose method `get` reads an environment variable and turns its text into the "
            "Python value that it spells (numbers, lists, booleans)",
            "The variable as a Python value.",
            """
+import ast
import os

class EnvSettings:
    def __init__(self, prefix: str = "${DB}_") -> None:
        self.prefix = prefix

    def get(self, name: str, default=None):
        #|
        raw = os.environ.get(self.prefix + name)
        if raw is None:
            return default
        $parse
""",
        ),
    ),
    {
        "fn": "read_option|load_option|get_setting|option_value",
        "option": "retries|columns|limits|weekdays|recipients",
        "get": ('[section]["$option"]', '.get(section, "$option")'),
        "parse": (
            """
-return eval(raw)
+return ast.literal_eval(raw)""",
            """
try:
-    return eval(raw)
+    return ast.literal_eval(raw)
except $error:
    return raw""",
        ),
        "error": ("(SyntaxError, NameError, ValueError)", "(ValueError, SyntaxError, NameError)"),
    },
    (ENTITY,),
)

QUERY_LIST = Shape(
    "list_parameter",
    EVAL,
    (
        Form(
            "a Flask route `/$table/total` that gets a list of numbers in the parameter `$num`, like `[3, 5, 8]`, "
            "and answers with $what",
            "Answer with $what of the numbers given.",
            """
+import json
+
from flask import Flask, request

app = Flask(__name__)

@app.get("/$table/total")
def total():
    #|
-    numbers = eval(request.args["$num"])
+    numbers = json.loads(request.args["$num"])
    return {"total": $func(numbers), "count": len(numbers)}
""",
        ),
        Form(
            "a command-line script that gets one $noun as text in dictionary form, prints its `$col` and exits with 1 "
            "if that entry is missing",
            "Print the $col of the dictionary given as text.",
            """
+import ast
import sys

def main() -> int:
    #|
-    $noun = eval(sys.argv[1])
+    $noun = ast.literal_eval(sys.argv[1])
    if "$col" not in $noun:
        return 1
    print($noun["$col"])
    return 0

if __name__ == "__main__":
    sys.exit(main())
""",
        ),
    ),
    {},
    (ENTITY, ({"what": "the sum", "func": "sum"}, {"what": "the maximum", "func": "max"})),
    held_out=True,
)

THRESHOLD = Shape(
    "alarm_rule",
    EVAL,
    (
        Form(
            "a class `$Class` for an alarm such as `$num >= 40` (name, comparison, number) with a method `$fires` that "
            "$takes a reading as a dictionary and $returns True or False",
            "Say whether the rule holds for the reading.",
            """
import operator

TESTS = {">=": operator.ge, "<=": operator.le}

class $Class:
    def __init__(self, text: str) -> None:
        self.text = text

    def $fires(self, reading: dict) -> bool:
        #|
-        return bool(eval(self.text, {}, reading))
+        name, test, limit = self.text.split()
+        return TESTS[test](reading[name], float(limit))
""",
        ),
        Form(
            "a function `$runstep` for a small report script: it $takes the name of a step (`sort`, `sum` or `count`) "
            "and a list of $num values, and $returns what the step gives",
            "Run one named step on the values.",
            """
STEPS = {"sort": sorted, "sum": sum, "count": len}

def $runstep(step: str, values: list):
    #|
    @log running {step}
-    names = {"sort": sorted, "sum": sum, "count": len, "values": values}
-    return eval(step + "(values)", names)
+    if step not in STEPS:
+        raise KeyError(step)
+    return STEPS[step](values)
""",
        ),
    ),
    {
        "class": "Rule|Alarm|Threshold|${Num}Rule|${Noun}Alarm",
        "runstep": "run_step|apply_step|${num}_step|do_step|step_$noun",
        "fires": "fires|holds|matches|check|applies",
    },
    (ENTITY,),
    held_out=True,
)
