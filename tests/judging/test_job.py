"""Facts about a judge that other rooms print."""

from em.config import JudgeConfig, JudgeKind
from em.config.judge import ScoreMethod
from em.judging.job import method, question_text
from support.judge_stage import question
from support.serving import config
from support.training import system


def test_the_method_is_said_in_words():
    said = {method(config("http://h/v1", score=way)) for way in ScoreMethod if way != ScoreMethod.structured}
    said |= {method(JudgeConfig(name="x", kind=JudgeKind.inspect, model="openai/m", score=ScoreMethod.structured))}
    said |= {method(JudgeConfig(name="x", kind=kind, model="m")) for kind in (JudgeKind.probe, JudgeKind.persona_ratio)}
    assert len(said) == 7 and all(said)


def test_asked_is_the_users_turn_only():
    assert question_text(question("q", "Hey", before=[system("Be kind.")])) == "Hey"
