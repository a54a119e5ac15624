"""Pull sound out of video clips and other containers, with ffmpeg, into a second tree.

    clips.extract("EmotiW2018", "EmotiW2018-sound")

The second folder has the layout of the first, a mono WAV at 16 kHz in place of each clip that
libsndfile does not read, and copies of other recordings and of the label files. It is what
`corpora.build` takes; the first folder is only read.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from pathlib import Path

from tqdm.contrib.concurrent import thread_map

from serlib.corpora import files
from serlib.data import audio, decoding
from serlib.data.tables import ManifestError

LABELS = frozenset(".csv .txt .xml .json .jsonl .yaml".split())
NO_FFMPEG = (
    "there is no ffmpeg on this machine, which is needed to pull sound out of clips: "
    "install it (conda install -c conda-forge ffmpeg, apt install ffmpeg, brew install ffmpeg)"
)


def extract(
    root: str | os.PathLike,
    out: str | os.PathLike,
    *,
    workers: int | None = None,
    progress: bool = True,
) -> dict[str, str]:
    """Write the sound of every clip below `root` to the same place below `out`.

    Clips of several channels are mixed down. What is there already is not done again, so a run
    that was interrupted goes on where it was; each file appears complete or not at all. `workers`
    clips are read at a time; None: one per core.

    Returns:
        Path of a clip from `root` -> why ffmpeg could not read it. Those are left out, and the
        manifest's report will list them as missing.

    Raises:
        ManifestError: If there is no ffmpeg, no clip, or if `out` lies inside `root` or around it.
    """
    root, out = Path(root).expanduser().resolve(), Path(out).expanduser().resolve()
    if out == root or root in out.parents or out in root.parents:
        raise ManifestError(f"{out} and {root} lie in each other: name a folder beside the corpus")
    program = shutil.which("ffmpeg")
    if program is None:
        raise ManifestError(NO_FFMPEG)
    clips = []
    for path in files.walk(root):
        target, suffix = out / path.relative_to(root), path.suffix.lower()
        readable = _readable(path)
        if suffix in files.VIDEO or readable is None:
            clips.append((path, target.with_suffix(".wav")))
        elif suffix in LABELS or readable:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    if not clips:
        raise ManifestError(f"nothing to pull sound out of below {root}: give the corpus folder")
    missing = [clip for clip in clips if not clip[1].exists()]
    bar = dict(desc="sound", unit="clip", disable=not progress)
    workers = workers or os.cpu_count()
    reasons = thread_map(lambda clip: _one(program, *clip), missing, max_workers=workers, **bar)
    pairs = zip(missing, reasons, strict=True)
    return {clip.relative_to(root).as_posix(): why for (clip, _), why in pairs if why}


def _readable(path: Path) -> bool | None:
    """Whether libsndfile reads a file; None if ffmpeg may."""
    try:
        with path.open("rb", buffering=0) as raw, decoding.opened(raw):
            return True
    except decoding.ForeignError:
        return None
    except decoding.AudioError:
        return False


def _one(program: str, clip: Path, target: Path) -> str | None:
    """Why a clip has no sound, or None if it was written."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.stem}.{secrets.token_hex(4)}.wav")
    form = ["-vn", "-ac", "1", "-ar", str(audio.SAMPLE_RATE), "-c:a", "pcm_s16le"]
    command = [program, "-nostdin", "-v", "error", "-y", "-i", str(clip), *form, str(temporary)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        if done.returncode or not temporary.exists():
            lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            return f"ffmpeg: {lines[-1]}"
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return None
