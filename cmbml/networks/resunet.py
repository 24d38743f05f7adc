"""The residual U-Net, as used for the reconstruction of lensing by DeepCMB (Caldeira et al. 2018, arXiv:1810.01483)."""

from cmbml.networks.unet import UNet


class ResUNet(UNet):
    """U-Net whose blocks add their input to their output, through a 1x1 convolution where the number of maps changes.

    DeepCMB takes SELU, batch normalisation and a dropout of 0.3; it drops single pixels, where this drops whole maps.
    The keys and the receptive field are those of the U-Net.
    """

    residual = True
