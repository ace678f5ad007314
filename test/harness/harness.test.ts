import fc from 'fast-check'
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, inject, test } from 'vitest'
import { expand } from '../../shaders/source.ts'
import { findBrowser } from '../../tools/browser.ts'
import { sameBytes } from './bytes.ts'
import { decode, encode } from './message.ts'
import { law, Random } from './random.ts'

describe('message', () => {
  test('decode undoes encode, whatever travels', () => {
    const value = fc.anything({
      withBigInt: true,
      withMap: true,
      withSet: true,
      withTypedArray: true,
      withNullPrototype: false,
    })
    fc.assert(fc.property(value, (it) => void expect(decode(encode(it))).toStrictEqual(it)))
  })

  test('what can not travel is named with its place', () => {
    expect(() => encode({ a: [() => 1] })).toThrow("a function can't travel to or from the page: value.a[0]")
    expect(() => encode({ when: new Date() })).toThrow("a Date can't travel")
  })
})

describe('same bytes', () => {
  law('a single wrong element anywhere is found and named', (random) => {
    const good = random.int32(random.int(1, 1000))
    sameBytes(good.slice(), good, 'a copy')
    const bad = good.slice()
    const at = random.int(0, bad.length - 1)
    bad[at]! ^= 1 << random.int(0, 31)
    expect(() => sameBytes(bad, good, 'k')).toThrow(
      `k: 1 of ${good.length} differ: [${at}] is ${bad[at]}, expected`,
    )
  })

  test('another type, another length and another zero are not the same', () => {
    expect(() => sameBytes(new Int8Array(4), new Uint8Array(4), 'k')).toThrow(
      'got Int8Array(4), expected Uint8Array(4)',
    )
    expect(() => sameBytes(new Int8Array(4), new Int8Array(5), 'k')).toThrow('expected Int8Array(5)')
    expect(() => sameBytes(new Float32Array([-0]), new Float32Array([0]), 'k')).toThrow('1 of 1 differ')
    sameBytes(new Float32Array([Number.NaN]), new Float32Array([Number.NaN]), 'k')
  })
})

describe('random', () => {
  law('the same seed and stream draw the same, another of either does not', (random) => {
    const draw = (seed: number, stream: string) => new Random(seed, stream).bytes(32)
    const seed = random.u32()
    expect(draw(seed, 'a')).toEqual(draw(seed, 'a'))
    expect(draw(seed, 'a')).not.toEqual(draw(seed, 'b'))
    expect(draw(seed, 'a')).not.toEqual(draw(seed ^ 1, 'a'))
  })

  test('sfc32 draws what its definition says', () => {
    // Written out with 32-bit words as bigints, from the published step.
    const word = (n: bigint) => n & 0xffffffffn
    let [a, b, c, counter] = [0x811c9dc5n, 7n, 0x9e3779b9n, 1n]
    const step = () => {
      const t = word(a + b + counter)
      counter = word(counter + 1n)
      a = b ^ (b >> 9n)
      b = word(c + (c << 3n))
      c = word(word((c << 21n) | (c >> 11n)) + t)
      return Number(t)
    }
    for (let i = 0; i < 15; i++) step()
    const random = new Random(7)
    for (let i = 0; i < 1000; i++) expect(random.u32()).toBe(step())
  })

  law('whole numbers stay within their bounds and reach both', (random) => {
    const low = random.int(-5, 5)
    const drawn = new Set(random.int8(1000, low, low + 3))
    expect([...drawn].toSorted((x, y) => x - y)).toEqual([low, low + 1, low + 2, low + 3])
    const full = random.fill(new Uint8Array(1 << 14))
    expect([Math.min(...full), Math.max(...full)]).toEqual([0, 255])
  })

  law('seeds come from the run', (random) => {
    expect(random.seed).toBe(inject('seed'))
  })
})

describe('kernel text', () => {
  const files: Record<string, string> = {
    'k.wgsl': 'A\n#import one\n  #import two\nB',
    'shared/one.wgsl': '#import two\n1',
    'shared/two.wgsl': '2',
    'bad.wgsl': '#import gone',
  }
  const read = (file: string) => files[file]

  test('an import comes once, where it is first named', () => {
    expect(expand('k', read)).toBe('A\n2\n1\n\nB')
  })

  test('a missing file is named together with who wants it', () => {
    expect(() => expand('bad', read)).toThrow('shaders/shared/gone.wgsl (imported by shaders/bad.wgsl)')
    expect(() => expand('none', read)).toThrow('shaders/none.wgsl')
  })
})

describe('finding a browser', () => {
  const quiet = { say: () => undefined }

  test('the one named in the environment wins, and a wrong name is an error, not another browser', async () => {
    const env = { ...process.env, CHORALE_BROWSER: process.execPath }
    expect(await findBrowser({ ...quiet, env })).toBe(process.execPath)
    await expect(findBrowser({ ...quiet, env: { ...env, CHORALE_BROWSER: '/no/such' } })).rejects.toThrow(
      'CHORALE_BROWSER=/no/such',
    )
  })

  test('with none installed, the error names the remedies', async () => {
    const env = { PATH: '', XDG_CACHE_HOME: join(tmpdir(), 'chorale-nothing'), CHORALE_BROWSER_INSTALL: '0' }
    await expect(findBrowser({ ...quiet, env })).rejects.toThrow(/Install one .* CHORALE_BROWSER=/)
  })

  test('one on the PATH is found', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'chorale-path-'))
    try {
      const path = join(folder, 'chromium')
      writeFileSync(path, '')
      chmodSync(path, 0o755)
      expect(await findBrowser({ ...quiet, env: { PATH: folder } })).toBe(path)
    } finally {
      rmSync(folder, { recursive: true })
    }
  })
})
