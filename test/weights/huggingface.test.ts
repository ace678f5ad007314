import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { ModelError } from '../../engine/weights/errors.ts'
import type { ModelErrorCode } from '../../engine/weights/errors.ts'
import { openModelFolder } from '../../engine/weights/huggingface.ts'
import type { ModelFolder } from '../../engine/weights/huggingface.ts'
import type { Linear, Norm, Weight } from '../../engine/weights/logical.ts'
import { makeRandomModel, recipeOf, shapes } from '../../scripts/make-random-model.ts'
import type { Dims, Recipe } from '../../scripts/make-random-model.ts'
import { law } from '../harness/random.ts'
import type { Random } from '../harness/random.ts'
import { refusal } from './build.ts'

const root = mkdtempSync(join(tmpdir(), 'chorale-weights-'))
afterAll(() => rmSync(root, { recursive: true }))
let made = 0

function make(recipe: Recipe, edit?: (folder: string) => void): string {
  const folder = join(root, String(made++))
  makeRandomModel(folder, recipe)
  edit?.(folder)
  return folder
}

async function withFolder<T>(path: string, use: (folder: ModelFolder) => Promise<T> | T): Promise<T> {
  const folder = await openModelFolder(path)
  try {
    return await use(folder)
  } finally {
    await folder.close()
  }
}

function editJson(folder: string, name: string, edit: (json: Record<string, unknown>) => void): void {
  const path = join(folder, name)
  const json = existsSync(path) ? (JSON.parse(readFileSync(path, 'utf8')) as Record<string, unknown>) : {}
  edit(json)
  mkdirSync(join(path, '..'), { recursive: true })
  writeFileSync(path, JSON.stringify(json))
}

function allWeights({ spec, weights }: ModelFolder): Weight[] {
  const of = (part: Linear | Norm | Weight | null): (Weight | null)[] =>
    part === null
      ? []
      : 'read' in part
        ? [part]
        : 'gain' in part
          ? [part.gain, part.bias]
          : [part.weight, part.bias]
  const blocks = Array.from(
    { length: spec.layers },
    (_, i) => Object.values(weights.blockTensors(i)) as (Linear | Norm | null)[],
  )
  const { embedding, positions, embeddingNorm, finalNorm, head, pooler, classifier } = weights
  return [embedding, positions, embeddingNorm, finalNorm, head, pooler, classifier, ...blocks.flat()]
    .flatMap(of)
    .filter((w) => w !== null)
}

const odd: [string, Dims, Partial<Record<string, unknown>>][] = [
  [
    'llama, one key head, untied, Llama 3 positions',
    { family: 'llama', heads: 5, kvHeads: 1, headDim: 10, tied: false, rope: 'llama3' },
    {
      family: 'llama',
      task: 'generate',
      width: 50,
      heads: 5,
      kvHeads: 1,
      headDim: 10,
      ff: 101,
      vocab: 257,
      tied: false,
      gated: true,
      norm: 'rms',
      act: 'silu',
      qkNorm: false,
      rope: {
        theta: 10000,
        scaling: { type: 'llama3', factor: 8, lowFreqFactor: 1, highFreqFactor: 4, originalContext: 32 },
      },
      bosId: 256,
      eosIds: [256],
    },
  ],
  [
    'llama with biases, linear positions',
    { family: 'llama', bias: true, rope: 'linear' },
    { rope: { theta: 10000, scaling: { type: 'linear', factor: 2 } }, tied: true },
  ],
  [
    'mistral',
    { family: 'mistral', heads: 10, kvHeads: 2, headDim: 6 },
    { kvHeads: 2, headDim: 6, rope: { theta: 10000, scaling: null } },
  ],
  ['qwen2', { family: 'qwen2', width: 36, heads: 6, kvHeads: 3 }, { headDim: 6, kvHeads: 3 }],
  ['qwen3', { family: 'qwen3', width: 34, heads: 3, kvHeads: 1, headDim: 14 }, { qkNorm: true, headDim: 14 }],
  [
    'gpt2',
    { family: 'gpt2', width: 35, heads: 7, ff: 33 },
    {
      family: 'gpt2',
      norm: 'layer',
      gated: false,
      act: 'gelu_tanh',
      headDim: 5,
      ff: 33,
      rope: null,
      context: 64,
      tied: true,
    },
  ],
  ['gpt2, untied', { family: 'gpt2', width: 20, tied: false }, { tied: false }],
  [
    'bert',
    { family: 'bert', vocab: 300 },
    {
      family: 'bert',
      task: 'embed',
      act: 'gelu',
      pooling: 'mean',
      normalize: true,
      labels: null,
      eosIds: [],
    },
  ],
  [
    'bert by its first token',
    { family: 'bert', vocab: 300, pooling: 'cls', normalize: false },
    { pooling: 'cls', normalize: false },
  ],
  [
    'bert, classify',
    { family: 'bert-classify', vocab: 300, labels: 5 },
    { task: 'classify', labels: ['label-0', 'label-1', 'label-2', 'label-3', 'label-4'] },
  ],
]

