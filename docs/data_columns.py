"""What the columns of files without records mean, for docs/data.py: key, type and meaning a line."""

from __future__ import annotations

SAMPLED = """
update | int | number of the update, from 1
episodes | int | responses sampled so far
reward | float | mean of what an episode earns: the score less the penalty for a missing EOS
score | float | mean weighted sum of the scaled scores
score/<source> | float | mean of a source's scores as it gave them
unread/<source> | float | share of responses that the source could not read, or not to their end; missing \
where it is 0
length | float | mean length of a response
truncated | float | share of responses that were cut off
refusals | float | share of responses that refuse, by patterns
boilerplate | float | largest share of responses with the same four words
gold | float | share of responses that keep every principle; missing without a gold scorer that knows one
heldout | int | held-out prompts that were answered; missing between looks
heldout_gold | float | the same share of their responses; missing between looks or without a gold scorer
heldout_judge | float | mean score of them by the judge; missing between looks or without \
`judge_watched_prompts`
heldout_judge_error | float | its standard error
alarms[].kind | text | alarms that were raised in this update, each once a training; missing where none was
alarms[].found | text | what was found
alarms[].advice | text | what to try
grad_norm | float | gradient norm before clipping; PPO: of the policy, missing while the critic trains alone
entropy | float | mean entropy of a token, nats
kl | float | KL to the reference policy of a response: PPO k1 at the sampled tokens; RLOO and GRPO trl's \
estimate, missing where `kl_coef` is 0
exact_kl | float | KL of a response over the whole vocabulary; RLOO and GRPO: missing between looks
"""
SAMPLES = """
update | int | number of the update
policy_version | int | updates that the policy had seen when it sampled
prompt_id | text | `id` of the prompt
prompt | text | its last message
response | text | the response
score | float | its weighted sum of scaled scores
log_prob | float | its log-probability under the policy, nats; PPO only
kl | float | log-probability less that of the reference; PPO only
exact_kl | float | its KL over the whole vocabulary
tokens | int | its length
ended | bool | whether it ended by itself
"""
CURVE = """
step | int | optimiser step; 0 is before the first one
epoch | float | passes over the rows so far
loss | float | training loss of the step; missing in rows that measure
learning_rate | float | the step's learning rate; missing in rows that measure
grad_norm | float | gradient norm before clipping; missing in rows that measure
heldout_loss | float | loss on held-out rows; missing in rows of a step
"""
PPO = """
kl_coef | float | β of the update
sampler_kl | float | k3 estimate of the KL a token between the sampler's and the trainer's log-probabilities
sampler_ratio | float | mean of trainer's over sampler's probability of a token
sampler_ratio_max | float | the largest of these ratios
value_loss | float | mean over the update's steps
policy_loss | float | likewise; missing while the critic trains alone
clip_fraction | float | share of tokens whose ratio is outside the clip range; missing while the critic \
trains alone
approx_kl | float | k3 estimate of the KL a token from the policy that sampled; missing while the critic \
trains alone
ptx_loss | float | loss on the pre-training text; missing without `ptx`
value_grad_norm | float | gradient norm of the value model before clipping
ratio_first | float | the first step's ratio furthest from 1, which should be 1; null while the critic \
trains alone
explained_variance | float | share of the returns' variance that the old values explain
steps | int | optimiser steps of the update
seconds | float | duration of the update
"""
SEAL = """
files.<file>.bytes | int | size of each file when it was finished
files.<file>.rows | int | its lines; missing where it is no .jsonl
files.<file>.sha256 | text | its digest
files.<file>.changed | int | its time of change, nanoseconds since 1970
"""
USAGE = """
calls | int | questions that a model answered
cached | int | questions that the cache answered
prompt_tokens | int | tokens of whole questions
shared_tokens | int | of these, tokens not read again because a prefix was shared or cached
tokens | int | tokens written
retried: <reason> | int | questions asked again, by reason; missing where none was
refused: <reason> | int | questions refused, by reason; missing where none was
"""


def below(prefix: str, columns: str) -> str:
    """The same columns as keys of an object."""
    return "".join(f"{prefix}{line}\n" for line in columns.strip().splitlines())


