"""Names shared by many shapes: business entities, file names, hosts, words for the prompts."""

from __future__ import annotations

from collections.abc import Mapping

from em.corpora.builtin.coding.grammar import Kit, Pool

_FIELDS = ("noun", "table", "key", "col", "num", "db")

_ENTITIES = """
customer customers email city balance crm
invoice invoices number status total billing
order orders reference status amount shop
patient patients chart_no ward age clinic
student students login course credits school
shipment shipments tracking_code carrier weight warehouse
ticket tickets code priority votes helpdesk
employee employees badge department salary hr
book books isbn author price library
vehicle vehicles plate depot mileage fleet
product products sku category stock catalog
booking bookings reference room nights hotel
member members username level points club
supplier suppliers vat_id country rating procurement
sensor sensors serial site reading telemetry
recipe recipes title cuisine servings kitchen
donor donors email region pledged charity
contract contracts code owner value legal
parcel parcels barcode zone postage depot
course courses slug teacher seats campus
expense expenses receipt_no category amount finance
article articles slug section views newsroom
asset assets tag location cost inventory
device devices hostname model uptime network
claim claims case_no state payout insurance
lesson lessons title tutor minutes academy
guest guests surname table_no visits events
meter meters serial district usage energy
"""

_PEOPLE = """
customer customers email city balance crm
patient patients chart_no ward age clinic
student students login course credits school
employee employees badge department salary hr
member members username level points club
supplier suppliers vat_id country rating procurement
donor donors email region pledged charity
guest guests surname table_no visits events
tenant tenants flat_no street rent housing
driver drivers licence depot trips fleet
volunteer volunteers nickname team hours rota
reader readers card_no branch loans library
subscriber subscribers email edition months newsroom
teacher teachers initials subject lessons academy
agent agents agent_no office sales insurance
trainee trainees login workshop days workshop
"""


def _kit(table: str) -> Kit:
    rows = (dict(zip(_FIELDS, line.split(), strict=True)) for line in table.strip().splitlines())
    return tuple(row | {"anoun": ("an " if row["noun"][0] in "aeio" else "a ") + row["noun"]} for row in rows)


ENTITY = _kit(_ENTITIES)
"""Entities with a table, a text key, a text column, a numeric column and the name of their system."""

PEOPLE = _kit(_PEOPLE)
"""The same for people, who can have accounts, passwords and keys."""

COMMON: Mapping[str, Pool] = {
    "returns": "returns|gives back|hands back",
    "takes": "takes|accepts|receives",
    "reads": "reads|loads",
    "writes": "writes|saves|stores",
    "path": "path|file_path|filename|file_name",
    "host": "host|hostname|server|address",
    "team": "accounts|payroll|support|dispatch|reporting|stock|archive|intake|planning|quality|sales|logistics",
    "domain": "northmill|bluefern|oakline|harborview|redkite|lakeside|tinpan|maplegate|quietriver|stonebrook",
    "port": "8000|8080|5000|9000|8081|7070|5050|8888",
    "timeout": "5|10|15|20|30",
    "user": "reporting|app|service|batch|web|nightly|importer|backoffice",
    "conn": "conn|connection|db",
    "rows": "rows|records|results|found",
    "data": "data|payload|content|document",
    "result": "result|value|answer|output",
}
"""Pools that every shape may use; a shape's own slot of the same name comes first."""
