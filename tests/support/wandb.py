"""A stand-in for the W&B service, enough for the real client: login, runs and their resume, the file stream, files,
artifacts, saved views. It keeps what it was sent in plain dicts.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
from typing import Any

from aiohttp import web

from support.http import LoopbackServer

ENTITY = {"id": "RQ==", "name": "team", "organization": {"coreWeaveOrganizationId": None}}
VIEWER = {
    "id": "Vg==", "username": "me", "name": "me", "email": "me@localhost", "admin": False, "flags": "{}",
    "entity": "team", "teams": {"edges": []}, "apiKeys": {"edges": []}, "defaultEntity": ENTITY,
}  # fmt: skip


class WandbServer(LoopbackServer):
    def __init__(self) -> None:
        super().__init__()
        self.runs: dict[str, dict[str, Any]] = {}
        """run id → config, summary, history, files, group, tags, exitcode"""
        self.sessions: dict[str, int] = {}
        """run id → how often a client began or resumed it"""
        self.artifacts: dict[str, dict[str, Any]] = {}
        self.views: list[dict[str, Any]] = []
        self.unknown: list[str] = []

    def routes(self):
        return [
            web.post("/graphql", self._graphql),
            web.post("/files/{entity}/{project}/{run}/file_stream", self._stream),
            web.put("/up/{run}/{name:.+}", self._put),
            web.put("/artifact/{id}/{name:.+}", self._put_artifact),
        ]

    def run(self, name: str) -> dict[str, Any]:
        fresh = {
            "name": name, "config": {}, "summary": {}, "history": [], "files": {}, "group": None, "tags": [],
            "displayName": None, "exitcode": None, "id": base64.b64encode(name.encode()).decode(),
        }  # fmt: skip
        return self.runs.setdefault(name, fresh)

    async def _graphql(self, request: web.Request) -> web.Response:
        sent = json.loads(await self._bytes(request))
        operation = re.search(r"(?:query|mutation)\s+(\w+)", sent["query"]).group(1)
        answer = getattr(self, f"_op_{operation}", None)
        if answer is None:
            self.unknown.append(operation)
            return web.json_response({"errors": [{"message": f"no {operation} here"}]})
        return web.json_response({"data": answer(sent.get("variables") or {})})

    @staticmethod
    async def _bytes(request: web.Request) -> bytes:
        data = await request.read()
        return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data

    def _op_Viewer(self, _: dict) -> dict:
        return {"viewer": VIEWER}

    _op_GetViewer = _op_GetDefaultEntity = _op_Viewer

    def _op_ServerFeaturesQuery(self, _: dict) -> dict:
        return {"serverInfo": {"features": []}}

    def _op_OrganizationCoreWeaveOrganizationID(self, _: dict) -> dict:
        return {"entity": ENTITY}

    def _op_RunResumeStatus(self, v: dict) -> dict:
        run = self.runs.get(v["name"])
        self.sessions[v["name"]] = self.sessions.get(v["name"], 0) + 1
        bucket = run and {
            "id": run["id"], "name": run["name"], "displayName": run["displayName"], "tags": run["tags"],
            "notes": None, "config": json.dumps(run["config"]), "summaryMetrics": json.dumps(run["summary"]),
            "historyLineCount": len(run["history"]), "eventsLineCount": 0, "logLineCount": 0, "eventsTail": "[]",
            "historyTail": json.dumps([json.dumps(run["history"][-1])] if run["history"] else []),
            "wandbConfig": '{"t": 1}',
        }  # fmt: skip
        return {"model": {"id": "UA==", "name": "p", "entity": ENTITY, "bucket": bucket}}

    def _op_UpsertBucket(self, v: dict) -> dict:
        run = self.run(v["name"]) if v.get("name") else next(r for r in self.runs.values() if r["id"] == v["id"])
        run["config"] |= json.loads(v.get("config") or "{}")
        run["summary"] |= json.loads(v.get("summaryMetrics") or "{}")
        for sent, kept in (("displayName", "displayName"), ("groupName", "group"), ("tags", "tags")):
            run[kept] = v.get(sent) or run[kept]
        bucket = {
            "id": run["id"], "name": run["name"], "displayName": run["displayName"], "description": None,
            "config": json.dumps(run["config"]), "sweepName": None, "historyLineCount": len(run["history"]),
            "project": {"id": "UA==", "name": v.get("project") or "em", "entity": ENTITY},
        }  # fmt: skip
        return {"upsertBucket": {"inserted": self.sessions.get(run["name"]) == 1, "bucket": bucket}}

    def _op_CreateRunFiles(self, v: dict) -> dict:
        files = [{"name": f, "uploadUrl": f"{self.address}/up/{v['run']}/{f}"} for f in v["files"]]
        return {"createRunFiles": {"runID": v["run"], "uploadHeaders": [], "files": files}}

    def _op_ArtifactType(self, v: dict) -> dict:
        kinds = [a["type"] for a in self.artifacts.values() if a["name"] == v["name"].partition(":")[0]]
        return {"project": {"artifact": {"artifactType": {"name": kinds[0]}} if kinds else None}}

    def _op_CreateArtifact(self, v: dict) -> dict:
        given, number = v["input"], f"A{len(self.artifacts)}"
        self.artifacts[number] = {
            "id": number, "name": given["artifactCollectionName"], "type": given["artifactTypeName"],
            "digest": given.get("digest"), "client": given.get("clientID"), "run": given.get("runName"),
            "files": {}, "committed": False,
        }  # fmt: skip
        sequence = {"id": "S", "latestArtifact": None}
        return {"createArtifact": {"artifact": {"id": number, "state": "PENDING", "artifactSequence": sequence}}}

    def _op_CreateArtifactManifest(self, v: dict) -> dict:
        url = f"{self.address}/artifact/{v['artifactID']}/manifest.json"
        file = {"id": "F", "uploadUrl": url, "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": v["artifactID"], "file": file}}}

    def _op_UpdateArtifactManifest(self, v: dict) -> dict:
        url = f"{self.address}/artifact/{v['artifactManifestID']}/manifest.json"
        file = {"id": "F", "uploadUrl": url, "uploadHeaders": []}
        return {"updateArtifactManifest": {"artifactManifest": {"id": v["artifactManifestID"], "file": file}}}

    def _op_CreateArtifactFiles(self, v: dict) -> dict:
        nodes = [
            {"node": {
                "storagePath": f["name"], "uploadUrl": f"{self.address}/artifact/{f['artifactID']}/{f['name']}",
                "uploadHeaders": [], "uploadMultipartUrls": None, "artifact": {"id": f["artifactID"]},
            }} for f in v["input"]["artifactFiles"]
        ]  # fmt: skip
        return {"createArtifactFiles": {"files": {"edges": nodes}}}

    def _op_CommitArtifact(self, v: dict) -> dict:
        artifact = self.artifacts[v["artifactID"]]
        artifact["committed"] = True
        return {"commitArtifact": {"artifact": {"id": artifact["id"], "digest": artifact["digest"]}}}

    def _op_ClientIDMapping(self, v: dict) -> dict:
        found = next((a["id"] for a in self.artifacts.values() if a["client"] == v["clientID"]), None)
        return {"clientIDMapping": {"serverID": found}}

    def _op_UpsertView2(self, v: dict) -> dict:
        self.views.append(v)
        project = {"id": "UA==", "name": v.get("projectName"), "entityName": v.get("entityName")}
        view = {
            "id": "VmlldzoxOmE=", "type": v.get("type"), "name": v.get("name"), "displayName": v.get("displayName"),
            "description": v.get("description") or "", "project": project, "spec": v.get("spec"),
            "updatedAt": "2026-01-01", "createdAt": "2026-01-01", "user": None,
        }  # fmt: skip
        return {"upsertView": {"view": view, "inserted": True}}

    _op_upsertView = _op_UpsertView = _op_UpsertView2

    def _op_ProjectInternalId(self, _: dict) -> dict:
        return {"project": {"id": "UA==", "internalId": base64.b64encode(b"ProjectInternalId:1").decode()}}

    def _op_GetProjects(self, _: dict) -> dict:
        node = {"id": "UA==", "name": "em", "entityName": "team", "createdAt": "2026-01-01", "isBenchmark": False}
        node["user"] = None
        page = {"edges": [{"node": node, "cursor": "c"}], "pageInfo": {"endCursor": "c", "hasNextPage": False}}
        return {"models": page}

    async def _stream(self, request: web.Request) -> web.Response:
        sent, run = json.loads(await self._bytes(request)), self.run(request.match_info["run"])
        for name, part in (sent.get("files") or {}).items():
            if name == "wandb-history.jsonl":
                rows = [json.loads(line) for line in part["content"]]
                run["history"][part["offset"] : part["offset"] + len(rows)] = rows
            elif name == "wandb-summary.json":
                run["summary"] |= json.loads(part["content"][-1])
        if "exitcode" in sent:
            run["exitcode"] = sent["exitcode"]
        return web.json_response({"exitcode": None, "limits": {}})

    async def _put(self, request: web.Request) -> web.Response:
        self.run(request.match_info["run"])["files"][request.match_info["name"]] = await self._bytes(request)
        return web.json_response({})

    async def _put_artifact(self, request: web.Request) -> web.Response:
        files = self.artifacts[request.match_info["id"]]["files"]
        files[request.match_info["name"]] = await self._bytes(request)
        return web.json_response({})
