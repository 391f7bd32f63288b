"""Train the lab's classifier of the emoji, background and size that a picture shows, or measure one. docs/lab.md has the
commands of the shipped one.

    python tools/train_classifier.py --out classifier.safetensors
    python tools/train_classifier.py --measure classifier.safetensors --shards 'data/emoji/outline/*.tar.gz'

Of every emoji some combinations of background and size, chosen by a hash, are held out, and the accuracy on them is
printed: as they are, after the base's autoencoder, and blurred. The pictures to be judged are softer than artwork, so it
trains on autoencoder reconstructions too, of latents and of noised latents; all of them shifted, scaled, blurred and noised
at random.
"""

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, cross_entropy, grid_sample

from sunlab.backbones import Autoencoder
from sunlab.backbones.pretrained import load_base, quiet
from sunlab.data.sample import Sample
from sunlab.data.shards import Shards
from sunlab.draws import keyed_seed
from sunlab.lab.classifier import Classifier, judge, load_classifier, share, truth

HELD_OUT = 8  # one combination in so many
NOISED = (0.0, 0.3)  # of the latents' unit; their deviation is 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--shards", nargs="+", default=["emoji/noto/*.tar.gz"], help="with all combinations; several styles mix"
    )
    parser.add_argument("--base", default="emoji-sd", help="whose autoencoder the pictures go through")
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("--out", type=Path, help="train, and write it here")
    task.add_argument("--measure", metavar="FILE", help="the accuracy of this one on all pictures whose emoji it knows")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--width", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    quiet()
    torch.manual_seed(arguments.seed)
    started = time.perf_counter()
    source = Shards(urls=arguments.shards, shuffle=0)
    samples = list(source.read(seed=0, epoch=0, start=0, stop=len(source)))
    if arguments.measure is not None:
        network = load_classifier(arguments.measure)
        known = [s for s in samples if truth(s)["emoji"] in network.labels["emoji"]]
        print(f"{len(known)} of {len(samples)} pictures: {accuracy(network, stacked(known) / 255, known)}")
        return
    train = [s for s in samples if not held_out(s)]
    test = [s for s in samples if held_out(s)]
    autoencoder = load_base(arguments.base).freeze().autoencoder
    views = [stacked(train), *(reconstructed(autoencoder, stacked(train), noise) for noise in NOISED)]
    network = Classifier(labels_of(samples), arguments.width)
    fit(network, torch.stack(views), targets_of(train, network), steps=arguments.steps, batch=arguments.batch)
    network.save(arguments.out)
    print(
        f"{len(train)} pictures, {arguments.steps} steps, {time.perf_counter() - started:.0f} s; {arguments.out}: ", end=""
    )
    print(f"{sum(p.numel() for p in network.parameters()):,} parameters, {arguments.out.stat().st_size:,} bytes")
    clean = stacked(test)
    kinds = {
        "as they are": clean / 255,
        "autoencoder reconstructions": reconstructed(autoencoder, clean, 0.0) / 255,
        "reconstructions of latents with noise 0.3": reconstructed(autoencoder, clean, 0.3) / 255,
        "blurred, sigma 1.5 pixels": blurred(clean / 255, torch.full((len(clean),), 1.5)),
    }
    for kind, images in kinds.items():
        print(f"{len(test)} held-out combinations, {kind}: {accuracy(network, images, test)}")


def held_out(sample: Sample) -> bool:
    """One combination of an emoji in `HELD_OUT`, the same in every style."""
    facts = truth(sample)
    return keyed_seed("classifier", *facts.values()) % HELD_OUT == 0


def labels_of(samples: list[Sample]) -> dict[str, list[str]]:
    facts = [truth(sample) for sample in samples]
    return {head: sorted({fact[head] for fact in facts}) for head in facts[0]}


def targets_of(samples: list[Sample], network: Classifier) -> dict[str, Tensor]:
    """Places (N,) of the right labels, by head."""
    facts = [truth(sample) for sample in samples]
    return {head: torch.tensor([names.index(f[head]) for f in facts]) for head, names in network.labels.items()}


def stacked(samples: list[Sample]) -> Tensor:
    """(N, 3, H, W) uint8."""
    return torch.stack([sample.image for sample in samples if sample.image is not None])


def reconstructed(autoencoder: Autoencoder, images: Tensor, noise: float) -> Tensor:
    """What the autoencoder makes of pictures (N, 3, H, W) uint8, their latents noised; likewise uint8."""
    found = []
    for part in images.split(64):
        latents = autoencoder.encode(part)
        found.append((autoencoder.decode(latents + noise * torch.randn_like(latents)) * 255).round().to(torch.uint8))
    return torch.cat(found)


def fit(network: Classifier, views: Tensor, targets: dict[str, Tensor], *, steps: int, batch: int) -> None:
    """Args: views, (V, N, 3, H, W) uint8, each picture in several ways; targets, places (N,) by head."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    network.train()
    for _ in range(steps):
        view, row = torch.randint(views.shape[0], (batch,)), torch.randint(views.shape[1], (batch,))
        logits = network(augmented(views[view, row] / 255))
        loss = torch.stack([cross_entropy(logits[h], t[row], label_smoothing=0.05) for h, t in targets.items()]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    network.eval()


def augmented(images: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) in [0, 1], each moved, scaled, recoloured, blurred and noised by an amount of its own."""
    count = len(images)
    moves = torch.zeros(count, 2, 3)
    moves[:, 0, 0] = moves[:, 1, 1] = torch.empty(count).uniform_(0.92, 1.08)
    moves[:, :, 2] = torch.empty(count, 2).uniform_(-0.1, 0.1)  # three pixels of 64
    places = affine_grid(moves, list(images.shape), align_corners=False)
    images = grid_sample(images, places, padding_mode="border", align_corners=False)
    images = images * torch.empty(count, 3, 1, 1).uniform_(0.92, 1.08) + torch.empty(count, 3, 1, 1).uniform_(-0.04, 0.04)
    images = blurred(images, torch.empty(count).uniform_(0.1, 2.0))
    return (images + torch.randn_like(images) * torch.empty(count, 1, 1, 1).uniform_(0, 0.08)).clamp(0, 1)


def blurred(images: Tensor, sigma: Tensor) -> Tensor:
    """A Gaussian of `sigma` (B,) pixels over pictures (B, 3, H, W), as two banded matrices."""
    side = torch.arange(images.shape[-1], dtype=torch.float32)
    weights = torch.exp(-((side[:, None] - side) ** 2) / (2 * sigma.view(-1, 1, 1) ** 2))
    matrix = (weights / weights.sum(2, keepdim=True))[:, None]
    return matrix @ images @ matrix.transpose(2, 3)


def accuracy(network: Classifier, images: Tensor, samples: list[Sample]) -> str:
    seen, facts = judge(network, images), [truth(sample) for sample in samples]
    pairs = list(zip(seen, facts, strict=True))
    first, five = share([s.emoji == f["emoji"] for s, f in pairs]), share([f["emoji"] in s.nearest for s, f in pairs])
    others = (f"{head} {share([getattr(s, head) == f[head] for s, f in pairs]):.1%}" for head in ("background", "size"))
    return f"emoji top-1 {first:.1%}, top-5 {five:.1%}, {', '.join(others)}"


if __name__ == "__main__":
    main()
