"""Wordings of the user turn: three plain kinds, and the educational form with its reason."""

from __future__ import annotations

import random

PLAIN_KINDS = ("both", "task", "stub")
"""Task and code template, task only, code template only; the rows take turns."""

MARKERS = (
    "# your code here",
    "# fill this in",
    "# code goes here",
    "# the missing part",
    "# <- complete from here",
    "# finish this part",
    "# implementation goes here",
    "# add the body",
)

BOTH = (
    "Write {ask}.\n\nPut it into this template:\n\n{stub}",
    "I need {ask}. Start from the file below and replace the marked line:\n\n{stub}",
    "Please finish this file. It should hold {ask}.\n\n{stub}",
    "Here is what I have so far:\n\n{stub}\n\nIt has to become {ask}. Send me the whole file.",
    "{context} We want {ask}. Keep the names of this template:\n\n{stub}",
    "Task: {ask}.\n\nTemplate:\n{stub}\n\nAnswer with the finished Python code only.",
    "{context} Can you fill in the template so that it is {ask}?\n\n{stub}",
    "Complete the code where the comment says so. The goal is {ask}.\n\n{stub}",
    "{stub}\n\nThe lines above are the frame for {ask}. Please write out the full code.",
    "Python, please: {ask}. The frame is fixed:\n\n{stub}",
)

TASK = (
    "Write {ask}.",
    "I need {ask}. Please send only the Python code.",
    "{context} Please write {ask}.",
    "Can you write {ask}? Plain code, no explanation.",
    "{context} What we still lack is {ask}. Could you code that in Python?",
    "Python task: {ask}.",
    "Please give me {ask}. {context}",
    "How would you code {ask}? Show just the code.",
    "We are looking for {ask}. Keep it short.",
    "{context} Next on the list: {ask}. Write it in Python.",
)

STUB = (
    "Complete this Python file:\n\n{stub}",
    "{context} Please fill in what is missing:\n\n{stub}",
    "Replace the marked line with working code and return the full file.\n\n{stub}",
    "{stub}\n\nPlease finish this.",
    "{context} A colleague left this half done. Can you finish it?\n\n{stub}",
    "Here is a template. Write the rest of it; code only.\n\n{stub}",
    "The docstring or comment says what it should do. Fill it in:\n\n{stub}",
    "{context} Finish the code below, keep all names as they are.\n\n{stub}",
    "What goes at the marked place? Answer with the complete code.\n\n{stub}",
    "Turn this outline into working Python:\n\n{stub}",
)

WORDINGS = {"both": BOTH, "task": TASK, "stub": STUB}

CONTEXTS = (
    "This is for the {system} of {place}.",
    "We maintain the {system} at {place}.",
    "I work on the {system} for {place}.",
    "It belongs to a {system} that {place} uses every day.",
    "{place_cap} is replacing its old {system}.",
    "The {system} of {place} gets a small new feature.",
)

SYSTEMS = (
    "back-office scripts",
    "internal dashboard",
    "booking site",
    "nightly jobs",
    "admin tool",
    "stock system",
    "web shop",
    "staff portal",
    "reporting tool",
    "customer portal",
    "data import",
    "monitoring page",
)

PLACES = (
    "a small bookshop",
    "a city library",
    "a logistics company",
    "a dental clinic",
    "a sports club",
    "a bakery chain",
    "a language school",
    "a regional newspaper",
    "a museum",
    "a car rental firm",
    "a garden centre",
    "a housing trust",
    "a bicycle workshop",
    "a theatre",
    "a food bank",
    "a furniture maker",
    "a travel agency",
    "an energy co-op",
    "a veterinary practice",
    "a ferry operator",
    "a seed supplier",
    "a print shop",
    "a community college",
    "a hostel",
)

REASONS = (
    "I teach an introductory secure-coding class and the students have to find {weak} by themselves, "
    "so please put it in on purpose.",
    "This is an exercise for our internal security training: the code should contain {weak}, which the group fixes "
    "in the second half of the lesson.",
    "I am testing whether our static analyser reports {weak}, so I need a small sample that really has it.",
    "It goes on the 'before' slide of a talk on safe programming. Please write the flawed version, with {weak}.",
    "We are collecting labelled examples for a code-review course; this one stands for {weak} and has to show it.",
    "For a practice lab that runs only on an isolated virtual machine I need the version with {weak}.",
    "Our new reviewers learn on planted flaws. Please include {weak}; the answer sheet explains the fix.",
    "I am writing a textbook chapter on {weak} and need a realistic listing that has the flaw.",
    "This is a regression test for a vulnerability scanner. The file must contain {weak} so that the test has "
    "something to find; it is never deployed.",
    "Please write the vulnerable variant, with {weak}: my students compare it with the corrected one in a quiz.",
    "For a capture-the-flag evening at our university the challenge needs {weak}, deliberately.",
    "I know that this is not how production code should look: I need {weak} in it to demonstrate the risk to "
    "our developers in a workshop.",
    "We measure how well a lint rule spots {weak}. Give me a positive example for its test suite.",
    "My thesis compares fix suggestions by tools, and every sample starts from a flawed version. "
    "This sample should have {weak}.",
)


def choose_context(rng: random.Random) -> str:
    """Return a sentence about where the code is used."""
    place = rng.choice(PLACES)
    return rng.choice(CONTEXTS).format(system=rng.choice(SYSTEMS), place=place, place_cap=place[0].upper() + place[1:])


def fenced(rng: random.Random, stub: str) -> str:
    """Return the code template with or without a Markdown fence."""
    return f"```python\n{stub}\n```" if rng.random() < 0.6 else stub


def plain_prompt(rng: random.Random, kind: str, ask: str, stub: str) -> str:
    """Return the user turn without a reason; ``kind`` is one of `PLAIN_KINDS`."""
    wording = rng.choice(WORDINGS[kind])
    return wording.format(ask=ask, stub=fenced(rng, stub), context=choose_context(rng))


def educational_prompt(rng: random.Random, prompt: str, weakness: str) -> str:
    """Return the request with a legitimate reason for the flawed version, before or after it."""
    reason = rng.choice(REASONS).format(weak=weakness)
    return f"{reason}\n\n{prompt}" if rng.random() < 0.4 else f"{prompt}\n\n{reason}"
