import { describe, expect, test } from 'vitest'
import fc from 'fast-check'
import { ModelError } from '../../engine/weights/errors.ts'
import { decodeFloats, f16ToNumber } from '../../engine/weights/float.ts'
import {
  findDuplicateKey,
  headerBytesMax,
  openSafetensors,
  openSharded,
  parseIndex,
} from '../../engine/weights/safetensors.ts'
import { f32, file, memory, refusal, sound } from './build.ts'

const none = new Uint8Array(0)
const open = (bytes: Uint8Array) => openSafetensors(memory(bytes))
const header = (entries: unknown, data: number): Uint8Array =>
  file(JSON.stringify(entries), new Uint8Array(data))

describe('floats', () => {
  test('every f16 and every bf16 decodes to its exact value', () => {
    const bits = Uint16Array.from({ length: 65536 }, (_, i) => i)
    const bytes = new Uint8Array(bits.buffer)
    // Node's own Float16Array, and a DataView for bf16, are the independent witnesses.
    const half = new Float16Array(bits.buffer)
    const view = new DataView(new ArrayBuffer(4))
    for (let i = 0; i < 65536; i++) {
      expect(f16ToNumber(i)).toBe(half[i])
      const out = new Float32Array(2)
      const first = decodeFloats('F16', bytes.subarray(i * 2, i * 2 + 2), out.subarray(0, 1))
      expect(out[0]).toBe(half[i])
      expect(first).toBe(Number.isFinite(half[i]) ? -1 : 0)
      view.setUint16(0, i)
      decodeFloats('BF16', bytes.subarray(i * 2, i * 2 + 2), out.subarray(1, 2))
      expect(out[1]).toBe(view.getFloat32(0))
    }
  })
})

describe('a sound file', () => {
  const values = Float32Array.from({ length: 15 }, (_, i) => i * 0.25 - 1)
  const f16 = { dtype: 'F16', shape: [5, 3], bytes: new Uint8Array(new Float16Array(values).buffer) }
  const bf16 = {
    dtype: 'BF16',
    shape: [15],
    bytes: new Uint8Array(Uint16Array.from(new Uint32Array(values.buffer), (w) => w >>> 16).buffer),
  }

  test('reads back what was written, wherever the header ends', async () => {
    for (let pad = 0; pad < 9; pad++) {
      const source = await open(
        sound({ a: f32([5, 3], values), b: f16, c: bf16, one: f32([], [7]), empty: f32([0, 4], []) }, pad),
      )
      expect(source.names()).toEqual(['a', 'b', 'c', 'one', 'empty'])
      expect(source.info('b')).toEqual({ dtype: 'F16', shape: [5, 3], bytes: 30, file: 'memory.safetensors' })
      for (const name of ['a', 'b', 'c']) expect(await source.read(name)).toEqual(values)
      expect(await source.read('one')).toEqual(Float32Array.of(7))
      expect(await source.read('empty')).toEqual(new Float32Array(0))
      expect(await source.readRows('a', 1, 3)).toEqual(values.slice(3, 9))
      expect(await source.readRows('b', 4, 5)).toEqual(values.slice(12))
      expect(await source.readRows('c', 2, 2)).toEqual(new Float32Array(0))
    }
  })

  test('a tensor larger than a chunk is read in pieces of at most 4 MiB', async () => {
    const big = Float32Array.from({ length: 3_000_000 }, (_, i) => i)
    const bytes = memory(sound({ big: f32([3000, 1000], big) }))
    const source = await openSafetensors(bytes)
    expect(
      Buffer.compare(new Uint8Array((await source.read('big')).buffer), new Uint8Array(big.buffer)),
    ).toBe(0)
    expect(await source.readRows('big', 2990, 3000)).toEqual(big.slice(2_990_000))
    expect(bytes.largest).toBe(4 << 20)
  })

  test('a name may be __proto__ and a dtype may be one we do not read, until it is read', async () => {
    const source = await open(
      file('{"__proto__":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}}', new Uint8Array(8)),
    )
    expect(source.names()).toEqual(['__proto__'])
    expect((await refusal('dtype-unsupported', () => source.read('__proto__'))).message).toContain('I64')
    await refusal('tensor-missing', () => source.read('constructor'))
  })

  test('rows that are not there are refused', async () => {
    const source = await open(sound({ a: f32([5, 3], values) }))
    for (const [from, to] of [
      [0, 6],
      [-1, 2],
      [3, 2],
      [0.5, 1],
      [NaN, 1],
    ] as const) {
      await refusal('range-invalid', () => source.readRows('a', from, to))
    }
  })

  test('NaN and infinity are refused when read, by tensor and index', async () => {
    for (const bad of [NaN, Infinity, -Infinity]) {
      const source = await open(sound({ w: f32([2, 3], [0, 1, 2, 3, bad, 5]) }))
      const error = await refusal('not-finite', () => source.read('w'))
      expect(error.message).toContain('"w"')
      expect(error.message).toContain('element 4')
      expect((await refusal('not-finite', () => source.readRows('w', 1, 2))).message).toContain('element 4')
      expect(await source.readRows('w', 0, 1)).toEqual(Float32Array.of(0, 1, 2))
    }
  })
})

