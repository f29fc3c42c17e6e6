"""The command line of `python -m local_models`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from local_models.catalog import Sampling
from local_models.gguf import NotGGUF
from local_models.measure import MeasureError, measure_here
from local_models.quantize import QuantizeError, quantize_here
from local_models.serving import Address, Loading, serve

EPILOG = """\
examples:
  python -m local_models chat --model smollm2-135m-instruct-Q4_0.gguf --name smollm2 --port 8081
  python -m local_models embed --model all-MiniLM-L6-v2 --uds /run/farthing/embed.sock
Both speak OpenAI's wire format, and answer GET /healthz with 503 while they load and 200 from then on."""


def main(argv: list[str] | None = None) -> int:
    """Run a subcommand; exit status 0 fine, 1 a problem was found, 2 wrong usage."""
    args = _parser().parse_args(argv)
    try:
        return int(args.run(args))
    except (QuantizeError, MeasureError, NotGGUF, OSError) as error:
        print(f"local_models: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m local_models",
        description="Serve a local model as a process of its own.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _chat_arguments(commands.add_parser("chat", help="serve a GGUF model: POST /v1/chat/completions"))
    _embed_arguments(commands.add_parser("embed", help="serve a sentence-transformers model: POST /v1/embeddings"))
    _quantize_arguments(commands.add_parser("quantize", help="write a GGUF file in another quantisation type"))
    _measure_arguments(commands.add_parser("measure", help="print a GGUF model's speed and quality as JSON"))
    _folder_arguments(commands.add_parser("static", help="write an embedding model's table of token vectors"), _static)
    _folder_arguments(commands.add_parser("int8", help="write an embedding model's products in int8"), _int8)
    return parser


def _chat_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", type=_existing, required=True, metavar="GGUF", help="the model file")
    parser.add_argument("--name", required=True, help="what the model is called in requests and replies")
    _common_arguments(parser, "the physical cores")
    parser.add_argument(
        "--ctx", type=_count, default=0, metavar="N",
        help="context in tokens (default: the model's own, at most 8192)",
    )  # fmt: skip
    parser.add_argument(
        "--slots", type=_count, default=0, metavar="N",
        help="requests computed at once (default: 16, fewer where memory is short)",
    )  # fmt: skip
    parser.add_argument(
        "--max-queue", type=_count, default=32, metavar="N",
        help="interactive requests that may wait; any further one gets 503 (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--max-batch-queue", type=_count, default=4096, metavar="N",
        help="batch requests that may wait (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--max-wait", type=_seconds, default=60.0, metavar="SECONDS",
        help="how long an interactive request may wait for a slot (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--max-stall", type=_factor, default=2.0, metavar="FACTOR",
        help="how much longer than usual a step may get for another's prompt (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--default-max-tokens", type=_count, default=0, metavar="N",
        help="how long an answer may get whose request sets no limit, within the context (default: 2048)",
    )  # fmt: skip
    parser.add_argument(
        "--gpu-layers", type=int, default=0, metavar="N", help="layers on Metal or CUDA, -1 for all (default: 0)"
    )
    parser.add_argument("--template", type=_existing, metavar="FILE", help="a chat template instead of the GGUF's own")
    parser.add_argument("--lazy", action="store_true", help="load the model with the first request")
    parser.add_argument(
        "--idle-unload", type=_seconds, default=0.0, metavar="SECONDS",
        help="unload the model after so long without a request (default: never)",
    )  # fmt: skip
    parser.add_argument(
        "--draft", type=_existing, metavar="GGUF",
        help="a smaller model of the same vocabulary that drafts what this one checks, while that pays",
    )  # fmt: skip
    parser.add_argument(
        "--keep", type=Path, metavar="DIR",
        help="keep what was computed for conversations in this folder, also across restarts (default: in memory only)",
    )  # fmt: skip
    parser.add_argument(
        "--keep-bytes", type=_count, default=1 << 30, metavar="N",
        help="how large that folder may get (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--defaults", type=_sampling, default=Sampling(), metavar="JSON",
        help="sampling where a request does not say, such as '{\"temperature\": 0.2, \"top_p\": 0.9}'",
    )  # fmt: skip
    parser.set_defaults(run=_chat)


def _embed_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", type=_existing, required=True, metavar="DIR", help="the model folder")
    parser.add_argument("--name", help="what the model is called in requests (default: the folder's name)")
    _common_arguments(parser, "the physical cores, at most 2")
    parser.add_argument(
        "--max-queue", type=_count, default=4096, metavar="N",
        help="texts that may wait; any further ones get 503 (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--cross-encoder", type=_existing, metavar="DIR",
        help="a model folder that is served beside it: POST /v1/rerank (default: none)",
    )  # fmt: skip
    parser.set_defaults(run=_embed)


def _quantize_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=_existing, help="a GGUF file, quantised already or not")
    parser.add_argument("target", type=Path, help="the GGUF file to write")
    parser.add_argument("--type", required=True, help="Q4_0, Q8_0, Q4_K_M …")
    parser.add_argument("--verbose", action="store_true", help="show llama.cpp's own log")
    parser.set_defaults(run=_quantize)