describe.each(odd)('%s', (name, dims, spec) => {
  test('is understood, and every parameter of the file has its place', async () => {
    await withFolder(make(recipeOf(dims)), (folder) => {
      expect(folder.spec).toMatchObject(spec)
      const placed = allWeights(folder).reduce((sum, w) => sum + w.shape.reduce((a, b) => a * b, 1), 0)
      let stored = folder.tensors.names().reduce((sum, n) => sum + folder.tensors.info(n).bytes / 4, 0)
      // Not placed on their own: token types (folded into the positions), and the pooler of an encoder for embeddings.
      for (const n of folder.tensors.names()) {
        if (/token_type/.test(n) || (folder.spec.task === 'embed' && /pooler/.test(n)))
          stored -= folder.tensors.info(n).bytes / 4
      }
      expect(placed).toBe(stored)
      expect(folder.files.tokenizer).not.toBe(null)
    })
  })

  law(`${name}: rows are slices of the whole, for every weight`, async (random: Random) => {
    await withFolder(
      make(recipeOf(dims, random.pick(['F32', 'F16', 'BF16'] as const), random.u32())),
      async (folder) => {
        for (const w of allWeights(folder)) {
          const whole = await w.read()
          const [rows, ...rest] = w.shape as [number, ...number[]]
          const width = rest.reduce((a, b) => a * b, 1)
          expect(whole.length).toBe(rows * width)
          const from = random.int(0, rows)
          const to = random.int(from, rows)
          expect(await w.readRows(from, to)).toEqual(whole.slice(from * width, to * width))
          await refusal('range-invalid', () => w.readRows(from, rows + 1))
        }
      },
    )
  })

  test('reads the same from shards', async () => {
    await withFolder(make(recipeOf(dims)), async (one) => {
      await withFolder(make({ ...recipeOf(dims), shards: 3 }), async (three) => {
        expect(three.files.weights.length).toBe(3)
        expect(three.spec).toEqual(one.spec)
        const [a, b] = [allWeights(one), allWeights(three)]
        expect(b.length).toBe(a.length)
        for (let i = 0; i < a.length; i++) expect(await b[i]!.read()).toEqual(await a[i]!.read())
      })
    })
  })
})

