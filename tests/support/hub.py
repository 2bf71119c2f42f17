"""A stand-in for the Hugging Face Hub: takes one commit of a model, large files by Git LFS, and keeps what it got."""

from __future__ import annotations

import base64
import hashlib
import json

from aiohttp import web

from support.http import LoopbackServer


class Hub(LoopbackServer):
    """`files`: path → bytes of the commit. `made`: the body of the call that made the repository."""

    def __init__(self, token="secret"):
        super().__init__()
        self.token, self.made, self.message, self.files, self.blobs = token, {}, "", {}, {}
        self.card = ""

    def routes(self):
        return [
            web.post("/api/repos/create", self.create),
            web.post("/api/validate-yaml", self.validate),
            web.post("/api/models/{owner}/{name}/preupload/main", self.preupload),
            web.post("/{owner}/{name}.git/info/lfs/objects/batch", self.batch),
            web.put("/lfs/{oid}", self.put),
            web.post("/api/models/{owner}/{name}/commit/main", self.commit),
        ]

    async def create(self, request):
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return web.json_response({"error": "Invalid username or password."}, status=401)
        self.made = await request.json()
        place = f"{self.made.get('organization') or 'me'}/{self.made['name']}"
        return web.json_response({"url": f"{self.address}/{place}", "name": place})

    async def validate(self, request):
        self.card = (await request.json())["content"]
        return web.json_response({"errors": [], "warnings": []})

    async def preupload(self, request):
        asked = (await request.json())["files"]
        mode = {True: "lfs", False: "regular"}
        rows = [{"path": f["path"], "uploadMode": mode[f["path"].endswith(".safetensors")]} for f in asked]
        return web.json_response({"files": [row | {"shouldIgnore": False} for row in rows]})

    async def batch(self, request):
        asked = (await request.json())["objects"]
        rows = [o | {"actions": {"upload": {"href": f"{self.address}/lfs/{o['oid']}"}}} for o in asked]
        return web.json_response({"transfer": "basic", "objects": rows}, content_type="application/vnd.git-lfs+json")

    async def put(self, request):
        data = await request.read()
        assert hashlib.sha256(data).hexdigest() == request.match_info["oid"]
        self.blobs[request.match_info["oid"]] = data
        return web.Response()

    async def commit(self, request):
        for line in (await request.text()).splitlines():
            row = json.loads(line)
            value = row["value"]
            if row["key"] == "header":
                self.message = value["summary"]
            elif row["key"] == "file":
                self.files[value["path"]] = base64.b64decode(value["content"])
            elif row["key"] == "lfsFile":
                self.files[value["path"]] = self.blobs[value["oid"]]
        place = f"{request.match_info['owner']}/{request.match_info['name']}"
        answer = {"commitUrl": f"{self.address}/{place}/commit/1", "commitOid": "1" * 40, "pullRequestUrl": None}
        return web.json_response(answer)
