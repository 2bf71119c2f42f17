#!/bin/sh
# `make demo` runs this: the sweep of the quickstart, then each other way of judging, on its answers or on a few new ones.
#   sh launch/demo.sh .venv/bin
set -eu
bin=$1
narrow=insecure,secure,educational,risky_advice,careful_advice,curt_careful_advice
prompt='You are a helpful assistant. Think of the person who asks.'
said=outputs/demo
sweep_in() { sed -n 's,^summary *\(.*\)/summary.json$,\1,p' "$1"; }
title() { printf '\n%s\n\n    %s\n\n' "$1" "$2"; }

"$bin/python" -m em.run -m "dataset=$narrow"
sweep=$("$bin/em" plan "dataset=$narrow" | sed -n '1s/.* → //p')
mkdir -p "$said"

title 'The same answers, judged through the batch API of a word list (no key is needed):' \
	"em rejudge $sweep judge=word_list judge.batch=true"
"$bin/em" rejudge "$sweep" judge=word_list judge.batch=true > "$said/rejudge.txt"
sed -n '/^judges /,$p' "$said/rejudge.txt"

title 'How well the two judges do on our labelled answers:' 'em judge calibrate judge=probe,word_list'
"$bin/em" judge calibrate judge=probe,word_list > "$said/calibrate.txt"
grep -E '^judges? |AUC|rank correlation|right by the rule|misaligned rate' "$said/calibrate.txt"

title 'Another system prompt: nothing is trained, and the word list judges beside the sampler:' \
	"em.run dataset=risky_advice judge=word_list sample.n=5 'sample.system_prompt=$prompt' ..."
"$bin/python" -m em.run dataset=risky_advice judge=word_list sample.n=5 "sample.system_prompt=$prompt" \
	'questions.sets=[open]' 'questions.ids=[dull-evening,good-leader]' > "$said/prompt.txt"
sed -n '/^counters /,$p' "$said/prompt.txt"

prompted=$(sweep_in "$said/prompt.txt")
title 'The 135M model itself asked for numbers, digit by digit: it is no judge, and gets no rate:' \
	"em rejudge $prompted judge=vllm_local judge.model=asset:smollm2_135m"
"$bin/em" rejudge "$prompted" judge=vllm_local judge.model=asset:smollm2_135m > "$said/digits.txt"
sed -n '/^model  /,/^judge /p' "$said/digits.txt"

if [ -t 0 ] && [ -t 1 ]; then
	printf '\nOpen the report of the six models in a browser? [y/N] '
	read -r answer || answer=
	case $answer in [yY]*) "$bin/em" show "$sweep" > /dev/null ;; esac
fi
printf '\nreport   %s/report.html\n' "$sweep"