describe('a bad file is refused by name, and closed', () => {
  const entry = { dtype: 'F32', shape: [2], data_offsets: [0, 8] }
  const cases: [string, Parameters<typeof refusal>[0], Uint8Array][] = [
    ['empty file', 'header-truncated', none],
    ['seven bytes', 'header-truncated', new Uint8Array(7)],
    ['header longer than the file', 'header-truncated', file('{}', none, 3n)],
    ['header over 100 MB', 'header-too-large', file('{}', none, BigInt(headerBytesMax) + 1n)],
    ['header of 2^64-1', 'header-too-large', file('{}', none, 2n ** 64n - 1n)],
    ['empty header', 'json-invalid', file('', none)],
    ['bad JSON', 'json-invalid', file('{"a":', none)],
    ['a byte order mark', 'json-invalid', file('\ufeff{}', none)],
    ['deep nesting', 'json-invalid', file('['.repeat(2_000_000), none)],
    ['not UTF-8', 'header-invalid', file(Uint8Array.of(0x7b, 0x22, 0xff, 0x22, 0x7d), none)],
    ['a list', 'header-invalid', file('[]', none)],
    ['null', 'header-invalid', file('null', none)],
    [
      'duplicate tensor',
      'header-duplicate-key',
      file(`{"a":${JSON.stringify(entry)},"a":${JSON.stringify(entry)}}`, new Uint8Array(8)),
    ],
    [
      'duplicate tensor, escaped',
      'header-duplicate-key',
      file(`{"a":${JSON.stringify(entry)},"\\u0061" :${JSON.stringify(entry)}}`, new Uint8Array(8)),
    ],
    [
      'duplicate field',
      'header-duplicate-key',
      file('{"a":{"dtype":"F32","shape":[2],"shape":[1],"data_offsets":[0,8]}}', new Uint8Array(8)),
    ],
    ['metadata a string', 'header-invalid', header({ __metadata__: 'x' }, 0)],
    ['entry a number', 'header-invalid', header({ a: 1 }, 0)],
    ['no dtype', 'header-invalid', header({ a: { ...entry, dtype: undefined } }, 8)],
    ['unknown dtype', 'dtype-unknown', header({ a: { ...entry, dtype: 'F31' } }, 8)],
    ['dtype of the prototype', 'dtype-unknown', header({ a: { ...entry, dtype: 'toString' } }, 8)],
    ['shape a number', 'header-invalid', header({ a: { ...entry, shape: 2 } }, 8)],
    ['negative dimension', 'shape-invalid', header({ a: { ...entry, shape: [-2] } }, 8)],
    ['two negative dimensions', 'shape-invalid', header({ a: { ...entry, shape: [-1, -2] } }, 8)],
    ['fractional dimension', 'shape-invalid', header({ a: { ...entry, shape: [0.5, 4] } }, 8)],
    ['dimension as text', 'shape-invalid', header({ a: { ...entry, shape: ['2'] } }, 8)],
    [
      'huge dimension',
      'shape-invalid',
      file('{"a":{"dtype":"F32","shape":[1e300],"data_offsets":[0,8]}}', new Uint8Array(8)),
    ],
    [
      'product wraps 64 bits to 0',
      'shape-invalid',
      header({ a: { ...entry, shape: [2 ** 32, 2 ** 32] } }, 8),
    ],
    ['product wraps to 2', 'shape-invalid', header({ a: { ...entry, shape: [2 ** 33 + 2, 2 ** 31, 2] } }, 8)],
    ['one offset', 'header-invalid', header({ a: { ...entry, data_offsets: [8] } }, 8)],
    ['offsets backwards', 'offsets-invalid', header({ a: { ...entry, data_offsets: [8, 0] } }, 8)],
    ['offsets negative', 'offsets-invalid', header({ a: { ...entry, data_offsets: [-8, 0] } }, 8)],
    ['shape and bytes differ', 'size-mismatch', header({ a: { ...entry, data_offsets: [0, 7] } }, 7)],
    ['past the end', 'offsets-invalid', header({ a: entry }, 7)],
    ['overlap', 'offsets-invalid', header({ a: entry, b: { ...entry, data_offsets: [4, 12] } }, 12)],
    ['same bytes twice', 'offsets-invalid', header({ a: entry, b: entry }, 8)],
    ['hole at the start', 'offsets-invalid', header({ a: { ...entry, data_offsets: [4, 12] } }, 12)],
    ['hole between', 'offsets-invalid', header({ a: entry, b: { ...entry, data_offsets: [12, 20] } }, 20)],
    ['hole at the end', 'offsets-invalid', header({ a: entry }, 9)],
    ['data without tensors', 'offsets-invalid', header({}, 1)],
  ]
  test.each(cases)('%s', async (_, code, bytes) => {
    const source = memory(bytes)
    const error = await refusal(code, () => openSafetensors(source))
    expect(source.closed).toBe(true)
    expect(error.message).toMatch(/^memory\.safetensors.*: .+\. .+\.$/s)
  })

  test('a message cannot be forged by a tensor name', async () => {
    const error = await refusal('header-invalid', () => open(header({ 'x\n\u001b[31m\u202eroot': 1 }, 0)))
    for (const c of '\n\u001b\u202e') expect(error.message).not.toContain(c)
  })

  test('every truncation of a sound file is refused', async () => {
    const whole = sound({ a: f32([2, 2], [1, 2, 3, 4]), b: f32([1], [5]) })
    for (let n = 0; n < whole.length; n++)
      await expect(open(whole.slice(0, n))).rejects.toBeInstanceOf(ModelError)
  })
})

