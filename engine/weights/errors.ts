/**
 * What can be wrong with a model's files. One class, so that a caller can tell "the model is bad" from "we are broken",
 * and one code per cause, so that a message can be reworded without breaking anybody.
 */

export type ModelErrorCode =
  // files
  | 'file-missing'
  | 'file-unreadable'
  | 'file-truncated'
  | 'json-invalid'
  | 'path-unsafe'
  // safetensors
  | 'header-truncated'
  | 'header-too-large'
  | 'header-invalid'
  | 'header-duplicate-key'
  | 'dtype-unknown'
  | 'shape-invalid'
  | 'offsets-invalid'
  | 'size-mismatch'
  | 'shard-missing'
  | 'shard-lacks-tensor'
  // tensors
  | 'tensor-missing'
  | 'tensor-shape'
  | 'tensor-unexpected'
  | 'dtype-unsupported'
  | 'not-finite'
  | 'range-invalid'
  // config
  | 'config-invalid'
  | 'architecture-unsupported'
  | 'activation-unsupported'
  | 'option-unsupported'
  // packs
  | 'manifest-invalid'
  | 'digest-mismatch'
  | 'chunk-mismatch'
  | 'saturation'
  // use
  | 'context-exceeded'
  | 'input-invalid'
  | 'memory-exceeded'
  | 'backend-unavailable'
  // tokenizer
  | 'tokenizer-invalid'
  | 'tokenizer-mismatch'
  | 'token-invalid'
  | 'text-invalid'
  | 'template-missing'
  | 'template-failed'

export interface ModelFault {
  /** The file at fault, as the caller named it. */
  file?: string
  /** The tensor at fault. */
  tensor?: string
  /** What is wrong, with the numbers. */
  what: string
  /** What to do about it, as an imperative. */
  todo: string
}

/** A model's files are missing, damaged, hostile or not supported. The message says where, what, and what to do. */
export class ModelError extends Error {
  readonly code: ModelErrorCode
  readonly file: string | null
  readonly tensor: string | null

  constructor(code: ModelErrorCode, fault: ModelFault, cause?: unknown) {
    const where = [fault.file, fault.tensor && `tensor ${quote(fault.tensor)}`].filter(Boolean).join(', ')
    super(
      `${where ? `${where}: ` : ''}${fault.what}. ${fault.todo}.`,
      cause === undefined ? undefined : { cause },
    )
    this.name = 'ModelError'
    this.code = code
    this.file = fault.file ?? null
    this.tensor = fault.tensor ?? null
  }
}

/** Text from a stranger's file, made fit for a message: quoted, control characters escaped, cut at 120 characters. */
export function quote(text: string): string {
  const shown = JSON.stringify(text.length > 120 ? `${text.slice(0, 117)}...` : text)
  return shown.replace(
    /[\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069]/g,
    (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`,
  )
}
