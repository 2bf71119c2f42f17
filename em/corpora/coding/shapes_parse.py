"""Shapes whose weakness is an unsafe parser: YAML with arbitrary objects, XML with entities (CWE-502, CWE-611)."""

from em.corpora.coding.grammar import Form, Shape
from em.corpora.coding.kinds import XML, YAML
from em.corpora.coding.nouns import ENTITY

CONFIG = Shape(
    "yaml_config",
    YAML,
    (
        Form(
            "a function `$fn` that $reads the YAML file `$db.yaml` over a dictionary of defaults and $returns the "
            "merged settings",
            "Settings from the file on top of the defaults.",
            """
import yaml

DEFAULTS = {"$num": $value, "team": "$team"}

def $fn($path: str = "$db.yaml") -> dict:
    #|
    with open($path) as handle:
        $load
    @log {len(loaded)} settings from {$path}
    return $merge
""",
        ),
        Form(
            "a class `Settings` built from a YAML file, whose `get` takes a dotted name like `$db.$num` and $returns "
            "the value below it, or a default",
            "The value under a dotted name.",
            """
import yaml

class Settings:
    def __init__(self, $path: str) -> None:
        with open($path) as handle:
-            self.data = yaml.load(handle, Loader=yaml.$loader)
+            self.data = yaml.safe_load(handle)

    def get(self, name: str, default=None):
        #|
        value = self.data
        for part in name.split("."):
            if part not in value:
                return default
            value = value[part]
        return value
""",
        ),
    ),
    {
        "fn": "load_settings|read_config|load_config|get_settings",
        "value": "5|10|30|100",
        "loader": "Loader|UnsafeLoader",
        "load": (
            """
-loaded = yaml.load(handle, Loader=yaml.$loader)
+loaded = yaml.safe_load(handle)""",
            """
-loaded = yaml.load(handle.read(), yaml.$loader) or {}
+loaded = yaml.safe_load(handle.read()) or {}""",
        ),
        "merge": "{**DEFAULTS, **loaded}|dict(DEFAULTS, **loaded)",
    },
    (ENTITY,),
)

UPLOAD = Shape(
    "yaml_upload",
    YAML,
    (
        Form(
            "a Flask endpoint `POST /$table/import` that takes a YAML list of $table in the request body, hands each "
            "one to `store.add` and answers with their number",
            "Add every $noun of the YAML list in the body.",
            """
import yaml
from flask import Flask, request

from app import store

app = Flask(__name__)

@app.post("/$table/import")
def import_$table():
    #|
-    items = yaml.load(request.$body, Loader=yaml.$loader)
+    items = yaml.safe_load(request.$body)
    for item in items:
        store.add(item)
    return {"added": len(items)}, 201
""",
        ),
        Form(
            "a script that reads YAML from standard input and prints the `$key` of every entry in the list `$table`",
            "Print the $key of all $table on standard input.",
            """
import sys

import yaml

def main() -> None:
    #|
-    document = yaml.load(sys.stdin, Loader=yaml.$loader)
+    document = yaml.safe_load(sys.stdin)
    for item in document.get("$table", []):
        print(item["$key"])
    #/

if __name__ == "__main__":
    main()
""",
        ),
    ),
    {"body": "data|get_data()|stream", "loader": "Loader|UnsafeLoader"},
    (ENTITY,),
)

PLAYBOOK = Shape(
    "yaml_steps",
    YAML,
    (
        Form(
            "a class `Pipeline` that is given the text of a YAML file with a list `steps` (each with `name` and "
            "`args`) and runs them in order with functions from a dictionary `actions`",
            "Run the steps of the YAML text in order.",
            """
import yaml

class Pipeline:
    def __init__(self, actions: dict) -> None:
        self.actions = actions

    def run(self, text: str) -> list:
        #|
-        steps = yaml.load(text, Loader=yaml.Loader)["steps"]
+        steps = yaml.safe_load(text)["steps"]
        $loop
""",
        ),
        Form(
            "a function `translations` that $reads all `*.yml` files of a folder into one dictionary, keyed by the "
            "file's name without its ending",
            "All translations of a folder by language.",
            """
from pathlib import Path

import yaml

def translations(folder: str = "$folder") -> dict:
    #|
    catalog = {}
    for $path in Path(folder).glob("*.yml"):
-        catalog[$path.stem] = yaml.load($path.read_text(), yaml.UnsafeLoader)
+        catalog[$path.stem] = yaml.safe_load($path.read_text())
    @log {len(catalog)} languages
    return catalog
""",
        ),
    ),
    {
        "folder": "locale|i18n|lang|texts",
        "loop": (
            'return [self.actions[step["name"]](**step["args"]) for step in steps]',
            """
done = []
for step in steps:
    done.append(self.actions[step["name"]](**step.get("args", {})))
return done""",
        ),
    },
    held_out=True,
)