describe('layouts', () => {
  test('gpt2: [in, out] is turned, and q, k, v are taken apart', async () => {
    await withFolder(
      make(recipeOf({ family: 'gpt2', width: 6, heads: 2, ff: 5 })),
      async ({ tensors, weights }) => {
        const stored = await tensors.read('transformer.h.1.attn.c_attn.weight')
        const bias = await tensors.read('transformer.h.1.attn.c_attn.bias')
        const block = weights.blockTensors(1)
        for (const [part, linear] of [block.q, block.k, block.v].entries()) {
          const weight = await linear.weight.read()
          for (let out = 0; out < 6; out++) {
            for (let i = 0; i < 6; i++) expect(weight[out * 6 + i]).toBe(stored[i * 18 + part * 6 + out])
          }
          expect(await linear.bias!.read()).toEqual(bias.slice(part * 6, part * 6 + 6))
        }
        const up = await tensors.read('transformer.h.0.mlp.c_fc.weight')
        expect(weights.blockTensors(0).up.weight.shape).toEqual([5, 6])
        expect((await weights.blockTensors(0).up.weight.read())[4 * 6 + 2]).toBe(up[2 * 5 + 4])
      },
    )
  })

  test('bert: token type 0 is in the positions, and the context may be shorter than the table', async () => {
    const recipe = recipeOf({ family: 'bert', vocab: 300, pooling: 'mean' })
    recipe.files!['sentence_bert_config.json'] = { max_seq_length: 9 }
    await withFolder(make(recipe), async ({ spec, tensors, weights }) => {
      expect(spec.context).toBe(9)
      expect(weights.positions!.shape).toEqual([9, 50])
      const position = await tensors.read('embeddings.position_embeddings.weight')
      const type = await tensors.read('embeddings.token_type_embeddings.weight')
      expect(await weights.positions!.readRows(3, 9)).toEqual(
        position.slice(150, 450).map((v, i) => v + type[i % 50]!),
      )
    })
  })

  test('all-MiniLM-L6-v2: mean, unit length, 256 tokens of 512', async () => {
    const { config, files } = shapes['minilm-l6']!()
    const small = {
      ...config,
      hidden_size: 24,
      num_attention_heads: 2,
      intermediate_size: 7,
      vocab_size: 300,
      num_hidden_layers: 1,
    }
    await withFolder(make({ config: small, dtype: 'F32', files: files! }), ({ spec }) => {
      expect(spec).toMatchObject({ pooling: 'mean', normalize: true, context: 256 })
    })
  })

  test('the oldest checkpoints say gamma and beta', async () => {
    const folder = make(recipeOf({ family: 'bert', vocab: 300, layers: 1 }), (path) => {
      const file = join(path, 'model.safetensors')
      const bytes = readFileSync(file)
      const length = Number(bytes.readBigUInt64LE())
      const text = bytes
        .toString('utf8', 8, 8 + length)
        .replaceAll('LayerNorm.weight', 'LayerNorm.gamma')
        .replaceAll('LayerNorm.bias', 'LayerNorm.beta')
      const head = Buffer.alloc(8)
      head.writeBigUInt64LE(BigInt(text.length))
      writeFileSync(file, Buffer.concat([head, Buffer.from(text), bytes.subarray(8 + length)]))
    })
    await withFolder(folder, async ({ weights }) => {
      expect((await weights.embeddingNorm!.gain.read()).length).toBe(50)
    })
  })
})