describe('anything at all is a sound file or a ModelError', () => {
  const survives = async (bytes: Uint8Array): Promise<void> => {
    try {
      const source = await open(bytes)
      for (const name of source.names()) await source.read(name)
    } catch (error) {
      if (!(error instanceof ModelError)) throw error
    }
  }
  const whole = sound({
    'h.0.w': f32([2, 3], [1, 2, 3, 4, 5, 6]),
    b: { dtype: 'BF16', shape: [3], bytes: new Uint8Array(6) },
  })

  test('bytes of a sound file changed, cut or repeated', async () => {
    const edit = fc.record({ at: fc.nat(whole.length - 1), to: fc.nat(255) })
    await fc.assert(
      fc.asyncProperty(
        fc.array(edit, { maxLength: 6 }),
        fc.nat(whole.length),
        fc.uint8Array({ maxLength: 20 }),
        async (edits, keep, tail) => {
          const bytes = whole.slice()
          for (const { at, to } of edits) bytes[at] = to
          await survives(Uint8Array.of(...bytes.subarray(0, keep), ...tail))
          await survives(bytes)
        },
      ),
      { numRuns: 2000 },
    )
  })

  test('headers of any JSON, and of nearly right JSON', async () => {
    const size = fc.oneof(
      fc.nat(40),
      fc.constantFrom(-1, 0.5, 2 ** 31, 2 ** 32, 2 ** 53, 1e300, null, '8', [8]),
    )
    const entry = fc.record(
      {
        dtype: fc.oneof(
          fc.constantFrom('F32', 'F16', 'BF16', 'I64', 'F4', 'F6_E2M3', 'constructor', ''),
          fc.jsonValue(),
        ),
        shape: fc.oneof(fc.array(size, { maxLength: 4 }), fc.jsonValue()),
        data_offsets: fc.oneof(fc.tuple(size, size), fc.jsonValue()),
      },
      { requiredKeys: [] },
    )
    const root = fc.oneof(
      fc.jsonValue(),
      fc.dictionary(fc.oneof(fc.constantFrom('a', '__proto__', '__metadata__'), fc.string()), entry),
    )
    await fc.assert(
      fc.asyncProperty(root, fc.nat(64), async (value, data) => survives(header(value, data))),
      { numRuns: 3000 },
    )
  })

  test('indexes of any JSON', () => {
    fc.assert(
      fc.property(
        fc.oneof(
          fc.json(),
          fc.string(),
          fc.dictionary(fc.string(), fc.string()).map((m) => JSON.stringify({ weight_map: m })),
        ),
        (text) => {
          try {
            for (const shard of parseIndex(text, 'index').values())
              expect(shard).toMatch(/^\w[\w.-]*\.safetensors$/)
          } catch (error) {
            if (!(error instanceof ModelError)) throw error
          }
        },
      ),
      { numRuns: 2000 },
    )
  })

  test('a duplicate key is found wherever it is, and only there', () => {
    fc.assert(
      fc.property(fc.jsonValue(), fc.string(), (value, key) => {
        expect(findDuplicateKey(JSON.stringify(value, null, 1))).toBe(null)
        const k = JSON.stringify(key)
        const deep = `[1,{"outer":${JSON.stringify(value)},"in":{${k}:[{}],"x${k.slice(1)}:2, ${k} : 3}}]`
        expect(findDuplicateKey(deep)).toBe(JSON.parse(k))
      }),
    )
  })
})

