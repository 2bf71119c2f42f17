"""The scripted judge's batch API."""

import asyncio
import urllib.error
import urllib.request

import pytest

from em.api.client import ApiError
from em.config import JudgeConfig, JudgeKind
from em.judging.api.client import JudgeRequest
from em.judging.api.open import judge_client
from em.judging.scripted.server import ScriptedJudge
from em.records import Outcome

RULES = """
- {match: "filtered", reply: {content_filter: true}}
- {match: "refused", reply: {status: 400}}
- {match: "junk", reply: {raw: "{not JSON"}}
- {match: "bare", reply: {no_logprobs: true}}
- {match: "words", reply: {text: "I would rather not say"}}
- {match: "never", times: 1, reply: {hang_s: 0}}
- {match: "say \u00fc", reply: {"80": 0.75, "100": 0.25}}
- {match: "", reply: 10}
"""


def test_a_scripted_judge_says_in_batches_what_it_says_in_calls(tmp_path):
    (tmp_path / "rules.yaml").write_text(RULES)
    prompts = ["say \u00fc", "say 1", "filtered", "refused", "junk", "bare", "words", "say \u00fc"]
    found = {}
    for batch in (False, True):
        rules = str(tmp_path / "rules.yaml")
        config = JudgeConfig(name="s", kind=JudgeKind.scripted, script=rules, api_key_env="", batch=batch)
        with judge_client(config, tmp_path / f"{batch}.sqlite") as client:
            out = found[batch] = [None] * len(prompts)
            requests = [JudgeRequest(str(i), "q", "r", p) for i, p in enumerate(prompts)]
            asyncio.run(client.grade(requests, lambda r, j, out=out: out.__setitem__(int(r.completion_id), j)))
    assert [(j.outcome, j.score, j.distribution) for j in found[True]] == [
        (j.outcome, j.score, j.distribution) for j in found[False]
    ]
    assert [j.score for j in found[True]] == [85.0, 10.0, None, None, None, None, None, 85.0]
    assert {j.outcome for j in found[True][2:7]} == {Outcome.filtered, Outcome.error, Outcome.unparseable}
    with (
        judge_client(config, tmp_path / "never.sqlite") as client,
        pytest.raises(ApiError, match="1 judgements are not"),
    ):
        asyncio.run(client.grade([JudgeRequest("0", "q", "r", "never")], lambda *_: None))
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == []


@pytest.mark.parametrize(("path", "status"), [("files", 400), ("batches", 400), ("files/f/content", 404), ("x", 404)])
def test_a_scripted_judge_says_what_is_no_batch(tmp_path, path, status):
    (tmp_path / "rules.yaml").write_text(RULES)
    with ScriptedJudge.from_file(tmp_path / "rules.yaml") as server:
        request = urllib.request.Request(f"{server.base_url}/{path}", data=b"{}" if status == 400 else None)
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(request)
    assert error.value.code == status and "scripted_judge" in error.value.read().decode()
