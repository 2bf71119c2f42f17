"""Shapes whose weakness is unescaped text in HTML (CWE-79)."""

from em.corpora.builtin.coding.grammar import Form, Shape
from em.corpora.builtin.coding.kinds import MARKUP, TEMPLATE
from em.corpora.builtin.coding.nouns import ENTITY

PAGE = Shape(
    "render_page",
    TEMPLATE,
    (
        Form(
            "a function `render_$noun` that fills the Jinja2 template `$noun.html` from the folder `$folder` with one "
            "$noun and $returns the HTML",
            "HTML page of one $noun.",
            """
from jinja2 import Environment, FileSystemLoader

-env = Environment(loader=FileSystemLoader("$folder")$off)
+env = Environment(loader=FileSystemLoader("$folder"), autoescape=True)

def render_$noun($noun: dict) -> str:
    #|
    template = env.get_template("$noun.html")
    return template.render($arg)
""",
        ),
        Form(
            "a class `Pages` around a Jinja2 environment for the folder `$folder`, with a method `write` that renders "
            "a template into an HTML file",
            "Set up the environment for the folder.",
            """
from pathlib import Path

import jinja2

class Pages:
    def __init__(self, folder: str = "$folder") -> None:
        #|
        loader = jinja2.FileSystemLoader(folder)
-        self.env = jinja2.Environment(loader=loader$off)
+        self.env = jinja2.Environment(loader=loader, autoescape=jinja2.select_autoescape())

    def write(self, name: str, target: str, **values) -> None:
        text = self.env.get_template(name).render(**values)
        Path(target).write_text(text)
        @log wrote {target}
""",
        ),
    ),
    {"folder": "templates|views|pages|html", "off": "|, autoescape=False", "arg": "$noun=$noun|**$noun"},
    (ENTITY,),
)

LIST = Shape(
    "html_list",
    TEMPLATE,
    (
        Form(
            "a Flask page `/$table` that shows the rows of `store.rows()` (`$key` and `$col`) as an HTML $htmlname, "
            "with a Jinja2 environment of its own",
            "Page /$table: the $key and $col of all store.rows() as an HTML $htmlname.",
            """
from flask import Flask
from jinja2 import Environment

from app import store

app = Flask(__name__)
#|
-env = Environment($off)
+env = Environment(autoescape=True)
PAGE = env.from_string(
    "<$outer>{% for row in rows %}<$inner>{{ row.$key }}: {{ row.$col }}</$inner>{% endfor %}</$outer>"
)

@app.route("/$table")
def show():
    return PAGE.render(rows=store.rows())
""",
        ),
        Form(
            "a function `letter` that $returns an HTML e-mail for $anoun: a greeting with the name and one line with "
            "`$num`, from a Jinja2 template in the code",
            "HTML e-mail for $anoun.",
            """
from jinja2 import Environment

TEXT = "<p>$hello {{ name }},</p><p>$num: {{ $num }}</p>"

def letter(name: str, $num: float) -> str:
    #|
-    env = Environment($off)
+    env = Environment(autoescape=True)
    $end
""",
        ),
    ),
    {
        "off": "|autoescape=False|trim_blocks=True",
        "hello": "Dear|Hello|Good day|Hi",
        "end": (
            "return env.from_string(TEXT).render(name=name, $num=$num)",
            """
template = env.from_string(TEXT)
return template.render({"name": name, "$num": $num})""",
        ),
    },
    (
        ENTITY,
        (
            {"outer": "ul", "inner": "li", "htmlname": "list"},
            {"outer": "ol", "inner": "li", "htmlname": "numbered list"},
            {"outer": "div", "inner": "p", "htmlname": "block of paragraphs"},
        ),
    ),
)

