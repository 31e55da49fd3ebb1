"""Peak memory of a text step over all class names of ImageNet, in a process of its own.

    python -m bench.memory [replicas]

prints bytes: of one forward and backward of ViT-B/16's text tower, float32, everything included.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

N_CTX = 4


def main() -> None:
    """Run one step and print the peak."""
    import open_clip

    from bench.towers import imagenet_names
    from pipeline.clip.backbone import caption_frame
    from pipeline.clip.text.tower import TextTower

    n_replicas = int(sys.argv[1])
    text = open_clip.transformer.TextTransformer(output_dim=512)  # ViT-B/16's, without images
    tower = TextTower(text.eval(), caption_frame(open_clip.get_tokenizer("ViT-B-16")))
    names = tower.pack(imagenet_names(1000), N_CTX)
    context_SMD = 0.02 * torch.randn(n_replicas, N_CTX, tower.width)
    tower(context_SMD.requires_grad_(), names).square().sum().backward()
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(line for line in status if line.startswith("VmHWM:"))  # of this program alone
    print(1024 * int(peak.split()[1]))


def peak_bytes(n_replicas: int) -> int:
    """Return the peak of a fresh process."""
    command = [sys.executable, "-m", "bench.memory", str(n_replicas)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1])


if __name__ == "__main__":
    main()
