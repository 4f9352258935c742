"""Text of any length from a name: a name always gives the same text, and a longer text extends a
shorter one.

Text consists of three-letter English words, each with the space before it. Such a word is four
bytes, and one token in the vocabulary of nearly every model. So text, tokens of the simulated
replicas (four bytes each) and tokens of a real one agree.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import xxhash

BYTES_PER_TOKEN = 4

_WORDS = np.frombuffer(
    b" ace act add age ago aid aim air all and any ape apt arc are arm art ash ask ate axe bad"
    b" bag ban bar bat bay bed bee beg bet bid big bin bit bow box boy bud bug bun bus but buy"
    b" cab can cap car cat cod cop cot cow cry cub cup cut dad dam day den dew did die dig dim"
    b" dip dog dot dry dub due dug dye ear eat egg ego elf elk end era eve eye fan far fat fax"
    b" fed fee few fig fin fir fit fix fly fog for fox fry fun fur gap gas gel gem get god got"
    b" gum gun gut guy gym had ham has hat hay hen her hey hid him hip his hit hop hot how hub"
    b" hue hug hut ice ill ink inn ion its ivy jam jar jaw jet job jog joy jug key kid kin kit"
    b" lab lad lag lap law lay led leg let lid lie lip lit log lot low mad man map mat max may"
    b" men met mid mix mob mod mom mop mud mug nap net new nod nor not now nun nut oak odd off"
    b" oil old one orb ore our out owl own pad pan par pat paw pay pea pen pet pie pig pin pit"
    b" pop pot pro pub put rag ram ran rap rat raw ray red rib rid rig rim rip rob rod row rub"
    b" run sad sat saw say sea see set sew she shy sin sip sir",
    "S4",
)
"""There are 256 of them, so that a byte chooses one."""


@lru_cache(maxsize=256)
def text_of(name: str, tokens: int) -> str:
    """``tokens`` words that depend on ``name`` alone; ASCII, ``BYTES_PER_TOKEN`` bytes each."""
    if tokens <= 0:
        return ""
    seed = xxhash.xxh3_128_intdigest(name.encode("utf-8", "surrogatepass"))
    # The raw output of a bit generator is the same in all versions of numpy; that of samplers may
    # not be.
    raw = np.random.PCG64(seed).random_raw((tokens + 7) // 8)
    choices = raw.astype("<u8").view(np.uint8)[:tokens]
    return _WORDS[choices].tobytes().decode("ascii")