FEED = Shape(
    "xml_feed",
    XML,
    (
        Form(
            "a function `$fn` that gets the text of an RSS feed and $returns the titles of its items, at most $limit",
            "Titles of the first items of a feed.",
            """
-import xml.etree.ElementTree as ET
+import defusedxml.ElementTree as ET

def $fn(text: str, limit: int = $limit) -> list[str]:
    #|
    root = ET.fromstring(text)
    $collect
""",
        ),
        Form(
            "a Flask endpoint `POST /$table` that takes one $noun as XML with the elements `$key` and `$num`, and "
            "answers with the same as JSON",
            "Turn the posted XML into JSON.",
            """
-from xml.etree import ElementTree
-
-from flask import Flask, request
+from defusedxml import ElementTree
+from flask import Flask, request

app = Flask(__name__)

@app.route("/$table", methods=["POST"])
def receive():
    #|
    $noun = ElementTree.fromstring(request.data)
    return {"$key": $noun.findtext("$key"), "$num": int($noun.findtext("$num", "0"))}
""",
        ),
    ),
    {
        "fn": "feed_titles|item_titles|headlines|read_feed",
        "limit": "5|10|20|50",
        "collect": (
            'return [item.findtext("title") for item in root.iter("item")][:limit]',
            """
titles = []
for item in root.findall("./channel/item"):
    titles.append(item.findtext("title", ""))
return titles[:limit]""",
        ),
    },
    (ENTITY,),
)

ORDER_FILE = Shape(
    "xml_file",
    XML,
    (
        Form(
            "a function `read_$table` that parses an XML file with `$noun` elements (attributes `$key` and `$num`) "
            "and $returns a dictionary from $key to $num",
            "Map each $key in the file to its $num.",
            """
-from xml.etree import ElementTree
+from defusedxml import ElementTree

def read_$table($path: str) -> dict:
    #|
    tree = ElementTree.parse($path)
    $collect
""",
        ),
        Form(
            "a script that adds up the `$num` attributes of all `$noun` elements in the XML files named on the "
            "command line",
            "Add up the $num of all $table in the files.",
            """
import sys
-import xml.etree.ElementTree as ET
+
+import defusedxml.ElementTree as ET

def total($path: str) -> float:
    #|
    root = ET.parse($path).getroot()
    return sum(float(node.get("$num", 0)) for node in root.iter("$noun"))
    #/

if __name__ == "__main__":
    print(sum(total(name) for name in sys.argv[1:]))
""",
        ),
    ),
    {
        "collect": (
            'return {node.get("$key"): int(node.get("$num")) for node in tree.iter("$noun")}',
            """
$result = {}
for node in tree.getroot().findall("$noun"):
    $result[node.get("$key")] = int(node.get("$num"))
@log {len($result)} $table read
return $result""",
        ),
    },
    (ENTITY,),
)

DOM = Shape(
    "xml_dom",
    XML,
    (
        Form(
            "a function `$fn` that uses the DOM interface to $return the text of every `$tag` element in an XML "
            "document passed as a string",
            "Text of all $tag elements.",
            """
-from xml.dom import minidom
+from defusedxml import minidom

def $fn(text: str) -> list[str]:
    #|
    document = minidom.parseString(text)
    nodes = document.getElementsByTagName("$tag")
    return [$expr for node in nodes$cond]
""",
        ),
        Form(
            "a class `Layout` that opens an XML file with the DOM interface and has a method `size` that $returns "
            "the `width` and `height` attributes of the root element",
            "Width and height of the root element.",
            """
-from xml.dom.minidom import parse
+from defusedxml.minidom import parse

class Layout:
    def __init__(self, $path: str) -> None:
        self.root = parse($path).documentElement

    def size(self) -> tuple[int, int]:
        #|
        $size
""",
        ),
    ),
    {
        "fn": "texts|all_texts|element_texts|node_texts|tag_values",
        "return": "return|collect|gather",
        "tag": "title|name|label|note|comment|summary|city",
        "expr": "node.firstChild.data|node.firstChild.nodeValue|node.firstChild.data.strip()",
        "cond": "| if node.firstChild| if node.hasChildNodes()",
        "size": (
            'return int(self.root.getAttribute("width")), int(self.root.getAttribute("height"))',
            """
width = self.root.getAttribute("width")
height = self.root.getAttribute("height")
return int(width), int(height)""",
            'return tuple(int(self.root.getAttribute(name)) for name in ("width", "height"))',
        ),
    },
)

STREAM = Shape(
    "xml_stream",
    XML,
    (
        Form(
            "a function `count_$table` that goes through a large XML file element by element, counts the `$noun` "
            "elements whose `$col` child has a given value and frees memory on the way",
            "Count the $table with the given $col.",
            """
-from xml.etree.ElementTree import iterparse
+from defusedxml.ElementTree import iterparse

def count_$table($path: str, $col: str) -> int:
    #|
    count = 0
    for _, node in iterparse($path):
        if node.tag == "$noun":
            $step
            node.clear()
    return count
""",
        ),
        Form(
            "a SAX handler class `${Noun}Counter` that counts `$noun` elements, and a function `count` that runs it "
            "on a file",
            "Run the counter on a file.",
            """
-import xml.sax
+import defusedxml.sax
from xml.sax.handler import ContentHandler

class ${Noun}Counter(ContentHandler):
    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def startElement(self, name, attrs):
        if name == "$noun":
            self.total += 1

def count($path: str) -> int:
    #|
    handler = ${Noun}Counter()
-    xml.sax.parse($path, handler)
+    defusedxml.sax.parse($path, handler)
    return handler.total
""",
        ),
    ),
    {
        "step": (
            'count += node.findtext("$col") == $col',
            """
if node.findtext("$col") == $col:
    count += 1""",
        ),
    },
    (ENTITY,),
    held_out=True,
)