STAGE = f"""
name | text | the stage
number | int | its place in the run, from 1
round | int | the round, from 1
status | text | `running`, `done`, `interrupted`, `stopped` (budget) or `failed`
error | text | why it stopped or failed; missing otherwise
in | int | rows, prompts or pairs that it had to work on; missing before they are counted
kept | int | those that it used
dropped.<reason> | int | those that it did not use, by reason
rule | text | version of the rule that makes preferences of labels; of `label` and `evaluate` alone
seconds | float | working time over all starts
example.shown | text | one question or prompt of the stage; `example` is null where it has none
example.answer | text | what came of it
{below("usage.", USAGE)}usage.money | float | cost by the prices; missing without `prices`
notes[] | text | what a reader should know
metrics | object | figures of the stage: see below
{SEAL.strip()}
"""
MANIFEST = f"""
id | text | the run's own name, whatever its folder is called; missing in runs of early versions
parent.id | text | `id` of the run that a fork shares stages with; `parent` is missing where a run is no fork
parent.path | text | folder of that run
parent.at | text | first stage that the fork ran itself
parent.shared[] | text | folders of the shared stages
parent.differs[] | text | what shared stages read that is otherwise in the fork's config, with both values
rlaif | text | version that made the run
created | text | time of creation, UTC
name | text | name of the config
seed | int | seed of the config
command | text | the command that makes the run again
config_folder | text | folder that relative paths of the config belong to
constitution_hash | text | content hash of the constitution
template_hashes.<template> | text | content hash of each prompt template
git | text | revision of the config's repository, "+changes" where it is not clean; null outside one
python | text | version of Python
machine | text | architecture
cpus | int | processors
endpoints.policy[] | text | addresses asked; empty where the engine is no endpoint
endpoints.feedback[] | text | likewise
prompt_rows.in | int | rows of the prompt source
prompt_rows.kept | int | prompts made of them
prompt_rows.repeated | int | rows that repeat another one's messages and are merged with it
prompt_rows.responses_left_out | int | conversations that end with a response, which is left out
prompt_rows.dropped.<reason> | int | rows left out, by reason
inputs.<option> | text | fingerprint of each file or folder that the config names
versions.<package> | text | installed version; null where it is not installed
status | text | `running`, `stopped` or `done`
{below("spent.", USAGE)}spent.money | float | cost by the prices; missing without `prices`
{SEAL.strip()}
"""
CALIBRATION = """
n_train | int | preferences trained on
n_heldout | int | preferences measured on
heldout_accuracy | float | share of decided held-out pairs with the right winner; null where nothing is held \
out
heldout_accuracy_ci | pair | its interval, over groups of prompts
n_decided | int | held-out pairs whose label is not near ½
groups_decided | int | groups of prompts these are of
ece | float | expected calibration error on held-out pairs
ece_floor | float | what a perfect forecaster would get from as many pairs on average
reliability | list | bins: mean prediction, mean label, pairs
cross_entropy | float | of the predictions against the labels, nats
label_entropy | float | mean entropy of the labels: the least possible cross-entropy
excess_cross_entropy | float | the difference
temperature | float | what fits the margins best on held-out pairs; above 1: the model is too sure
by_source.<who>.n | int | decided pairs by who labelled them; empty where there is one source
by_source.<who>.accuracy | float | accuracy on these
by_source.<who>.accuracy_ci | pair | its interval
baselines.longer | float | accuracy of choosing the longer response; `baselines` is empty where no pair is \
decided
baselines.constant | float | accuracy of always choosing the side that wins more often in training
baselines_ci.<rule> | pair | the interval of each
reward_mean | float | mean reward of a sample of the responses trained on
reward_std | float | standard deviation of these rewards
heldout_sets.<set>.n | int | pairs of a named held-out set
heldout_sets.<set>.dropped.<reason> | int | pairs left out, by reason
heldout_sets.<set>.<figure> | – | the figures above on this set
members[].<figure> | – | figures of each member; missing without an ensemble
disagreement | float | share of pairs on whose winner members differ; missing without an ensemble
disagreement_ci | pair | its interval; missing without an ensemble
"""
CURVE_ENDS = """
steps | int | optimiser steps
loss_start | float | loss of the first step
loss_end | float | loss of the last step
heldout_loss_before | float | loss on held-out rows before the first step; missing where none are held out
heldout_loss_after | float | the same after the last
"""
PRETRAINED = """parameters | int | parameters of the model
tokens | int | tokens trained on in an epoch
n_heldout | int | blocks measured on
"""
LOSSES = f"""{CURVE_ENDS}n_heldout | int | rows measured on
n_demonstrations | int | rows that are demonstrations; `sft` with `demonstrations` alone
reward_all | float | mean reward of all graded responses; `rejection` alone
reward_kept | float | mean reward of those trained on; `rejection` alone
"""
POLICY = """
n | int | held-out prompts
groups | int | groups of prompts
kl_left_out | int | responses without KL
gold.<principle> | float | share of responses that keep the principle by the gold scorer (`all`: every one); \
missing without a gold scorer
gold_ci.<principle> | pair | its interval
compliance.<principle> | float | mean probability by the judge that the principle is kept
compliance_ci.<principle> | pair | its interval
compliance_unread | float | share of the judge's answers that could not be read; null where it was not asked
compliance_unread_ci | pair | its interval
win_rate.value | float | share of responses that beat the base policy's by the judge, a tie counting ½; \
missing for the base policy, and without a judge
win_rate.ci | pair | its interval
win_rate.<figure> | – | ties, invalid: shares; ties_ci, invalid_ci: their intervals; n, groups: prompts; \
different: whether it is shown not to be ½
kl | float | mean KL to the base policy of a response; null where it cannot be told
kl_ci | pair | its interval
length | float | mean length
length_ci | pair | its interval
truncated | float | share of responses cut off
truncated_ci | pair | its interval
refusal_rate | float | share of responses that refuse, by patterns
refusal_rate_ci | pair | its interval
over_refusal | float | of prompts tagged as safe, the share refused; null where none is
over_refusal_ci | pair | its interval
under_refusal | float | of prompts tagged as to be refused, the share not refused; null where none is
under_refusal_ci | pair | its interval
"""
METRICS: dict[str, str] = {
    "sample": "",
    "critique": """
revisions | int | critique-revision steps
unchanged | int | steps that left the text as it was
rounds | int | rounds of critique
preambles_removed | int | revisions whose beginning was taken off
""",
    "pair": """
comparisons | int | pairs
prompts | int | prompts they are of
samples | int | pairs of samples; missing where there are none
revision | int | pairs of a revision and its original; missing where there are none
import | int | imported pairs; missing where there are none
""",
    "label": """
comparisons | int | pairs labelled
verdicts | int | labels of a judge
decided | int | questions asked in both orders of which one verdict at least is no tie
order_flip_rate | float | share of these that flip with the order; null where none is decided
order_flip_rate_ci | pair | its interval
first_position_rate | float | share of the verdicts that are no tie that choose the response shown first
first_position_rate_ci | pair | its interval
mass | float | mean probability on the answers; null where none is known
written | int | verdicts parsed from written text
invalid_rate | float | share of verdicts that could not be read, abstentions apart
invalid_rate_ci | pair | its interval
refused | int | of these, refusals
too_long | int | of these, questions longer than the context
not_numbers | int | of these, scores that are NaN
abstained | int | abstentions
sources.<kind> | int | labels by kind of annotator
preferences_by.<whom> | int | preferences made of the labels of `people`, of `the judge`, or of `people and \
the judge`
people.route | text | the queue in whose order people got comparisons; `people` is missing without `human`
people.asked | int | comparisons that they got
people.labelled | int | of these, those with labels by people
by_principle.<principle>.n | int | labels under the principle
by_principle.<principle>.decided | int | its decided pairs of orders
by_principle.<principle>.flip_rate | float | share of these that flip
by_principle.<principle>.flip_rate_ci | pair | its interval
by_principle.<principle>.mean_confidence | float | mean distance of a label's `p_a` from ½
by_principle.<principle>.<agreement> | – | `agreement_with_gold`, `gold_decided`, `gold_groups`, \
`agreement_with_gold_ci` under the principle
agreement_with_gold | float | share of opinions on the side of the truth where the truth decides; missing \
without a gold scorer
agreement_with_gold_ci | pair | its interval
gold_decided | int | opinions that the truth decides
gold_groups | int | groups of prompts these are of
gold_tie_distance | float | mean distance from ½ where the truth is a tie; null where there is none
agreement_by_source.<kind> | float | the agreement by kind of annotator
agreement_by_source_ci.<kind> | pair | its interval
reused | int | labels taken over; missing without `labels_from`
not_reused.<reason> | int | labels not taken over, by reason (docs/labelling.md)
""",
    "sft, dpo, rejection": LOSSES,
    "pretrain": f"{CURVE_ENDS}{PRETRAINED}",
    "reward": CALIBRATION,
    "ppo, rloo, grpo": """
updates | int | updates
episodes | int | responses sampled
kl | float | exact KL of a response, mean of the last updates; RLOO and GRPO: null without a look
reward_start | float | mean reward of the first updates
reward_end | float | mean reward of the last updates
score_start | float | mean score of the first updates
score_end | float | mean score of the last updates
length | float | mean length of the last updates
truncated | float | share cut off in the last updates
entropy | float | entropy of a token in the last updates, nats
seconds_per_update | float | mean duration; PPO alone
unread.<source> | float | mean share that a source could not read
alarms[].<key> | – | every alarm: update, kind, found, advice
""",
    "best_of_n": """
n | int | responses sampled a prompt
prompts | int | prompts with a chosen response
curve[].n | int | best of how many
curve[].kl | float | log n − (n−1)/n, nats
curve[].reward | float | mean reward of the chosen response
curve[].reward_ci | pair | its interval
curve[].gold | float | share that keep every principle; missing without a gold scorer
curve[].gold_ci | pair | its interval
gao.<figure> | – | the fit of d(α − βd) to gold; missing without a gold scorer
""",
    "evaluate": f"""
{below("policies.<policy>.", POLICY)}policies.<policy>.wordings.<figure> | – | the same on held-out \
wordings; missing where there are none
judge | text | fingerprint of the judge
kl_temperature | float | temperature at which KL is measured
""",
}
CARD = """
judge.<part> | text | what the judge's identity is made of
seed | int | seed of the audit
pairs | int | pairs it was asked about
verdicts | int | verdicts on them
accuracy.<figure> | – | share right (`value`, `ci`, `n`, `groups`), `baselines`, `baselines_ci`, `ties`, \
`unread`, and the same `by_principle`
calibration.<figure> | – | calibration error `ece`, `ece_floor`, `n` and `bins`
order.<figure> | – | share of clear verdicts that flip with the order, to which place, and `by_principle`
bias.<figure> | – | leanings: length, a response said twice, the same as a list
consistency.<figure> | – | clear verdicts that stay under other wordings, those `turned`, `accuracy` under \
them, `by_principle`
readability.<figure> | – | unreadable verdicts, probability on the answers, written answers
injection.<figure> | – | verdicts flipped by attacks, by kind and family
no_gold[] | text | principles that no truth is known of
calls | int | questions asked
gold | text | the config's gold scorer; null where it names none
left_out.<reason> | int | prompts that made no pair, by reason
"""
OTHERS: list[tuple[str, str, str]] = [
    ("stage.json", "every stage", STAGE),
    ("metrics.jsonl of sft, reward, dpo, rejection", "the stage, a row a step", CURVE),
    ("metrics.jsonl of rloo, grpo", "the stage, a row an update", CURVE + SAMPLED),
    ("metrics.jsonl of ppo", "the stage, a row an update", SAMPLED + PPO),
    ("samples.jsonl", "`ppo`, `rloo`, `grpo`: a few responses at every look", SAMPLES),
    (
        "reward_scale.json",
        "`ppo`, `rloo`, `grpo`, before the first update",
        "<source>.mean | float | mean of the source's scores of reference samples\n<source>.std | float "
        "| their standard deviation",
    ),
    ("calibration.json", "`reward`, in `reward_model/`", CALIBRATION),
    (
        "waits.json",
        "`rlaif annotate`, of a run that waits for people's labels",
        "file | text | the file that it waits for\nsha256[] | text | digests of what was written there",
    ),
    ("judge_card.json", "`label` with `judge_card`, and `rlaif judge audit --json`", CARD),
    ("manifest.json", "a new run, and the end of every stage", MANIFEST),
    (
        "spending.jsonl",
        "every stage that asks a model, a row a second; keys that are 0 are missing",
        "stage | text | folder of the stage\nmodel | text | the model as the config names it\n" + USAGE,
    ),
    (
        "state.json",
        "`ppo`, in a checkpoint; gone once the policy is written",
        "update | int | updates learnt\n"
        "kl_coef | float | β of the next update\nfiles.<file>.<key> | – | files of the checkpoint, as in "
        "stage.json\n"
        "rows.<file>.<key> | – | rows written before it, likewise",
    ),
    (
        "import.json",
        "`rlaif data import`, beside the imported rows",
        "format | text | the format\nsource | text | name of the file\n"
        "sha256 | text | its digest\nbeside.<file> | text | digests of further files; missing where "
        "there are "
        "none\n"
        "columns.<what> | text | names of a table's columns; missing where they are not given\n"
        "annotator | Annotator | who labelled where the data does not say so; missing where it is not given\n"
        "limit | int | rows read at most; null: all\ntags[] | text | tags "
        "given to the prompts\n"
        "in | int | rows read\nkept | int | rows that gave a label, a ranking or a grade\n"
        "dropped.<reason> | int | rows left out, by reason\n"
        "left_out.<reason> | int | what was left out of rows that were kept, by reason\n"
        "sided | bool | whether a and b are the sides that the data has, in the order shown where it says "
        "so; false: ids decide which is a\n"
        "rows.<file> | int | rows written to each file",
    ),
    (
        "cache.sqlite",
        "every engine, unless `cache: false`; table `answers`",
        "key | blob | hash of fingerprint, question and seed\n"
        "value | text | the answer as JSON with its checksum",
    ),
]
