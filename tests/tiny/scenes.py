"""What clips and pictures show: one coloured shape on a plain background, moving or not."""

import random
from dataclasses import dataclass, replace

NUM_FRAMES = 8

SHAPES = ("circle", "square", "triangle", "diamond", "star", "cross")
COLORS = {
    "red": (215, 30, 35), "green": (30, 160, 55), "blue": (35, 65, 225), "yellow": (245, 225, 40),
    "orange": (250, 130, 20), "purple": (130, 35, 165), "cyan": (40, 210, 220), "pink": (250, 135, 190),
}  # fmt: skip
BACKGROUNDS = {"black": 20, "gray": 125, "white": 235}
SIZES = ("small", "large")
MOTIONS = ("left", "right", "up", "down", "grow", "shrink", "blink", "still", "change")
POSITIONS = ("top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right")

_REVERSED = {"left": "right", "right": "left", "up": "down", "down": "up", "grow": "shrink", "shrink": "grow"}
_RADIUS = {"small": (0.12, 0.145), "large": (0.21, 0.25)}
_MIDDLE_RADIUS = 0.18
_NEAR, _FAR = (0.19, 0.34), (0.66, 0.81)
_CELLS = ((0.22, 0.31), (0.455, 0.545), (0.69, 0.78))
# One eighth of all combinations of shape, colour and motion (in pictures: position) is held out from the training.
_FOLDS, _HELD_OUT_FOLD = 8, 3


@dataclass(frozen=True)
class Pose:
    """Place and look of the shape; `x`, `y` and `radius` are fractions of the picture's side, y points down."""

    x: float
    y: float
    radius: float
    color: str
    visible: bool = True


@dataclass(frozen=True)
class Scene:
    """What a clip shows, or a picture, which is a clip without motion.

    Attributes:
        start: The pose at the beginning.
        end: The pose at the end; it differs from `start` only in what the motion changes.
        changes_at: The phase at which the colour becomes that of `end`.
        blink_period: For how many frames a blinking shape is seen, then not seen.
        hidden_first: Whether a blinking shape is hidden at the beginning.
        shades: Brightness of the background at its two ends, in [0, 255].
        shade_angle: Direction of the background's gradient, in radians.
        tint: Added to the three channels of the shape's colour.
    """

    shape: str
    motion: str
    background: str
    start: Pose
    end: Pose
    changes_at: float = 0.5
    blink_period: int = 1
    hidden_first: bool = False
    shades: tuple[float, float] = (0.0, 0.0)
    shade_angle: float = 0.0
    tint: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @property
    def parts(self) -> tuple["Scene"]:
        return (self,)

    @property
    def color(self) -> str:
        return self.start.color

    @property
    def size(self) -> str | None:
        """ "small" or "large"; None while it grows or shrinks."""
        if self.motion in ("grow", "shrink"):
            return None
        return "small" if self.start.radius < _MIDDLE_RADIUS else "large"

    @property
    def position(self) -> str:
        """The cell of a 3 x 3 grid in which the shape begins."""
        return POSITIONS[3 * _third(self.start.y) + _third(self.start.x)]

    def pose(self, phase: float) -> Pose:
        """The pose at `phase` in [0, 1): the eight frames that the model sees are at 0, 1/8, ..., 7/8."""
        start, end = self.start, self.end
        num_blinks = int(phase * NUM_FRAMES + 1e-6) // self.blink_period
        visible = self.motion != "blink" or num_blinks % 2 == int(self.hidden_first)
        return Pose(
            x=start.x + (end.x - start.x) * phase,
            y=start.y + (end.y - start.y) * phase,
            radius=start.radius + (end.radius - start.radius) * phase,
            color=start.color if phase < self.changes_at else end.color,
            visible=visible,
        )

    def poses(self, num_frames: int = NUM_FRAMES) -> tuple[Pose, ...]:
        """The poses of a clip of `num_frames` frames."""
        return tuple(self.pose(index / num_frames) for index in range(num_frames))

    def reversed(self) -> "Scene":
        """What the frames show backwards, of a motion that has an opposite."""
        return replace(self, motion=_REVERSED[self.motion], start=self.end, end=self.start)

    def frozen(self) -> "Scene":
        """What the repeated first frame shows, of a motion that has an opposite."""
        return replace(self, motion="still", end=self.start)


