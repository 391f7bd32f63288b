"""DC-AE, the deep compression autoencoder (arXiv 2410.10733)."""

from sunlab.backbones.sd.autoencoder import VAE


class DCAE(VAE):
    """diffusers' AutoencoderDC. It has no posterior: latents are exact."""

    @property
    def factor(self) -> int:  # type: ignore[override]
        return int(self.vae.spatial_compression_ratio)
