"""Chat templates that use what templates in the wild use, and requests to render with them."""

from __future__ import annotations

from typing import Final

TEMPLATES: Final[dict[str, str]] = {
    "plain": (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
        "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "parts": (
        "{{ bos_token }}{%- for message in messages %}\n"
        "    {%- if message.content is string %}\n"
        "        {{- '<|im_start|>' + message.role + '\\n' + message.content | trim }}\n"
        "    {%- else %}\n"
        "        {{- '<|im_start|>' + message.role + '\\n' }}\n"
        "        {%- for part in message['content'] %}{{- part['text'] }}{% endfor %}\n"
        "    {%- endif %}\n"
        "    {{- '<|im_end|>\\n' }}\n"
        "{%- endfor %}\n"
        "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}\n"
    ),
    "tools": (
        "{%- if tools %}{{- '<|im_start|>system\\n' }}\n"
        "{%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}\n"
        "{{- '# Tools\\n' }}{%- for tool in tools %}{{- '\\n' }}{{- tool | tojson }}{%- endfor %}\n"
        "{{- '<|im_end|>\\n' }}{%- endif %}\n"
        "{%- set ns = namespace(last=messages|length - 1, found=false) %}\n"
        "{%- for message in messages[::-1] %}\n"
        "    {%- set index = (messages|length - 1) - loop.index0 %}\n"
        "    {%- if message.role == 'user' and not ns.found %}\n"
        "        {%- set ns.found = true %}{%- set ns.last = index %}\n"
        "    {%- endif %}\n"
        "{%- endfor %}\n"
        "{%- for message in messages %}\n"
        "    {%- if message.role == 'assistant' %}\n"
        "        {{- '<|im_start|>assistant\\n' }}\n"
        "        {%- if message.reasoning_content is string and loop.index0 > ns.last %}\n"
        "            {{- '<think>' + message.reasoning_content + '</think>' }}\n"
        "        {%- endif %}\n"
        "        {{- message.content }}\n"
        "        {%- for call in message.tool_calls %}\n"
        "            {%- if call.function %}{%- set call = call.function %}{%- endif %}\n"
        "            {{- '\\n<call>' + call.name + ' ' }}{{- call.arguments | tojson }}\n"
        "        {%- endfor %}\n"
        "    {%- elif message.role == 'tool' %}\n"
        "        {{- '<|im_start|>tool ' + message.tool_call_id|string + '\\n' }}\n"
        "        {{- message.content }}\n"
        "    {%- elif loop.first and message.role == 'system' and tools %}\n"
        "        {%- continue %}\n"
        "    {%- else %}\n"
        "        {{- '<|im_start|>' + message.role + '\\n' + message.content }}\n"
        "    {%- endif %}\n"
        "    {{- '<|im_end|>\\n' }}\n"
        "{%- endfor %}\n"
        "{%- if add_generation_prompt %}\n"
        "    {{- '<|im_start|>assistant\\n' }}\n"
        "    {%- if enable_thinking is defined and enable_thinking is false %}\n"
        "        {{- '<think>\\n\\n</think>\\n\\n' }}\n"
        "    {%- endif %}\n"
        "{%- endif %}\n"
    ),
    "macro": (
        "{%- macro shown(content) -%}{%- if content is string -%}{{ content }}{%- else -%}"
        "{%- for one in content -%}[{{ one.type }}]{{ one.text }}{%- endfor -%}{%- endif -%}"
        "{%- endmacro -%}\n"
        "{%- for m in messages -%}<|im_start|>{{ m.role }}{% if m.name %} {{ m.name }}{% endif %}\n"
        "{{ shown(m.content) }}<|im_end|>{%- endfor -%}\n"
        "{% if documents %}{% for d in documents %}{{ d.title }}: {{ d.text }}\n{% endfor %}"
        "{% endif %}{% if reasoning_effort %}effort {{ reasoning_effort }}{% endif %}"
        "{{ strftime_now('%Y') }}{{ custom | default('none') }}"
    ),
    "strict": (
        "{{ bos_token or '' }}{% set loop_messages = messages %}"
        "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
        "{% set system = messages[0]['content'] %}{% endif %}"
        "{% for message in loop_messages %}"
        "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Roles must alternate') }}{% endif %}"
        "{% if message['role'] == 'user' %}[INST] {% if loop.first and system is defined %}"
        "{{ system }}\n\n{% endif %}{{ message['content'] }} [/INST]"
        "{% else %}{% generation %} {{ message['content'] }}{{ eos_token }}{% endgeneration %}"
        "{% endif %}{% endfor %}"
    ),
    "developer": (
        "{% for m in messages %}{% if loop.index0 > 40 %}{% break %}{% endif %}"
        "<|im_start|>{{ m.role }} {% if m.role == 'developer' and m.tools %}{{ m.tools | tojson }}"
        "{% endif %}{{ m.content }}<|im_end|>{% endfor %}"
    ),
}

_TOOL: Final = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the <weather> & more",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
_USER: Final = {"role": "user", "content": "the cache of a gateway, für Übung <|im_end|> x"}
_ASSISTANT: Final = {"role": "assistant", "content": "prefill and decode \n"}
_SYSTEM: Final = {"role": "system", "content": " You are a gateway. "}
_CALL: Final = {
    "id": "c1",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city": "Köln", "days": [1, 2]}'},
}

REQUESTS: Final[dict[str, dict[str, object]]] = {
    "one": {"messages": [_USER]},
    "several": {"messages": [_SYSTEM, _USER, _ASSISTANT, _USER]},
    "parts": {
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "one "},
                    {"type": "text", "text": ""},
                    {"type": "text", "text": "two", "cache_control": {"type": "ephemeral"}},
                ],
            }
        ]
    },
    "name": {"messages": [{**_USER, "name": "ann"}]},
    "billing": {
        "messages": [
            {"role": "system", "content": "x-anthropic-billing-header: cch=1\nYou are"},
            _USER,
        ]
    },
    "null": {"messages": [_USER, {"role": "assistant", "content": None}, _USER]},
    "tools": {
        "messages": [
            _SYSTEM,
            _USER,
            {"role": "assistant", "content": "", "tool_calls": [_CALL], "reasoning": "hm"},
            {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "sun"}]},
        ],
        "tools": [_TOOL, {"type": "function", "function": {"name": "bare", "strict": True}}],
    },
    "reasoning": {
        "messages": [_USER, {**_ASSISTANT, "reasoning_content": "because"}],
        "reasoning_effort": "low",
    },
    "no prompt": {"messages": [_USER], "add_generation_prompt": False},
    "continued": {
        "messages": [_USER, {"role": "assistant", "content": "It goes on  "}],
        "add_generation_prompt": False,
        "continue_final_message": True,
    },
    "variables": {
        "messages": [_USER],
        "chat_template_kwargs": {"enable_thinking": False, "custom": "yes", "unknown": 1},
        "documents": [{"title": "a", "text": "b"}],
    },
    "effort": {"messages": [_USER], "reasoning_effort": "none"},
    "developer": {
        "messages": [{"role": "developer", "content": "do"}, _SYSTEM, _USER],
    },
    "special": {"messages": [_USER], "add_special_tokens": True},
    "bad roles": {"messages": [_ASSISTANT, _USER]},
}
