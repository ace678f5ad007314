/**
 * A pack is a model in xn1: a manifest and content-addressed files. The manifest's own SHA-256 is the model's digest; it names
 * every file by hash, so the digest fixes every weight, scale, table and constant the arithmetic depends on.
 * Here a stranger's manifest is parsed: after parseManifest every offset lies inside its file and every shape is the spec's.
 */
import * as v from 'valibot'
import { DTYPE_BYTES } from '../../shaders/kernel.ts'
import { ModelError } from '../weights/errors.ts'
import type { Exact, ModelSpec } from '../models/spec.ts'
import { expectedTensors } from './tensors.ts'

export const NUMERICS = 'xn1'
export const CHUNK_BYTES = 4 * 1024 * 1024

const count = (max: number) => v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(max))
const positive = (max: number) => v.pipe(v.number(), v.integer(), v.minValue(1), v.maxValue(max))
const hash = v.pipe(v.string(), v.regex(/^[0-9a-f]{64}$/))
const text = v.pipe(v.string(), v.maxLength(500))
const exponent = v.pipe(v.number(), v.integer(), v.minValue(-1000), v.maxValue(1000))
const scale = v.object({
  m: v.pipe(v.number(), v.integer(), v.minValue(32768), v.maxValue(65535)),
  e: exponent,
})
const epsilon = v.object({ m: count(65535), k: exponent })
const finite = v.pipe(v.number(), v.finite())

const rope = v.object({
  theta: finite,
  scaling: v.nullable(
    v.variant('type', [
      v.object({ type: v.literal('linear'), factor: finite }),
      v.object({
        type: v.literal('llama3'),
        factor: finite,
        lowFreqFactor: finite,
        highFreqFactor: finite,
        originalContext: finite,
      }),
    ]),
  ),
})

const spec = v.object({
  family: v.picklist(['llama', 'gpt2', 'bert']),
  task: v.picklist(['generate', 'embed', 'classify']),
  layers: positive(1024),
  width: positive(32767),
  heads: positive(1024),
  kvHeads: positive(1024),
  headDim: positive(1024),
  ff: positive(131072),
  vocab: positive(262144),
  context: positive(131072),
  norm: v.picklist(['rms', 'layer']),
  eps: finite,
  act: v.picklist(['silu', 'gelu', 'gelu_tanh', 'relu', 'tanh']),
  gated: v.boolean(),
  rope: v.nullable(rope),
  qkNorm: v.boolean(),
  tied: v.boolean(),
  pooling: v.nullable(v.picklist(['mean', 'cls'])),
  normalize: v.boolean(),
  labels: v.nullable(v.pipe(v.array(text), v.minLength(1), v.maxLength(100000))),
  bosId: v.nullable(count(262143)),
  eosIds: v.pipe(v.array(count(262143)), v.maxLength(64)),
})

const exact = v.object({
  residualBits: v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(24)),
  eps: epsilon,
  headEps: v.nullable(epsilon),
  embedNorm: v.nullable(scale),
  finalNorm: v.nullable(scale),
  blocks: v.array(
    v.object({
      score: scale,
      norm1: v.nullable(scale),
      norm2: v.nullable(scale),
      a15: v.object({ qkv: v.boolean(), o: v.boolean(), up: v.boolean(), down: v.boolean() }),
    }),
  ),
  a15: v.object({ head: v.boolean(), pooler: v.boolean(), classifier: v.boolean() }),
})

/** At most 16, with shares of at most 1 together; a name becomes part of an account's. */
export const owners = v.pipe(
  v.array(
    v.object({
      name: v.pipe(
        v.string(),
        v.regex(/^[\w@][\w .@+/-]{0,99}$/, 'a name of letters, digits and . @ + / - _'),
      ),
      share: v.pipe(finite, v.minValue(0), v.maxValue(1)),
    }),
  ),
  v.maxLength(16),
  v.check((all) => all.reduce((n, { share }) => n + share, 0) <= 1, 'shares of at most 1 together'),
)

