"""What this tree keeps of its demonstrations: trained weights with their cards, and the pictures of README.

make assets                                     the commands below, and then this
python demonstrations/store.py                  all of it, of finished runs under --root
python demonstrations/store.py delens_unet      one network, or one picture
python demonstrations/store.py delens_unet --root elsewhere --to copies

A network becomes <to>/models/NAME/: model.pt; observed_noise.npz where its filters are of measured noise; and the
card, README.md, with size and sha256 of each. `method.trained=NAME` and `delens.noise=NAME` take them.
"""

import argparse
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from hydra.errors import HydraException
from PIL import Image

from cmbml.commands.cards import card_of_network
from cmbml.commands.data import census
from cmbml.config.options import MAINS
from cmbml.config.places import ASSETS
from cmbml.core import handlers, log
from cmbml.core.asset import File
from cmbml.core.errors import UserError
from cmbml.core.pipeline import Pipeline
from cmbml.core.provenance import Sidecar
from cmbml.methods.shared.training import with_seen
from cmbml.script import pipeline

LARGEST = 3_000_000  # bytes of a model.pt
LICENCE = "bsd-3-clause"  # of the project
CLEANED = "experiment=cleaning_demo compare.methods=[perfect_ilc,noise_wiener,hilc,cnilc,patch_unet]"
NETWORKS = {  # job and words that train it
    "delens_unet": ("delens", "field=B scale=5"),
    "patch_unet": ("clean", "experiment=cleaning_demo method=patch_unet"),
}
PICTURES = {  # job and words, the stage that draws, and the picture of it
    "demo_kappa.png": ("compare", "field=B", "panels", "compare_kappa_png"),
    "demo_delensing.png": ("compare", "field=B", "compare", "compare_delensing_png"),
    "demo_cleaning.png": ("compare", f"job=clean {CLEANED}", "compare", "compare_spectra_png"),
    "road.png": ("delens", "experiment=bands_to_r", "road", "road_png"),
}
WIDTH = 1100  # points of a picture: README shows 700
LIMITS = {
    "delens": (
        "It learnt from a few simulated skies of the settings below. Nothing is known of how it does on skies of"
        " another beam, noise, mask or band limit; a run tells which of these differ."
    ),
    "clean": (
        "It learnt from simulated skies with the same synthetic foregrounds, which the test skies have, too. Nothing is"
        " known of how it does on others (`foregrounds.vary`)."
    ),
}


def main(argv: Sequence[str]) -> int:
    """Store what the words name; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [*NETWORKS, *PICTURES]
    parser.add_argument("what", nargs="*", metavar="NAME", help=f"of {', '.join(known)} (default: all)")
    parser.add_argument("--root", type=Path, default=Path("data"), help="system.root of the runs (default data)")
    parser.add_argument("--to", type=Path, default=ASSETS, help="folder to write (default assets)")
    options = parser.parse_args(argv)
    try:
        for name in options.what or known:
            if name not in known:
                raise UserError(f"There is nothing called {name} to store; there are {', '.join(known)}.")
            if name in PICTURES:
                stored = [store_picture(name, *PICTURES[name], options.root, options.to)]
            else:
                stored = store_network(name, *NETWORKS[name], options.root, options.to)
            for path in stored:
                sys.stdout.write(f"{path}: {log.size(path.stat().st_size)}\n")
    except (UserError, HydraException) as error:
        sys.stderr.write(f"Error: {error}\n")
        return 1
    return 0


def store_network(name: str, job: str, words: str, root: Path, to: Path) -> list[Path]:
    """Store the network that a finished run has trained; the files that were written.

    Raises
    ------
    UserError
        When the run is not finished, or the model is too large.
    """
    run = pipeline(job, *shlex.split(words), f"system.root={root}")
    command = f"python {MAINS[job]} {words}"
    stages = {stage.name: stage for stage in run.stages}
    wanted = {"train": "model", "summary": "table_md"}
    if "observed_noise" in stages and list(stages["observed_noise"].items()):
        wanted["observed_noise"] = "observed_noise"
    files, records = finished(run, wanted, command)
    folder = to / "models" / name
    model = folder / "model.pt"
    handlers.write(model, with_seen(files["model"].read(), stages["train"].seen()))
    if model.stat().st_size > LARGEST:
        size = model.stat().st_size
        model.unlink()
        raise UserError(f"The model of {name} has {size} bytes, more than {LARGEST}; store a smaller network.")
    stored = [model]
    if "observed_noise" in files:
        stored.append(folder / "observed_noise.npz")
        shutil.copyfile(files["observed_noise"].path, stored[-1])
    items = [item for item in census(root.absolute(), str(run.assets.constants["dataset"])) if item.place in records]
    told = {
        "licence": LICENCE,
        "command": command,
        "limits": LIMITS[job],
        "result": files["table_md"].read().strip(),
    }
    card = folder / "README.md"
    handlers.write(card, card_of_network(name, stored, items, told))
    return [*stored, card]


def store_picture(name: str, job: str, words: str, stage: str, asset: str, root: Path, to: Path) -> Path:
    """Store a picture of a finished run, no wider than a page needs it; the file that was written."""
    run = pipeline(job, *shlex.split(words), f"system.root={root}")
    files, _ = finished(run, {stage: asset}, f"python {MAINS[job]} {words}")
    picture = Image.open(files[asset].path).convert("RGB")
    picture.thumbnail((WIDTH, 10 * WIDTH), Image.Resampling.LANCZOS)
    to.mkdir(parents=True, exist_ok=True)
    path = to / name
    picture.quantize(256, Image.Quantize.FASTOCTREE).save(path, optimize=True)  # which keeps the colours of thin lines
    return path


def finished(run: Pipeline, wanted: Mapping[str, str], command: str) -> tuple[dict[str, File], set[Path]]:
    """Files of assets by their names, and the records that tell of them.

    Parameters
    ----------
    run : Pipeline
    wanted : mapping
        Name of a stage with one item -> one of the assets that it makes.
    command : str
        What makes them.

    Raises
    ------
    UserError
        When one of them would be made anew, with the command that does so.
    """
    plan = run.plan()
    files = {}
    records = set()
    for stage, asset in wanted.items():
        (work,) = plan[stage]
        if work.why:
            raise UserError(f"{work.outputs[0].path} is not up to date ({work.why}); run  {command}")
        files[asset] = run.assets.file(asset, work.item)
        records.add(Sidecar.path(work.outputs))
    return files, records


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
