/** A pack as bench/main.ts shows it to the page. */

import type { PackSource } from '../../engine/pack/reader.ts'

export function packAt(model: string): PackSource {
  const whole = async (file: string) => {
    const answer = await fetch(`/made/packs/${model}/${file}`)
    if (!answer.ok) throw new Error(`${file} of ${model}: ${answer.status}`)
    return new Uint8Array(await answer.arrayBuffer())
  }
  const files = new Map<string, Promise<Uint8Array>>()
  return {
    name: model,
    manifest: () => whole('manifest.json'),
    async read(file, offset, length) {
      if (!files.has(file)) files.set(file, whole(file))
      return (await files.get(file)!).subarray(offset, offset + length)
    },
  }
}
