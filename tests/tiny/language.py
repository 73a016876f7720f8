"""The second and third stage: the language model learns to see motion, then to answer."""

import random

import torch
from torch import nn
from torch.nn import functional as F
from transformers import CLIPVisionModel, PreTrainedTokenizerBase, VideoLlavaForConditionalGeneration

from .batches import Packed, Packer
from .model import FEATURE_LAYER, HIDDEN_SIZE, IMAGE_SIZE, NUM_PATCHES, draw_weights, make_config, normalise
from .pairs import Drawn, draw_pair
from .raster import PHASES, rasterise
from .scenes import MOTIONS, draw_clip, draw_picture
from .sight import SightHeads
from .stages import Chance, Stage

# The layer whose states must tell what is seen; those above it are left to read and to answer.
_TOLD_LAYER = 2
_TEXT_TOKENS = 200
# Clips and pictures of one step; every `_BOTH_EVERY` steps some rows have both.
_CLIPS, _PICTURES, _BOTH, _BOTH_EVERY = 12, 9, 5, 2
# Further ones, with two shapes.
_PAIR_CLIPS, _PAIR_PICTURES = 3, 2
_CLIPS_WITHOUT_TEXT, _PAIRS_WITHOUT_TEXT = 18, 8
# The part of the heads in the loss falls with each step, down to its least.
_FADING, _LEAST_SHARE = 1.5 / 1400, 0.15
# A change of colour has questions of its own; what stands still is easily taken for what has just begun to move.
_MOTION_WEIGHTS = [{"change": 2.0, "still": 1.5}.get(motion, 1.0) for motion in MOTIONS]