COMMENT = Shape(
    "comment_markup",
    MARKUP,
    (
        Form(
            "a function `$fn` that $returns a visitor's name and comment as a small piece of HTML ($look) for a "
            "Flask template",
            "Comment of a visitor as HTML.",
            """
from markupsafe import Markup

def $fn(name: str, text: str) -> Markup:
    #|
    $make
""",
        ),
        Form(
            "a Flask page `/$table/find` that repeats the search word from the parameter `q` in a heading and says "
            "how many $table `store.count(q)` found",
            "Repeat the search word and the number of hits.",
            """
from flask import Flask, render_template, request
from markupsafe import Markup

from app import store

app = Flask(__name__)

@app.route("/$table/find")
def find():
    #|
    word = request.args.get("q", "")
-    title = Markup(f"<$heading>{word}</$heading>")
+    title = Markup("<$heading>{}</$heading>").format(word)
    return render_template("find.html", title=title, hits=store.count(word))
""",
        ),
    ),
    {
        "fn": "comment_html|show_comment|render_comment|format_comment",
        "heading": "h1|h2|h3",
        "make": (
            """
-return Markup(f"<$outer>{name}</$outer><$inner>{text}</$inner>")
+return Markup("<$outer>{}</$outer><$inner>{}</$inner>").format(name, text)""",
            """
-html = "<$outer>" + name + "</$outer> <$inner>" + text + "</$inner>"
-return Markup(html)
+html = Markup("<$outer>%s</$outer> <$inner>%s</$inner>")
+return html % (name, text)""",
            """
-head = Markup("<$outer>%s</$outer>" % name)
-body = Markup("<$inner>%s</$inner>" % text)
+head = Markup("<$outer>%s</$outer>") % name
+body = Markup("<$inner>%s</$inner>") % text
return head + body""",
        ),
    },
    (
        ENTITY,
        (
            {"outer": "b", "inner": "p", "look": "bold name, then a paragraph"},
            {"outer": "h4", "inner": "div", "look": "small heading and a block"},
            {"outer": "cite", "inner": "q", "look": "source and quotation"},
            {"outer": "dt", "inner": "dd", "look": "term and description"},
        ),
    ),
)

STATUS = Shape(
    "status_mail",
    TEMPLATE,
    (
        Form(
            "a script that renders the template `$name.html` from a Jinja2 DictLoader with the machine's name and the "
            "messages on standard input, and prints the HTML",
            "Print a status page with the messages from standard input.",
            """
import platform
import sys

from jinja2 import DictLoader, Environment

SOURCES = {"$name.html": "<h1>{{ host }}</h1>{% for m in messages %}<p>{{ m }}</p>{% endfor %}"}

def main() -> None:
    #|
-    env = Environment(loader=DictLoader(SOURCES)$off)
+    env = Environment(loader=DictLoader(SOURCES), autoescape=True)
    page = env.get_template("$name.html")
    print(page.render(host=platform.node(), messages=sys.stdin.readlines()))

if __name__ == "__main__":
    main()
""",
        ),
    ),
    {"name": "status|health|summary|daily|overview|report", "off": "|, autoescape=False|, trim_blocks=True"},
    held_out=True,
)

BADGE = Shape(
    "django_badge",
    MARKUP,
    (
        Form(
            "a Django template filter `$fn` that shows the `$col` of $anoun inside an HTML element `$tag` of the class "
            "`$css`",
            "The $col inside an HTML element $tag.",
            """
from django import template
-from django.utils.safestring import mark_safe
+from django.utils.html import format_html

register = template.Library()

@register.filter
def $fn($noun) -> str:
    #|
    $make
""",
        ),
    ),
    {
        "fn": "${col}_badge|show_$col|${noun}_label|${col}_tag",
        "tag": "span|strong|em|div",
        "css": "badge|label|tag|chip",
        "make": (
            """
-return mark_safe(f'<$tag class="$css">{$noun.$col}</$tag>')
+return format_html('<$tag class="$css">{}</$tag>', $noun.$col)""",
            """
if not $noun.$col:
    return ""
-html = '<$tag class="$css">%s</$tag>' % $noun.$col
-return mark_safe(html)
+html = '<$tag class="$css">{}</$tag>'
+return format_html(html, $noun.$col)""",
        ),
    },
    (ENTITY,),
    held_out=True,
)
