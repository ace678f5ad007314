/**
 * What a model *is*, in numbers: read from a Hugging Face folder, carried in a pack's manifest, and turned into a
 * Recording. Plain JSON data: nothing in here is a class, a function or a float that reaches a kernel.
 */

export type Family = 'llama' | 'gpt2' | 'bert'
export type Task = 'generate' | 'embed' | 'classify'
/** `gelu` is the erf form, `gelu_tanh` the tanh approximation (`gelu_new`, `gelu_pytorch_tanh`). */
export type Activation = 'silu' | 'gelu' | 'gelu_tanh' | 'relu' | 'tanh'

export interface Rope {
  theta: number
  /** Llama-3 frequency scaling (`rope_scaling.rope_type = "llama3"`), or linear (`factor` only), or none. */
  scaling:
    | null
    | { type: 'linear'; factor: number }
    | { type: 'llama3'; factor: number; lowFreqFactor: number; highFreqFactor: number; originalContext: number }
}

export interface ModelSpec {
  family: Family
  task: Task
  /** Transformer blocks. */
  layers: number
  /** Residual width D (`hidden_size`, `n_embd`). */
  width: number
  heads: number
  kvHeads: number
  headDim: number
  /** Feed-forward width (`intermediate_size`, `n_inner`). */
  ff: number
  vocab: number
  /** Longest sequence the model was made for, in tokens. */
  context: number
  norm: 'rms' | 'layer'
  /** The norms' epsilon, as the config gives it. */
  eps: number
  act: Activation
  /** SwiGLU-style feed-forward: act(gate) * up. */
  gated: boolean
  rope: Rope | null
  /** RMSNorm on each query and key head before RoPE (Qwen3). */
  qkNorm: boolean
  /** The output head is the embedding table. */
  tied: boolean
  /** How an encoder's last hidden states become one vector; null for decoders. */
  pooling: 'mean' | 'cls' | null
  /** Scale the pooled vector to unit length. */
  normalize: boolean
  /** Class names by index, for `classify`. */
  labels: string[] | null
  bosId: number | null
  /** Ids that end a generation. */
  eosIds: number[]
}

/** A scale m·2^-e, m in [2^15, 2^16). */
export interface Scale {
  m: number
  e: number
}

/** The integers that fix a model's arithmetic besides its tensors: chosen once, by the packer, and hashed with it. */
export interface Exact {
  /** The residual stream is in Q(residualBits). */
  residualBits: number
  /** D·eps·2^(2·residualBits) = m·2^k for the norms over the residual. */
  eps: { m: number; k: number }
  /** headDim·eps·2^32 for the q/k norm. */
  headEps: { m: number; k: number } | null
  /** LayerNorm output constants (null for RMSNorm, whose constant lives in the next layer's channel scales). */
  embedNorm: Scale | null
  finalNorm: Scale | null
  blocks: BlockExact[]
  /** 15-bit inputs (A15) for the layers behind the blocks. */
  a15: { head: boolean; pooler: boolean; classifier: boolean }
}

export interface BlockExact {
  /** log2(e)/sqrt(headDim)/127² with the q/k norms' constants folded in. */
  score: Scale
  norm1: Scale | null
  norm2: Scale | null
  a15: { qkv: boolean; o: boolean; up: boolean; down: boolean }
}