class LanguageTraining(nn.Module):
    """The whole model with frozen towers, and the heads."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, tower: CLIPVisionModel) -> None:
        super().__init__()
        self.model = VideoLlavaForConditionalGeneration(make_config(tokenizer.get_vocab()))
        draw_weights(self.model.model.language_model)
        draw_weights(self.model.model.multi_modal_projector)
        self.model.lm_head.weight.data.normal_(0, HIDDEN_SIZE**-0.5)
        for copy in (self.model.model.image_tower, self.model.model.video_tower):
            copy.load_state_dict(tower.state_dict())
            copy.requires_grad_(requires_grad=False)
        self.heads = SightHeads()
        self.packer = Packer(tokenizer, _TEXT_TOKENS)

    @property
    def _ids(self) -> tuple[int, int]:
        config = self.model.config
        return config.image_token_id, config.video_token_id

    def sight_losses(self, now: Chance, _: int) -> dict[str, torch.Tensor]:
        """Clips without any text."""
        rng = now.python
        clips: list[Drawn] = [draw_clip(rng, held_out=False) for _ in range(_CLIPS_WITHOUT_TEXT)]
        clips += [draw_pair(rng, held_out=False, is_clip=True) for _ in range(_PAIRS_WITHOUT_TEXT)]
        packed = self.packer.pack_media([(clip, None) for clip in clips])
        with torch.autocast("cpu", torch.bfloat16):
            states = self._read(packed, self._clip_features(now, clips))[0]
            return self._sight(packed, states, clips, [])

    def answer_losses(self, now: Chance, step: int) -> dict[str, torch.Tensor]:
        """Questions about clips, about pictures, and sometimes about one of each."""
        clips, pictures = _draw_clips(now.python), _draw_pictures(now.python)
        with torch.autocast("cpu", torch.bfloat16):
            groups = [self._group(now, clips, []), self._group(now, [], pictures)]
            if now.python.randrange(_BOTH_EVERY) == 0:
                groups.append(self._group(now, clips[:_BOTH], pictures[:_BOTH]))
        weight = max(_LEAST_SHARE, 1 - _FADING * step)
        losses: dict[str, torch.Tensor] = {}
        for name, group in zip(("clip", "picture", "both"), groups, strict=False):
            losses |= {f"{name} {key}": loss * (1 if key == "text" else 0.3 * weight) for key, loss in group.items()}
        return losses

    def _group(self, now: Chance, clips: list[Drawn], pictures: list[Drawn]) -> dict[str, torch.Tensor]:
        pairs = list(zip(clips or [None] * len(pictures), pictures or [None] * len(clips), strict=True))
        packed = self.packer.pack(now, pairs)
        features = [self._picture_features(now, pictures)] if pictures else []
        features += [self._clip_features(now, clips)] if clips else []
        states, last = self._read(packed, torch.cat(features, dim=1))
        learned = packed.learned[:, 1:]
        logits = self.model.lm_head(last[:, :-1][learned]).float()
        text = F.cross_entropy(logits, packed.ids[:, 1:][learned])
        return {"text": text} | self._sight(packed, states, clips, pictures)

    def _sight(
        self, packed: Packed, states: torch.Tensor, clips: list[Drawn], pictures: list[Drawn]
    ) -> dict[str, torch.Tensor]:
        image, video = self._ids
        losses = {}
        if clips:
            tokens = (packed.ids[0] == video).nonzero().flatten()
            losses["names"] = self.heads.name_loss(states[:, tokens[-1] + 1], clips, are_clips=True)
            losses["tracks"] = self.heads.track_loss(states[:, tokens[NUM_PATCHES :: NUM_PATCHES + 1]], clips)
        if pictures:
            tokens = (packed.ids[0] == image).nonzero().flatten()
            names = self.heads.name_loss(states[:, tokens[-1] + 1], pictures, are_clips=False)
            losses["names"] = losses.get("names", 0) + names
        return losses

    def _read(self, packed: Packed, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The states of the told layer and the last ones; `features` of all media of a row in their order."""
        inner = self.model.model
        seen = torch.zeros_like(packed.ids, dtype=torch.bool)
        for token in self._ids:
            seen |= packed.ids == token
        embedded = inner.language_model.embed_tokens(packed.ids).to(features.dtype)
        embedded = embedded.masked_scatter(seen[..., None], features)
        result = inner.language_model(
            inputs_embeds=embedded,
            attention_mask=packed.mask.to(embedded.dtype),
            position_ids=packed.places,
            output_hidden_states=True,
            use_cache=False,
        )
        return result.hidden_states[_TOLD_LAYER], result.last_hidden_state

    def _clip_features(self, now: Chance, clips: list[Drawn]) -> torch.Tensor:
        frames = rasterise(clips, IMAGE_SIZE, generator=now.torch)
        with torch.no_grad():
            pixels = normalise(frames).flatten(0, 1)
            states = self.model.model.video_tower(pixels, output_hidden_states=True).hidden_states[FEATURE_LAYER]
        return self.model.model.multi_modal_projector(states.reshape(len(clips), -1, HIDDEN_SIZE))

    def _picture_features(self, now: Chance, pictures: list[Drawn]) -> torch.Tensor:
        frames = rasterise(pictures, IMAGE_SIZE, generator=now.torch, phases=PHASES[:1])[:, 0]
        with torch.no_grad():
            tower = self.model.model.image_tower
            states = tower(normalise(frames), output_hidden_states=True).hidden_states[FEATURE_LAYER]
        return self.model.model.multi_modal_projector(states[:, 1:])


def _draw_clips(rng: random.Random) -> list[Drawn]:
    motions = rng.choices(MOTIONS, _MOTION_WEIGHTS, k=_CLIPS)
    clips: list[Drawn] = [draw_clip(rng, held_out=False, motion=motion) for motion in motions]
    return clips + [draw_pair(rng, held_out=False, is_clip=True) for _ in range(_PAIR_CLIPS)]


def _draw_pictures(rng: random.Random) -> list[Drawn]:
    pictures: list[Drawn] = [draw_picture(rng, held_out=False) for _ in range(_PICTURES)]
    return pictures + [draw_pair(rng, held_out=False, is_clip=False) for _ in range(_PAIR_PICTURES)]


def language_stages(
    tokenizer: PreTrainedTokenizerBase, tower: CLIPVisionModel, *, num_sight_steps: int, num_answer_steps: int
) -> tuple[LanguageTraining, Stage, Stage]:
    """The training, and its two stages: to see motion, and to answer."""
    training = LanguageTraining(tokenizer, tower)
    trained = tuple((name, weight) for name, weight in training.named_parameters() if weight.requires_grad)
    seeing = tuple((name, weight) for name, weight in trained if "lm_head" not in name)
    sight = Stage("sight", training, seeing, training.sight_losses, num_sight_steps, cooling=0.0)
    answers = Stage("answers", training, trained, training.answer_losses, num_answer_steps)
    return training, sight, answers
