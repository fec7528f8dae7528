"""What makes one language model differ from another, as plain values. Sizes are counts of numbers."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class NormSettings:
    """A normalisation over the last axis: `layer` (Ba et al. 2016) or `rms` (Zhang and Sennrich 2019)."""

    kind: str
    epsilon: float
    scale: bool = True  # a learned factor for each number
    bias: bool = True  # a learned shift for each number
    offset: float = 0.0  # added to the learned factor (Gemma: 1)


@dataclasses.dataclass(frozen=True)
class LinearScaling:
    """Positions are divided by a factor (Chen et al. 2023)."""

    factor: float


@dataclasses.dataclass(frozen=True)
class Llama3Scaling:
    """Low frequencies are divided by a factor, high ones stay, those between are blended (Llama 3.1)."""

    factor: float
    low_frequency: float
    high_frequency: float
    original_length: int


@dataclasses.dataclass(frozen=True)
class YarnScaling:
    """As Llama 3's, blended by the number of turns in the original length, and logits grow (Peng et al. 2023)."""

    factor: float
    original_length: int
    fast: float  # turns in the original length from which on a frequency stays
    slow: float  # turns below which it is divided
    amplitude: float  # of cosine and sine
    whole: bool  # the bounds between which is blended are whole pairs


@dataclasses.dataclass(frozen=True)
class RotarySettings:
    """Rotary position embedding (Su et al. 2021)."""

    width: int  # how many of a head's numbers are rotated: the first ones
    base: float
    interleaved: bool = False  # pairs of neighbours, instead of the first half with the second
    scaling: LinearScaling | Llama3Scaling | YarnScaling | None = None


@dataclasses.dataclass(frozen=True)
class AttentionSettings:
    """The attention of one layer."""

    heads: int
    key_heads: int  # each is shared by heads / key_heads consecutive heads
    head_width: int
    scale: float  # factor of a query's product with a key
    rotary: RotarySettings | None = None
    window: int | None = None  # how many positions are seen, its own among them; None: all earlier ones
    soft_cap: float | None = None  # logits become cap * tanh(logits / cap)
    qkv_bias: bool = True
    out_bias: bool = True
    query_key_norm: NormSettings | None = None  # of queries and keys, before they are rotated
    norm_over_heads: bool = False  # that norm takes all heads together (OLMo 2), not each by itself


@dataclasses.dataclass(frozen=True)
class MLPSettings:
    """The MLP of every layer."""

    width: int
    activation: str  # one of mlp.ACTIVATIONS
    gated: bool = False  # neurons are activation(gate) * up
    bias: bool = True
    norm: NormSettings | None = None  # of the neurons (SoLU)


@dataclasses.dataclass(frozen=True)
class Settings:
    """A decoder-only transformer."""

    width: int
    vocabulary: int
    context_length: int
    attention: tuple[AttentionSettings, ...]  # one for each layer
    mlp: MLPSettings | None  # None: layers are attention only
    norm: NormSettings
    pre_norm: bool = True  # attention and MLP read the normalised stream
    post_norm: bool = False  # what attention and MLP give is normalised before it is added to the stream
    parallel_residual: bool = False  # the MLP reads the layer's input, as attention does
    shared_norm: bool = False  # ... and through the same norm
    learned_positions: bool = False
    embedding_scale: float = 1.0
    tied_embeddings: bool = False
    unembedding_bias: bool = False
    final_soft_cap: float | None = None  # logits become cap * tanh(logits / cap)

    @property
    def num_layers(self) -> int:
        """How many layers there are."""
        return len(self.attention)