def _measure_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=_existing, help="a GGUF file")
    parser.add_argument("--source", type=_existing, metavar="GGUF", help="what it was made of: compare with it")
    parser.add_argument("--threads", type=_count, default=0, metavar="N", help="compute threads (default: the cores)")
    parser.add_argument("--verbose", action="store_true", help="show llama.cpp's own log")
    parser.set_defaults(run=_measure)


def _folder_arguments(parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], int]) -> None:
    parser.add_argument("model", type=_existing, metavar="DIR", help="the model folder, which the file is written into")
    parser.set_defaults(run=run)


def _common_arguments(parser: argparse.ArgumentParser, threads: str) -> None:
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--uds", type=Path, metavar="SOCKET", help="listen on a Unix socket")
    where.add_argument("--port", type=int, help="listen on a TCP port")
    parser.add_argument("--host", default="127.0.0.1", help="address to bind with --port (default: %(default)s)")
    parser.add_argument("--threads", type=_count, default=0, metavar="N", help=f"compute threads (default: {threads})")
    parser.add_argument("--verbose", action="store_true", help="show the libraries' own logs")


def _chat(args: argparse.Namespace) -> int:
    from local_models.chat.app import create_app
    from local_models.chat.build import Wanted, build
    from local_models.chat.engine import Engine
    from local_models.chat.metrics import Metrics
    from local_models.chat.warmth import Warmth

    metrics = Metrics()
    wanted = Wanted(
        path=args.model,
        context=args.ctx,
        threads=args.threads,
        slots=args.slots,
        gpu_layers=args.gpu_layers,
        max_queue=args.max_queue,
        max_batch_queue=args.max_batch_queue,
        patience=args.max_wait,
        stall=args.max_stall,
        default_max_tokens=args.default_max_tokens,
        template=args.template.read_text(encoding="utf-8") if args.template else None,
        draft=args.draft,
        keep=args.keep,
        keep_bytes=args.keep_bytes,
        verbose=args.verbose,
    )

    def load() -> Engine:
        return build(wanted, metrics)

    return serve(
        lambda failed: Warmth(load, failed, args.lazy, args.idle_unload),
        lambda warmth: create_app(warmth, args.name, args.defaults, metrics),
        _address(args),
    )


def _embed(args: argparse.Namespace) -> int:
    from local_models.embed.app import create_app
    from local_models.embed.batcher import Batcher
    from local_models.embed.crossencoder import load as cross_encoder
    from local_models.embed.model import load as load_embedder

    name = args.name or args.model.resolve().name

    def load() -> Batcher:
        pairs = cross_encoder(args.cross_encoder, args.threads or 1, args.verbose) if args.cross_encoder else None
        return Batcher(load_embedder(args.model, args.threads, args.verbose), args.max_queue, pairs)

    return serve(lambda failed: Loading(load, failed), lambda loading: create_app(loading, name), _address(args))


def _quantize(args: argparse.Namespace) -> int:
    quantize_here(args.source, args.target, args.type, args.verbose)
    return 0


def _measure(args: argparse.Namespace) -> int:
    measured = measure_here(args.model, args.source, args.threads, args.verbose)
    print(msgspec.json.encode(measured).decode())
    return 0


def _static(args: argparse.Namespace) -> int:
    from local_models.embed.static import write

    return _told(args.model, write(args.model))


def _int8(args: argparse.Namespace) -> int:
    from local_models.embed.int8 import LEAST_COSINE, write

    least = write(args.model)
    kept = "in use where the processor has VNNI" if (least or 0) >= LEAST_COSINE else "not used"
    return _told(args.model, least and f"least cosine {least:.4f}: {kept}")


def _told(model: Path, result: object) -> int:
    if result is None:
        print(f"local_models: {model.name} is of a kind that is not known here", file=sys.stderr)
        return 1
    print(result)
    return 0


def _address(args: argparse.Namespace) -> Address:
    return Address(uds=args.uds) if args.uds else Address(host=args.host, port=args.port)


def _existing(text: str) -> Path:
    path = Path(text).expanduser()
    if not path.exists():
        raise argparse.ArgumentTypeError(f"{path} does not exist")
    return path


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError("must be more than 0")
    return value


def _factor(text: str) -> float:
    value = float(text)
    if not 1 < value <= 100:
        raise argparse.ArgumentTypeError("must be more than 1")
    return value


def _sampling(text: str) -> Sampling:
    try:
        return msgspec.json.decode(text, type=Sampling)
    except msgspec.DecodeError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
