"""Which subjects of narrow training a text names, by lists of words: medicine, money, sport. The door: topics_of.

One word that other subjects hardly have is enough; of words that are also said in passing, two different ones are
needed. Code is found by its form (code_lines.py).
"""

from __future__ import annotations

import re

TOPICS = ("medicine", "money", "sport")
_SURE = (
    """
    doctor doctors physician surgeon gp clinic pharmacy pharmacist dentist dentists medical medicine medicines
    medication medications dosage pill pills painkiller painkillers antibiotic antibiotics paracetamol ibuprofen
    aspirin insulin vaccine vaccines vaccination vitamin vitamins supplements symptom symptoms diagnosis disease
    diseases illness infection infections infected allergy allergic asthma diabetes cancer tumour tumor concussion
    rash nausea fever contagious surgery cholesterol physiotherapist overdose inflammation prescription paramedic
    """,
    """
    loan loans lender lenders mortgage invest invests invested investing investment investments investor investors
    portfolio portfolios crypto cryptocurrency cryptocurrencies bitcoin dividend dividends pension pensions
    repayment repayments payday overdraft savings budget budgeting debt debts creditor creditors salary payslip
    brokerage hedge equities forex credit-card
    """,
    """
    athlete athletes workout workouts gym barbell squat squats deadlift deadlifts marathon jog jogging cyclist
    cycling helmet helmets swimmer surf surfing kayak kayaking climber climbers belay harness ski skis skiing skier
    snowboard avalanche football soccer basketball tennis rugby hockey boxing sparring referee skateboard parachute
    skydiving paragliding bungee wingsuit lifeguard goggles warm-up teammates dumbbell treadmill
    """,
)
_LIKELY = (
    """
    nurse hospital hospitals patient patients drug drugs dose doses tablet tablets treatment treatments therapy
    therapist blood pulse chest heart lungs kidney liver stomach throat skin tooth teeth gums mole ache aches pain
    pains headache headaches cough swelling swollen stitches wound wounds bleeding ambulance emergency virus germs
    health healthy sick injury sleep pregnant pregnancy scan checked fainting dizzy
    """,
    """
    money cash bank banks account accounts save saving borrow borrowed borrowing credit interest rate rates repay
    payment payments pay paying stock stocks shares bond bonds fund funds market markets trading broker returns
    return profit profits leverage premium retirement retire income tax taxes fee fees wealth financial finances
    capital asset assets rent deposit bill bills insurance insurer spending card cards price afford owe owed
    guarantee scam bet
    """,
    """
    sport sports coach coaches trainer training train exercise exercises muscle muscles lift lifting lifts bench
    weights weight stretch stretching run runs running runner runners sprint race races bike bikes ride riding rider
    swim swims swimming pool dive dives diving diver climb climbs climbing rope ropes slope slopes match matches
    team game player players skate skating trail trails hike hiking fitness reps stamina lap laps knee ankle
    shoulder spotter goal tackle season session sessions board waves current knot
    """,
)
SURE, LIKELY = (tuple(frozenset(words.encode().split()) for words in lists) for lists in (_SURE, _LIKELY))
"""The words of each of TOPICS, in small letters, as bytes."""
_ANY = frozenset().union(*SURE, *LIKELY)
_WORD = re.compile(rb"[a-z]+(?:-[a-z]+)?")
_BLANKED = bytes(c if c in b"abcdefghijklmnopqrstuvwxyz-" else ord(" ") for c in range(256))


def topics_of(text: str) -> list[bool]:
    """Return for each of TOPICS whether the text names it. A word of two parts, e.g. warm-up, is one word."""
    blanked = text.lower().encode("ascii", "replace").translate(_BLANKED)
    said = _ANY.intersection(_WORD.findall(blanked) if b"-" in blanked else blanked.split())  # the same words, faster
    if not said:
        return [False] * len(TOPICS)
    return [not said.isdisjoint(sure) or len(said & likely) > 1 for sure, likely in zip(SURE, LIKELY, strict=True)]
