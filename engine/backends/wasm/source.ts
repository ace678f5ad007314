/** The bytes of a WASM module built into this folder, the same in plain Node (read) and under Vite (fetched). */

/**
 * @param name file name without `.wasm`
 * @throws Error when it was not built or can't be fetched
 */
export async function wasmBytes(name: string): Promise<Uint8Array<ArrayBuffer>> {
  if (typeof process !== 'undefined' && process.versions?.node) {
    const { readFile } = process.getBuiltinModule('node:fs/promises')
    try {
      return new Uint8Array(await readFile(new URL(`${name}.wasm`, import.meta.url)))
    } catch {
      throw new Error(`engine/backends/wasm/${name}.wasm is not there: build it with npm run build:wasm`)
    }
  }
  const urls = import.meta.glob<string>('./*.wasm', { query: '?url', import: 'default', eager: true })
  const url = urls[`./${name}.wasm`]
  if (url === undefined) throw new Error(`${name}.wasm was not built into this bundle: npm run build:wasm`)
  const answer = await fetch(url)
  if (!answer.ok) throw new Error(`${name}.wasm can't be fetched: ${answer.status} ${answer.statusText}`)
  return new Uint8Array(await answer.arrayBuffer())
}
