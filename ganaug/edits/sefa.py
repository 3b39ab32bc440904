"""Directions in closed form, from a generator's weights alone: SeFa (arXiv 2007.06600)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ganaug.edits.discovery import PrincipalComponents, signed
from ganaug.edits.published import check_rows, measure_std
from ganaug.errors import UserInputError
from ganaug.interfaces import Generator


@torch.no_grad()
def closed_form_directions(
    generator: Generator, num_components: int = 8, rows: Sequence[int] | None = None
) -> PrincipalComponents:
    """Directions of W along which the styles change most: eigenvectors of A^T A (section 3.2, equation 8).

    A are the matrices of the affine layers that turn rows of a latent into styles, one below the other. Those of toRGB
    are left out.

    Args:
        generator: Of a family that has such layers: StyleGAN2, StyleGAN3, VAE.
        num_components: K.
        rows: Rows of ``w_plus`` whose layers count; default all.

    Returns:
        ``components (K, D)``, most change first, the entry of largest magnitude positive; ``std (K,)`` of the latents
        along each, mean over the rows.

    Raises:
        UserInputError: For another family, or rows that are not there or feed no such layer.
    """
    network = getattr(generator, "synthesis_network", None)
    read = getattr(network, "style_weights", None)
    if read is None:
        raise UserInputError(
            f"sefa reads the style layers of StyleGAN2, StyleGAN3 and VAE generators, and this one is "
            f"{getattr(generator, 'family', type(generator).__name__)}; use --method pca"
        )
    chosen = check_rows(range(generator.latent_spec.num_ws) if rows is None else rows, generator)
    weights = [weight.double().cpu() for row, weight in read() if row in chosen]
    if not weights:
        raise UserInputError(f"rows {list(chosen)} feed no convolution whose styles sefa could read; choose others")
    stacked = torch.cat(weights)
    values, vectors = torch.linalg.eigh(stacked.t() @ stacked)
    order = torch.argsort(values, descending=True)[:num_components]
    components = signed(vectors[:, order].t()).float()
    return PrincipalComponents(components, spread(components, generator, chosen))


def spread(vectors: Tensor, generator: Generator, rows: Sequence[int]) -> Tensor:
    """``(K,)`` standard deviation of codes along ``vectors (K, D)``, root mean square over rows.

    Of the codes of photos where the generator knows some (its ``prior``), else of random latents.
    """
    prior = getattr(generator, "prior", None)
    if prior is None:
        return measure_std(vectors, generator, rows)
    axes = prior.components[:, list(rows)].double().cpu()  # (P, R, D)
    along = torch.einsum("prd,kd->prk", axes, vectors.double()) * prior.std.double().cpu()[:, None, None]
    return along.square().sum(dim=0).mean(dim=0).sqrt().float()
