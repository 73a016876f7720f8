"""The second and third stage: the language model learns to see motion, then to answer."""

import random

import torch
from torch import nn
from torch.nn import functional as F
from transformers import CLIPVisionModel, PreTrainedTokenizerBase, VideoLlavaForConditionalGeneration

from .batches import Packed, Packer
from .heads import MediaHeads
from .model import CONFIG, HIDDEN_SIZE, IMAGE_SIZE, NUM_PATCHES, draw_weights, tower_features
from .pairs import Drawn, draw_pair
from .raster import PHASES, rasterise
from .scenes import MOTIONS, draw_clip, draw_picture
from .stages import Rngs

# The heads read this layer's states; the layers above it are free to read questions and to answer.
_HEADS_LAYER = 2
_NUM_TEXT_TOKENS = 200
# Of one step; each second step some rows have a clip and a picture.
_NUM_CLIPS, _NUM_PICTURES, _NUM_BOTH = 12, 9, 5
_NUM_PAIR_CLIPS, _NUM_PAIR_PICTURES = 3, 2
# Of one step without text.
_NUM_SIGHT_CLIPS, _NUM_SIGHT_PAIRS = 18, 8
# The weight of the heads' losses falls with each step, to a minimum.
_HEADS_WEIGHT, _HEADS_DECAY, _MIN_HEADS_DECAY = 0.3, 1.5 / 1400, 0.15
# Changes of colour have questions of their own; "still" is easily confused with the beginning of a motion.
_MOTION_WEIGHTS = [{"change": 2.0, "still": 1.5}.get(motion, 1.0) for motion in MOTIONS]


