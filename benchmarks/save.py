"""`python -m benchmarks save [--model bench-tiny] --out FOLDER`: the weights that are measured, in float32."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.parser import Parser


def main(argv: Sequence[str]) -> None:
    """The command `save`; see the top of this file."""
    parser = Parser("python -m benchmarks save", description=__doc__)
    parser.add_argument("--model", default="bench-tiny", help="tiny, bench-tiny (3.3 M parameters), or a folder")
    parser.add_argument("--out", required=True, help="a folder that does not exist yet")
    args = parser.parse_args(argv)

    from benchmarks.subject import open_subject
    from selfplay.models import save

    subject = open_subject(args.model, "float32")
    save(args.out, subject.config, subject.params, subject.tokenizer)
