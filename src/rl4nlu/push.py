"""A finished run to the hub: one commit, so that what is there is whole; nothing of others is written over."""

from __future__ import annotations

import contextlib
import json
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import say
from .errors import UserError
from .finished import LICENCE, Finished, finished
from .parcel import CARD, MANIFEST, PREDICTIONS, Parcel, base_of_parcel, digest, pack
from .settings import PushSettings
from .sources import hub_name

REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
LOG_IN = "make one with the right to write at https://huggingface.co/settings/tokens, and log in with it: hf auth login"


@dataclass(frozen=True)
class Remote:
    """What is in a repository."""

    commit: str | None
    private: bool
    files: frozenset[str]
    ours: frozenset[str]
    """Files that an earlier push has put there."""
    edited: bool
    """Whether its card is not any more as that push wrote it."""


def check_push(run: Path, repo: str, settings: PushSettings) -> Finished:
    """The run to send; read without the hub.

    Raises:
        UserError: it is not finished, the name is none, or nobody would find the adapter's base model.
    """
    if not REPO.fullmatch(repo):
        raise UserError(f"{repo!r} is no name of a repository; give OWNER/NAME, e.g. my-name/sst2-ppo")
    found = finished(run)
    if settings.merged and found.whole:
        raise UserError(f"--merged: {run} holds a whole model already; leave --merged out")
    if not settings.merged:
        base_of_parcel(found, settings.base)
    elif settings.base is not None:
        raise UserError("--base is for an adapter, and --merged sends a whole model: leave one of them out")
    if settings.predictions and not (run / PREDICTIONS).is_file():
        raise UserError(f"--predictions: {run} has no {PREDICTIONS}; leave --predictions out")
    if not settings.dry_run:
        _token()
    return found


@contextlib.contextmanager
def packed(found: Finished, repo: str, settings: PushSettings) -> Iterator[Parcel]:
    """The files to send, as long as this block lasts: a merged model is made for it.

    Raises:
        UserError: something may not be sent, the hub does not know the base model, or there is no place to merge in.
    """
    base = base_of_parcel(found, settings.base) if not settings.merged else hub_name(found.base)
    licence = {} if settings.dry_run or not base else _licence_on_hub(base, repo, needed=not found.whole)
    predictions = found.path / PREDICTIONS if settings.predictions else None
    if not settings.merged:
        yield pack(found, repo, base, licence, predictions)
        return
    from .merge import merge, notes

    with _room_to_merge(found) as folder:
        for note in notes(merge(found.path, folder / "model", name=repo)):
            say.note(note)
        yield pack(finished(folder / "model"), repo, base, licence, predictions)


@contextlib.contextmanager
def _room_to_merge(found: Finished) -> Iterator[Path]:
    """A folder on the run's disk, for a while."""
    try:
        made = tempfile.TemporaryDirectory(prefix="merged.tmp-", dir=found.path)
    except OSError as wrong:
        raise UserError(
            f"{found.path} cannot be written to ({wrong.strerror}), and the model is merged there: "
            f"rl4nlu merge {found.path} --out FOLDER, and push that folder"
        ) from None
    with made as folder:
        yield Path(folder)


def push(parcel: Parcel, settings: PushSettings) -> str:
    """Send the files in one commit. The address of the repository.

    Raises:
        UserError: nobody is logged in, the hub cannot be reached or refuses, or the repository holds what is not ours.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.utils import disable_progress_bars, logging

    logging.set_verbosity_error()
    if not sys.stderr.isatty():
        disable_progress_bars()
    api, repo = HfApi(token=_token()), parcel.repo
    with _told(repo, "nothing was changed there"):
        there = _remote(api, repo)
        if there is not None:
            _check_ours(parcel, there, settings)
        else:
            api.create_repo(repo, private=settings.private or None)  # else as the owner has it set
    gone = (there.ours & there.files) - set(parcel.files) if there is not None else frozenset()
    operations: list[Any] = [CommitOperationDelete(path) for path in sorted(gone)]
    operations += [
        CommitOperationAdd(path, content if isinstance(content, bytes) else str(content))
        for path, content in parcel.files.items()
    ]
    kept = "nothing was changed there" if there is not None else "it is there and empty, and the same command goes on"
    with _told(repo, kept), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the hub's remarks on a card
        api.create_commit(
            repo,
            operations,
            commit_message=f"{parcel.found.method} on {parcel.found.settings.task}, by rl4nlu",
            parent_commit=there.commit if there is not None else None,
        )
    return f"{api.endpoint}/{repo}"


def _token() -> str:
    """The user's access token.

    Raises:
        UserError: there is none.
    """
    from huggingface_hub import get_token

    if token := get_token():
        return token
    raise UserError(f"no access token of the hub is at hand: {LOG_IN} (or put it into HF_TOKEN)")


def _licence_on_hub(base: str, repo: str, needed: bool) -> dict[str, str]:
    """What the base model's card on the hub says of the licence.

    Args:
        base: the model's name.
        repo: what is pushed to.
        needed: an adapter goes onto this model, so it has to be there.

    Raises:
        UserError: it is needed, and the hub does not know it.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    with _told(repo, "nothing was changed there"):
        try:
            said = HfApi(token=_token()).model_info(base).card_data
        except RepositoryNotFoundError as wrong:
            if needed and wrong.response.status_code == 404:
                raise UserError(
                    f"the hub has no model {base}, which the adapter goes onto: give its name there with --base, or "
                    "--merged to send the whole model"
                ) from None
            return {}
    return {key: value for key in LICENCE if isinstance(value := getattr(said, key, None), str)}