describe('configs', () => {
  const tiny: Dims = { family: 'llama', layers: 1, width: 8, heads: 2, ff: 6 }
  const opened = (edit: (config: Record<string, unknown>) => void, dims = tiny): Promise<ModelFolder> =>
    openModelFolder(make(recipeOf(dims), (folder) => editJson(folder, 'config.json', edit)))

  test('a config silent about tying is tied if there is no head, and untied if there is one', async () => {
    const silent = (c: Record<string, unknown>): void => {
      delete c.tie_word_embeddings
    }
    for (const tied of [true, false]) {
      const folder = await opened(silent, { ...tiny, tied })
      expect(folder.spec.tied).toBe(tied)
      expect(folder.weights.head === null).toBe(tied)
      await folder.close()
    }
    // But one that says "untied" and has no head is broken.
    await refusal('tensor-missing', () => opened((c) => (c.tie_word_embeddings = false)))
  })

  test('eos: one id or a list, the generation config first', async () => {
    const eos = async (config: unknown, generation?: unknown): Promise<number[]> => {
      const path = make(recipeOf(tiny), (folder) => {
        editJson(folder, 'config.json', (c) => (c.eos_token_id = config))
        if (generation !== undefined)
          editJson(folder, 'generation_config.json', (c) => (c.eos_token_id = generation))
      })
      return withFolder(path, ({ spec }) => spec.eosIds)
    }
    expect(await eos(3)).toEqual([3])
    expect(await eos([3, 4, 3])).toEqual([3, 4])
    expect(await eos(null)).toEqual([])
    expect(await eos(3, [5, 6])).toEqual([5, 6])
    expect(await eos(3, null)).toEqual([3])
  })

  test('positions: theta on its own, in rope_parameters, and the older name of the type', async () => {
    const rope = async (edit: (c: Record<string, unknown>) => void): Promise<unknown> => {
      const folder = await opened(edit)
      await folder.close()
      return folder.spec.rope
    }
    expect(await rope((c) => delete c.rope_theta)).toEqual({ theta: 10000, scaling: null })
    expect(await rope((c) => (c.rope_parameters = { rope_theta: 5e5, rope_type: 'default' }))).toEqual({
      theta: 5e5,
      scaling: null,
    })
    expect(
      await rope((c) => (c.rope_parameters = { rope_theta: 1e6, rope_type: 'linear', factor: 4 })),
    ).toEqual({ theta: 1e6, scaling: { type: 'linear', factor: 4 } })
    expect(await rope((c) => (c.rope_scaling = { type: 'linear', factor: 3 }))).toEqual({
      theta: 10000,
      scaling: { type: 'linear', factor: 3 },
    })
  })

  test('a window at least as long as the context is none', async () => {
    for (const window of [null, 64, 4096])
      await (await opened((c) => (c.sliding_window = window), { ...tiny, family: 'mistral' })).close()
    await (
      await opened((c) => Object.assign(c, { sliding_window: 8, use_sliding_window: false }), {
        ...tiny,
        family: 'qwen2',
      })
    ).close()
  })

  const llama = (edit: Record<string, unknown>): [Dims, Record<string, unknown>] => [tiny, edit]
  const gpt2 = (edit: Record<string, unknown>): [Dims, Record<string, unknown>] => [
    { ...tiny, family: 'gpt2' },
    edit,
  ]
  const bert = (edit: Record<string, unknown>): [Dims, Record<string, unknown>] => [
    { ...tiny, family: 'bert-classify', vocab: 300 },
    edit,
  ]
  const refused: [ModelErrorCode, string, [Dims, Record<string, unknown>]][] = [
    ['architecture-unsupported', 'PhiForCausalLM', llama({ architectures: ['PhiForCausalLM'] })],
    ['architecture-unsupported', 'toString', llama({ architectures: ['toString'] })],
    ['architecture-unsupported', 'Chorale reads LlamaForCausalLM', llama({ architectures: [] })],
    ['architecture-unsupported', '7', llama({ architectures: [7] })],
    ['architecture-unsupported', 'undefined', llama({ architectures: undefined })],
    ['activation-unsupported', 'quick_gelu', llama({ hidden_act: 'quick_gelu' })],
    ['activation-unsupported', 'relu2', gpt2({ activation_function: 'relu2' })],
    ['option-unsupported', 'yarn', llama({ rope_scaling: { rope_type: 'yarn', factor: 4 } })],
    ['option-unsupported', 'dynamic', llama({ rope_scaling: { type: 'dynamic', factor: 4 } })],
    [
      'option-unsupported',
      'longrope',
      llama({ rope_parameters: { rope_theta: 1e4, rope_type: 'longrope' } }),
    ],
    ['option-unsupported', 'rope_type', llama({ rope_scaling: {} })],
    ['option-unsupported', 'partial_rotary_factor', llama({ partial_rotary_factor: 0.5 })],
    ['option-unsupported', 'quantization_config', llama({ quantization_config: { quant_method: 'gptq' } })],
    ['option-unsupported', 'sliding_window', [{ ...tiny, family: 'mistral' }, { sliding_window: 63 }]],
    [
      'option-unsupported',
      'sliding_window',
      [
        { ...tiny, family: 'qwen2' },
        { sliding_window: 8, use_sliding_window: true },
      ],
    ],
    [
      'option-unsupported',
      'layer_types',
      [{ ...tiny, family: 'qwen3' }, { layer_types: ['sliding_attention'] }],
    ],
    [
      'option-unsupported',
      'scale_attn_by_inverse_layer_idx',
      gpt2({ scale_attn_by_inverse_layer_idx: true }),
    ],
    ['option-unsupported', 'add_cross_attention', gpt2({ add_cross_attention: true })],
    ['option-unsupported', 'position_embedding_type', bert({ position_embedding_type: 'relative_key' })],
    ['option-unsupported', 'is_decoder', bert({ is_decoder: true })],
    ['option-unsupported', 'problem_type', bert({ problem_type: 'multi_label_classification' })],
    ['config-invalid', 'id2label', bert({ id2label: { 0: 'a', 2: 'c' } })],
    ['tensor-shape', 'classifier', bert({ id2label: { 0: 'a' } })],
    ['config-invalid', 'hidden_size', llama({ hidden_size: undefined })],
    ['config-invalid', 'hidden_size', llama({ hidden_size: '8' })],
    ['config-invalid', 'num_hidden_layers', llama({ num_hidden_layers: -1 })],
    ['config-invalid', 'num_hidden_layers', llama({ num_hidden_layers: 1e300 })],
    ['tensor-missing', 'layers', llama({ num_hidden_layers: 2 ** 31 - 1 })],
    ['config-invalid', 'divide', llama({ num_attention_heads: 3 })],
    [
      'config-invalid',
      'num_key_value_heads',
      llama({ num_attention_heads: 4, num_key_value_heads: 3, head_dim: 4 }),
    ],
    ['config-invalid', 'head_dim', llama({ head_dim: 5 })],
    ['config-invalid', 'rms_norm_eps', llama({ rms_norm_eps: 0 })],
    ['config-invalid', 'rope_theta', llama({ rope_theta: -1 })],
    [
      'config-invalid',
      'high_freq_factor',
      llama({
        rope_scaling: {
          rope_type: 'llama3',
          factor: 8,
          low_freq_factor: 4,
          high_freq_factor: 4,
          original_max_position_embeddings: 8,
        },
      }),
    ],
    ['config-invalid', 'tie_word_embeddings', llama({ tie_word_embeddings: 'yes' })],
    ['config-invalid', 'eos_token_id', llama({ eos_token_id: 257 })],
    ['config-invalid', 'eos_token_id', llama({ eos_token_id: [1, -1] })],
    ['config-invalid', 'bos_token_id', llama({ bos_token_id: 1.5 })],
    ['tensor-shape', 'embed_tokens', llama({ vocab_size: 1000 })],
    ['tensor-missing', 'bias', llama({ attention_bias: true })],
    ['tensor-missing', 'q_norm', llama({ architectures: ['Qwen3ForCausalLM'] })],
    // Left out, they would make it another model.
    ['tensor-unexpected', 'q_norm', [{ ...tiny, family: 'qwen3' }, { architectures: ['LlamaForCausalLM'] }]],
    ['tensor-unexpected', 'bias', [{ ...tiny, bias: true }, { attention_bias: false }]],
  ]
  test.each(refused)('%s: %s', async (code, words, [dims, edit]) => {
    const error = await refusal(code, () => opened((c) => Object.assign(c, edit), dims))
    expect(error.message).toMatch(new RegExp(words))
  })

  test('what a sentence-transformers folder may not ask for', async () => {
    const recipe = recipeOf({ ...tiny, family: 'bert', vocab: 300, pooling: 'mean' })
    const changed = (name: string, json: unknown) => () =>
      openModelFolder(make({ ...recipe, files: { ...recipe.files, [name]: json } }))
    const modules = recipe.files!['modules.json'] as { type: string }[]
    await refusal(
      'option-unsupported',
      changed('modules.json', [...modules.slice(0, 2), { type: 'sentence_transformers.models.Dense' }]),
    )
    await refusal('option-unsupported', changed('modules.json', []))
    await refusal('config-invalid', changed('modules.json', [1]))
    await refusal('config-invalid', changed('modules.json', {}))
    await refusal('option-unsupported', changed('1_Pooling/config.json', { pooling_mode_max_tokens: true }))
    await refusal(
      'option-unsupported',
      changed('1_Pooling/config.json', { pooling_mode_mean_tokens: true, pooling_mode_cls_token: true }),
    )
    await refusal('option-unsupported', changed('1_Pooling/config.json', {}))
  })

  test('files that are missing or are no JSON', async () => {
    await refusal('file-missing', () => openModelFolder(join(root, 'nowhere')))
    await refusal('file-missing', () =>
      openModelFolder(make(recipeOf(tiny), (folder) => rmSync(join(folder, 'model.safetensors')))),
    )
    await refusal('json-invalid', () =>
      openModelFolder(make(recipeOf(tiny), (folder) => writeFileSync(join(folder, 'config.json'), '{'))),
    )
    await refusal('config-invalid', () =>
      openModelFolder(make(recipeOf(tiny), (folder) => writeFileSync(join(folder, 'config.json'), '[]'))),
    )
    await refusal('config-invalid', () =>
      openModelFolder(
        make(recipeOf(tiny), (folder) => writeFileSync(join(folder, 'config.json'), '{"a":1,"a":2}')),
      ),
    )
    await refusal('file-unreadable', () =>
      openModelFolder(
        make(recipeOf(tiny), (folder) => {
          rmSync(join(folder, 'model.safetensors'))
          mkdirSync(join(folder, 'model.safetensors'))
        }),
      ),
    )
    const sharded = { ...recipeOf(tiny), shards: 2 }
    await refusal('shard-missing', () =>
      openModelFolder(make(sharded, (folder) => rmSync(join(folder, 'model-00002-of-00002.safetensors')))),
    )
  })

  law('any one field replaced by anything is a model or a ModelError', async (random: Random) => {
    const anything: unknown[] = [
      null,
      0,
      -1,
      0.5,
      1,
      7,
      2 ** 31,
      2 ** 53,
      1e300,
      '',
      '8',
      'gelu',
      true,
      false,
      [],
      [1],
      [[]],
      {},
      { a: 1 },
      { type: 'linear' },
    ]
    for (const dims of [
      tiny,
      { ...tiny, family: 'qwen3' },
      { ...tiny, family: 'gpt2' },
      { ...tiny, family: 'bert-classify', vocab: 300 },
    ] as Dims[]) {
      const base = make(recipeOf(dims))
      const config = JSON.parse(readFileSync(join(base, 'config.json'), 'utf8')) as Record<string, unknown>
      const keys = [
        ...Object.keys(config),
        'rope_scaling',
        'rope_parameters',
        'head_dim',
        'sliding_window',
        'layer_types',
        'id2label',
        'num_labels',
        'attention_bias',
      ]
      const folder = join(root, String(made++))
      cpSync(base, folder, { recursive: true })
      for (let round = 0; round < 150; round++) {
        const key = random.pick(keys)
        writeFileSync(
          join(folder, 'config.json'),
          JSON.stringify({ ...config, [key]: random.pick(anything) }),
        )
        try {
          await withFolder(folder, () => {})
        } catch (error) {
          if (!(error instanceof ModelError)) throw error
        }
      }
    }
  })
})

test('the same seed makes the same bytes, another seed others, each dtype its own size', () => {
  const bytes = (recipe: Recipe): Buffer => readFileSync(join(make(recipe), 'model.safetensors'))
  const dims: Dims = { family: 'qwen3', layers: 1, width: 8, heads: 2, ff: 6 }
  expect(bytes(recipeOf(dims, 'BF16', 5)).equals(bytes(recipeOf(dims, 'BF16', 5)))).toBe(true)
  expect(bytes(recipeOf(dims, 'BF16', 5)).equals(bytes(recipeOf(dims, 'BF16', 6)))).toBe(false)
  expect(bytes(recipeOf(dims, 'F32')).length).toBeGreaterThan(1.7 * bytes(recipeOf(dims, 'F16')).length)
})
