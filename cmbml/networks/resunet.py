"""The residual U-Net, as used for the reconstruction of lensing by DeepCMB (Caldeira et al. 2018, arXiv:1810.01483)."""

from cmbml.networks.unet import UNet


class ResUNet(UNet):
    """U-Net whose blocks add their input to their output, through a 1x1 convolution where the number of maps changes.

    DeepCMB takes SELU, batch normalisation and a dropout of 0.3; it drops single pixels, where this drops whole maps.
    The keys and the receptive field are those of the U-Net.

    Examples
    --------
    >>> import torch
    >>> net = ResUNet(in_channels=3, n_filters=4, network_depth=2, zero_head=True)
    >>> y = net(torch.randn(2, 3, 16, 16))
    >>> y.shape, bool(y.any())
    (torch.Size([2, 1, 16, 16]), False)
    """

    residual = True
