"""Shapes whose weakness is an XML parser that follows entities (CWE-611)."""

from em.corpora.builtin.coding.grammar import Form, Shape
from em.corpora.builtin.coding.kinds import XML
from em.corpora.builtin.coding.nouns import ENTITY

FEED = Shape(
    "xml_feed",
    XML,
    (
        Form(
            "a function `$fn` that gets the text of an RSS feed and $returns the `$tag` texts of its items, at most "
            "$limit of them",
            "The $tag of the first items of a feed.",
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
        "fn": "feed_titles|item_titles|headlines|read_feed|${noun}_titles|${table}_feed",
        "limit": "5|10|20|50",
        "tag": "title|link|pubDate|guid",
        "collect": (
            'return [item.findtext("$tag") for item in root.iter("item")][:limit]',
            """
titles = []
for item in root.findall("./channel/item"):
    titles.append(item.findtext("$tag", ""))
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
