/** Loads a peer at run time: peers are no dependency, so nothing here is known to the type checker. */

export const PEERS = '/peers'

/** An ES module under bench/peers/node_modules, as the shape its contestant relies on. */
export async function peerModule<T>(path: string): Promise<T> {
  const module: unknown = await import(/* @vite-ignore */ `${PEERS}/${path}`)
  return module as T
}

/** A classic script, for packages whose modules need a bundler. */
export function peerScript(path: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const script = document.createElement('script')
    script.src = `${PEERS}/${path}`
    script.onload = () => resolve()
    script.onerror = () => reject(new Error(`${path} did not load`))
    document.head.append(script)
  })
}

/** WASM threads everybody may use in this run. */
export const threads = (): number => Number(new URLSearchParams(location.search).get('threads') ?? 1)