const manifestSchema = v.object({
  format: v.literal('chorale-pack'),
  version: v.literal(1),
  numerics: v.literal(NUMERICS),
  /** What people call it: the folder's or the hub's name. */
  name: v.pipe(v.string(), v.minLength(1), v.maxLength(200)),
  license: v.nullable(text),
  /** Who made it, and which share of what its work earns is theirs. */
  owners: v.optional(owners),
  spec,
  exact,
  tensors: v.record(
    v.string(),
    v.object({
      dtype: v.picklist(['i8', 'i16', 'i32', 'u32']),
      shape: v.pipe(v.array(positive(2 ** 31)), v.minLength(1), v.maxLength(3)),
      file: v.string(),
      offset: count(2 ** 50),
    }),
  ),
  files: v.record(
    v.pipe(v.string(), v.regex(/^[a-z0-9][a-z0-9._-]{0,99}$/)),
    v.object({ bytes: positive(2 ** 50), sha256: hash, chunks: v.pipe(v.array(hash), v.minLength(1)) }),
  ),
})

export type Manifest = v.InferOutput<typeof manifestSchema> & { spec: ModelSpec; exact: Exact }
export type TensorEntry = Manifest['tensors'][string]
export type FileEntry = Manifest['files'][string]

export const tensorBytes = ({ dtype, shape }: Pick<TensorEntry, 'dtype' | 'shape'>): number =>
  shape.reduce((a, b) => a * b, DTYPE_BYTES[dtype])

/** Parses manifest.json. Throws ModelError `manifest-invalid`, naming the field. */
export function parseManifest(bytes: Uint8Array, file = 'manifest.json'): Manifest {
  const fail = (what: string): never => {
    throw new ModelError('manifest-invalid', {
      file,
      what,
      todo: 'Get the pack again, or pack the model again',
    })
  }
  let json: unknown
  try {
    json = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes))
  } catch (error) {
    return fail(`it is not JSON (${(error as Error).message})`)
  }
  const parsed = v.safeParse(manifestSchema, json)
  if (!parsed.success) {
    const issue = parsed.issues[0]
    return fail(`${v.getDotPath(issue) ?? 'the top level'}: ${issue.message}`)
  }
  const manifest = parsed.output
  const { spec: s, exact: x, tensors, files } = manifest
  if (s.rope && s.headDim % 2) fail('spec.headDim is odd, which RoPE cannot rotate')
  if (s.heads % s.kvHeads) fail(`spec.heads ${s.heads} is not a multiple of spec.kvHeads ${s.kvHeads}`)
  if (x.blocks.length !== s.layers) fail(`exact.blocks has ${x.blocks.length} entries for ${s.layers} layers`)
  if (s.task === 'classify' && !s.labels) fail('spec.labels is null for a classifier')
  if (
    s.norm === 'layer' &&
    (x.blocks.some((b) => !b.norm1 || !b.norm2) || (s.family === 'bert' ? !x.embedNorm : !x.finalNorm))
  )
    fail('exact lacks a LayerNorm constant')
  if (s.qkNorm && !x.headEps) fail('exact.headEps is null for a model with q/k norms')

  const expected = expectedTensors(s)
  for (const name of Object.keys(tensors))
    if (!expected.has(name)) fail(`tensors.${name} is not a tensor of this model`)
  for (const [name, { dtype, shape, optional }] of expected) {
    const entry = tensors[name]
    if (!entry) {
      if (!optional) fail(`tensors.${name} is missing`)
      continue
    }
    if (entry.dtype !== dtype || entry.shape.join() !== shape.join())
      fail(`tensors.${name} is ${entry.dtype}[${entry.shape}], the spec asks for ${dtype}[${shape}]`)
    const home = Object.hasOwn(files, entry.file) ? files[entry.file] : undefined
    if (!home) return fail(`tensors.${name} lies in a file that is not listed`)
    if (entry.offset % 16) fail(`tensors.${name} starts at ${entry.offset}, not a multiple of 16`)
    if (entry.offset + tensorBytes(entry) > home.bytes) fail(`tensors.${name} ends behind its file`)
  }
  for (const [name, { bytes: size, chunks }] of Object.entries(files))
    if (chunks.length !== Math.ceil(size / CHUNK_BYTES))
      fail(`files.${name} has ${chunks.length} chunk hashes for ${size} bytes`)
  return manifest
}
