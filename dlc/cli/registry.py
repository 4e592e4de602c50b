"""dlc registry push, list, tag, diff, rollback, pull, check."""

from __future__ import annotations

from pathlib import Path

import click

from dlc.cli.common import Format, common, print_json, print_table

REGISTRY = click.argument("registry", metavar="REGISTRY")


@click.group(short_help="Keep packages in a folder or an object store: versions that never change, tags that move.")
def command() -> None:
    """Registries of packages. REGISTRY is a folder, or an address that fsspec knows, such as s3://bucket/models."""


@command.command()
@REGISTRY
@click.argument("packages", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--tag", "tag_name", help="Tag to move to what is pushed.")
@common
def push(registry: str, packages: tuple[Path, ...], tag_name: str | None, form: Format, verbose: int) -> int:
    """Add PACKAGES, folders or bundles, and print their versions. Pushing one again changes nothing.

    \b
        dlc registry push models packages/digits-cnn-int8-onnx --tag prod
    """
    from dlc.packaging.registry import Registry

    kept = Registry(registry)
    pushed = [kept.push(package) for package in packages]
    for model, digest in pushed:
        if tag_name is not None:
            kept.tag(model, digest, tag_name)
    if form == "json":
        print_json([{"model": model, "version": digest} for model, digest in pushed])
    else:
        print_table(("model", "version"), pushed)
    return 0


@command.command("list")
@REGISTRY
@click.argument("model", required=False)
@common
def list_(registry: str, model: str | None, form: Format, verbose: int) -> int:
    """List the versions of MODEL, or of every model, with their tags."""
    from dlc.packaging.registry import SHORT, Registry

    kept = Registry(registry)
    found = [v for name in ([model] if model else kept.models()) for v in kept.versions(name)]
    if form == "json":
        print_json([{"model": v.model, "version": v.digest, "tags": v.tags, "bytes": v.bytes, "package": v.package}
                    for v in found])  # fmt: skip
        return 0
    rows = [
        (v.model, v.digest[:SHORT], v.package.form, v.package.variant, v.package.verdict.status,
         f"{v.bytes / 1e6:.2f} MB", ", ".join(v.tags)) for v in found
    ]  # fmt: skip
    print_table(("model", "version", "form", "variant", "verdict", "size", "tags"), rows)
    return 0


@command.command()
@REGISTRY
@click.argument("model")
@click.argument("version")
@click.argument("name", metavar="TAG")
@common
def tag(registry: str, model: str, version: str, name: str, form: Format, verbose: int) -> int:
    """Move TAG of MODEL to VERSION: a hash, the start of one, or another tag.

    \b
        dlc registry tag models digits-cnn 3f9a61 prod
    """
    from dlc.packaging.registry import Registry

    return _moved(model, name, Registry(registry).tag(model, version, name), form)


@command.command()
@REGISTRY
@click.argument("model")
@click.argument("name", metavar="TAG")
@common
def rollback(registry: str, model: str, name: str, form: Format, verbose: int) -> int:
    """Move TAG of MODEL back to where it stood before."""
    from dlc.packaging.registry import Registry

    return _moved(model, name, Registry(registry).rollback(model, name), form)


@command.command()
@REGISTRY
@click.argument("model")
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@common
def diff(registry: str, model: str, first: str, second: str, form: Format, verbose: int) -> int:
    """Say what differs between the versions A and B of MODEL; each is a tag, a hash or the start of one."""
    from dlc.packaging import registry as registries

    kept = registries.Registry(registry)
    rows = registries.diff(*(kept.package(model, kept.resolve(model, each)) for each in (first, second)))
    if form == "json":
        print_json([{"part": part, "a": a, "b": b} for part, a, b in rows])
    else:
        print_table(("part", first, second), rows or [("nothing differs", "", "")])
    return 0


@command.command()
@REGISTRY
@click.argument("model")
@click.argument("version")
@click.option("-o", "--out", type=click.Path(path_type=Path, file_okay=False), default="packages", show_default=True,
              help="Folder that receives the package.")  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace a package that exists.")
@common
def pull(registry: str, model: str, version: str, out: Path, overwrite: bool, form: Format, verbose: int) -> int:
    """Write VERSION of MODEL, a tag or a hash, as a package folder; every byte of it is checked.

    \b
        dlc registry pull models digits-cnn prod -o packages
    """
    from dlc.packaging.registry import Registry

    place = Registry(registry).pull(model, version, out, overwrite=overwrite)
    print_json({"path": str(place)}) if form == "json" else click.echo(str(place))
    return 0


@command.command()
@REGISTRY
@common
def check(registry: str, form: Format, verbose: int) -> int:
    """Read every version and every move of a tag; exit code 1 if something is missing or damaged."""
    from dlc.packaging.registry import Registry

    found = list(Registry(registry).faults())
    if form == "json":
        print_json(found)
    else:
        click.echo("\n".join(found) or "every version is complete, and every tag leads to one")
    return 1 if found else 0


def _moved(model: str, name: str, version: str, form: Format) -> int:
    if form == "json":
        print_json({"model": model, "tag": name, "version": version})
    else:
        click.echo(f"{model}: {name} is now {version}")
    return 0