def _remote(api: Any, repo: str) -> Remote | None:
    """What is in a repository; None if there is none."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        info = api.model_info(repo)
    except RepositoryNotFoundError:
        return None
    files = frozenset(one.rfilename for one in info.siblings or ()) - {".gitattributes"}
    ours, edited = frozenset[str](), False
    if MANIFEST in files:
        said = _manifest(_fetch(api, repo, MANIFEST, info.sha))
        ours = frozenset(name for name in said.get("files", ()) if isinstance(name, str))
        edited = CARD in files and digest(_fetch(api, repo, CARD, info.sha)) != said.get("card")
    return Remote(info.sha, bool(info.private), files, ours, edited)


def _manifest(content: bytes) -> Mapping[str, Any]:
    try:
        said = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) and isinstance(said.get("files"), list) else {}


def _fetch(api: Any, repo: str, path: str, commit: str) -> bytes:
    """A small file of a repository."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    url = hf_hub_url(repo, path, revision=commit, endpoint=api.endpoint)
    answer = get_session().get(url, headers=build_hf_headers(token=api.token), follow_redirects=True)
    hf_raise_for_status(answer)
    return answer.content


def _check_ours(parcel: Parcel, there: Remote, settings: PushSettings) -> None:
    """A repository that exists is empty, or all that would be written over is an earlier push's.

    Raises:
        UserError: it is not; or it is public and was to be private.
    """
    if settings.private and not there.private:
        raise UserError(f"--private: {parcel.repo} is there already, and public; name another one, or make it private")
    foreign = sorted(there.files - there.ours)
    clash = [path for path in foreign if path in parcel.files] or (foreign if MANIFEST not in there.files else [])
    if settings.force or not (clash or there.edited):
        return
    what = (
        f"files that rl4nlu did not put there ({', '.join(clash[:3])})" if clash else f"a {CARD} that was edited since"
    )
    raise UserError(f"{parcel.repo} holds {what}: name another repository, or give --force to write over them")


@contextlib.contextmanager
def _told(repo: str, state: str) -> Iterator[None]:
    """What goes wrong between here and the hub becomes one line.

    Args:
        repo: the repository.
        state: what is there then.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as wrong:  # the hub's client raises many kinds
        raise UserError(f"{repo}: {_explain(wrong)}; {state}") from None


def _explain(wrong: BaseException) -> str:
    chain: list[BaseException] = [wrong]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    status = next((answer.status_code for one in chain if (answer := getattr(one, "response", None)) is not None), 0)
    if any(type(one).__name__ == "OfflineModeIsEnabled" for one in chain):
        return "HF_HUB_OFFLINE is set, so that the hub is not asked: unset it"
    if status == 401:
        return f"the hub does not take your access token (401): {LOG_IN}"
    if status == 403:
        return f"your access token may not write there (403): {LOG_IN}; or name a repository of your own"
    if status == 409:
        return "there is such a repository already, which your access token may not see (409): name another one"
    if status == 412:
        return "somebody else has changed it this very moment (412): try again"
    if status == 429:
        return "the hub has had too many requests (429): try again in some minutes"
    if status >= 500:
        return f"the hub has trouble of its own ({status}): try again later"
    if any(isinstance(one, ConnectionError) or _of_network(one) for one in chain):
        return f"the hub cannot be reached ({_first_line(chain[-1])}): look at your connection, and try again"
    return f"the hub refused ({_first_line(wrong)}): mend this, and try again"


def _of_network(wrong: BaseException) -> bool:
    """Whether an exception is one of the HTTP client's for a connection that is not, or not any more."""
    return any(kind.__name__ in ("TransportError", "TimeoutException") for kind in type(wrong).__mro__)


def _first_line(wrong: BaseException) -> str:
    return (str(wrong).strip() or type(wrong).__name__).splitlines()[0][:200]
