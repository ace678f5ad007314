/** Runs in the page, for page.test.ts: one function per thing the harness promises. */
import { shaderSource } from '../../shaders/source.ts'

export function echo(...args: unknown[]): unknown {
  return args
}

export function surroundings(): { isolated: boolean; shared: boolean; workers: boolean; gpu: boolean } {
  return {
    isolated: globalThis.crossOriginIsolated,
    shared: typeof SharedArrayBuffer === 'function',
    workers: typeof Worker === 'function',
    gpu: 'gpu' in navigator,
  }
}

export function fail(): never {
  throw Object.assign(new RangeError('as asked'), { code: 'asked' })
}

export function complain(): void {
  console.error('said on the console')
}

export function source(name: string): string {
  return shaderSource(name)
}

/** Adds one to each value on the page's GPU. */
export async function addOne(values: Int32Array<ArrayBuffer>): Promise<Int32Array> {
  const adapter = await navigator.gpu.requestAdapter()
  if (!adapter) throw new Error('no adapter')
  const { addOneOn } = await import('./add-one.ts')
  return addOneOn(await adapter.requestDevice(), values)
}

/** What a module worker made of shared memory holding 1, and of [41] on its GPU. */
export async function inWorker(): Promise<{ shared: number; gpu: Int32Array | string }> {
  const worker = new Worker(new URL('./sample-worker.ts', import.meta.url), { type: 'module' })
  const shared = new Int32Array(new SharedArrayBuffer(4)).fill(1)
  const gpu = await new Promise<Int32Array | string>((resolve, reject) => {
    worker.addEventListener('message', (event: MessageEvent<Int32Array | string>) => resolve(event.data))
    worker.addEventListener('error', (event) => reject(new Error(`the worker failed: ${event.message}`)))
    worker.postMessage(shared)
  })
  worker.terminate()
  return { shared: shared[0]!, gpu }
}

export async function brokenShader(): Promise<void> {
  const adapter = await navigator.gpu.requestAdapter()
  const device = await adapter!.requestDevice()
  device.createShaderModule({ code: 'this is no WGSL' })
  await device.queue.onSubmittedWorkDone()
}
