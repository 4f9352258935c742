"""Tokenizers of the models that pools serve, loaded when a prompt's tokens are first wanted.

A model's folder is the one that the configuration names for it, else where its replicas were
started with, else where they say that they have it from, if that is on this machine too.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from gateway.tokenizers.agreement import Agreement
from gateway.tokenizers.chat_template import ChatTemplate, text_of_body
from gateway.tokenizers.conversation import Unrenderable
from gateway.tokenizers.lanes import Lanes
from gateway.tokenizers.load import TokenizerError
from gateway.tokenizers.model_folder import EngineOptions, Model, read_model
from gateway.tokenizers.segments import TooLong
from picker.bodies.apart import Apart, BodyLost
from picker.prompt.forms import Form
from picker.request.claim import Claim
from picker.seams.own_tokens import Asked
from policies.limits.plan import matches

log = logging.getLogger(__name__)

_AT_ONCE_BYTES: Final = 1_024
"""A thread would take longer."""
_MOST_MODELS: Final = 16
"""Replicas can name any number of folders."""
_MOST_HEAVY: Final = 4
"""Others wait for the process that reads large bodies, too."""
_MOST_NAMES: Final = 1_000
_NAME: Final = "tokenizer.json"


@dataclass(frozen=True, slots=True)
class PoolModel:
    """What a pool's replicas were started with, as far as it is known."""

    folder: Path | None = None
    options: EngineOptions = field(default_factory=EngineOptions)


@dataclass(slots=True, eq=False)
class _Loaded:
    """What a model's folder holds; None: it is being read, or cannot be."""

    model: Model | None = None


class OwnTokenizers:
    """`picker.seams.own_tokens.OwnTokens`. Used from one loop."""

    def __init__(self, apart: Apart, now_s: Callable[[], float]) -> None:
        """``apart``: where large bodies are read."""
        self._apart = apart
        self._lanes = Lanes()
        self._agree = Agreement(now_s)
        self._chosen: Sequence[tuple[str, Path]] = ()
        self._pools: Mapping[str, PoolModel] = {}
        self._of: dict[tuple[str, str, str | None], _Loaded | None] = {}
        self._loaded: dict[tuple[Path, EngineOptions], _Loaded] = {}
        self._heavy = 0
        """Large bodies that are read anew."""
        self._loading: set[asyncio.Task[None]] = set()

    def configure(self, chosen: Sequence[tuple[str, Path]], pools: Mapping[str, PoolModel]) -> None:
        """``chosen``: files of tokenizers by pattern of the models that they are for; the first
        that fits counts. Folders are read anew."""
        if chosen == self._chosen and pools == self._pools:
            return
        self._chosen, self._pools = tuple(chosen), dict(pools)
        self._of.clear()
        self._loaded.clear()
        self._agree.forget()

    def close(self) -> None:
        """Nothing is tokenized any more."""
        for task in self._loading:
            task.cancel()
        self._lanes.close()

    def ids(self, asked: Asked) -> bytes | asyncio.Future[bytes | None] | None:
        """See `OwnTokens`."""
        model = self._model(asked.pool, asked.model, asked.root)
        if model is None or not self._agree(asked.pool, asked.model, asked.form.value):
            return None
        if asked.form is Form.CHAT and model.template is None:
            return None
        if asked.heavy_body is not None:
            if model.template is None or self._heavy >= _MOST_HEAVY:
                return None
            return asyncio.ensure_future(self._of_heavy(model, model.template, asked.heavy_body))
        if asked.size_bytes <= _AT_ONCE_BYTES:
            return ids_of(model, asked)
        return self._lanes.run(partial(ids_of, model, asked), asked.size_bytes)

    def heard(self, claim: Claim, address: str, prompt_tokens: int) -> None:
        """See `OwnTokens`."""
        if self._agree.heard(claim, address, prompt_tokens):
            log.warning(
                "pool %s: %s makes other tokens of %s requests than %s's folder says (%d, not %d):"
                " its engines are asked for them",
                *(claim.pool, address, claim.form.value, claim.model, prompt_tokens, claim.tokens),
            )
            self._of.clear()  # what is in the folder may be new
            self._loaded.clear()

    def doubted(self, pool: str) -> bool:
        """See `OwnTokens`."""
        return self._agree.doubted(pool)

    async def _of_heavy(self, model: Model, template: ChatTemplate, body: bytes) -> bytes | None:
        self._heavy += 1
        try:
            text = await self._apart.run(text_of_body, body, template)
        except BodyLost:
            return None
        finally:
            self._heavy -= 1
        making = text and self._lanes.run(partial(_of_text, model, text), len(body))
        return await making if making else None

    def _model(self, pool: str, name: str, root: str | None) -> Model | None:
        key = pool, name, root
        if key not in self._of:
            if len(self._of) >= _MOST_NAMES:
                self._of.clear()
            self._of[key] = self._load(self._folder(pool, name, root), pool)
        loaded = self._of[key]
        return loaded.model if loaded is not None else None

    def _folder(self, pool: str, name: str, root: str | None) -> Path | None:
        for pattern, file in self._chosen:
            if matches(name, (pattern,)):
                return file.parent if file.name == _NAME else None
        given = self._pools.get(pool, PoolModel()).folder
        for folder in (given, Path(root) if root else None):
            if folder is not None and folder.is_absolute() and _is_there(folder / _NAME):
                return folder
        return None

    def _load(self, folder: Path | None, pool: str) -> _Loaded | None:
        if folder is None:
            return None
        options = self._pools.get(pool, PoolModel()).options
        loaded = self._loaded.get((folder, options))
        if loaded is None and len(self._loaded) < _MOST_MODELS:
            loaded = self._loaded[folder, options] = _Loaded()
            task = asyncio.get_running_loop().create_task(self._read(folder, options, loaded))
            self._loading.add(task)
            task.add_done_callback(self._loading.discard)
        return loaded

    async def _read(self, folder: Path, options: EngineOptions, loaded: _Loaded) -> None:
        try:
            loaded.model = await asyncio.to_thread(read_model, folder, options)
        except TokenizerError as error:
            log.warning("prompts cannot be tokenized here: %s", error)


def _is_there(file: Path) -> bool:
    try:
        return file.is_file()
    except OSError:  # a name that is too long, for instance
        return False


def ids_of(model: Model, asked: Asked) -> bytes | None:
    """Token ids; None: not known. Called in a thread, or for a short prompt in the loop."""
    special = asked.document.get("add_special_tokens", asked.form is Form.COMPLETIONS)
    if not isinstance(special, bool):
        return None
    try:
        if asked.text is None:
            assert model.template is not None
            text = model.template.text(asked.document)
        else:
            text = asked.text
        ids = model.segments.ids(text)
    except (Unrenderable, TokenizerError, TooLong, UnicodeEncodeError) as error:
        log.debug("a prompt is not tokenized here: %s", error)
        return None
    return model.begin + ids + model.end if special else ids


def _of_text(model: Model, text: str) -> bytes | None:
    try:
        return model.segments.ids(text)
    except (TokenizerError, TooLong, UnicodeEncodeError):
        return None
