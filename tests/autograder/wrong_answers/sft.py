"""Plausible wrong answers to `sft`: one for each requirement that its text states. See `test_wrong_answers`.

Those of the loss, parts 7 to 11, are in `sft_loss`; those of packing and PyTorch, parts 12 to 15, in `sft_step`.
"""

from wrong_answers.sft_loss import LOSS
from wrong_answers.sft_step import STEP

_TURN = '        text += f"{START}{role}\\n{content}{END}\\n"\n'
_PROMPT = '(f"{START}assistant\\n" if add_generation_prompt else "")'
_ROLES = 'if role not in ("system", "user", "assistant"):'
_FOUND = "if ids[place:start] != header:"
_STOP = "stop = start + rest.index(end) + 1 if end in rest else len(ids)"
_KEPT = "max(1, min(len(prompt), max_length - len(response)))"

WRONG = {
    "render": {
        "a line break behind the end": (_TURN, _TURN.replace("{END}\\n", "{END}")),
        "one behind the role": (_TURN, _TURN.replace("{role}\\n", "{role} ")),
        "none before the end": (_TURN, _TURN.replace("{END}", "\\n{END}")),
        "the content is not stripped": (
            'message["role"], message["content"]',
            'message["role"], message["content"].strip()',
        ),
        "each message ends": (_TURN, _TURN.replace("{END}", "{END if role == 'user' else ''}")),
        "the last one, too": (
            "    return text +",
            '    text = text.removesuffix(f"{END}\\n")\n    return text +',
        ),
        "a generation prompt where it is asked for": (_PROMPT, '""'),
        "and only there": (_PROMPT, 'f"{START}assistant\\n"'),
        "with its line break": (_PROMPT, _PROMPT.replace("\\n", "")),
        "also behind an answer": ("if add_generation_prompt", 'if add_generation_prompt and role != "assistant"'),
        "another role is refused": (_ROLES, "if False:"),
        "an answer is possible, too": (_ROLES, 'if role not in ("system", "user"):'),
        "and a system's message": (_ROLES, 'if role not in ("user", "assistant"):'),
        "capitals are another role": (_ROLES, _ROLES.replace("role not", "role.lower() not")),
        "no role is a role": (_ROLES, _ROLES.replace(":", " and role:")),
        "the message names the role": ("there is no role {role!r}", "there is no such role"),
        "a content with a mark is refused": ("        for token in (START, END):", "        for token in ():"),
        "with either of them": ("(START, END)", "(END,)"),
        "also with the first": ("(START, END)", "(START,)"),
        "anywhere in it": ("if token in content:", "if content.endswith(token):"),
        "not only the user's": ("if token in content:", 'if role == "user" and token in content:'),
        "nor is it taken out": (
            '                raise ValueError(f"the content has {token} in it")\n',
            '                content = content.replace(token, "")\n',
        ),
        "the message names the mark": ("the content has {token} in it", "the content has a mark in it"),
        "all messages": ("for message in messages:", "for message in messages[-2:]:"),
    },
    "assistant-spans": {
        "behind the header": ("spans.append((start, stop))", "spans.append((place, stop))"),
        "with the end token": ("rest.index(end) + 1 if", "rest.index(end) if"),
        "and nothing behind it": ("rest.index(end) + 1 if", "rest.index(end) + 2 if"),
        "a cut turn goes to the last token": (_STOP, _STOP.replace("len(ids)", "len(ids) - 1")),
        "a cut turn is a turn": (
            "        spans.append((start, stop))",
            "        if end not in rest:\n            break\n        spans.append((start, stop))",
        ),
        "the first end token": (_STOP, _STOP.replace("rest.index(end)", "len(rest) - 1 - rest[::-1].index(end)")),
        "of this turn": (_STOP, "stop = max(start, ids.index(end)) + 1 if end in rest else len(ids)"),
        "nothing behind the header is no turn": ("+ len(header) < len(ids)", "+ len(header) <= len(ids)"),
        "one token behind it is": ("+ len(header) < len(ids)", "+ len(header) < len(ids) - 1"),
        "only the end token is a turn": (
            "        spans.append((start, stop))",
            "        if stop - start > 1:\n            spans.append((start, stop))",
        ),
        "all turns": ("        place = stop\n", "        break\n"),
        "the whole header": (_FOUND, "if ids[place] != header[0]:"),
        "its end, too": (_FOUND, "if ids[place:start][:2] != header[:2]:"),
        "not just the last id": (_FOUND, "if ids[start - 1] != header[-1]:"),
        "in this order": (_FOUND, "if sorted(ids[place:start]) != sorted(header):"),
        "its first id may occur elsewhere": (
            "            place += 1\n            continue",
            "            place += len(header)\n            continue",
        ),
        "a quoted header opens no turn": ("        place = stop\n", "        place = start\n"),
        "the search goes on behind the end": ("        place = stop\n", "        place = stop + 1\n"),
        "tuples": ("spans.append((start, stop))", "spans.append([start, stop])"),
        "in a list": ("return spans", "return tuple(spans)"),
        "places, not lengths": ("spans.append((start, stop))", "spans.append((start, stop - start))"),
        "a header is not consumed from the list": (
            "    spans, place = [], 0",
            "    while end in ids[:1]:\n        ids.pop(0)\n    spans, place = [], 0",
        ),
    },
    "labels": {
        "only the spans": ("[IGNORE] * len(ids)", "list(ids)"),
        "the prompt is not 0": ("[IGNORE] * len(ids)", "[0] * len(ids)"),
        "nor -1": ("[IGNORE] * len(ids)", "[-1] * len(ids)"),
        "ids, not ones": ("= ids[start:stop]", "= [1] * (stop - start)"),
        "all turns": ("spans[-1:] if last_only else spans", "spans[-1:]"),
        "one turn where it is asked for": ("spans[-1:] if last_only else spans", "spans"),
        "the last one": ("spans[-1:] if last_only", "spans[:1] if last_only"),
        "its end token, too": (
            "labels[start:stop] = ids[start:stop]",
            "labels[start : stop - 1] = ids[start : stop - 1]",
        ),
        "its first token, too": (
            "labels[start:stop] = ids[start:stop]",
            "labels[start + 1 : stop] = ids[start + 1 : stop]",
        ),
        "not shifted": ("return labels", "return labels[1:] + [IGNORE]"),
        "as long as the ids": ("return labels", "return labels[: spans[-1][1]]"),
        "none at all is refused": ("if all(label == IGNORE for label in labels):", "if False:"),
        "also with an empty span": ("if all(label == IGNORE for label in labels):", "if not spans:"),
        "one label is enough": (
            "if all(label == IGNORE for label in labels):",
            "if sum(label != IGNORE for label in labels) < 2:",
        ),
        "an id of 0 is a label": (
            "if all(label == IGNORE for label in labels):",
            "if not any(label > 0 for label in labels):",
        ),
        "the message says so": ("no label is left: there", "there"),
        "the ids stay as they are": (
            "labels = [IGNORE] * len(ids)",
            "labels = ids\n    del spans[:0]\n    ids[:1] = [IGNORE]",
        ),
        "a list": ("return labels", "return np.array(labels)"),
    },
    "fit": {
        "what fits stays": (_KEPT, "max(1, max_length - len(response) - 1)"),
        "all of the prompt's room is used": (_KEPT, "max(1, min(len(prompt), max_length - len(response) - 1))"),
        "the prompt loses its beginning": ("prompt[-kept:]", "prompt[:kept]"),
        "not the response its end": (_KEPT, "min(len(prompt), max_length - 1)"),
        "one token of the prompt stays": (
            "    prompt, response = prompt[-kept:],",
            "    kept = max(0, min(len(prompt), max_length - len(response)))\n"
            "    prompt, response = prompt[len(prompt) - kept :],",
        ),
        "the response loses its end": ("response[: max_length - kept]", "response[-(max_length - kept) :]"),
        "as much as has to go": ("response[: max_length - kept]", "response[: max_length - kept - 1]"),
        "it is cut": ("response[: max_length - kept]", "response"),
        "no label on the prompt": ("[IGNORE] * kept + response", "prompt + response"),
        "labels on all of the response": ("[IGNORE] * kept + response", "[IGNORE] * (kept + 1) + response[1:]"),
        "prompt first": ("return prompt + response,", "return response + prompt,"),
        "1 is refused": ("max_length < 2", "max_length < 1"),
        "2 is not": ("max_length < 2", "max_length < 3"),
        "nothing else is refused": ("max_length < 2", "max_length < 2 or max_length < len(response) + 1"),
        "the message names the value": ("max_length {max_length} has", "max_length has"),
        "two lists": ("[IGNORE] * kept + response", "np.array([IGNORE] * kept + response)"),
        "a tuple": (
            "return prompt + response, [IGNORE] * kept + response",
            "return [prompt + response, [IGNORE] * kept + response]",
        ),
        "the prompt stays as it is": (
            "    prompt, response = prompt",
            "    del prompt[:-kept]\n    prompt, response = prompt",
        ),
    },
    "end-token": {
        "one is appended": ("return response[:size] + [end]", "return response[:size] + response[size : size + 1]"),
        "exactly one": ("return response[:size] + [end]", "return response + [end]"),
        "also of three": ("    while size and", "    if size and"),
        "two are one": (
            "return response[:size] + [end]",
            "return response if size < len(response) else response + [end]",
        ),
        "one in the middle stays": (
            "return response[:size] + [end]",
            "return [token for token in response if token != end] + [end]",
        ),
        "one in the middle does not end it": (
            "return response[:size] + [end]",
            "return response if end in response else response + [end]",
        ),
        "an empty response ends": (
            "    size = len(response)\n",
            "    if not response:\n        return []\n    size = len(response)\n",
        ),
        "only ends is one end": ("while size and", "while size > 1 and"),
        "the list is new": (
            "    size = len(response)\n",
            "    response.append(end)\n    size = len(response)\n",
        ),
        "without the end": ("generated[:place], True", "generated[: place + 1], True"),
        "the first of them": (
            "for place, token in enumerate(generated):",
            "for place, token in reversed(list(enumerate(generated))):",
        ),
        "any of them": ("if token in ends:", "if token in ends[:1]:"),
        "not only the last": ("if token in ends:", "if token in ends[-1:]:"),
        "the first in the text, not in ends": (
            "    for place, token in enumerate(generated):\n        if token in ends:\n"
            "            return generated[:place], True\n",
            "    for token in ends:\n        if token in generated:\n"
            "            return generated[: generated.index(token)], True\n",
        ),
        "at the first place, too": ("if token in ends:", "if place and token in ends:"),
        "it says that it finished": ("generated[:place], True", "generated[:place], False"),
        "and that it did not": ("generated[:], False", "generated[:], True"),
        "in this order": ("generated[:], False", "(False, generated[:])"),
        "a cut answer is kept": ("generated[:], False", "[], False"),
        "its last token, too": ("generated[:], False", "generated[:-1], False"),
        "a list": ("return response[:size] + [end]", "return (*response[:size], end)"),
    },
    "collate": {
        "as long as the longest": ("max(len(ids)", "1 + max(len(ids)"),
        "not as the first": ("max(len(ids) for ids, _ in examples)", "len(examples[0][0])"),
        "the padding id": ("np.full(shape, pad_id)", "np.zeros(shape, dtype=int)"),
        "padding is no label": ("np.full(shape, IGNORE)", "np.full(shape, pad_id)"),
        "nor is a label 0": ("np.full(shape, IGNORE)", "np.zeros(shape, dtype=int)"),
        "an end is not padding, to the labels": ("    return", "    targets[input_ids == pad_id] = IGNORE\n    return"),
        "nor to the mask": ("    return", "    attended = (input_ids != pad_id).astype(int)\n    return"),
        "nor is a masked label": ("    return", "    attended = (targets != IGNORE).astype(int)\n    return"),
        "labels are not ids": ("targets[row, : len(ids)] = labels", "targets[row, : len(ids)] = ids"),
        "padding on the right": (
            "    return",
            "    attended, input_ids, targets = (np.array([[*r[n == 0], *r[n == 1]] for r, n in zip(a, attended)])"
            " for a in (attended, input_ids, targets))\n    return",
        ),
        "the mask is 1 on tokens": ("= 1\n", "= 0\n"),
        "and 0 on padding": ("attended = np.zeros(shape, dtype=int)", "attended = np.ones(shape, dtype=int)"),
        "integers": ("np.zeros(shape, dtype=int)", "np.zeros(shape)"),
        "not bool": ("np.zeros(shape, dtype=int)", "np.zeros(shape, dtype=bool)"),
        "in this order": ("return input_ids, targets, attended", "return input_ids, attended, targets"),
        "one row each": ("    return", "    input_ids = input_ids[:1]\n    return"),
        "in their order": ("in enumerate(examples)", "in enumerate(sorted(examples, key=lambda e: -len(e[0])))"),
        "three arrays": ("return input_ids, targets, attended", "return input_ids, targets"),
        "the answer is one's own": (
            "def collate(examples, pad_id):\n    from course_lib.data.batching import pad\n"
            "    rows = pad([{'input_ids': i, 'labels': l} for i, l in examples], pad_id)\n"
            "    return rows['input_ids'], rows['labels'], rows['attention_mask']"
        ),
    },
    **LOSS,
    **STEP,
}