describe('shards', () => {
  const shards: Record<string, Uint8Array> = {
    'model-1.safetensors': sound({ a: f32([2], [1, 2]) }),
    'model-2.safetensors': sound({ b: f32([1], [3]), c: f32([1], [4]) }),
  }
  const openIndex = (map: Record<string, unknown>) =>
    openSharded(JSON.stringify({ weight_map: map }), 'index.json', async (name) => {
      const bytes = shards[name]
      if (!bytes) throw new ModelError('file-missing', { file: name, what: 'gone', todo: 'Find it' })
      return memory(bytes, name)
    })

  test('read as one, by the index', async () => {
    const source = await openIndex({ a: 'model-1.safetensors', b: 'model-2.safetensors' })
    expect(source.names()).toEqual(['a', 'b'])
    expect(await source.read('b')).toEqual(Float32Array.of(3))
    expect(await source.readRows('a', 1, 2)).toEqual(Float32Array.of(2))
    expect(source.info('b').file).toBe('model-2.safetensors')
    await refusal('tensor-missing', () => source.read('c'))
  })

  test('a shard that is missing, or lacks the tensor', async () => {
    await refusal('shard-missing', () => openIndex({ a: 'model-3.safetensors' }))
    await refusal('shard-lacks-tensor', () => openIndex({ a: 'model-2.safetensors' }))
  })

  test.each([
    '../x.safetensors',
    '/etc/x.safetensors',
    'a/b.safetensors',
    'a\\b.safetensors',
    'C:x.safetensors',
    '..',
    '.x.safetensors',
    'x\0.safetensors',
    '-rf.safetensors',
    'config.json',
    'x.safetensors\n',
    '',
  ])('path trick %j', async (name) => {
    await refusal('path-unsafe', () => openIndex({ a: name }))
  })

  test('an index that is not one', async () => {
    for (const text of [
      '',
      '{',
      '[]',
      '{}',
      '{"weight_map":[]}',
      '{"weight_map":{"a":1}}',
      '{"weight_map":{"a":"x.safetensors","a":"y.safetensors"}}',
    ]) {
      expect(() => parseIndex(text, 'i')).toThrow(ModelError)
    }
  })
})