class LanguageTraining(nn.Module):
    """The whole model with frozen towers, and the auxiliary heads."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, tower: CLIPVisionModel) -> None:
        super().__init__()
        self.model = VideoLlavaForConditionalGeneration(CONFIG)
        draw_weights(self.model.model.language_model)
        draw_weights(self.model.model.multi_modal_projector)
        self.model.lm_head.weight.data.normal_(0, HIDDEN_SIZE**-0.5)
        for copy in (self.model.model.image_tower, self.model.model.video_tower):
            copy.load_state_dict(tower.state_dict())
            copy.requires_grad_(requires_grad=False)
        self.heads = MediaHeads()
        self.packer = Packer(tokenizer, _NUM_TEXT_TOKENS)

    def sight_losses(self, rngs: Rngs, _: int) -> dict[str, torch.Tensor]:
        """Clips without any text."""
        rng = rngs.python
        clips: list[Drawn] = [draw_clip(rng, held_out=False) for _ in range(_NUM_SIGHT_CLIPS)]
        clips += [draw_pair(rng, held_out=False, is_clip=True) for _ in range(_NUM_SIGHT_PAIRS)]
        packed = self.packer.pack_media([(clip, None) for clip in clips])
        with torch.autocast("cpu", torch.bfloat16):
            states, _last = self._forward(packed, self._clip_features(rngs, clips))
            return self._heads_losses(packed, states, clips, [])

    def answer_losses(self, rngs: Rngs, step: int) -> dict[str, torch.Tensor]:
        """Questions about clips, about pictures, and in every other step about one of each."""
        clips, pictures = _draw_clips(rngs.python), _draw_pictures(rngs.python)
        with torch.autocast("cpu", torch.bfloat16):
            groups = {"clip": self._group(rngs, clips, []), "picture": self._group(rngs, [], pictures)}
            if rngs.python.randrange(2) == 0:
                groups["both"] = self._group(rngs, clips[:_NUM_BOTH], pictures[:_NUM_BOTH])
        weight = _HEADS_WEIGHT * max(_MIN_HEADS_DECAY, 1 - _HEADS_DECAY * step)
        return {
            f"{name} {key}": loss if key == "text" else loss * weight
            for name, losses in groups.items()
            for key, loss in losses.items()
        }

    def _group(self, rngs: Rngs, clips: list[Drawn], pictures: list[Drawn]) -> dict[str, torch.Tensor]:
        """The losses of rows with the same kinds of media."""
        pairs = list(zip(clips or [None] * len(pictures), pictures or [None] * len(clips), strict=True))
        packed = self.packer.pack(rngs.python, pairs)
        features = [self._picture_features(rngs, pictures)] if pictures else []
        features += [self._clip_features(rngs, clips)] if clips else []
        states, last = self._forward(packed, torch.cat(features, dim=1))
        learned = packed.learned[:, 1:]
        logits = self.model.lm_head(last[:, :-1][learned]).float()
        text = F.cross_entropy(logits, packed.ids[:, 1:][learned])
        return {"text": text} | self._heads_losses(packed, states, clips, pictures)

    def _heads_losses(
        self, packed: Packed, states: torch.Tensor, clips: list[Drawn], pictures: list[Drawn]
    ) -> dict[str, torch.Tensor]:
        losses = {}
        if clips:
            tokens = (packed.ids[0] == CONFIG.video_token_id).nonzero().flatten()
            losses["labels"] = self.heads.label_loss(states[:, tokens[-1] + 1], clips, are_clips=True)
            losses["tracks"] = self.heads.track_loss(states[:, tokens[NUM_PATCHES :: NUM_PATCHES + 1]], clips)
        if pictures:
            tokens = (packed.ids[0] == CONFIG.image_token_id).nonzero().flatten()
            labels = self.heads.label_loss(states[:, tokens[-1] + 1], pictures, are_clips=False)
            losses["labels"] = losses.get("labels", 0) + labels
        return losses

    def _forward(self, packed: Packed, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The states for the heads and those of the last layer; `features` are in the order of the placeholders."""
        inner = self.model.model
        is_feature = (packed.ids == CONFIG.image_token_id) | (packed.ids == CONFIG.video_token_id)
        embedded = inner.language_model.embed_tokens(packed.ids).to(features.dtype)
        result = inner.language_model(
            inputs_embeds=embedded.masked_scatter(is_feature[..., None], features),
            attention_mask=packed.mask.to(embedded.dtype),
            position_ids=packed.positions,
            output_hidden_states=True,
            use_cache=False,
        )
        return result.hidden_states[_HEADS_LAYER], result.last_hidden_state

    def _clip_features(self, rngs: Rngs, clips: list[Drawn]) -> torch.Tensor:
        frames = rasterise(clips, IMAGE_SIZE, generator=rngs.torch).flatten(0, 1)
        with torch.no_grad():
            features = tower_features(self.model.model.video_tower, frames)
        return self.model.model.multi_modal_projector(features.reshape(len(clips), -1, HIDDEN_SIZE))

    def _picture_features(self, rngs: Rngs, pictures: list[Drawn]) -> torch.Tensor:
        frames = rasterise(pictures, IMAGE_SIZE, generator=rngs.torch, phases=PHASES[:1])[:, 0]
        with torch.no_grad():
            features = tower_features(self.model.model.image_tower, frames)
        return self.model.model.multi_modal_projector(features[:, 1:])


def _draw_clips(rng: random.Random) -> list[Drawn]:
    motions = rng.choices(MOTIONS, _MOTION_WEIGHTS, k=_NUM_CLIPS)
    clips: list[Drawn] = [draw_clip(rng, held_out=False, motion=motion) for motion in motions]
    return clips + [draw_pair(rng, held_out=False, is_clip=True) for _ in range(_NUM_PAIR_CLIPS)]


def _draw_pictures(rng: random.Random) -> list[Drawn]:
    pictures: list[Drawn] = [draw_picture(rng, held_out=False) for _ in range(_NUM_PICTURES)]
    return pictures + [draw_pair(rng, held_out=False, is_clip=False) for _ in range(_NUM_PAIR_PICTURES)]