def is_held_out(shape: str, color: str, where: int) -> bool:
    """Whether this combination is kept for the exam; `where` is the index of the motion or the position."""
    return (SHAPES.index(shape) + list(COLORS).index(color) + where) % _FOLDS == _HELD_OUT_FOLD


def draw_clip(rng: random.Random, *, held_out: bool, motion: str | None = None) -> Scene:
    motion = motion or rng.choice(MOTIONS)
    shape, color = _draw_kind(rng, MOTIONS.index(motion), held_out)
    size = rng.choice(SIZES)
    start = Pose(rng.uniform(0.22, 0.78), rng.uniform(0.22, 0.78), rng.uniform(*_RADIUS[size]), color)
    start, end = _draw_ends(rng, motion, start)
    return _with_looks(rng, Scene(shape, motion, rng.choice(tuple(BACKGROUNDS)), start, end))


def draw_picture(rng: random.Random, *, held_out: bool) -> Scene:
    position = rng.randrange(len(POSITIONS))
    shape, color = _draw_kind(rng, position, held_out)
    row, column = divmod(position, 3)
    radius = rng.uniform(*_RADIUS[rng.choice(SIZES)])
    pose = Pose(rng.uniform(*_CELLS[column]), rng.uniform(*_CELLS[row]), radius, color)
    return _with_looks(rng, Scene(shape, "still", rng.choice(tuple(BACKGROUNDS)), pose, pose))


def _draw_kind(rng: random.Random, where: int, held_out: bool) -> tuple[str, str]:
    kinds = [(shape, color) for shape in SHAPES for color in COLORS if is_held_out(shape, color, where) == held_out]
    return rng.choice(kinds)


def _with_looks(rng: random.Random, scene: Scene) -> Scene:
    brightness = BACKGROUNDS[scene.background]
    slope = rng.choice((0.0, rng.uniform(0, 14)))
    return replace(
        scene,
        changes_at=rng.choice((3, 4, 5)) / NUM_FRAMES,
        blink_period=rng.choice((1, 2)),
        hidden_first=scene.motion == "blink" and rng.random() < 0.3,
        shades=(brightness - slope + rng.uniform(-6, 6), brightness + slope + rng.uniform(-6, 6)),
        shade_angle=rng.uniform(0, 6.283),
        tint=(rng.uniform(-12, 12), rng.uniform(-12, 12), rng.uniform(-12, 12)),
    )


def _draw_ends(rng: random.Random, motion: str, pose: Pose) -> tuple[Pose, Pose]:
    """The poses at the beginning and at the end of a motion, made of a random pose."""
    if motion not in _REVERSED:
        # Half begin where a moving shape would, so that the first frame does not tell the motion.
        if rng.random() < 0.5:
            pose, _ = _draw_ends(rng, rng.choice(tuple(_REVERSED)), pose)
        colors = [color for color in COLORS if color != pose.color]
        return pose, replace(pose, color=rng.choice(colors)) if motion == "change" else pose
    if motion in ("grow", "shrink"):
        pose = replace(pose, x=_near_center(pose.x), y=_near_center(pose.y))
        ends = replace(pose, radius=rng.uniform(0.11, 0.14)), replace(pose, radius=rng.uniform(0.23, 0.29))
    else:
        axis = "x" if motion in ("left", "right") else "y"
        ends = replace(pose, **{axis: rng.uniform(*_NEAR)}), replace(pose, **{axis: rng.uniform(*_FAR)})
    return ends if motion in ("right", "down", "grow") else (ends[1], ends[0])


def _third(coordinate: float) -> int:
    return min(2, int(coordinate * 3))


def _near_center(coordinate: float) -> float:
    return 0.5 + (coordinate - 0.5) * 0.8
