"""Our Swin with the methods and signatures of timm's."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

from torch import Tensor, nn

from ropevit.arithmetic import ceil_div
from ropevit.integrations.timm.models import (
    Indices,
    Intermediates,
    TimmModel,
    check_format,
    replace_data,
    square_side,
    wanted_layers,
)
from ropevit.models.swin import Swin, SwinConfig
from ropevit.models.swin.attention import resize_bias
from ropevit.models.swin.model import Stage, SwinBlock


class TimmSwin(TimmModel[SwinConfig], Swin):
    """A Swin with timm's methods."""

    poolings = ("avg", "")
    output_fmt = "NHWC"
    """Order of the axes of `forward_features`, which timm's tools read."""

    @classmethod
    def default_features(cls, config: SwinConfig, options: Mapping[str, Any]) -> tuple[int, ...]:
        """Return all stages, timm's default."""
        return tuple(range(len(options.get("depths", config.depths))))

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """Channels (num_chs), stride (reduction) and module of the map at the end of each stage."""
        width, patch = self.config.width, self.config.patch_size
        return [
            {"num_chs": width * 2**stage, "reduction": patch * 2**stage, "module": f"layers.{stage}"}
            for stage in range(len(self.config.depths))
        ]

    def pool(self, features: Tensor) -> Tensor:
        """Return the mean of the tokens."""
        return features.mean((1, 2))

    def stage_index(self, name: str) -> int:
        """Return the stage of a parameter: 0 for embeddings, 1.. for stages and their merging, then norm and head."""
        if name.startswith("layers."):
            return int(name.split(".")[1]) + 1
        return len(self.layers) + 1 if self.layer_index(name) else 0

    def forward_intermediates(  # pyright: ignore[reportIncompatibleMethodOverride]: timm's signature, not ours
        self,
        images: Tensor,
        indices: Indices = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Intermediates:
        """Return the final features and the maps (B, C, h, w) at the end of chosen stages.

        Args:
            images: Images (B, c, H, W) of any size.
            indices: Stage indices, counted from 0, or from the end if negative; an int n means the last n stages, None
                all. The maps are returned in this order.
            norm: Apply the final norm to the map of the last stage; others have fewer channels.
            stop_early: Stop after the last chosen stage, whose map is then the final one.
            output_fmt: "NCHW".
            intermediates_only: Return only the intermediate maps.

        Raises:
            ValueError: If there is no such stage or format, or the image size is not allowed.
        """
        check_format(output_fmt, ("NCHW",))
        count = len(self.layers)
        wanted = wanted_layers(indices, count)
        last = max(wanted) + 1 if stop_early or intermediates_only else count
        stages = list(islice(self.stages(images), last))
        final = self.norm(stages[-1]) if last == count else stages[-1]
        stages[-1] = final if norm else stages[-1]
        maps = [stages[index].permute(0, 3, 1, 2).contiguous() for index in wanted]
        return maps if intermediates_only else (final, maps)

    def prune_intermediate_layers(
        self, indices: Indices = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove the stages after the last chosen one, and the head; return the chosen stages, counted from 0."""
        wanted = wanted_layers(indices, len(self.layers))
        count = max(wanted) + 1
        shorter = count < len(self.layers)  # head and norm have the channels of the last stage
        if prune_head or shorter:
            self.reset_classifier(0, "")
        if prune_norm or shorter:
            self.norm = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]: none is left
        self.layers = self.layers[:count]
        last = self.layers[-1]
        assert isinstance(last, Stage)
        last.downsample = None
        self.config = replace(self.config, depths=self.config.depths[:count], heads=self.config.heads[:count])
        return wanted

    def set_input_size(
        self,
        img_size: int | tuple[int, int] | None = None,
        patch_size: int | tuple[int, int] | None = None,
        window_size: int | tuple[int, int] | None = None,
        window_ratio: int | None = None,
        always_partition: bool = False,
    ) -> None:
        """Set the window size for another image size, and resize all that depends on both.

        Args:
            img_size: Height and width in pixels, or the side of a square; None keeps it.
            patch_size: Side of the patches in pixels; None keeps it.
            window_size: Side of the windows of all stages in tokens.
            window_ratio: Without `window_size`: divisor of the smaller side of the patch grid that gives it, rounded
                up. None takes 8, with patches of 4 pixels 1/32 of the smaller side of the image, as the paper does.
            always_partition: False; maps no larger than a window are one window.

        Raises:
            ValueError: If windows or patches are not squares, or `always_partition` is true.
        """
        if always_partition:
            raise ValueError("got always_partition=True; expected False: a map no larger than a window is one window")
        before, config = self.config.grid, self.resized_config(img_size, patch_size)
        if window_size is None:
            window = ceil_div(min(config.grid), 8 if window_ratio is None else window_ratio)
        else:
            window = square_side("window_size", window_size)
        self.config = replace(config, window_size=window)
        self.resize_patch_embed()
        self.resize_absolute(before)
        for stage in self.layers:
            assert isinstance(stage, Stage)
            stage.window = window
            for attention in (block.attn for block in stage.blocks if isinstance(block, SwinBlock)):
                attention.window = window
                if (table := attention.relative_position_bias_table) is not None:
                    attention.relative_position_bias_table = replace_data(table, resize_bias(table.detach(), window))
        self.update_model_args(window_size=window)
